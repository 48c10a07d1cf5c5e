"""Small things of one labelled view copied onto another, with their labels, so that they are seen at more places."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtseg.data.batch import Crops
from mtseg.data.source import IGNORE


def paste(things: Crops, crops: Crops, onto: Sequence[int]) -> None:
    """Overwrite `crops`, one of them for each of `things` as `onto` says, where those have small classes.

    Both have labels (B, H, W); of classes of whole images nothing is pasted.
    """
    assert things.label is not None
    assert crops.label is not None
    if crops.label.dim() == 1:
        return
    for image, label, which in zip(things.image, things.label, onto, strict=True):
        there = small_classes(label)
        crops.image[which][there] = image[there]
        crops.label[which][there] = label[there].to(crops.label.dtype)


def small_classes(label: Tensor) -> Tensor:
    """Where a label (H, W) has one of the half of its classes, rounded down, that have the fewest pixels in it: (H, W).

    Of classes with as many pixels the one of the lower number is the smaller. IGNORE is no class.
    """
    counts = label.flatten().bincount(minlength=IGNORE + 1)[:IGNORE]
    there = counts.nonzero()[:, 0]
    few = there[counts[there].argsort(stable=True)][: len(there) // 2]
    return torch.isin(label, few.to(label.dtype))
