"""Evaluation at the labels' own resolution, or of images as wholes, as a predictor asks about them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from mtseg.data.source import IGNORE, Source, Splits
from mtseg.metrics import Boundary, Calibration, Confusion
from mtseg.part import part
from mtseg.predictors import Predictor, Whole, asked, joined
from mtseg.views import Views


@part
class Evaluation:
    """When and on what a run is scored: every `every` steps and at the end, on the `val` or `test` images.

    `predictor` is how a run, `mtseg eval` and `mtseg predict` ask about an image.
    """

    every: Annotated[int, Field(ge=1)] = 500
    split: Literal["val", "test"] = "val"
    batch: Annotated[int, Field(ge=1)] = 8  # images of one size that share a forward
    predictor: Predictor = Whole()


HEADLINES = {"mIoU": "mIoU", "top1": "accuracy"}  # the scores by which networks are compared, and what they are called


@dataclass(frozen=True)
class Also:
    """What an evaluation counts besides: boundaries, within this share of the diagonal, and each image by itself."""

    boundary: float | None = None
    images: bool = False


@dataclass(frozen=True)
class Tally:
    """What an evaluation counts: pixels by label and prediction, and by confidence; and, where asked, `Also`.

    images: name -> counts (K, K) of that image alone; sizes: the labels' shapes S that occur
    """

    confusion: Confusion
    calibration: Calibration
    boundary: Boundary | None = None
    images: dict[str, Tensor] | None = None
    sizes: set[tuple[int, ...]] = field(default_factory=set)

    def add(self, name: str, prediction: Tensor, confidence: Tensor, label: Tensor) -> None:
        """Count an image, or whole ones (B,); where nothing is predicted (IGNORE, of pixels) nothing counts.

        Raises ValueError as `Confusion` does.
        """
        if prediction.dim() > 1:
            label = label.where(prediction.cpu() != IGNORE, torch.tensor(IGNORE, dtype=label.dtype))
            prediction = prediction.where(prediction != IGNORE, 0)
        before = self.confusion.counts.clone() if self.images is not None else None
        self.confusion.update(prediction, label)
        self.calibration.update(confidence, prediction, label)
        self.sizes.add(tuple(label.shape) if label.dim() > 1 else ())
        if self.boundary is not None:
            self.boundary.update(prediction, label)
        if self.images is not None and before is not None:
            self.images[name] = self.confusion.counts - before


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

    Raises ValueError, naming the image, for a label that does not fit and for an answer that is not finite.
    """
    training = network.training
    network.eval()
    boundary = None if also.boundary is None else Boundary(classes, also.boundary)
    tally = Tally(Confusion(classes), Calibration(classes=classes), boundary, {} if also.images else None)
    answer = asked(network, views, device)
    for indices, images in _batches(source, batch):
        size = (images.shape[1], images.shape[2])
        with _naming(source, indices[0]):
            predictions, confidences = joined(predictor(answer, images), size)
        for these in _counted_together(indices, whole=predictions.dim() == 1, also=also):
            place = indices.index(these[0])
            label = torch.from_numpy(np.stack([source.label(index) for index in these]))
            prediction, confidence = (of[place : place + len(these)] for of in (predictions, confidences))
            with _naming(source, these[0]):
                _fits(label, prediction)
                one = (0 if prediction.dim() > 1 else slice(None),)  # maps one by one, whole images together
                tally.add(source.name(these[0]), prediction[one], confidence[one], label[one])
    network.train(training)
    return tally


def _counted_together(indices: list[int], *, whole: bool, also: Also) -> list[list[int]]:
    """Images by those that are counted at once: `whole` ones of a batch, unless each is asked for; maps one by one.

    Raises ValueError for boundaries of whole images.
    """
    if whole and also.boundary is not None:
        raise ValueError("--boundary: answers for whole images have no boundaries; leave it out")
    return [indices] if whole and not also.images else [[index] for index in indices]


@contextmanager
def _naming(source: Source, index: int) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{source.name(index)}: {error}") from None


def _fits(label: Tensor, prediction: Tensor) -> None:
    """`label` and `prediction` (B, *S) are of the same shape."""
    if label.shape != prediction.shape:
        raise ValueError(
            f"the label is {tuple(label.shape[1:])} and the image {tuple(prediction.shape[1:])} (height, width); they "
            "must be equal: the label must be as large as its image, or one class, (), for an answer for the whole"
        )


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

    All in [0, 1]; ECE is the expected calibration error of the confidence (15 bins). Of whole images, the accuracy
    `top1` and the `error`, 1 - that, are in the place of what is said of areas.
    """
    confusion = tally.confusion
    iou = confusion.iou()
    if tally.sizes == {()}:
        right = confusion.pixel_accuracy()
        return {
            "top1": plain(right),
            "error": plain(1 - right),
            "ECE": plain(tally.calibration.error()),
            "classes_counted": int(np.isfinite(iou).sum()),
            "accuracy": by_class(confusion.class_accuracy(), classes),
        }
    return {
        "mIoU": plain(confusion.mean_iou()),
        "pixel_accuracy": plain(confusion.pixel_accuracy()),
        "frequency_weighted_IoU": plain(confusion.frequency_weighted_iou()),
        "ECE": plain(tally.calibration.error()),
        "classes_counted": int(np.isfinite(iou).sum()),
        "IoU": by_class(iou, classes),
        "accuracy": by_class(confusion.class_accuracy(), classes),
    }


def headline(scores: dict[str, Any]) -> str:
    """The name of the score, among `scores`, by which networks are compared; more is better."""
    return next(name for name in HEADLINES if name in scores)


def plain(value: float) -> float | None:
    """`value`, None for NaN."""
    return None if np.isnan(value) else float(value)


def by_class(values: np.ndarray, classes: tuple[str, ...]) -> dict[str, float | None]:
    """`values` (K,) by the names of their classes."""
    return {name: plain(value) for name, value in zip(classes, values, strict=True)}
