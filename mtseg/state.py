"""All that a run changes, from its first weights through its checkpoints to its last."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from mtseg import warm_start
from mtseg.balance import weights_for
from mtseg.config import Config
from mtseg.data.resident import Resident, stream_of
from mtseg.data.source import Splits
from mtseg.data.stream import Stream
from mtseg.distil import FrozenTeacher
from mtseg.distributed import from_first, rank, same, together, world
from mtseg.lessons import answering
from mtseg.models.convnet import settle, settles
from mtseg.networks import network_of
from mtseg.precision import Scale, scale_for
from mtseg.randomness import reseed_torch
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
    student, where that is the teacher. `begun`: sentences on the run that this one begins as, in the first process.
    """

    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    scale: Scale = field(default_factory=Scale)
    overflowed: int = 0
    class_weights: Tensor | None = None
    peer: Learner | None = None
    begun: tuple[str, ...] = ()

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
    sizes, begun, rule = (len(splits.classes), len(splits.unlabelled)), list[str](), config.load_from
    given = partial(sized, config, *sizes, device=device, rgb=splits.rgb)
    if not pretrained:
        state = given(pretrained=False)
    elif rule is None:
        state = given(pretrained=True, first=partial(_first_images, config, splits, device))
    else:
        state = given(pretrained=False, begin=lambda one: begun.extend(warm_start.begin(one, rule, config, splits)))
    state.begun = tuple(begun)
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
    begin: Callable[[nn.Module], None] | None = None,
) -> State:
    """`build`, for data of so many `classes` and unlabelled `images`; `first` gives those of the first step, `begin`
    gives a student its weights in the place of those that are drawn or `pretrained`.

    `rgb` matters to `pretrained` weights alone.
    """
    weights = partial(_learner, pretrained=pretrained, rgb=rgb, first=first, begin=begin)
    learner = partial(weights, config, classes, images, device=device)
    state = State(**vars(learner()), scale=scale_for(config.precision))
    if isinstance(state.teacher, PeerTeacher):
        state.peer = learner(1)
        assert isinstance(state.peer.teacher, PeerTeacher)
        state.teacher.peer, state.peer.teacher.peer = state.peer.student, state.student
    if isinstance(state.teacher, FrozenTeacher):
        state.teacher.take(*answering(state.teacher.rule, config.views, classes, device))
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
    begin: Callable[[nn.Module], None] | None,
) -> Learner:
    """The first, or that of a `number`, at step 0."""
    reseed_torch(config.seed, "initial weights", *number)
    build_one = partial(network_of, config, classes, device=device, pretrained=pretrained and rank() == 0, rgb=rgb)
    student = together(build_one)  # of weights that cannot be had one process knows
    if begin is not None:
        from_first(lambda: begin(student))
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
