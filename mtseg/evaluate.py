"""Evaluation at the labels' own resolution: whole images, one forward each."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from mtseg.data.source import Source, Splits
from mtseg.metrics import Calibration, Confusion
from mtseg.part import part
from mtseg.views import Views


@part
class Evaluation:
    """When and on what a run is scored: every `every` steps and at the end, on the `val` or `test` images."""

    every: Annotated[int, Field(ge=1)] = 500
    split: Literal["val", "test"] = "val"
    batch: Annotated[int, Field(ge=1)] = 8  # images of one size that share a forward


@dataclass(frozen=True)
class Tally:
    """What an evaluation counts: pixels by label and prediction, and by confidence."""

    confusion: Confusion
    calibration: Calibration


def source_of(splits: Splits, split: Literal["val", "test"]) -> Source:
    """The pool of images named `split`. Raises ValueError where it is empty."""
    source = splits.val if split == "val" else splits.test
    if not len(source):
        raise ValueError(f"eval.split: this data set has no {split} images with masks; use another split")
    return source


@torch.no_grad()
def evaluate(
    network: nn.Module, source: Source, *, classes: int, views: Views, batch: int, device: torch.device
) -> Tally:
    """The counts of `network`, in eval mode, over all images of `source`; its mode is put back.

    Raises ValueError, naming the image, for a label that does not fit and for an answer that is not finite.
    """
    training = network.training
    network.eval()
    tally = Tally(Confusion(classes), Calibration())
    for indices, images in _batches(source, batch):
        logits = network(views.normalise(images.to(device)))
        if not bool(logits.isfinite().all()):
            raise ValueError(
                f"{source.name(indices[0])}: the network's answer is not finite, so its scores would mean nothing; "
                "train with a lower optimizer.lr, or clip=1, in a new out="
            )
        top = logits.max(1)
        sure = (top.values - logits.logsumexp(1)).exp()
        for index, prediction, confidence in zip(indices, top.indices, sure, strict=True):
            label = torch.tensor(source.label(index))
            try:
                tally.confusion.update(prediction, label)
            except ValueError as error:
                raise ValueError(f"{source.name(index)}: {error}") from None
            tally.calibration.update(confidence, prediction, label)
    network.train(training)
    return tally


def _batches(source: Source, batch: int) -> Iterator[tuple[list[int], Tensor]]:
    """Consecutive images of one size, at most `batch` together."""
    indices: list[int] = []
    images: list[np.ndarray] = []
    for index in range(len(source)):
        image = source.image(index)
        if images and (len(images) == batch or images[0].shape != image.shape):
            yield indices, torch.from_numpy(np.stack(images))
            indices, images = [], []
        indices.append(index)
        images.append(image)
    if images:
        yield indices, torch.from_numpy(np.stack(images))


def scores(tally: Tally, classes: tuple[str, ...]) -> dict[str, Any]:
    """What is reported of an evaluation, as plain values; None for what was not seen (a class, any label).

    All in [0, 1]; ECE is the expected calibration error of the confidence (15 bins).
    """
    confusion = tally.confusion

    def plain(value: float) -> float | None:
        return None if np.isnan(value) else float(value)

    def by_class(values: np.ndarray) -> dict[str, float | None]:
        return {name: plain(value) for name, value in zip(classes, values, strict=True)}

    iou = confusion.iou()
    return {
        "mIoU": plain(confusion.mean_iou()),
        "pixel_accuracy": plain(confusion.pixel_accuracy()),
        "ECE": plain(tally.calibration.error()),
        "classes_counted": int(np.isfinite(iou).sum()),
        "IoU": by_class(iou),
        "accuracy": by_class(confusion.class_accuracy()),
    }
