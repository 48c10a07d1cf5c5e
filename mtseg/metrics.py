"""Segmentation metrics from one streamed int64 confusion matrix."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtseg.data.source import IGNORE


class Confusion:
    """Pixel counts by (label, prediction); IGNORE pixels count nowhere. Exact up to 2^63 pixels."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.counts = torch.zeros((classes, classes), dtype=torch.int64)

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Add the pixels of `prediction` in [0, K) and `label` in [0, K) or IGNORE, integers of the same shape.

        Raises ValueError where a label is neither a class nor IGNORE, and where the shapes differ.
        """
        if prediction.shape != label.shape:
            raise ValueError(
                f"the label is {tuple(label.shape)} and the prediction {tuple(prediction.shape)} (height, width); "
                "they must be equal: the label must be as large as its image"
            )
        k = self.classes
        prediction, label = prediction.flatten().cpu(), label.flatten().cpu().long()
        wrong = ((label < 0) | (label >= k)) & (label != IGNORE)
        if wrong.any():
            raise ValueError(
                f"label {int(label[wrong][0])} on {int(wrong.sum())} pixels is no class of the {k} (0 to {k - 1}) "
                f"and not {IGNORE} (ignore); map it to one of them"
            )
        keys = label.clamp(max=k) * k + prediction  # the last row collects what is ignored
        self.counts += torch.bincount(keys, minlength=k * (k + 1))[: k * k].view(k, k)

    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each class, (K,); NaN for a class in neither labels nor predictions."""
        counts = self.counts.numpy().astype(np.float64)
        hits = counts.diagonal()
        return _share(hits, counts.sum(0) + counts.sum(1) - hits)

    def mean_iou(self) -> float:
        """Mean over the classes that occur; NaN if none does."""
        iou = self.iou()
        return float(np.nanmean(iou)) if np.isfinite(iou).any() else float("nan")

    def class_accuracy(self) -> NDArray[np.float64]:
        """Share of each class's labelled pixels that are right, (K,); NaN for a class without labels."""
        counts = self.counts.numpy().astype(np.float64)
        return _share(counts.diagonal(), counts.sum(1))

    def pixel_accuracy(self) -> float:
        """Share of all labelled pixels that are right; NaN if there are none."""
        counts = self.counts.numpy().astype(np.float64)
        return float(_share(counts.trace(), counts.sum()))


def _share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(part, whole, out=np.full_like(np.asarray(whole), np.nan), where=np.asarray(whole) > 0)


class Calibration:
    """How far confidence is from accuracy: the expected calibration error (Guo et al. 2017), streamed."""

    def __init__(self, bins: int = 15) -> None:
        self.counts, self.hits, self.confidence = (torch.zeros(bins, dtype=torch.float64) for _ in range(3))

    def update(self, confidence: Tensor, prediction: Tensor, label: Tensor) -> None:
        """Add pixels: `confidence` in [0, 1] of the `prediction`, and `label`, class or IGNORE; of the same shape."""
        counted = label.flatten().cpu() != IGNORE
        sure = confidence.flatten().cpu()[counted].double()
        right = (prediction.flatten().cpu()[counted] == label.flatten().cpu()[counted]).double()
        bins = len(self.counts)
        place = (sure * bins).ceil().long().sub(1).clamp(0, bins - 1)  # bins open below, closed above
        for sums, values in ((self.counts, torch.ones_like(sure)), (self.hits, right), (self.confidence, sure)):
            sums += torch.bincount(place, weights=values, minlength=bins)

    def error(self) -> float:
        """Mean over pixels of |accuracy - confidence| of their bin, in [0, 1]; NaN if there are none."""
        total = float(self.counts.sum())
        return float((self.hits - self.confidence).abs().sum()) / total if total else float("nan")
