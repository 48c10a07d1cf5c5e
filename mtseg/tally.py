"""What an evaluation counts, and the scores that are made of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mtseg.data.source import IGNORE
from mtseg.distributed import shown, total, world
from mtseg.metrics import Boundary, Calibration, Confusion
from mtseg.predictors import FIRST, Band

NETWORKS = ("student", "teacher")  # of a run, as its scores name them
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


def percent(value: float | None) -> str:
    """A share as a percentage with two decimals; `absent` for a class that does not occur."""
    return "absent" if value is None else f"{100 * value:.2f}"
