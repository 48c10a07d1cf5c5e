"""Evaluation at the labels' own resolution: whole images, one forward each."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from mtseg.data.source import Source, Splits
from mtseg.metrics import Confusion
from mtseg.part import part
from mtseg.views import Views


@part
class Evaluation:
    """When and on what a run is scored: every `every` steps and at the end, on the `val` or `test` images."""

    every: Annotated[int, Field(ge=1)] = 500
    split: Literal["val", "test"] = "val"
    batch: Annotated[int, Field(ge=1)] = 8  # images of one size that share a forward


def source_of(splits: Splits, split: Literal["val", "test"]) -> Source:
    """The pool of images named `split`. Raises ValueError where it is empty."""
    source = splits.val if split == "val" else splits.test
    if not len(source):
        raise ValueError(f"eval.split: this data set has no {split} images with masks; use another split")
    return source


@torch.no_grad()
def evaluate(
    network: nn.Module, source: Source, *, classes: int, views: Views, batch: int, device: torch.device
) -> Confusion:
    """The confusion matrix of `network`, in eval mode, over all images of `source`; its mode is put back."""
    training = network.training
    network.eval()
    confusion = Confusion(classes)
    for indices, images in _batches(source, batch):
        logits = network(views.normalise(images.to(device)))
        for index, prediction in zip(indices, logits.max(1).indices, strict=True):
            try:
                confusion.update(prediction, torch.from_numpy(source.label(index)))
            except ValueError as error:
                raise ValueError(f"{source.name(index)}: {error}") from None
    network.train(training)
    return confusion


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


def scores(confusion: Confusion, classes: tuple[str, ...]) -> dict[str, Any]:
    """What is reported of a confusion matrix, as plain values: a class that does not occur has null."""

    def by_class(values: np.ndarray) -> dict[str, float | None]:
        return {name: None if np.isnan(v) else float(v) for name, v in zip(classes, values, strict=True)}

    iou = confusion.iou()
    return {
        "mIoU": confusion.mean_iou(),
        "pixel_accuracy": confusion.pixel_accuracy(),
        "classes_counted": int(np.isfinite(iou).sum()),
        "IoU": by_class(iou),
        "accuracy": by_class(confusion.class_accuracy()),
    }
