"""A run small enough for a test: embedded scenes, a network of a few thousand parameters, seconds on one core."""

import atexit
import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

import torch

from mtseg.config import Config, written
from mtseg.settings.checked import validate
from mtseg.settings.merge import merge
from mtseg.settings.words import gather
from mtseg.trainer import fit

TINY = {
    "data": {"kind": "scenes", "size": [64, 64], "images": 6, "labels": 2, "val": 2, "test": 3},
    "views": {
        "crop": [32, 48],
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
    "eval": {"every": 4, "gallery": 0},
    "log_every": 1,
    "checkpoint_every": 2,
    "workers": 0,
    "device": "cpu",
}

ONNX = find_spec("onnxruntime") is not None and torch.__version__ >= "2.7"  # what torch.onnx needs for any size


TAUGHT = "{taught}"  # in words for `tiny`: the folder of a finished run


@cache
def taught() -> Path:
    """A finished run of another network, asked in another normalisation, in a folder that goes with the process."""
    atexit.register(rmtree, out := Path(mkdtemp()))
    words = (
        "model.arch=linknet",
        "model.options={encoder_depth: 3}",
        "views.mean=[0.5, 0.4, 0.3]",
        "seed=7",
        "steps=2",
    )
    fit(tiny(out, *words, "method.branches=[]", "checkpoint_every=1"), quiet=True)
    return out


def tiny(out: Path, *words: str) -> Config:
    """The tiny config with `key.sub=value` words laid on it."""
    told = [word.replace(TAUGHT, str(taught())) if TAUGHT in word else word for word in words]
    return validate(Config, merge({**TINY, "out": str(out)}, gather(told)))


def comparison(folder: Path, seed: int, supervised: float, teacher: float, *words: str) -> Path:
    """A finished comparison with these last scores; the best are 0.1 higher."""
    values = {
        "supervised-only": supervised,
        "supervised-only, averaged weights": 0.3,
        "student": 0.4,
        "teacher": teacher,
    }
    rows = {name: {"last": value, "best": value + 0.1} for name, value in values.items()}
    folder.mkdir()
    facts = {"split": "val", "seed": seed, "steps": 9, "mIoU": rows}
    (folder / "comparison.json").write_text(json.dumps(facts))
    (folder / "method").mkdir()
    method = tiny(folder / "method", f"seed={seed}", f"data.seed={seed}", *words)
    (folder / "method" / "config.yaml").write_text(written(method))
    return folder
