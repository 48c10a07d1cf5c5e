"""A step that went wrong, in one file: its batch, and all that it began from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mtseg.config import Config, dump
from mtseg.data.batch import Batch, Crops
from mtseg.data.source import Splits
from mtseg.device import pick_device
from mtseg.distributed import rank
from mtseg.run.checkpoint import Checkpoint
from mtseg.saved import restore, snapshot
from mtseg.settings.checked import validate
from mtseg.settings.merge import merge
from mtseg.settings.words import gather
from mtseg.state import State, sized


class Broken(ValueError):
    """A step that did not end well: what the state is after it is not to be saved."""


@dataclass(frozen=True)
class Captured:
    """A step about to be taken again: `state` is what it began from, `batch` what it was given."""

    config: Config
    state: State
    batch: Batch


def refuse_skipping(
    config: Config, splits: Splits, state: State, batch: Batch, warn: Callable[[list[str]], None]
) -> None:
    """Says where a step was skipped. Raises Broken, with the step captured, after `max_skipped` in a row."""
    if state.skipped_in_a_row == 1:
        warn([f"the loss or a gradient is not finite at step {state.step}: no update (skipped: {state.skipped})"])
    if state.skipped_in_a_row < config.max_skipped:
        return
    try:
        path = write(config, state, batch, classes=len(splits.classes), images=len(splits.unlabelled))
        look = f"look into it with: python tools/train.py --replay {path}"
    except OSError as error:
        look = str(error)
    raise Broken(
        f"the loss or a gradient is not finite at step {state.step}, after {config.max_skipped} steps in a row that "
        f"were skipped for it (max_skipped); {look}; train with a lower optimizer.lr, or clip=1, in a new out="
    )


def write(config: Config, state: State, batch: Batch, *, classes: int, images: int) -> Path:
    """Write the step that `state` has just skipped to OUT/capture-STEP.pt, all of types that `weights_only` loads.

    `classes` and unlabelled `images` are the sizes that the state was built for. Raises OSError for a full disk.
    """
    whose = f"-process-{rank()}" if rank() else ""  # each has its own images
    path, saved = config.out / f"capture-{state.step}{whose}.pt", snapshot(state)
    cpu = batch.to(torch.device("cpu"))
    content = {
        "config": dump(config),
        "sizes": [classes, images],
        "class_weights": state.class_weights,
        "step": state.step - 1,  # a skipped step changes nothing but the count
        "student": saved.student,
        "teacher": saved.teacher,
        "rest": saved.rest,
        "labelled": vars(cpu.labelled),
        "asked": None if cpu.teacher is None else vars(cpu.teacher),
        "students": [vars(crops) for crops in cpu.students],
    }
    try:
        torch.save(content, path)
    except RuntimeError as error:
        path.unlink(missing_ok=True)
        raise OSError(f"{path} cannot be written: {str(error).splitlines()[0]}") from error
    return path


def read(path: Path, words: Sequence[str]) -> Captured:
    """The step in a capture file, with settings `words` (such as device=cpu) laid on its config.

    Raises ValueError for what is no such file; nothing in it is executed.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; a run that skips max_skipped updates in a row writes one into its out")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        tree, sizes, step = found["config"], found["sizes"], int(found["step"])
        class_weights = found.get("class_weights")  # absent in files from before there were any
        saved = Checkpoint(step, found["student"], found["teacher"], found["rest"])
        asked = None if found["asked"] is None else Crops(**found["asked"])
        batch = Batch(Crops(**found["labelled"]), asked, tuple(Crops(**crops) for crops in found["students"]))
    except Exception as error:  # what a damaged file raises is up to its reader
        raise ValueError(f"{path}: not a captured step ({' '.join(str(error).split())[:200]})") from error
    config = validate(Config, merge(tree, gather(words)), origin=str(path))
    device = pick_device(config.device)
    state = sized(config, *sizes, device=device, pretrained=False)
    restore(state, saved, path)
    state.class_weights = None if class_weights is None else class_weights.to(device)
    return Captured(config, state, batch.to(device))
