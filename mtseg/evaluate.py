"""Evaluation at the labels' own resolution, or of images as wholes, as a predictor asks about them."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, groupby
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from mtseg.data.holdout import held_out
from mtseg.data.source import IGNORE, Source, Splits
from mtseg.data.splits import Labels, number_of
from mtseg.distributed import rank, shown, together, total, world
from mtseg.metrics import Boundary, Calibration, Confusion
from mtseg.part import part
from mtseg.predictors import FIRST, Band, Predictor, Whole, asked, joined
from mtseg.views import Views

A_FIFTH = "1/5"


@part
class Evaluation:
    """When and on what a run is scored: every `every` steps and at the end, on the `val` or `test` images.

    `predictor` is how a run, `mtseg eval` and `mtseg predict` ask about an image. `gallery` images, those on which the
    teacher is worst, are shown in the run's page.

    The checkpoint whose teacher is best on these images is kept as `best`. With `select: holdout` another one is kept
    as `holdout`: the best on images that neither train it nor score it, `holdout` of the labelled ones (a number, or
    a share, at least one image), drawn by the run's seed.
    """

    every: Annotated[int, Field(ge=1)] = 500
    split: Literal["val", "test"] = "val"
    batch: Annotated[int, Field(ge=1)] = 8  # images of one size that share a forward
    predictor: Predictor = Whole()
    gallery: Annotated[int, Field(ge=0, le=50)] = 6
    select: Literal["split", "holdout"] = "split"
    holdout: Labels = A_FIFTH

    def __post_init__(self) -> None:
        number_of(1, self.holdout, "holdout")
        if self.select == "split" and self.holdout != A_FIFTH:
            raise ValueError(
                f"holdout: {self.holdout!r} of the labelled images would be held out for nothing, since the checkpoint "
                "is chosen on eval.split; give eval.select=holdout too, or drop it"
            )

    @property
    def chosen_on(self) -> dict[str, str]:
        """The checkpoints that are chosen (`checkpoint.CHOICES`), each with the pool of images by which it is."""
        return {"best": self.split} | ({"holdout": "holdout"} if self.select == "holdout" else {})

    @property
    def pools(self) -> tuple[str, ...]:
        """The pools that every evaluation scores."""
        return tuple(self.chosen_on.values())

    def apart(self, splits: Splits, seed: int) -> Splits:
        """`splits` with the images held out that a checkpoint is chosen by; those that have such stay as they are."""
        if self.select == "split" or len(splits.holdout):
            return splits
        return held_out(splits, self.holdout, seed)


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
    alone: an image's number in its pool -> its name, and its own mIoU, NaN where nothing of it is labelled; of a whole
    image 1 where the answer is right, and 0
    ranks: of whole images, how many have their class as the first answer, as the second, and so on
    """

    confusion: Confusion
    calibration: Calibration
    boundary: Boundary | None = None
    images: dict[str, Tensor] | None = None
    sizes: set[tuple[int, ...]] = field(default_factory=set)
    alone: dict[int, tuple[str, float]] = field(default_factory=dict)
    ranks: Tensor = field(default_factory=lambda: torch.zeros(FIRST, dtype=torch.int64))

    def add(self, index: int, name: str, prediction: Tensor, confidence: Tensor, label: Tensor) -> None:
        """Count an image; where nothing is predicted (IGNORE) nothing counts. Raises ValueError as `Confusion` does."""
        label = label.where(prediction.cpu() != IGNORE, torch.tensor(IGNORE, dtype=label.dtype))
        prediction = prediction.where(prediction != IGNORE, 0)
        before = self.confusion.counts.clone()
        self.confusion.update(prediction, label)
        self.calibration.update(confidence, prediction, label)
        self.sizes.add(tuple(label.shape))
        if self.boundary is not None:
            self.boundary.update(prediction, label)
        counts = self.confusion.counts - before
        self.alone[index] = name, Confusion.of(counts).mean_iou()
        if self.images is not None:
            self.images[name] = counts

    def add_whole(self, of: Sequence[tuple[int, str]], answer: Band, label: Tensor) -> None:
        """Count images `of` these numbers and names, with a class each, (B,). Raises ValueError as `Confusion` does."""
        prediction = answer.classes.cpu()
        self.confusion.update(prediction, label)
        self.calibration.update(answer.confidence.cpu(), prediction, label)
        self.sizes.add(())
        assert answer.ranked is not None
        hits = (answer.ranked.cpu() == label.long().unsqueeze(1)).sum(0)
        self.ranks[: len(hits)] += hits
        for (index, name), said, true in zip(of, prediction.tolist(), label.tolist(), strict=True):
            self.alone[index] = name, float(said == true) if true < self.confusion.classes else math.nan
            if self.images is not None:
                one = Confusion(self.confusion.classes)
                one.update(torch.tensor([said]), torch.tensor([true]))
                self.images[name] = one.counts

    def totalled(self) -> "Tally":
        """What all processes counted."""
        if world() == 1:
            return self
        sure, found = self.calibration, self.boundary
        counts = [sure.counts, sure.hits, sure.confidence, self.confusion.counts, self.ranks]
        counts += [] if found is None else [found.hits, found.labelled, found.predicted]
        for sums in counts:
            sums.copy_(total(sums))
        for images, sizes, alone in shown((self.images or {}, self.sizes, self.alone)):
            self.sizes.update(sizes)
            self.alone.update(alone)
            if self.images is not None:
                self.images.update(images)
        return self


def source_of(splits: Splits, split: str) -> Source:
    """The pool of images named `split` (val, test, holdout). Raises ValueError where it is empty."""
    source: Source = getattr(splits, split)
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
    tally = Tally(Confusion(classes), Calibration(classes=classes), boundary, {} if also.images else None)
    answer = asked(network, views, device)

    def count() -> None:
        for indices, images in _batches(source, batch):
            size = (images.shape[1], images.shape[2])
            with _naming(source, indices[0]):
                bands = predictor(answer, images)
                first = next(bands)
                predictions, confidences = joined(chain([first], bands), size)
            if first.ranked is not None:
                _count_whole(tally, source, indices, first)
                continue
            for index, prediction, confidence in zip(indices, predictions, confidences, strict=True):
                label = torch.tensor(source.label(index))
                with _naming(source, index):
                    _fits(label, prediction)
                    tally.add(index, source.name(index), prediction, confidence, label)

    together(count)
    network.train(training)
    return tally.totalled()


def _count_whole(tally: Tally, source: Source, indices: Sequence[int], answer: Band) -> None:
    """Count the answers for whole images. Raises ValueError for labels that are maps, and for boundaries."""
    if tally.boundary is not None:
        raise ValueError("--boundary: answers for whole images have no boundaries; leave it out")
    labels = [torch.tensor(source.label(index)) for index in indices]
    with _naming(source, indices[0]):
        for label, prediction in zip(labels, answer.classes, strict=True):
            _fits(label, prediction)
        named = [(index, source.name(index)) for index in indices]
        tally.add_whole(named, answer, torch.stack(labels))


@contextmanager
def _naming(source: Source, index: int) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{source.name(index)}: {error}") from None


def _fits(label: Tensor, prediction: Tensor) -> None:
    """`label` and `prediction` are of the same shape *S."""
    if label.shape != prediction.shape:
        raise ValueError(
            f"the label is {tuple(label.shape)} and the image {tuple(prediction.shape)} (height, width); they must be "
            "equal: the label must be as large as its image, or one class, (), for an answer for the whole"
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

    All in [0, 1]; ECE is the expected calibration error of the confidence (15 bins). Of whole images, the accuracy
    `top1` and the `error`, 1 - that, are in the place of what is said of areas; `top5` and its error, whether the class
    is among the FIRST answers, where there are more than twice as many classes.
    """
    confusion = tally.confusion
    iou = confusion.iou()
    if tally.sizes == {()}:
        right = confusion.pixel_accuracy()
        counted = int(confusion.counts.sum())
        among = float(tally.ranks.sum()) / counted if counted else math.nan
        return {
            "top1": plain(right),
            "error": plain(1 - right),
            **({"top5": plain(among), "top5_error": plain(1 - among)} if len(classes) > 2 * FIRST else {}),
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
