"""The images of a pool with their labels, in order, block by block: what an evaluation reads."""

from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from mtseg.data.in_hand import InHand, Reading
from mtseg.data.source import Label, Pixels, Source


@dataclass(frozen=True)
class Alike:
    """Consecutive images of one size, by their numbers in the pool: `images` (B, H, W, C), B `labels`, each (*S)."""

    indices: list[int]
    images: Tensor
    labels: list[Label]  # arrays: a tensor each would want a file of shared memory each


class Blocks(Reading[list[Alike]]):
    """Block number `n`: the images from `n * batch` on, `batch` of them (the last: what is left).

    Which images share a forward does not depend on the number of processes, so that no answer does.
    """

    def __init__(self, source: Source, batch: int) -> None:
        self.source, self.batch = source, batch
        self.in_hand = InHand(0)

    def __len__(self) -> int:
        return -(-len(self.source) // self.batch)

    def __getitem__(self, number: int) -> list[Alike]:
        first, found = number * self.batch, []
        block = [self._read(index) for index in range(first, min(first + self.batch, len(self.source)))]
        for _, same in groupby(block, key=lambda one: one[1].shape):
            indices, images, labels = zip(*same, strict=True)
            found.append(Alike(list(indices), torch.from_numpy(np.stack(images)), list(labels)))
        return found

    def _read(self, index: int) -> tuple[int, Pixels, Label]:
        self.in_hand.take("evaluated", index)
        return index, self.source.image(index), self.source.label(index)

    def pool(self, name: str) -> Source:
        return self.source
