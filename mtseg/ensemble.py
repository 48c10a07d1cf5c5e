"""Several averages in turn, as one teacher."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mtseg.ema import Ema, EmaTeacher
from mtseg.geometry import View
from mtseg.part import part
from mtseg.task import Task


@part
class Ensemble:
    """Several averages, of which one follows the student at a time, `every` steps each, in turn; before its first turn
    each is the student.

    `answer`: the `mean` of all their probabilities (PS-MT, Liu et al. 2022), or the `current` one's (Dual Teacher,
    Na et al. 2023). Their mean is evaluated.
    """

    kind: Literal["ensemble"] = "ensemble"
    count: Annotated[int, Field(ge=2)] = 2
    every: Annotated[int, Field(ge=1)]
    answer: Literal["mean", "current"] = "mean"
    of: Ema = Ema()

    @property
    def cost(self) -> float:
        return self.of.cost * (self.count if self.answer == "mean" else 1)

    def own_update(self, update: int) -> int:
        """Which of its own updates it is, counted from 0, of the average whose turn `update` is."""
        rounds, place = divmod(update, self.every * self.count)
        return rounds * self.every + place % self.every

    def averaging(self) -> Ema:
        return self.of.averaging()

    def build(self, student: nn.Module, images: int, classes: int) -> "EnsembleTeacher":
        return EnsembleTeacher(self, student)


class Panel(nn.Module):
    """Several networks as one, whose answer is the logarithm of their mean probability."""

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        mean = torch.stack([member(images).float().softmax(1) for member in self.members]).mean(0)
        return mean.clamp_min(torch.finfo(mean.dtype).tiny).log()


class EnsembleTeacher:
    """The running state of an `Ensemble`: its averages, and the number of updates so far."""

    def __init__(self, rule: Ensemble, student: nn.Module) -> None:
        self.rule, self.updates = rule, 0
        self.teachers = [EmaTeacher(rule.of, student) for _ in range(rule.count)]
        self.module: nn.Module = Panel(teacher.module for teacher in self.teachers)

    @property
    def current(self) -> EmaTeacher:
        """The one whose turn it is."""
        return self.teachers[self.updates // self.rule.every % self.rule.count]

    def answer(self, student: nn.Module, asked: View, index: Tensor) -> View:
        chosen = self.teachers if self.rule.answer == "mean" else [self.current]
        answers = [teacher.answer(student, asked, index).data for teacher in chosen]
        return asked.answered(torch.stack(answers).mean(0))

    def update(self, student: nn.Module, tasks: Sequence[Task] = (), logits: Sequence[Tensor] = ()) -> None:
        self.current.update(student)
        for teacher in self.teachers:
            if teacher.updates == 0:  # its turn is yet to come: until then it is the student, not the initial weights
                teacher.follow(student, 0.0)
                if self.rule.answer == "current" and self.rule.of.buffers == "own":  # nobody has asked it: it has none
                    teacher.take_buffers(student)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "each": [teacher.state_dict() for teacher in self.teachers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = int(state["updates"])
        for teacher, each in zip(self.teachers, state["each"], strict=True):
            teacher.load_state_dict(each)
