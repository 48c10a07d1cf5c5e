"""Mixing unlabelled images with each other: a mask says which pixels come from another image of the batch."""

import math
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from mtseg.geometry import Probability, Size, View
from mtseg.part import part


@part
class NoMix:
    """Every image stays whole."""

    kind: Literal["none"] = "none"

    def mask(self, batch: int, size: Size, rng: np.random.Generator) -> Tensor | None:
        """Nothing to paste."""
        return None


@part
class CutMix:
    """A rectangle of another image replaces that of this one (Yun et al. 2019; French et al. 2020).

    With probability `p` for each image; its share of the area is uniform in `area`, its width over its height
    log-uniform in [1 / aspect, aspect]; it lies wholly inside: one too long for the image is as long as that,
    and as much wider.
    """

    kind: Literal["cutmix"] = "cutmix"
    p: Probability = 0.5
    area: tuple[float, float] = (0.02, 0.4)
    aspect: Annotated[float, Field(ge=1)] = 3.0

    def __post_init__(self) -> None:
        low, high = self.area
        if not 0 < low <= high < 1:
            raise ValueError(f"area: [{low}, {high}] is not a range of shares; give 0 < low <= high < 1")

    def mask(self, batch: int, size: Size, rng: np.random.Generator) -> Tensor | None:
        """(batch, 1, *size) bool, True where another image shows."""
        h, w = size
        mask = torch.zeros((batch, 1, h, w), dtype=torch.bool)
        for image in range(batch):
            share, stretch = rng.uniform(*self.area), math.exp(rng.uniform(-1, 1) * math.log(self.aspect) / 2)
            stretch = min(max(stretch, math.sqrt(share * w / h)), math.sqrt(w / h / share))
            height = max(1, round(math.sqrt(share * h * w) / stretch))
            width = max(1, round(math.sqrt(share * h * w) * stretch))
            top, left = rng.integers(h - height + 1), rng.integers(w - width + 1)
            if rng.random() < self.p:
                mask[image, :, top : top + height, left : left + width] = True
        return mask


Mix = Annotated[NoMix | CutMix, Field(discriminator="kind")]


def paste(maps: Tensor, mask: Tensor) -> Tensor:
    """`maps` (B, C, H, W) with the next image's pixels where `mask` (B, 1, H, W) holds.

    The partner is the neighbour in the batch, so it is never the image itself while B > 1; B = 1 stays as it is.
    """
    return torch.where(mask, maps.roll(-1, dims=0), maps)


def paste_view(view: View, mask: Tensor) -> View:
    """`view` with pixels and what is known of them pasted alike; its warp holds for the unpasted pixels only."""
    return View(paste(view.data, mask), view.warp, paste(view.known, mask))
