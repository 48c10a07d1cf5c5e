"""What is common to the teachers that are no average: one is kept all the same, to be evaluated and saved."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mtseg.ema import Ema, EmaTeacher
from mtseg.task import Task
from mtseg.tta import ONCE

AVERAGE = Ema(decay=0.999, span=0.02)  # for runs of any length


class AveragedPart:
    """The settings: `average`, how the weights that are evaluated are averaged."""

    average: Ema

    def __post_init__(self) -> None:
        if self.average.mode == "train":
            raise ValueError("average.mode: 'train' is how a teacher answers, and the average gives none; leave it out")
        if self.average.augment != ONCE:
            raise ValueError("average.augment: is how a teacher answers, and the average gives none; leave it out")

    def averaging(self) -> Ema:
        return self.average.averaging()


class AveragedState:
    """The averaged weights, which follow the student and answer nothing."""

    def __init__(self, average: Ema, student: nn.Module) -> None:
        self.ema = EmaTeacher(average, student)
        self.module = self.ema.module

    def update(self, student: nn.Module, tasks: Sequence[Task] = (), logits: Sequence[Tensor] = ()) -> None:
        self.ema.update(student)

    def state_dict(self) -> dict[str, Any]:
        return self.ema.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.ema.load_state_dict(state)
