"""A run small enough for a test: embedded scenes, a network of a few thousand parameters, seconds on one core."""

from pathlib import Path

from mtseg.config import Config
from mtseg.merge import merge
from mtseg.settings import validate
from mtseg.words import gather

TINY = {
    "data": {"kind": "scenes", "size": [64, 64], "images": 6, "labels": 2, "val": 2, "test": 3},
    "views": {
        "crop": [48, 64],
        "student": {"colour": [{"name": "RandomBrightnessContrast", "p": 0.8}]},
    },
    "model": {
        "arch": "unet",
        "encoder": "tu-test_resnet",
        "weights": "none",
        "options": {"encoder_depth": 3, "decoder_channels": [12, 8, 4]},
    },
    "method": {"weight": 2.0, "ramp": {"kind": "rampup", "steps": 3}},
    "optimizer": {"kind": "sgd", "lr": 0.05},
    "batch": {"labelled": 2, "unlabelled": 2},
    "steps": 4,
    "eval": {"every": 2, "gallery": 0},
    "log_every": 1,
    "checkpoint_every": 2,
    "workers": 0,
    "device": "cpu",
}


def tiny(out: Path, *words: str) -> Config:
    """The tiny config with `key.sub=value` words laid on it."""
    return validate(Config, merge({**TINY, "out": str(out)}, gather(words)))
