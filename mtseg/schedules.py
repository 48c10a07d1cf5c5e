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
    """Sigmoid ramp-up exp(-5 (1 - t / steps)^2) to 1 at `steps` (Tarvainen & Valpola 2017, appendix B).

    `every`: t moves on once in so many steps, as where a ramp counts epochs.
    """

    kind: Literal["rampup"] = "rampup"
    steps: Steps
    every: Annotated[int, Field(ge=1)] = 1

    def __call__(self, step: int, total: int) -> float:
        return rise(step - step % self.every, self.steps)


@part
class RampupShare:
    """The sigmoid ramp-up over the first `share` of the run's steps, so that a run of any length keeps the row.

    Where a run goes on for more steps than it began with, the ramp is stretched, as `poly` and `cosine` are.
    """

    kind: Literal["rampup_share"] = "rampup_share"
    share: Annotated[float, Field(ge=0, le=1)] = 0.5

    def __call__(self, step: int, total: int) -> float:
        return rise(step, self.share * total)


@part
class Ramps:
    """The sigmoid ramp-up over the first `up` steps, times the sigmoid ramp-down over the last `down` ones.

    The rate of the paper's ConvNets. Where a run is shorter than the ramp-up, it never gets to 1.
    """

    kind: Literal["ramps"] = "ramps"
    up: Steps
    down: Steps = 0

    def __call__(self, step: int, total: int) -> float:
        return rise(step, self.up) * fall(step, self.down, total)


@part
class Poly:
    """(1 - t / T)^power, T the run's steps: the usual learning rate of segmentation (DeepLab).

    Over the first `warmup` steps it rises linearly.
    """

    kind: Literal["poly"] = "poly"
    power: Annotated[float, Field(ge=0)] = 0.9
    warmup: Steps = 0

    def __call__(self, step: int, total: int) -> float:
        return _warm(step, self.warmup) * (1 - min(step / total, 1.0)) ** self.power


@part
class Cosine:
    """(1 + cos(pi t / T)) / 2; T is `length`, or (null) the run's steps.

    Over the first `warmup` steps it rises linearly, from `start` of that.
    """

    kind: Literal["cosine"] = "cosine"
    warmup: Steps = 0
    start: Annotated[float, Field(ge=0, le=1)] = 0.0
    length: Annotated[int, Field(ge=1)] | None = None

    def __call__(self, step: int, total: int) -> float:
        return (
            _warm(step, self.warmup, self.start) * (1 + math.cos(math.pi * min(step / (self.length or total), 1.0))) / 2
        )


Schedule = Annotated[Constant | Rampup | RampupShare | Ramps | Poly | Cosine, Field(discriminator="kind")]


def rise(step: int, steps: float) -> float:
    """The paper's sigmoid: exp(-5 (1 - x)^2) with x = step / steps clipped to [0, 1]; 1 where steps is 0."""
    if step >= steps:
        return 1.0
    return math.exp(-5 * (1 - step / steps) ** 2)


def fall(step: int, steps: int, total: int) -> float:
    """The paper's ramp-down: exp(-12.5 (1 - (total - step) / steps)^2) over the last `steps`; 1 before, and for 0."""
    left = total - step
    return math.exp(-12.5 * (1 - left / steps) ** 2) if left < steps else 1.0


def _warm(step: int, warmup: int, start: float = 0.0) -> float:
    return 1.0 if step >= warmup else start + (1 - start) * (step + 1) / (warmup + 1)
