"""Checkpoints: one directory a step, written aside and renamed when whole, checked by a manifest when read."""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

MANIFEST = "manifest.json"
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A run at one step: the weights of both networks, and what else continuing needs (`weights_only` types)."""

    step: int
    student: Tensors
    teacher: Tensors
    rest: dict[str, Any]


def save(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write `checkpoint` under `folder` and delete all but the newest `keep`; returns its directory.

    A crash at any moment leaves the earlier checkpoints whole and this one absent: the directory gets its name
    only after its files, and last its manifest of sizes and SHA-256, are on the disk.
    """
    for left in folder.glob(".tmp-*"):  # by a process that died here
        shutil.rmtree(left)
    aside = folder / f".tmp-{checkpoint.step}-{os.getpid()}"
    aside.mkdir(parents=True)
    for name, tensors in (("student", checkpoint.student), ("teacher", checkpoint.teacher)):
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, aside / _weights(name))
    torch.save(checkpoint.rest, aside / "state.pt")
    files = {path.name: {"bytes": path.stat().st_size, "sha256": _digest(path)} for path in sorted(aside.iterdir())}
    (aside / MANIFEST).write_text(json.dumps({"step": checkpoint.step, "files": files}, indent=1))
    for path in [*aside.iterdir(), aside]:
        _flush(path)
    place = folder / f"step-{checkpoint.step:08d}"
    shutil.rmtree(place, ignore_errors=True)
    aside.rename(place)
    _flush(folder)
    for old in steps(folder)[:-keep]:
        shutil.rmtree(old)
    return place


def steps(folder: Path) -> list[Path]:
    """The checkpoints under `folder`, oldest first, whole or not."""
    named = [place for place in folder.glob("step-*") if place.name.removeprefix("step-").isdigit()]
    return sorted(named, key=lambda place: int(place.name.removeprefix("step-")))


def load_newest(folder: Path) -> tuple[Checkpoint, list[str]]:
    """The newest whole checkpoint under `folder`, and a sentence about each newer one that is damaged.

    Raises ValueError where there is none, saying why.
    """
    damaged: list[str] = []
    for place in reversed(steps(folder)):
        try:
            return _load(place), damaged
        except Exception as error:  # what a damaged file raises is up to its reader
            damaged.append(f"{place} is damaged and passed over: {error}")
    raise ValueError("\n".join([f"{folder}: no whole checkpoint", *damaged]))


def _load(place: Path) -> Checkpoint:
    manifest = json.loads((place / MANIFEST).read_text())
    for name, said in manifest["files"].items():
        if (place / name).stat().st_size != said["bytes"] or _digest(place / name) != said["sha256"]:
            raise ValueError(f"{name} is not what was written")
    return Checkpoint(
        step=int(manifest["step"]),
        student=load_file(place / _weights("student")),
        teacher=load_file(place / _weights("teacher")),
        rest=torch.load(place / "state.pt", map_location="cpu", weights_only=True),
    )


def _weights(name: str) -> str:
    return f"{name}.safetensors"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
