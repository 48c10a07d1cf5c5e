"""Segmentation metrics, streamed: from an int64 confusion matrix, from boundaries, from confidence."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtseg.data.source import IGNORE
from mtseg.losses import has_class
from mtseg.randomness import generator


class Confusion:
    """Pixel counts by (label, prediction); IGNORE pixels count nowhere. Exact up to 2^63 pixels."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.counts = torch.zeros((classes, classes), dtype=torch.int64)

    @classmethod
    def of(cls, counts: Tensor) -> "Confusion":
        """That of counts (K, K) int64."""
        made = cls(len(counts))
        made.counts = counts
        return made

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Add the pixels of `prediction` in [0, K) and `label` in [0, K) or IGNORE, integers of the same shape.

        Raises ValueError where a prediction is no class, a label neither a class nor IGNORE, or the shapes differ.
        """
        if prediction.shape != label.shape:
            raise ValueError(
                f"the label is {tuple(label.shape)} and the prediction {tuple(prediction.shape)} (height, width); "
                "they must be equal: the label must be as large as its image"
            )
        k, rows = self.classes, max(self.classes, IGNORE + 1)
        prediction, label = prediction.flatten().cpu(), label.flatten().cpu()
        if label.dtype != torch.uint8 and ((label < 0) | (label >= rows)).any():
            outside = label[(label < 0) | (label >= rows)]
            self._refuse(int(outside[0]), len(outside))
        least, most = (int(value) for value in prediction.aminmax()) if prediction.numel() else (0, 0)
        if least < 0 or most >= k:
            raise ValueError(f"a prediction of {least if least < 0 else most} is no class of the {k} (0 to {k - 1})")
        # A row for each value that a label may have: counted in one pass over 16 bits, where looking first takes many.
        kind = torch.int16 if rows * k <= 2**15 else torch.int64
        found = torch.bincount(label.to(kind).mul(k).add_(prediction.to(kind)), minlength=rows * k).view(rows, k)
        wrong = found[k:].sum(1)
        if k <= IGNORE:
            wrong[IGNORE - k] = 0
        if wrong.any():
            self._refuse(k + int(wrong.argmax()), int(wrong.sum()))
        self.counts += found[:k]

    def _refuse(self, value: int, count: int) -> None:
        k = self.classes
        raise ValueError(
            f"label {value} on {count} pixels is no class of the {k} (0 to {k - 1}) and not {IGNORE} (ignore); "
            "map it to one of them"
        )

    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each class, (K,); NaN for a class in neither labels nor predictions."""
        counts = self.counts.numpy().astype(np.float64)
        hits = counts.diagonal()
        return _share(hits, counts.sum(0) + counts.sum(1) - hits)

    def mean_iou(self) -> float:
        """Mean over the classes that occur; NaN if none does."""
        return _mean(self.iou())

    def frequency_weighted_iou(self) -> float:
        """Mean over the labelled pixels of the IoU of their class; NaN if there are none."""
        counts, iou = self.counts.numpy().astype(np.float64), np.nan_to_num(self.iou())
        return float(_share((counts.sum(1) * iou).sum(), counts.sum()))

    def class_accuracy(self) -> NDArray[np.float64]:
        """Share of each class's labelled pixels that are right, (K,); NaN for a class without labels."""
        counts = self.counts.numpy().astype(np.float64)
        return _share(counts.diagonal(), counts.sum(1))

    def mean_class_accuracy(self) -> float:
        """Mean over the classes that have labels (balanced accuracy); NaN if none has."""
        return _mean(self.class_accuracy())

    def precision(self) -> NDArray[np.float64]:
        """Share of what is predicted as each class that is right, (K,); NaN for a class that is not predicted."""
        counts = self.counts.numpy().astype(np.float64)
        return _share(counts.diagonal(), counts.sum(0))

    def dice(self) -> NDArray[np.float64]:
        """Dice coefficient, or F1, of each class, (K,); NaN for a class in neither labels nor predictions."""
        counts = self.counts.numpy().astype(np.float64)
        return _share(2 * counts.diagonal(), counts.sum(0) + counts.sum(1))

    def mean_dice(self) -> float:
        """Mean over the classes that occur; NaN if none does."""
        return _mean(self.dice())

    def pixel_accuracy(self) -> float:
        """Share of all labelled pixels that are right; NaN if there are none."""
        counts = self.counts.numpy().astype(np.float64)
        return float(_share(counts.trace(), counts.sum()))


class Boundary:
    """Boundary IoU (Cheng et al. 2021): the IoU of what lies within a distance of the classes' boundaries.

    The distance is `ratio` of the image's diagonal, rounded, at least a pixel, in the maximum norm (the authors' 3x3
    erosions). The image's border is a boundary. IGNORE pixels are in no class of the label nor of the prediction.
    """

    def __init__(self, classes: int, ratio: float = 0.02) -> None:
        self.classes, self.ratio = classes, ratio
        self.hits, self.labelled, self.predicted = (torch.zeros(classes, dtype=torch.int64) for _ in range(3))

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Add an image: `prediction` in [0, K) and `label` in [0, K) or IGNORE, integers (H, W)."""
        distance = max(1, round(self.ratio * float(np.hypot(*label.shape))))
        truth = label.cpu().numpy().astype(np.uint8)
        said = np.where(truth == IGNORE, IGNORE, prediction.cpu().numpy()).astype(np.uint8)
        truth, said = (_at_boundary(classes, distance) for classes in (truth, said))
        for sums, values in ((self.labelled, truth), (self.predicted, said), (self.hits, truth[truth == said])):
            sums += torch.from_numpy(np.bincount(values[values != IGNORE], minlength=self.classes))

    def iou(self) -> NDArray[np.float64]:
        """Boundary IoU of each class, (K,); NaN for a class in neither labels nor predictions."""
        hits, labelled, predicted = (
            sums.numpy().astype(np.float64) for sums in (self.hits, self.labelled, self.predicted)
        )
        return _share(hits, labelled + predicted - hits)

    def mean_iou(self) -> float:
        """Mean over the classes that occur; NaN if none does."""
        return _mean(self.iou())


def _at_boundary(classes: NDArray[np.uint8], distance: int) -> NDArray[np.uint8]:
    """`classes` (H, W), IGNORE where all pixels within `distance` in the maximum norm are of the same class."""
    framed = cv2.copyMakeBorder(classes, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=(IGNORE,))
    square = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    same = (cv2.erode(framed, square) == cv2.dilate(framed, square))[1:-1, 1:-1]
    return np.where(same, np.uint8(IGNORE), classes)


def interval(images: Sequence[Tensor], *, resamples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """A 95 % bootstrap interval of the mean IoU over images, given the counts (K, K) of each: percentiles of resamples.

    It says how the score depends on which images were scored, not how it depends on the training. NaN without images.
    """
    if not images:
        return float("nan"), float("nan")
    matrices = torch.stack(list(images)).numpy()  # (N, K, K)
    hits = matrices.diagonal(axis1=1, axis2=2).astype(np.float64)
    unions = matrices.sum(1) + matrices.sum(2) - hits
    drawn = generator(seed, "bootstrap").multinomial(len(hits), np.full(len(hits), 1 / len(hits)), size=resamples)
    means = [_mean(iou) for iou in _share(drawn @ hits, drawn @ unions)]
    low, high = np.nanpercentile(means, (2.5, 97.5)) if np.isfinite(means).any() else (np.nan, np.nan)
    return float(low), float(high)


def _mean(values: NDArray[np.float64]) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full_like(np.asarray(whole), np.nan), where=np.asarray(whole) > 0)


class Calibration:
    """How far confidence is from accuracy: the expected calibration error (Guo et al. 2017), streamed."""

    def __init__(self, bins: int = 15, classes: int = IGNORE) -> None:
        self.classes = classes
        self.counts, self.hits, self.confidence = (torch.zeros(bins, dtype=torch.float64) for _ in range(3))

    def update(self, confidence: Tensor, prediction: Tensor, label: Tensor) -> None:
        """Add pixels: `confidence` in [0, 1] of the `prediction`, and `label`; of the same shape."""
        label, sure, bins = label.flatten().cpu(), confidence.flatten().cpu().double(), len(self.counts)
        right = prediction.flatten().cpu() == label
        place = (sure * bins).ceil_().sub_(1).clamp_(0, bins - 1)  # bins open below, closed above
        place = place.to(torch.int16 if bins < 2**14 else torch.int64)
        place = (2 * place + right).masked_fill_(~has_class(label, self.classes), 2 * bins)  # the last: not counted
        wrong, hits = torch.bincount(place, minlength=2 * bins + 1)[:-1].view(bins, 2).double().unbind(1)
        self.counts += wrong + hits
        self.hits += hits
        self.confidence += torch.bincount(place, weights=sure, minlength=2 * bins + 1)[:-1].view(bins, 2).sum(1)

    def error(self) -> float:
        """Mean over pixels of |accuracy - confidence| of their bin, in [0, 1]; NaN if there are none."""
        total = float(self.counts.sum())
        return float((self.hits - self.confidence).abs().sum()) / total if total else float("nan")
