"""Teachers: who answers for an unlabelled image. Each also keeps the averaged weights that are evaluated and saved.

A teacher is asked with the teacher's view of a batch and the images' numbers in their pool, and answers with a `View`
of class probabilities (B, K, *S) in float32; after each update of the student it follows.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from mtseg.averaged import AVERAGE, AveragedPart, AveragedState
from mtseg.distil import Frozen
from mtseg.ema import Ema, probabilities
from mtseg.ensemble import Ensemble
from mtseg.geometry import View
from mtseg.memory import Memory
from mtseg.part import part
from mtseg.task import Task
from mtseg.tta import ONCE, Augment


class TeacherPart(Protocol):
    """What is asked of a part of the union `Teacher`, besides its `kind`.

    `cost`: how many pixels an answer makes networks see, for each pixel asked about. `averaging`: how the weights that
    are evaluated are averaged; supervised-only averages its own so. `build`, given the student and the numbers of
    unlabelled images and of classes, gives what has a state. One that asks for a gradient to its answer has a field
    `gradient`, which then is `both`.
    """

    @property
    def cost(self) -> float: ...

    def averaging(self) -> Ema: ...

    def build(self, student: nn.Module, images: int, classes: int) -> "TeacherState": ...


class TeacherState(Protocol):
    """What a built teacher is. `module`: the averaged network that is evaluated and saved. What is not in its weights
    and is needed to go on is `state_dict`, of types that `torch.load(weights_only=True)` takes."""

    module: nn.Module

    def answer(self, student: nn.Module, asked: View, index: Tensor) -> View: ...

    def update(self, student: nn.Module, tasks: Sequence[Task], logits: Sequence[Tensor]) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@part
class Itself(AveragedPart):
    """The student answers for itself (Pi-model, FixMatch, UniMatch); averaged weights are kept for evaluation only.

    `mode`: in `train` (its own batch statistics and dropout, which leave its running statistics alone) or `eval`.
    `gradient`: to the `student`'s side alone, or to `both` sides of the distance (the Pi-model of Laine & Aila
    2017; `squared` only: the others are not symmetric). `average` says how the evaluated weights are averaged.
    `augment`: as for `ema`.
    """

    kind: Literal["itself"] = "itself"
    mode: Literal["train", "eval"] = "train"
    gradient: Literal["student", "both"] = "student"
    average: Ema = AVERAGE
    augment: Augment = ONCE

    @property
    def cost(self) -> float:
        return self.augment.cost

    def build(self, student: nn.Module, images: int, classes: int) -> "ItselfTeacher":
        return ItselfTeacher(self, student)


@part
class Peer(AveragedPart):
    """A second student answers, and learns in the same steps: from the same labels, and from what the first one says of
    the same views, mixed alike (cross pseudo supervision, CPS: Chen et al. 2021).

    It is the same network with other initial weights (but for pretrained ones) and an optimizer of its own. Each
    answers before either learns. The first is evaluated and saved as the student; the second is saved to go on with.
    `mode`, `average` and `augment`: as for `itself`.
    """

    kind: Literal["peer"] = "peer"
    mode: Literal["train", "eval"] = "train"
    average: Ema = AVERAGE
    augment: Augment = ONCE

    @property
    def cost(self) -> float:
        return self.augment.cost

    def build(self, student: nn.Module, images: int, classes: int) -> "PeerTeacher":
        return PeerTeacher(self, student)


Teacher = Annotated[Ema | Itself | Memory | Ensemble | Peer | Frozen, Field(discriminator="kind")]


class ItselfTeacher(AveragedState):
    """The running state of `Itself`: the averaged weights."""

    def __init__(self, rule: Itself, student: nn.Module) -> None:
        super().__init__(rule.average, student)
        self.rule = rule

    def answer(self, student: nn.Module, asked: View, index: Tensor) -> View:
        with torch.set_grad_enabled(self.rule.gradient == "both"):
            said = probabilities(student, asked.data, mode=self.rule.mode, aside=True, augment=self.rule.augment)
            return asked.answered(said)


class PeerTeacher(AveragedState):
    """The running state of `Peer`: the averaged weights of the student that it teaches, and its `peer`, which answers
    and is given it once both are built."""

    peer: nn.Module

    def __init__(self, rule: Peer, student: nn.Module) -> None:
        super().__init__(rule.average, student)
        self.rule = rule

    @torch.no_grad()
    def answer(self, student: nn.Module, asked: View, index: Tensor) -> View:
        return asked.answered(
            probabilities(self.peer, asked.data, mode=self.rule.mode, aside=True, augment=self.rule.augment)
        )
