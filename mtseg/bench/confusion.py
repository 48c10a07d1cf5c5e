"""Counting pixels by label and prediction, against numpy's ways to."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from mtseg.bench.asked import Asked
from mtseg.bench.paired import Group, Ratio, clock_of, timed
from mtseg.data.source import IGNORE
from mtseg.metrics import Confusion

CASES = {"1024x2048, 19 classes": ((1024, 2048), 19), "375x500, 21 classes": ((375, 500), 21)}


def measure(asked: Asked) -> Iterator[Group]:
    """A group for each of CASES, of uint8 maps in memory; a tenth of the pixels is IGNORE."""
    for name, (size, classes) in CASES.items():
        if asked.case in name:
            yield _measured(name, size, classes, asked.rounds)


def _measured(name: str, size: tuple[int, int], classes: int, rounds: int) -> Group:
    rng = np.random.default_rng(0)
    label = rng.integers(0, classes, size).astype(np.uint8)
    said = np.where(rng.random(size) < 0.7, label, rng.integers(0, classes, size)).astype(np.uint8)
    label[rng.random(size) < 0.1] = IGNORE
    confusion, here, there = Confusion(classes), torch.from_numpy(said), torch.from_numpy(label)
    cases = {
        "mtseg": lambda: confusion.update(here, there),
        "numpy, bincount of the counted": lambda: masked(said, label, classes),
        "numpy, histograms of each class": lambda: histograms(said, label, classes),
    }
    seconds = timed(cases, rounds=rounds, clock=clock_of(torch.device("cpu")))
    ratios = (
        Ratio("numpy, bincount of the counted", "mtseg", at_least=2),
        Ratio("numpy, histograms of each class", "mtseg"),
    )
    return Group(name, seconds, ratios)


def masked(said: NDArray[np.uint8], label: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """The confusion matrix as most evaluations of the field count it (after the FCN's)."""
    counted = label < classes
    keys = classes * label[counted].astype(int) + said[counted]
    return np.bincount(keys, minlength=classes**2).reshape(classes, classes)


def histograms(said: NDArray[np.uint8], label: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Hits, labels and predictions of each class (3, K), as several semi-supervised methods count them."""
    said = np.where(label == IGNORE, np.uint8(IGNORE), said)
    three = (said[said == label], label, said)
    return np.stack([np.histogram(of, bins=np.arange(classes + 1))[0] for of in three])
