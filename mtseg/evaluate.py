"""Evaluation at the labels' own resolution, over whole images or as another predictor asks about them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from mtseg.data.source import IGNORE, Source, Splits
from mtseg.distributed import rank, shown, together, total, world
from mtseg.metrics import Boundary, Calibration, Confusion
from mtseg.part import part
from mtseg.predictors import Predictor, Whole, asked, joined
from mtseg.views import Views


@part
class Evaluation:
    """When and on what a run is scored: every `every` steps and at the end, on the `val` or `test` images.

    `predictor` is how a run, `mtseg eval` and `mtseg predict` ask about an image. `gallery` images, those on which the
    teacher is worst, are shown in the run's page.
    """

    every: Annotated[int, Field(ge=1)] = 500
    split: Literal["val", "test"] = "val"
    batch: Annotated[int, Field(ge=1)] = 8  # images of one size that share a forward
    predictor: Predictor = Whole()
    gallery: Annotated[int, Field(ge=0, le=50)] = 6


@dataclass(frozen=True)
class Also:
    """What an evaluation counts besides: boundaries, within this share of the diagonal, and each image by itself."""

    boundary: float | None = None
    images: bool = False


@dataclass(frozen=True)
class Tally:
    """What an evaluation counts: pixels by label and prediction, and by confidence; and, where asked, `Also`.

    images: name -> counts (K, K) of that image alone; sizes: the labels' (height, width) that occur
    alone: an image's number in its pool -> its name, and its own mIoU, NaN where nothing of it is labelled
    """

    confusion: Confusion
    calibration: Calibration
    boundary: Boundary | None = None
    images: dict[str, Tensor] | None = None
    sizes: set[tuple[int, int]] = field(default_factory=set)
    alone: dict[int, tuple[str, float]] = field(default_factory=dict)

    def add(self, index: int, name: str, prediction: Tensor, confidence: Tensor, label: Tensor) -> None:
        """Count an image; where nothing is predicted (IGNORE) nothing counts. Raises ValueError as `Confusion` does."""
        label = label.where(prediction.cpu() != IGNORE, torch.tensor(IGNORE, dtype=label.dtype))
        prediction = prediction.where(prediction != IGNORE, 0)
        before = self.confusion.counts.clone()
        self.confusion.update(prediction, label)
        self.calibration.update(confidence, prediction, label)
        self.sizes.add((label.shape[0], label.shape[1]))
        if self.boundary is not None:
            self.boundary.update(prediction, label)
        counts = self.confusion.counts - before
        self.alone[index] = name, Confusion.of(counts).mean_iou()
        if self.images is not None:
            self.images[name] = counts

    def totalled(self) -> "Tally":
        """What all processes counted."""
        if world() == 1:
            return self
        counts, found = [*vars(self.calibration).values(), self.confusion.counts], self.boundary
        counts += [] if found is None else [found.hits, found.labelled, found.predicted]
        for sums in counts:
            sums.copy_(total(sums))
        for images, sizes, alone in shown((self.images or {}, self.sizes, self.alone)):
            self.sizes.update(sizes)
            self.alone.update(alone)
            if self.images is not None:
                self.images.update(images)
        return self


def source_of(splits: Splits, split: Literal["val", "test"]) -> Source:
    """The pool of images named `split`. Raises ValueError where it is empty."""
    source = splits.val if split == "val" else splits.test
    if not len(source):
        raise ValueError(f"eval.split: this data set has no {split} images with masks; use another split")
    return source


@torch.no_grad()
def evaluate(
    network: nn.Module,
    source: Source,
    *,
    classes: int,
    views: Views,
    batch: int,
    device: torch.device,
    predictor: Predictor = Whole(),  # noqa: B008  a frozen record
    also: Also = Also(),
) -> Tally:
    """The counts of `network`, in eval mode, over all images of `source`; its mode is put back.

    Of several processes each counts some of the images, and all have the counts of all.
    Raises ValueError, naming the image, for a label that does not fit and for an answer that is not finite.
    """
    training = network.training
    network.eval()
    boundary = None if also.boundary is None else Boundary(classes, also.boundary)
    tally = Tally(Confusion(classes), Calibration(), boundary, {} if also.images else None)
    answer = asked(network, views, device)

    def count() -> None:
        for indices, images in _batches(source, batch):
            size = (images.shape[1], images.shape[2])
            with _naming(source, indices[0]):
                predictions, confidences = joined(predictor(answer, images), size)
            for index, prediction, confidence in zip(indices, predictions, confidences, strict=True):
                label = torch.tensor(source.label(index))
                with _naming(source, index):
                    _fits(label, size)
                    tally.add(index, source.name(index), prediction, confidence, label)

    together(count)
    network.train(training)
    return tally.totalled()


@contextmanager
def _naming(source: Source, index: int) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{source.name(index)}: {error}") from None


def _fits(label: Tensor, size: tuple[int, int]) -> None:
    if tuple(label.shape) != size:
        raise ValueError(
            f"the label is {tuple(label.shape)} and the image {size} (height, width); "
            "they must be equal: the label must be as large as its image"
        )


def _batches(source: Source, batch: int) -> Iterator[tuple[list[int], Tensor]]:
    """Consecutive images of one size, those of one of the blocks of `batch` images that are this process's.

    Which images share a forward does not depend on the number of processes, so that no answer does.
    """
    for first in range(rank() * batch, len(source), world() * batch):
        block = [(index, source.image(index)) for index in range(first, min(first + batch, len(source)))]
        for _, same in groupby(block, key=lambda pair: pair[1].shape):
            indices, images = zip(*same, strict=True)
            yield list(indices), torch.from_numpy(np.stack(images))


def scores(tally: Tally, classes: tuple[str, ...]) -> dict[str, Any]:
    """What is reported of an evaluation, as plain values; None for what was not seen (a class, any label).

    All in [0, 1]; ECE is the expected calibration error of the confidence (15 bins).
    """
    confusion = tally.confusion
    iou = confusion.iou()
    return {
        "mIoU": plain(confusion.mean_iou()),
        "pixel_accuracy": plain(confusion.pixel_accuracy()),
        "frequency_weighted_IoU": plain(confusion.frequency_weighted_iou()),
        "ECE": plain(tally.calibration.error()),
        "classes_counted": int(np.isfinite(iou).sum()),
        "IoU": by_class(iou, classes),
        "accuracy": by_class(confusion.class_accuracy(), classes),
    }


def plain(value: float) -> float | None:
    """`value`, None for NaN."""
    return None if np.isnan(value) else float(value)


def by_class(values: np.ndarray, classes: tuple[str, ...]) -> dict[str, float | None]:
    """`values` (K,) by the names of their classes."""
    return {name: plain(value) for name, value in zip(classes, values, strict=True)}
