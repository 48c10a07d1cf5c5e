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

    Raises ValueError, and writes nothing, where a weight is not finite: the checkpoint before it is the one to keep.

    A crash at any moment leaves the earlier checkpoints whole and this one absent: the directory gets its name
    only after its files, and last its manifest of sizes and SHA-256, are on the disk.
    """
    for name, tensors in (("student", checkpoint.student), ("teacher", checkpoint.teacher)):
        _refuse_not_finite(name, tensors, checkpoint.step)
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
    place = folder / name_of(checkpoint.step)
    shutil.rmtree(place, ignore_errors=True)
    aside.rename(place)
    _flush(folder)
    for old in steps(folder)[:-keep]:
        shutil.rmtree(old)
    return place


def name_of(step: int) -> str:
    """The directory name of the checkpoint of `step`."""
    return f"step-{step:08d}"


def steps(folder: Path) -> list[Path]:
    """The checkpoints under `folder`, oldest first, whole or not."""
    named = [place for place in folder.glob("step-*") if place.name.removeprefix("step-").isdigit()]
    return sorted(named, key=lambda place: int(place.name.removeprefix("step-")))


def load_newest(folder: Path) -> tuple[Checkpoint, dict[Path, str]]:
    """The newest whole checkpoint under `folder`, and what is wrong with each newer one, which is damaged.

    Raises ValueError where there is none, saying why.
    """
    damaged: dict[Path, str] = {}
    for place in reversed(steps(folder)):
        try:
            return _load(place), damaged
        except Exception as error:  # what a damaged file raises is up to its reader
            damaged[place] = f"{place} is damaged and passed over: {error}"
    raise ValueError("\n".join([f"{folder}: no whole checkpoint", *damaged.values()]))


def set_aside(place: Path) -> Path:
    """Rename a damaged checkpoint, so that none is counted on that cannot be loaded; returns its new name."""
    names = (place.with_name(f"damaged-{place.name}{suffix}") for suffix in ("", *(f".{n}" for n in range(1, 1000))))
    aside = next(name for name in names if not name.exists())
    return place.rename(aside)


def write_whole(path: Path, text: str) -> None:
    """Write a small text file so that a crash leaves the old one or the new one, never a part."""
    aside = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    _flush(aside)
    aside.replace(path)


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


def _refuse_not_finite(name: str, tensors: Tensors, step: int) -> None:
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(
                f"the {name}'s {key} is not finite at step {step}, so it is not saved; "
                "train with a lower optimizer.lr, or clip=1, in a new out="
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
