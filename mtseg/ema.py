"""The averaged teacher: an exponential moving average of the student, and how a network is asked."""

import copy
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from mtseg.geometry import View
from mtseg.part import part
from mtseg.task import Task
from mtseg.tta import ONCE, Augment

Decay = Annotated[float, Field(ge=0, le=1)]


@part
class Ema:
    """An exponential moving average of the student (Tarvainen & Valpola 2017, eq. 2).

    After update t = 0, 1, ... of the student: teacher <- a teacher + (1 - a) student, with
    a = min(1 - 1 / (span t + 1), decay), and `early_decay` in place of `decay` for the first `early_steps` updates
    (the paper: 0.99, then 0.999 once the ramp-up is over). The first update copies the student. With a `span` of 1 (the
    paper's code) the average is at first over all updates so far, and an early teacher lags behind its student; with a
    smaller one it is over about the last `span` of them, so that it suits a run of any length.

    `mode` is the teacher's behaviour when it gives targets: `train` (its own batch statistics, dropout; the paper)
    or `eval` (running statistics). `buffers`, its batch-norm statistics: `average` them like parameters,
    `copy` the student's, or keep its `own` (gathered by its own forwards, so with `train` only). Integer
    buffers are copied. Evaluation always uses running statistics.

    `augment`: its targets are the mean of what it says of its view at several scales, mirrored too (multi-transform
    inference, Radosavovic et al. 2018), which costs forwards.
    """

    kind: Literal["ema"] = "ema"
    decay: Decay = 0.99
    early_decay: Decay | None = None
    early_steps: Annotated[int, Field(ge=0)] = 0
    span: Annotated[float, Field(gt=0, le=1)] = 1.0
    mode: Literal["train", "eval"] = "eval"
    buffers: Literal["average", "copy", "own"] = "average"
    augment: Augment = ONCE

    def __post_init__(self) -> None:
        if self.mode == "eval" and self.buffers == "own":
            raise ValueError(
                "mode 'eval' never refreshes buffers of the teacher's own; "
                "use buffers 'average' or 'copy', or mode 'train'"
            )
        if (self.early_decay is None) != (self.early_steps == 0):
            raise ValueError(
                f"early_decay ({self.early_decay}) and early_steps ({self.early_steps}) go together; "
                "give both or neither"
            )

    def decay_at(self, update: int) -> float:
        """a of the update number `update`, counted from 0."""
        early = self.early_decay is not None and update < self.early_steps
        limit = self.early_decay if early and self.early_decay is not None else self.decay
        return min(1 - 1 / (self.span * update + 1), limit)

    @property
    def cost(self) -> float:
        """How many pixels an answer makes networks see, for each pixel asked about."""
        return self.augment.cost

    def averaging(self) -> "Ema":
        """How weights are averaged, without a say in how answers are given."""
        return Ema(decay=self.decay, early_decay=self.early_decay, early_steps=self.early_steps, span=self.span)

    def build(self, student: nn.Module, images: int, classes: int) -> "EmaTeacher":
        return EmaTeacher(self, student)


class EmaTeacher:
    """The running state of an `Ema`: a float32 shadow of the student and the number of updates so far."""

    def __init__(self, rule: Ema, student: nn.Module) -> None:
        self.rule = rule
        self.updates = 0
        self.module: nn.Module = copy.deepcopy(student).float().requires_grad_(False)
        self._followed: _Followed | None = None

    @torch.no_grad()
    def answer(self, student: nn.Module, asked: View, index: Tensor) -> View:
        """Its probabilities for normalised images `asked`, in their view; no gradient."""
        rule = self.rule
        aside = rule.buffers != "own"
        return asked.answered(probabilities(self.module, asked.data, mode=rule.mode, aside=aside, augment=rule.augment))

    @torch.no_grad()
    def update(self, student: nn.Module, tasks: Sequence[Task] = (), logits: Sequence[Tensor] = ()) -> None:
        """Follow `student` after its optimizer step."""
        self.follow(student, self.rule.decay_at(self.updates))
        self.updates += 1

    @torch.no_grad()
    def follow(self, student: nn.Module, decay: float) -> None:
        """teacher <- decay teacher + (1 - decay) student, buffers as the rule says; no update is counted."""
        if self._followed is None or not self._followed.still(self.module, student):
            self._followed = _Followed(self.module, student, self.rule.buffers)
        self._followed(decay)

    @torch.no_grad()
    def take_buffers(self, student: nn.Module) -> None:
        """The teacher's buffers <- the student's, whatever the rule says."""
        if buffers := list(self.module.buffers()):
            torch._foreach_copy_(buffers, list(student.buffers()))

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs besides the module's own weights."""
        return {"updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = int(state["updates"])


def probabilities(
    network: nn.Module,
    images: Tensor,
    *,
    mode: Literal["train", "eval"],
    aside: bool,
    augment: Augment = ONCE,
) -> Tensor:
    """Class probabilities (B, K, *S) in float32 of normalised `images` (B, C, *S); `network` is left in `mode`.

    `aside`: what train mode writes into the buffers of batch normalisation goes into copies. `augment`: the
    probabilities are the mean of those of several forwards.
    """
    network.train(mode == "train")
    copies = {name: buffer.clone() for name, buffer in network.named_buffers()} if aside and mode == "train" else {}

    def ask(given: Tensor) -> Tensor:
        logits: Tensor = functional_call(network, copies, (given,))
        return logits.float()

    return ask(images).softmax(1) if augment == ONCE else augment(ask, images, "softmax") / augment.forwards


class _Followed:
    """The tensors of a teacher and of the student that it follows, found once: a small network's update takes less.

    What is not floating point is copied, and so are all buffers but those that are averaged.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module, buffers: str) -> None:
        self.student, self._first = student, self._firsts(teacher, student)
        both: list[tuple[tuple[Tensor, Tensor], bool]]
        both = [(pair, True) for pair in zip(teacher.parameters(), student.parameters(), strict=True)]
        if buffers != "own":
            both += [(pair, buffers == "average") for pair in zip(teacher.buffers(), student.buffers(), strict=True)]
        averaged = [(t, s) for (t, s), mean in both if mean and t.is_floating_point()]
        copied = [(t, s) for (t, s), mean in both if not (mean and t.is_floating_point())]
        self._averaged, self._copied = ([list(side) for side in zip(*of, strict=True)] for of in (averaged, copied))
        self._alike = all(t.dtype == s.dtype for t, s in averaged)

    def still(self, teacher: nn.Module, student: nn.Module) -> bool:
        """Whether these are the modules that were looked through, and they have the same tensors: moving a module, or
        casting it, gives it other buffers."""
        return student is self.student and all(
            now is before for now, before in zip(self._firsts(teacher, student), self._first, strict=True)
        )

    @staticmethod
    def _firsts(teacher: nn.Module, student: nn.Module) -> list[Tensor | None]:
        return [next(tensors, None) for of in (teacher, student) for tensors in (of.parameters(), of.buffers())]

    def __call__(self, decay: float) -> None:
        """teacher <- decay teacher + (1 - decay) student, in two launches."""
        if self._averaged:
            teacher, student = self._averaged
            given = student if self._alike else [s.to(t.dtype) for t, s in zip(teacher, student, strict=True)]
            torch._foreach_lerp_(teacher, given, 1 - decay)
        if self._copied:
            torch._foreach_copy_(self._copied[0], self._copied[1])
