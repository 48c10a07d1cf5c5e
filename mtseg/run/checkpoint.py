"""Checkpoints: one directory a step, written aside and renamed when whole, checked by a manifest when read."""

import errno
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mtseg.atomic import digest_of, flush, write_whole

MANIFEST = "manifest.json"
CHOICES = ("best", "holdout")  # of whose checkpoints each is named by a file of that name, and kept
SPARE = 1.2  # times its own size that must be free before a checkpoint is written
Tensors = dict[str, Tensor]


class Unpruned(OSError):
    """An old checkpoint could not be deleted; what was to be written before that is whole."""


@dataclass(frozen=True)
class Checkpoint:
    """A run at one step: the weights of both networks, and what else continuing needs (`weights_only` types)."""

    step: int
    student: Tensors
    teacher: Tensors
    rest: dict[str, Any]


def save(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write `checkpoint` under `folder` and delete all but the newest `keep` and the chosen; returns its directory.

    Raises ValueError, and writes nothing, where a weight is not finite: the checkpoint before it is the one to keep.
    Raises OSError where the disk does not take it, and leaves nothing of it; Unpruned, once it is written, where an old
    one cannot be deleted.

    A crash at any moment leaves the earlier checkpoints whole and this one absent: the directory gets its name
    only after its files, and last its manifest of sizes and SHA-256, are on the disk.
    """
    for name, tensors in (("student", checkpoint.student), ("teacher", checkpoint.teacher)):
        _refuse_not_finite(name, tensors, checkpoint.step)
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".tmp-*"):  # by a process that died here: of a checkpoint a folder, of a text a file
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    aside = folder / f".tmp-{checkpoint.step}-{os.getpid()}"
    try:
        _refuse_full(folder, checkpoint)
        _write(aside, checkpoint)
    except (OSError, SafetensorError, RuntimeError) as error:  # safetensors and torch have their own for a full disk
        shutil.rmtree(aside, ignore_errors=True)
        raise error if isinstance(error, OSError) else OSError(" ".join(str(error).split())[:300]) from error
    place = folder / name_of(checkpoint.step)
    shutil.rmtree(place, ignore_errors=True)
    aside.rename(place)
    flush(folder)
    _prune(folder, keep)
    return place


class Chosen(NamedTuple):
    """A checkpoint that was chosen by its score on images of `split`, the highest; and how these were `asked`, in
    words, which runs of before do not say."""

    place: Path
    score: float
    split: str
    asked: str


def chosen(folder: Path, by: str) -> Chosen | None:
    """The checkpoint under `folder` that is the choice `by` (of CHOICES); None: none is known."""
    try:
        said = json.loads((folder / f"{by}.json").read_text())
        place = folder / name_of(int(said["step"]))
        score = float(said.get("score", said.get("mIoU")))
        found = Chosen(place, score, str(said["split"]), str(said.get("asked", "")))
        return found if (place / MANIFEST).is_file() else None
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        OverflowError,
        RecursionError,
    ):  # a pointer only: what it points to checks itself
        return None


def choose(folder: Path, by: str, step: int, *, score: float, split: str, asked: str, keep: int) -> None:
    """From now on the checkpoint of `step`, which is there, is the choice `by`: it is kept until another one is.

    Raises OSError as `save` does.
    """
    write_whole(folder / f"{by}.json", json.dumps({"step": step, "score": score, "split": split, "asked": asked}))
    _prune(folder, keep)


def name_of(step: int) -> str:
    """The directory name of the checkpoint of `step`."""
    return f"step-{step:08d}"


def steps(folder: Path) -> list[Path]:
    """The checkpoints under `folder`, oldest first, whole or not."""
    named = [place for place in folder.glob("step-*") if place.name.removeprefix("step-").isdigit()]
    return sorted(named, key=lambda place: int(place.name.removeprefix("step-")))


def load(place: Path) -> Checkpoint:
    """The checkpoint in directory `place`. Raises whatever its readers raise where it is not as its manifest says."""
    manifest = json.loads((place / MANIFEST).read_text())
    for name, said in manifest["files"].items():
        if (place / name).stat().st_size != said["bytes"] or digest_of(place / name) != said["sha256"]:
            raise ValueError(f"{name} is not what was written")
    return Checkpoint(
        step=int(manifest["step"]),
        student=load_file(place / _weights("student")),
        teacher=load_file(place / _weights("teacher")),
        rest=torch.load(place / "state.pt", map_location="cpu", weights_only=True) | manifest.get("amended", {}),
    )


def weights_of(folder: Path, step: int, name: str) -> str:
    """The SHA-256 of a network's weights in the checkpoint of `step`, as its manifest has it."""
    files = json.loads((folder / name_of(step) / MANIFEST).read_text())["files"]
    return str(files[_weights(name)]["sha256"])


def size_of(run: Path) -> int:
    """Bytes of the weights of the newest teacher in a run's folder; 0 where there is none."""
    there = steps(run / "checkpoints")
    weights = there[-1] / _weights("teacher") if there else None
    return weights.stat().st_size if weights is not None and weights.is_file() else 0


def amend(place: Path, rest: dict[str, int]) -> None:
    """From now on the checkpoint in `place` has `rest` in the place of what its own says. Raises OSError as `save`."""
    manifest = json.loads((place / MANIFEST).read_text())
    manifest["amended"] = manifest.get("amended", {}) | rest
    write_whole(place / MANIFEST, json.dumps(manifest, indent=1))


def load_newest(folder: Path) -> tuple[Checkpoint, dict[Path, str]]:
    """The newest whole checkpoint under `folder`, and what is wrong with each newer one, which is damaged.

    Raises ValueError where there is none, saying why.
    """
    damaged: dict[Path, str] = {}
    for place in reversed(steps(folder)):
        try:
            return load(place), damaged
        except Exception as error:  # what a damaged file raises is up to its reader
            damaged[place] = f"{place} is damaged and passed over: {error}"
    raise ValueError("\n".join([f"{folder}: no whole checkpoint", *damaged.values()]))


def set_aside(place: Path, why: str = "damaged") -> Path:
    """Rename a checkpoint or file that is not to be counted on, such as one that cannot be loaded; returns its new
    name."""
    names = (place.with_name(f"{why}-{place.name}{suffix}") for suffix in ("", *(f".{n}" for n in range(1, 1000))))
    aside = next(name for name in names if not name.exists())
    return place.rename(aside)


def _write(aside: Path, checkpoint: Checkpoint) -> None:
    """The files of `checkpoint`, the manifest last, all of them on the disk."""
    aside.mkdir()
    for name, tensors in (("student", checkpoint.student), ("teacher", checkpoint.teacher)):
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, aside / _weights(name))
    torch.save(checkpoint.rest, aside / "state.pt")
    for path in aside.glob("*.safetensors"):  # which their library lets none but the owner read
        shutil.copymode(aside / "state.pt", path)
    files = {path.name: {"bytes": path.stat().st_size, "sha256": digest_of(path)} for path in sorted(aside.iterdir())}
    (aside / MANIFEST).write_text(json.dumps({"step": checkpoint.step, "files": files}, indent=1))
    for path in [*aside.iterdir(), aside]:
        flush(path)


def _prune(folder: Path, keep: int) -> None:
    pointed = {found[0] for found in (chosen(folder, by) for by in CHOICES) if found is not None}
    failed = []
    for old in steps(folder)[:-keep]:
        try:
            if old not in pointed:
                shutil.rmtree(old)
        except OSError as error:
            failed.append(error)
    if failed:
        raise Unpruned(f"an old checkpoint is NOT deleted: {failed[0]}") from failed[0]


def _refuse_full(folder: Path, checkpoint: Checkpoint) -> None:
    wanted = SPARE * sum(_size(tree) for tree in (checkpoint.student, checkpoint.teacher, checkpoint.rest))
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise OSError(errno.ENOSPC, f"{wanted / 1e6:.1f} MB are wanted and {free / 1e6:.1f} MB are free", str(folder))


def _size(tree: Any) -> int:
    """Bytes of the tensors in a tree of dictionaries and lists."""
    if isinstance(tree, Tensor):
        return tree.numel() * tree.element_size()
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return sum(_size(value) for value in inner)


def _refuse_not_finite(name: str, tensors: Tensors, step: int) -> None:
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(
                f"the {name}'s {key} is not finite at step {step}, so it is not saved; "
                "train with a lower optimizer.lr, or clip=1, in a new out="
            )


def _weights(name: str) -> str:
    return f"{name}.safetensors"
