"""The state of a run to a checkpoint and back."""

from pathlib import Path
from typing import Any

import torch

from mtseg.config import Config
from mtseg.networks import load_networks
from mtseg.precision import Scale
from mtseg.run import checkpoint
from mtseg.state import Learner, State


def save(config: Config, state: State, metrics_bytes: int) -> None:
    """Write a checkpoint of `state`, to which the first `metrics_bytes` of metrics.jsonl belong."""
    checkpoint.save(config.out / "checkpoints", snapshot(state, metrics_bytes), keep=config.keep)


def snapshot(state: State, metrics_bytes: int = 0) -> checkpoint.Checkpoint:
    """All of `state`, not copied, as it is saved."""
    rest = {
        "optimizer": state.optimizer.state_dict(),
        "teacher": state.teacher.state_dict(),
        "memory": state.past,
        "skipped": [state.skipped, state.skipped_in_a_row],
        "scale": [state.scale.value, state.scale.good, state.overflowed, state.scale.dynamic],
        "metrics_bytes": metrics_bytes,
    }
    if state.peer is not None:
        rest["peer"] = {
            "student": state.peer.student.state_dict(),
            "average": state.peer.teacher.module.state_dict(),
            "optimizer": state.peer.optimizer.state_dict(),
            "teacher": state.peer.teacher.state_dict(),
            "memory": state.peer.past,
        }
    return checkpoint.Checkpoint(state.step, state.student.state_dict(), state.teacher.module.state_dict(), rest)


def restore(state: State, saved: checkpoint.Checkpoint, run: Path) -> int:
    """Put `saved` into `state`; returns how much of metrics.jsonl belongs to it.

    The optimizer's settings stay those of `state`, which the config says; what it has gathered is restored.
    Raises ValueError for what was not saved from such a state.
    """
    load_networks({"student": state.student, "teacher": state.teacher.module}, saved, run)
    try:
        _restore_learner(state, saved.rest, state.device)
        if state.peer is not None:
            state.peer.student.load_state_dict(saved.rest["peer"]["student"])
            state.peer.teacher.module.load_state_dict(saved.rest["peer"]["average"])
            _restore_learner(state.peer, saved.rest["peer"], state.device)
        state.step = saved.step
        state.skipped, state.skipped_in_a_row = map(int, saved.rest.get("skipped", (0, 0)))
        _restore_scale(state, *saved.rest.get("scale", (1.0, 0, 0)))
        return int(saved.rest["metrics_bytes"])
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError, OverflowError) as error:
        raise ValueError(
            f"{run}: what is saved beside the weights of step {saved.step} is not of a run with its config.yaml "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); choose another out="
        ) from error


def _restore_learner(learner: Learner, saved: dict[str, Any], device: torch.device) -> None:
    """What it has but for its networks' weights."""
    learner.teacher.load_state_dict(saved["teacher"])
    learner.past = {name: value.to(device) for name, value in saved["memory"].items()}
    _restore_optimizer(learner.optimizer, saved["optimizer"])


def _restore_scale(state: State, value: float, good: int, overflowed: int, dynamic: bool | None = None) -> None:
    """The scale that was saved, where it was found by overflows and is to be found here too; else that of a first step.

    `dynamic` is None in checkpoints from before it was saved: a value other than 1, or an overflow, tells.
    """
    state.overflowed = int(overflowed)
    found = value != 1 or overflowed > 0 if dynamic is None else dynamic
    if found and state.scale.dynamic:
        state.scale = Scale(float(value), int(good), dynamic=True)


def _restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    settings = [{key: group[key] for key in group if key != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(saved)
    for group, setting in zip(optimizer.param_groups, settings, strict=True):
        group.update(setting)
