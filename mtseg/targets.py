"""Targets: what the student is asked to say, made of the teacher's probabilities, and how much each pixel counts.

A target is called with the teacher's answer in the frame of comparison, `Moment` and what targets remember; it
gives the probabilities to agree with (B, K, *S), a weight (B, 1, *S) in [0, 1], and what to remember next. What it
counts it counts in all processes (`total`); what it remembers are tensors, and those given are not changed in place. It
is called for every branch with the same past, of which the first branch's is kept.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from mtseg.distributed import gathered, highest, rows, total
from mtseg.geometry import Probability, View
from mtseg.part import part

Past = dict[str, Tensor]  # what targets remember from step to step; saved with the run
Aim = tuple[Tensor, Tensor, Past]


@dataclass(frozen=True)
class Moment:
    """Where in a run a step is: `step` updates are done of `total`; `seed` is the run's."""

    step: int
    total: int
    seed: int = 0

    @property
    def progress(self) -> float:
        """In [0, 1)."""
        return self.step / self.total


@part
class Soft:
    """The probabilities as they are; every pixel counts in full (Mean Teacher)."""

    kind: Literal["soft"] = "soft"

    def __call__(self, answer: View, moment: Moment, past: Past) -> Aim:
        return answer.data, _everywhere(answer.data), past


@part
class Sharpen:
    """p^(1 / T), normalised: nearer to the most probable class the smaller the temperature T is (MixMatch)."""

    kind: Literal["sharpen"] = "sharpen"
    temperature: Annotated[float, Field(ge=1e-3, le=1)] = 0.5

    def __call__(self, answer: View, moment: Moment, past: Past) -> Aim:
        logits = answer.data.clamp_min(torch.finfo(answer.data.dtype).tiny).log() / self.temperature
        return logits.softmax(1), _everywhere(answer.data), past


@part
class Hard:
    """The most probable class, where its probability is at least `threshold` (FixMatch); 0 keeps every pixel."""

    kind: Literal["hard"] = "hard"
    threshold: Probability = 0.95

    def __call__(self, answer: View, moment: Moment, past: Past) -> Aim:
        confidence, classes = answer.data.max(1, keepdim=True)
        return _one_hot(classes, answer.data), (confidence >= self.threshold).to(answer.data.dtype), past


@part
class LowEntropy:
    """The most probable class, without the pixels of highest entropy (U2PL, Wang et al. 2022, eq. 6).

    `drop` is the share of the batch's known pixels that is left out at first; it falls linearly to 0 at the end.
    """

    kind: Literal["low_entropy"] = "low_entropy"
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.2

    def __call__(self, answer: View, moment: Moment, past: Past) -> Aim:
        entropy = -torch.xlogy(answer.data, answer.data).sum(1, keepdim=True)
        # Ranked among the known alone: the unknown come last, and count nowhere anyway.
        order = gathered(torch.where(answer.known, entropy, torch.inf)).flatten().argsort()
        kept = (1 - self.drop * (1 - moment.progress)) * total(answer.known.sum())
        weight = torch.zeros(order.shape, dtype=entropy.dtype, device=entropy.device)
        weight[order] = (torch.arange(len(order), device=order.device) < kept).to(entropy.dtype)
        weight = rows(entropy.numel()).of(weight)
        classes = answer.data.argmax(1, keepdim=True)
        return _one_hot(classes, answer.data), weight.view_as(entropy), past


@part
class Adaptive:
    """The most probable class, over a threshold that follows the teacher's confidence (CorrMatch, Sun et al. 2024).

    The threshold is the moving average, from `start` and with `momentum`, of the mean over the predicted classes
    of each one's highest confidence in the batch. `per_class`: one average a class, of its mean confidence, and as
    its threshold that average times its share of the surest class's, so that rare and hard classes are not starved
    (after FreeMatch, Wang et al. 2023). A class that does not occur moves nothing.
    """

    kind: Literal["adaptive"] = "adaptive"
    start: Probability = 0.85
    momentum: Probability = 0.999
    per_class: bool = False

    def __call__(self, answer: View, moment: Moment, past: Past) -> Aim:
        classes = answer.data.shape[1]
        confidence, predicted = answer.data.max(1, keepdim=True)
        before = past.get("threshold", torch.full((classes,), self.start, device=answer.data.device))
        how = "mean" if self.per_class else "amax"
        # The unknown are a class of their own: to pick the known would wait for the device.
        counted = torch.where(answer.known, predicted, classes)
        seen = _by_class(confidence.flatten(), counted.flatten(), classes + 1, how)[:classes]
        occurs = seen.isfinite()
        if self.per_class:
            now = torch.where(occurs, seen, before)
        else:
            share = occurs.sum().clamp_min(1)
            now = torch.where(occurs.any(), torch.where(occurs, seen, 0).sum() / share, before)
        after = torch.lerp(now, before, self.momentum)
        limit = after * (after / after.max().clamp_min(1e-6)) if self.per_class else after
        weight = (confidence >= limit[predicted]).to(answer.data.dtype)
        return _one_hot(predicted, answer.data), weight, {**past, "threshold": after}


Target = Annotated[Soft | Sharpen | Hard | LowEntropy | Adaptive, Field(discriminator="kind")]


def aimed(target: Target, answer: View, moment: Moment, past: Past) -> Aim:
    """What `target` makes of an answer. Raises ValueError where that is not of the shapes and types at the top."""
    aim, weight, after = found = target(answer, moment, past)
    like = answer.data
    for name, values, shape in (("probabilities", aim, like.shape), ("weight", weight, like[:, :1].shape)):
        if values.shape != shape or not values.is_floating_point():
            raise ValueError(
                f"target {target.kind}: its {name} are {values.dtype} of shape {tuple(values.shape)}; they must be "
                f"floating-point numbers of shape {tuple(shape)}"
            )
    for key, value in after.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"target {target.kind}: it remembers {key!r} as {type(value).__name__}; give tensors alone"
            )
    return found


def _everywhere(probabilities: Tensor) -> Tensor:
    return torch.ones_like(probabilities[:, :1])


def _one_hot(classes: Tensor, like: Tensor) -> Tensor:
    """(B, 1, *S) class indices -> (B, K, *S) of the type and K of `like`."""
    return torch.zeros_like(like).scatter_(1, classes, 1)


def _by_class(values: Tensor, classes: Tensor, count: int, how: str) -> Tensor:
    """The `how` ("mean", "amax") of the `values` of each class, (count,); NaN for a class that does not occur."""
    # Doubles: it adds one after another, and singles would be percents off at millions of pixels.
    doubles, empty = values.double(), torch.zeros(count, device=values.device, dtype=torch.float64)
    occurs = total(empty.scatter_add(0, classes, torch.ones_like(doubles)))
    if how == "mean":
        found = total(empty.scatter_add(0, classes, doubles)) / occurs
    else:
        found = highest((empty - 1).scatter_reduce(0, classes, doubles, how))
    return torch.where(occurs > 0, found, torch.nan).to(values.dtype)
