"""All that a run changes, from its first weights through its checkpoints to its last."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from mtseg import checkpoint
from mtseg.config import Config
from mtseg.data.source import Splits
from mtseg.randomness import reseed_torch
from mtseg.targets import Memory
from mtseg.teachers import TeacherState


@dataclass
class State:
    """All that a run changes. `step` counts finished updates of the student; `memory` is what targets remember."""

    student: nn.Module
    teacher: TeacherState
    optimizer: torch.optim.Optimizer
    step: int = 0
    memory: Memory = field(default_factory=dict)


def build(config: Config, splits: Splits, device: torch.device, *, pretrained: bool = True) -> State:
    """Student, teacher and optimizer at step 0: a function of the config and its seed."""
    reseed_torch(config.seed, "initial weights")
    student = config.model.build(len(splits.classes), pretrained=pretrained).to(device)
    teacher = config.method.teacher.build(student, len(splits.unlabelled), len(splits.classes))
    return State(student, teacher, config.optimizer.build(student))


def pick_device(name: str) -> torch.device:
    """`auto` is the GPU where there is one. Raises ValueError for a GPU that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device: {name} is not on this machine ({torch.cuda.device_count()} GPUs); use device=cpu")
    return device


def save(config: Config, state: State, metrics_bytes: int) -> None:
    """Write a checkpoint of `state`, to which the first `metrics_bytes` of metrics.jsonl belong."""
    rest = {
        "optimizer": state.optimizer.state_dict(),
        "teacher": state.teacher.state_dict(),
        "memory": state.memory,
        "metrics_bytes": metrics_bytes,
    }
    checkpoint.save(
        config.out / "checkpoints",
        checkpoint.Checkpoint(state.step, state.student.state_dict(), state.teacher.module.state_dict(), rest),
        keep=config.keep,
    )


def load_networks(state: State, saved: checkpoint.Checkpoint, run: Path) -> None:
    """Put the weights of `saved` into the student and the teacher. Raises ValueError where they do not fit."""
    for name, network in (("student", state.student), ("teacher", state.teacher.module)):
        try:
            network.load_state_dict(getattr(saved, name))
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{run}: the {name} of step {saved.step} does not fit the network of its config.yaml; evaluate it with "
                f"the settings and the class count it was trained with ({reason[:300]})"
            ) from error


def restore(state: State, saved: checkpoint.Checkpoint, run: Path) -> int:
    """Put `saved` into `state`; returns how much of metrics.jsonl belongs to it."""
    load_networks(state, saved, run)
    state.teacher.load_state_dict(saved.rest["teacher"])
    device = next(state.student.parameters()).device
    state.memory = {name: value.to(device) for name, value in saved.rest["memory"].items()}
    state.optimizer.load_state_dict(saved.rest["optimizer"])
    state.step = saved.step
    return int(saved.rest["metrics_bytes"])
