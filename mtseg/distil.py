"""Networks of finished runs as the teacher: a student of any other network learns what they have learnt."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mtseg.averaged import AVERAGE, AveragedPart, AveragedState
from mtseg.ema import Ema, probabilities
from mtseg.ensemble import Panel
from mtseg.geometry import View
from mtseg.part import part
from mtseg.tta import ONCE, Augment
from mtseg.views import Views


@part
class Frozen(AveragedPart):
    """The networks of finished runs answer, by the mean of their probabilities, and learn no more.

    Of one run, of a larger network say, it is knowledge distillation (Hinton et al. 2015) and, with strong colours for
    the student, what Noisy Student does (Xie et al. 2020); of several, that of an ensemble. `runs` are their folders:
    of any network and normalisation, for the same classes and channels. Their teachers answer, of the checkpoint `at`:
    the `last`, `best`, `holdout` or a step. `average` and `augment`: as for `itself`.
    """

    kind: Literal["frozen"] = "frozen"
    runs: Annotated[tuple[Path, ...], Field(min_length=1)]
    at: Literal["last", "best", "holdout"] | Annotated[int, Field(ge=0)] = "last"
    average: Ema = AVERAGE
    augment: Augment = ONCE

    @property
    def cost(self) -> float:
        return self.augment.cost * len(self.runs)

    def build(self, student: nn.Module, images: int, classes: int) -> "FrozenTeacher":
        return FrozenTeacher(self, student)


class FrozenTeacher(AveragedState):
    """The running state of `Frozen`: the averaged weights of the student, and the networks that answer, which it is
    given once it is built."""

    def __init__(self, rule: Frozen, student: nn.Module) -> None:
        super().__init__(rule.average, student)
        self.rule = rule

    def take(self, networks: Sequence[nn.Module], digests: Sequence[str]) -> None:
        """From now on `networks` answer; `digests` tell their weights."""
        self.panel, self.digests = Panel(networks).requires_grad_(False), list(digests)

    @torch.no_grad()
    def answer(self, student: nn.Module, asked: View, index: Tensor) -> View:
        return asked.answered(
            probabilities(self.panel, asked.data, mode="eval", aside=False, augment=self.rule.augment)
        )

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"taught_by": self.digests}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError where other networks answer than those with which the run was begun."""
        if state["taught_by"] != self.digests:
            both = (state["taught_by"], self.digests)
            before, now = (", ".join(f"{digest[:12]}{digest[64:]}" for digest in of) for of in both)
            raise ValueError(
                f"method.teacher.runs: this run was begun with other teachers ({before}) than {now} now; name the same "
                "ones in the same order, their step with method.teacher.at, or begin another out="
            )
        super().load_state_dict(state)


class Renormalised(nn.Module):
    """A network that is asked in another normalisation than its own: images (B, C, *S) normalised by `given`."""

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, *, own: Views, given: Views) -> None:
        super().__init__()
        self.network = network
        mean, std, own_mean, own_std = (torch.tensor(of) for of in (given.mean, given.std, own.mean, own.std))
        self.register_buffer("scale", (std / own_std)[:, None, None])
        self.register_buffer("shift", ((mean - own_mean) / own_std)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.network(images * self.scale + self.shift)
        return answer
