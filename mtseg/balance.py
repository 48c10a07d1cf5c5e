"""How much a labelled pixel counts by its class, so that classes of few pixels are learnt as well."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mtseg.data.source import Source, Splits
from mtseg.distributed import rank, together, total, world
from mtseg.losses import has_class

MOST = 500  # labels that are counted
FEWEST = 1e-4  # of the labelled pixels: a class of fewer counts as one of so many, or single pixels would lead


def weights_for(splits: Splits, balance: float) -> Tensor | None:
    """The `class_weights` of the labelled images of `splits`; None for 0: all alike.

    Of more than MOST images so many are counted, evenly spread over their order; all, where those have no labels.
    """
    if not balance:
        return None
    count = len(splits.labelled)
    spread = np.unique(np.linspace(0, count - 1, min(count, MOST)).round().astype(np.int64)).tolist()
    pixels = _shared(splits, spread)
    return class_weights(pixels if pixels.any() else _shared(splits, range(count)), balance)


def _shared(splits: Splits, images: Sequence[int]) -> Tensor:
    """`pixels_of` labelled images, each process reading its part."""
    here = images[rank() :: world()]
    return total(together(lambda: pixels_of(splits.labelled, len(splits.classes), here)))


def told(weights: Tensor, classes: Sequence[str], *, dense: bool = True) -> str:
    """The lightest and the heaviest class, with their weights; `dense`: they are those of pixels."""
    light, heavy = int(weights.argmin()), int(weights.argmax())
    what = "pixel" if dense else "image"
    return (
        f"a labelled {what} counts {weights[light]:.2g} ({classes[light]}) to {weights[heavy]:.2g} ({classes[heavy]})"
    )


def pixels_of(source: Source, classes: int, images: Sequence[int]) -> Tensor:
    """How many labelled pixels, or whole images, each class has in `images` of `source`; (K,) int64."""
    counts = torch.zeros(classes, dtype=torch.int64)
    for index in images:
        label = torch.from_numpy(source.label(index)).long()
        counts += label[has_class(label, classes)].bincount(minlength=classes)
    return counts


def class_weights(pixels: Tensor, balance: float) -> Tensor:
    """Weights (K,) float32 for classes of so many `pixels` (K,): w_c ~ share_c^-balance.

    Their mean over the labelled pixels is 1, so that a loss keeps about its size and its learning rate; over those that
    crops show, and with small things pasted, it may be a tenth to a third more. A `balance` of 0
    weighs all alike, 1 gives every class the same part of the loss (Eigen & Fergus 2015 up to a factor, their median
    frequencies), 0.5 lies between. A class of a share under `FEWEST` is weighed as one of that share.
    """
    shares = pixels.double() / pixels.sum()
    weights = shares.clamp(min=FEWEST) ** -balance
    return (weights / (weights * shares).sum()).float()
