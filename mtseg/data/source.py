"""What the rest of the program knows of a data set: ordered images, labels, and which are labelled."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[Any]  # (H, W, C), uint8, or float32 on the same scale: 255 is 1
IGNORE = 255  # label value of pixels that count nowhere: void, borders, padding


class Source(Protocol):
    """Images in a fixed order, read one at a time and safe to read in several processes.

    Pixels are uint8, or float32 on the same scale (255 is 1) where their source has more than 8 bits: one type for all.
    """

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What the image is called: a file name, or an identifier that is stable between runs."""
        ...

    def image(self, index: int) -> Pixels:  # (H, W, C)
        ...

    def label(self, index: int) -> NDArray[np.uint8]:  # (H, W), class or IGNORE
        """The label map; images of an unlabelled pool need not have one (ValueError)."""
        ...


@dataclass(frozen=True)
class Subset:
    """The images of `source` at `indices`, in that order."""

    source: Source
    indices: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        return self.source.name(self.indices[index])

    def image(self, index: int) -> Pixels:
        return self.source.image(self.indices[index])

    def label(self, index: int) -> NDArray[np.uint8]:
        return self.source.label(self.indices[index])


@dataclass(frozen=True)
class Splits:
    """A data set, built: its classes and its four pools of images.

    `unlabelled` may contain the labelled images too (`data.unlabelled: all`); its labels are never read.
    `test` is empty where a data set has no public test labels. `name` is what a run calls the split. Every image has
    `channels`, of which, with `rgb`, the first three are red, green and blue.
    """

    classes: tuple[str, ...]
    palette: NDArray[np.uint8]  # (K, 3) RGB, for pictures
    labelled: Source
    unlabelled: Source
    val: Source
    test: Source
    name: str = "data"
    channels: int = 3
    rgb: bool = True
