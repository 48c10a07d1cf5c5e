"""All that a run changes, from its first weights through its checkpoints to its last."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mtseg.balance import weights_for
from mtseg.config import Config
from mtseg.data.resident import Resident, stream_of
from mtseg.data.source import Splits
from mtseg.data.stream import Stream
from mtseg.distributed import local_rank, rank, same, world
from mtseg.models.convnet import settle, settles
from mtseg.models.norm import normed
from mtseg.precision import Scale, memory_format, scale_for
from mtseg.randomness import reseed_torch
from mtseg.run import checkpoint
from mtseg.running import running
from mtseg.targets import Past
from mtseg.teachers import PeerTeacher, TeacherState


@dataclass
class Learner:
    """A student, its teacher, and what else its learning changes; `past` is what targets remember.

    `asked` is what a step asks in place of `student`, with the very same weights; see `running`.
    """

    student: nn.Module
    teacher: TeacherState
    optimizer: torch.optim.Optimizer
    past: Past = field(default_factory=dict)
    asked: nn.Module = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.asked = self.student if self.asked is None else self.asked

    @property
    def networks(self) -> list[nn.Module]:
        return [self.student, self.teacher.module]


@dataclass
class State(Learner):
    """All that a run changes. `step` counts finished steps.

    `skipped` steps, whose loss or gradient was not finite, updated nothing; the last `skipped_in_a_row` were such.
    `overflowed` steps updated nothing because the `scale` of the loss was too high; schedules do not count them.
    `class_weights` (K,), on the device, is what a labelled pixel of each class counts; None: 1. The `peer` is a second
    student, where that is the teacher.
    """

    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    scale: Scale = field(default_factory=Scale)
    overflowed: int = 0
    class_weights: Tensor | None = None
    peer: Learner | None = None

    @property
    def learners(self) -> list[Learner]:
        """All that learn, the one that is evaluated first."""
        return [self] if self.peer is None else [self, self.peer]

    def skip(self) -> None:
        """Count a step that was not finite: the scale's fault, while that can be lowered."""
        if self.scale.overflows():
            self.overflowed += 1
        else:
            self.skipped, self.skipped_in_a_row = self.skipped + 1, self.skipped_in_a_row + 1

    @property
    def place(self) -> int:
        """Where schedules and ramps stand."""
        return self.step - self.overflowed

    @property
    def device(self) -> torch.device:
        return next(self.student.parameters()).device


def build(config: Config, splits: Splits, device: torch.device, *, pretrained: bool = True) -> State:
    """Student, teacher and optimizer at step 0: a function of the config, its seed, its classes and its data's sizes.

    Called by all processes together; the first one's weights are everyone's. Raises ValueError where the views are not
    for the images' channels.
    """
    config.views.check(splits.channels, rgb=splits.rgb)
    first = partial(_first_images, config, splits, device) if pretrained else None
    sizes = (len(splits.classes), len(splits.unlabelled))
    state = sized(config, *sizes, device=device, pretrained=pretrained, rgb=splits.rgb, first=first)
    if (weights := weights_for(splits, config.balance)) is not None:
        state.class_weights = weights.to(device)
    return state


def sized(
    config: Config,
    classes: int,
    images: int,
    *,
    device: torch.device,
    pretrained: bool,
    rgb: bool = True,
    first: Callable[[], Tensor] | None = None,
) -> State:
    """`build`, for data of so many `classes` and unlabelled `images`; `first` gives those of the first step.

    `rgb` matters to `pretrained` weights alone.
    """
    learner = partial(_learner, config, classes, images, device=device, pretrained=pretrained, rgb=rgb, first=first)
    state = State(**vars(learner()), scale=scale_for(config.precision))
    if isinstance(state.teacher, PeerTeacher):
        state.peer = learner(1)
        assert isinstance(state.peer.teacher, PeerTeacher)
        state.teacher.peer, state.peer.teacher.peer = state.peer.student, state.student
    return state


def _learner(
    config: Config,
    classes: int,
    images: int,
    *number: int,
    device: torch.device,
    pretrained: bool,
    rgb: bool,
    first: Callable[[], Tensor] | None,
) -> Learner:
    """The first, or that of a `number`, at step 0."""
    reseed_torch(config.seed, "initial weights", *number)
    built = config.model.build(classes, channels=config.views.channels, rgb=rgb, pretrained=pretrained and rank() == 0)
    student = normed(built, config.norm, device)
    student = student.to(device, memory_format=memory_format(config.precision, device))  # type: ignore[call-overload]
    same(student)
    if first is not None and settles(student):
        settle(student, first())
        same(student)
    teacher = config.method.teacher.build(student, images, classes)
    like = torch.zeros((2, config.views.channels, *config.views.crop), device=device)
    asked = running(student, like, compiled=config.compile, recompute=config.recompute)
    return Learner(student, teacher, config.optimizer.build(student), asked=asked)


def _first_images(config: Config, splits: Splits, device: torch.device) -> Tensor:
    """The images of the first step, of all processes, as network input."""
    batch = batches_of(config, splits, device, share=(0, 1))[0].to(device)
    asked = batch.students or ((batch.teacher,) if batch.teacher is not None else ())
    return torch.cat([crops.view(config.views).data for crops in (batch.labelled, *asked)])


def batches_of(
    config: Config, splits: Splits, device: torch.device, *, share: tuple[int, int] | None = None
) -> Stream | Resident:
    """The batches of a run, by the step: of each this process's part, or that of `share` (process, processes)."""
    return stream_of(
        splits,
        views=config.views,
        sizes=config.batch,
        students=config.method.views_of_student if config.method.branches else None,
        seed=config.seed,
        masks=config.diagnose_with_masks,
        device=device,
        share=share or (rank(), world()),
    )


class Undo:
    """What forwards write into the buffers of `state`'s networks (batch statistics), to be put back when called."""

    def __init__(self, state: State) -> None:
        buffers = [values for one in state.learners for network in one.networks for values in network.buffers()]
        floats = [buffer for buffer in buffers if buffer.is_floating_point()]
        self._groups = [group for group in (floats, [b for b in buffers if not b.is_floating_point()]) if group]
        self._before = [torch._foreach_mul(group, 1) for group in self._groups]  # copies, in one launch

    @torch.no_grad()
    def __call__(self) -> None:
        for group, before in zip(self._groups, self._before, strict=True):
            torch._foreach_copy_(group, before)


def pick_device(name: str) -> torch.device:
    """`auto` is the GPU where there is one; of several processes on a machine, each has its own.

    Raises ValueError for a GPU that is not there, and for one that several processes would share.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device, own = torch.device(name), local_rank()
    if device.type == "cuda" and own is not None:
        if device.index is not None:
            raise ValueError(f"device: {name} would be shared by several processes; use device=cuda")
        device = torch.device("cuda", own)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device: {name} is not on this machine ({torch.cuda.device_count()} GPUs); use device=cpu")
    return device


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


def load_networks(state: State, saved: checkpoint.Checkpoint, run: Path) -> None:
    """Put the weights of `saved` into the student and the teacher. Raises ValueError where they do not fit."""
    for name, network in (("student", state.student), ("teacher", state.teacher.module)):
        try:
            network.load_state_dict(getattr(saved, name))
        except RuntimeError as error:
            raise ValueError(
                f"{run}: the {name} of step {saved.step} does not fit the network of its config.yaml, whose weights "
                "have other names or sizes; take the model and the number of classes that it was trained with"
            ) from error


def restore(state: State, saved: checkpoint.Checkpoint, run: Path) -> int:
    """Put `saved` into `state`; returns how much of metrics.jsonl belongs to it.

    The optimizer's settings stay those of `state`, which the config says; what it has gathered is restored.
    Raises ValueError for what was not saved from such a state.
    """
    load_networks(state, saved, run)
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
