"""A data set of small images with a class each, in a file: easy ones, whose class is their colour."""

from pathlib import Path
from typing import Any

import numpy as np

from mtseg.config import Config
from mtseg.settings.checked import validate
from mtseg.settings.merge import merge
from mtseg.settings.words import gather

CLASSES = 4
SIDE = 16


def arrays(count: int, seed: int, side: int = SIDE, classes: int = CLASSES) -> tuple[Any, Any]:
    """Noisy images, each channel's mean given by the bits of the class."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % classes)
    bright = (labels[:, None] >> np.arange(3)) & 1
    images = 90 + 60 * bright[:, None, None, :] + rng.normal(0, 40, (count, side, side, 3))
    return images.clip(0, 255).astype(np.uint8), labels.astype(np.int64)


def write(path: Path, *, train: int = 40, test: int = 12, side: int = SIDE, classes: int = CLASSES) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (x_train, y_train), (x_test, y_test) = arrays(train, 0, side, classes), arrays(test, 1, side, classes)
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


MOVED = {"geometry": {"scale": [1, 1], "flip": 0.5, "translate": 2}, "noise": 0.15}
TREE = {
    "data": {"kind": "small", "set": "npz", "labels": 8},
    "views": {"crop": [SIDE, SIDE], "made": "device", "labelled": MOVED, "teacher": MOVED, "student": MOVED},
    "model": {"kind": "convnet13", "width": 4, "dropout": 0.2},
    "method": {"weight": 2.0, "ramp": {"kind": "rampup", "steps": 3}},
    "optimizer": {"kind": "adam", "lr": 3e-3},
    "schedule": {"kind": "constant"},
    "batch": {"labelled": 4, "unlabelled": 6},
    "steps": 4,
    "eval": {"every": 2, "split": "test"},
    "log_every": 1,
    "checkpoint_every": 2,
    "workers": 0,
    "device": "cpu",
}


def small(folder: Path, *words: str) -> Config:
    """A run on such images in `folder`, with `key.sub=value` words laid on it."""
    path = folder / "small.npz"
    tree = merge(TREE, {"data": {"root": str(path if path.is_file() else write(path))}, "out": str(folder / "run")})
    return validate(Config, merge(tree, gather(words)))
