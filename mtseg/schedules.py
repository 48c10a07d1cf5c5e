"""Schedules: pure functions (step, total steps) -> factor in [0, 1]. Nothing to save, nothing to resume."""

import math
from typing import Annotated, Literal

from pydantic import Field

from mtseg.part import part

Steps = Annotated[int, Field(ge=0)]


@part
class Constant:
    """1 from the first step."""

    kind: Literal["constant"] = "constant"

    def __call__(self, step: int, total: int) -> float:
        return 1.0


@part
class Rampup:
    """Sigmoid ramp-up exp(-5 (1 - t / steps)^2) to 1 at `steps` (Tarvainen & Valpola 2017, appendix B)."""

    kind: Literal["rampup"] = "rampup"
    steps: Steps

    def __call__(self, step: int, total: int) -> float:
        return rise(step, self.steps)


@part
class Poly:
    """(1 - t / T)^power after a linear warm-up, the usual learning rate of segmentation (DeepLab)."""

    kind: Literal["poly"] = "poly"
    power: Annotated[float, Field(ge=0)] = 0.9
    warmup: Steps = 0

    def __call__(self, step: int, total: int) -> float:
        return _warm(step, self.warmup) * (1 - min(step / total, 1.0)) ** self.power


@part
class Cosine:
    """(1 + cos(pi t / T)) / 2 after a linear warm-up."""

    kind: Literal["cosine"] = "cosine"
    warmup: Steps = 0

    def __call__(self, step: int, total: int) -> float:
        return _warm(step, self.warmup) * (1 + math.cos(math.pi * min(step / total, 1.0))) / 2


Schedule = Annotated[Constant | Rampup | Poly | Cosine, Field(discriminator="kind")]


def rise(step: int, steps: int) -> float:
    """The paper's sigmoid: exp(-5 (1 - x)^2) with x = step / steps clipped to [0, 1]; 1 where steps is 0."""
    if step >= steps:
        return 1.0
    return math.exp(-5 * (1 - step / steps) ** 2)


def _warm(step: int, warmup: int) -> float:
    return 1.0 if step >= warmup else (step + 1) / (warmup + 1)
