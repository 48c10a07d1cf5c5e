"""Mixing images of a batch with each other: input, target and weight alike. No image is ever mixed with itself.

The batch is the whole one, over all processes: what is drawn and who is mixed with whom do not depend on their number.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from mtseg.distributed import Rows, gathered, rows, taken
from mtseg.geometry import Probability, Size, View
from mtseg.part import part

Partner = Literal["unlabelled", "labelled"]


@dataclass(frozen=True)
class Task:
    """What one branch asks of the student.

    seen:   the student's input (B, 3, H, W), its geometry and what is known of it
    target: the probabilities it should give (B, K, H, W), in the frame of comparison, and where they are known
    weight: (B, 1, H, W) float32 in [0, 1], how much each pixel counts
    index:  (B,) int64 on the CPU, which image of its pool
    sure:   (B,) float32 in [0, 1], how sure the teacher is of each image (`sureness` of its answer)
    """

    seen: View
    target: View
    weight: Tensor
    index: Tensor
    sure: Tensor

    def partners(self) -> "Task":
        """The next other image of the batch for each; where there is no other, it stays the image itself."""
        index: list[int] = gathered(self.index).tolist()
        batch = len(index)

        def partner(i: int) -> int:
            return next((j % batch for j in range(i + 1, i + batch) if index[j % batch] != index[i]), i)

        wanted = [partner(i) for i in range(batch)]
        return self._each(lambda values: taken(values, wanted))

    def part(self, first: int, count: int) -> "Task":
        """`count` of its images, from `first` on."""
        return self._each(lambda values: values[first : first + count])

    def _each(self, chosen: Callable[[Tensor], Tensor]) -> "Task":
        def view(of: View) -> View:
            return View(chosen(of.data), chosen(of.warp), chosen(of.known))

        return Task(view(self.seen), view(self.target), chosen(self.weight), chosen(self.index), chosen(self.sure))


def sureness(answer: View) -> Tensor:
    """The mean highest probability over the known pixels, (B,) in [0, 1]; 0 where nothing is known."""
    sure = torch.where(answer.known, answer.data.amax(1, keepdim=True), 0).sum((1, 2, 3))
    return sure / answer.known.sum((1, 2, 3)).clamp_min(1)


@part
class NoMix:
    """Every image stays whole."""

    kind: Literal["none"] = "none"
    partner: Literal["unlabelled"] = "unlabelled"

    def __call__(self, task: Task, other: Task, rng: np.random.Generator) -> Task:
        return task


@part
class CutMix:
    """A rectangle of another image replaces that of this one (Yun et al. 2019; French et al. 2020).

    With probability `p` for each image, or, `unsure`, with the share of it that the teacher is not sure of (1 - mean
    highest probability, over its known pixels; AugSeg, Zhao et al. 2023). The rectangle's share of the area is uniform
    in `area`, its width over its height log-uniform in [1 / aspect, aspect]; it lies wholly inside: one too long for
    the image is as long as that, and as much wider. `partner`: the next unlabelled image, or a labelled one, whose
    labels are the target.
    """

    kind: Literal["cutmix"] = "cutmix"
    p: Probability = 0.5
    area: tuple[float, float] = (0.02, 0.4)
    aspect: Annotated[float, Field(ge=1)] = 3.0
    unsure: bool = False
    partner: Partner = "unlabelled"

    def __post_init__(self) -> None:
        _check_area(self.area)

    def __call__(self, task: Task, other: Task, rng: np.random.Generator) -> Task:
        here = rows(len(task.weight))
        mask = rectangles(here, task.seen.size, rng, area=self.area, aspect=self.aspect)
        drawn = torch.from_numpy(here.of(rng.random(here.whole)))
        drawn = drawn.to(task.weight.device, torch.float32, non_blocking=True)
        chance = 1 - task.sure if self.unsure else torch.full_like(drawn, self.p)
        mask = mask.to(task.weight.device, non_blocking=True)
        return paste(task, other, mask & (drawn < chance)[:, None, None, None])


@part
class CutOut:
    """A rectangle of the image is blank, and counts nowhere (DeVries & Taylor 2017; French et al. 2020)."""

    kind: Literal["cutout"] = "cutout"
    p: Probability = 1.0
    area: tuple[float, float] = (0.1, 0.5)
    aspect: Annotated[float, Field(ge=1)] = 3.0
    partner: Literal["unlabelled"] = "unlabelled"

    def __post_init__(self) -> None:
        _check_area(self.area)

    def __call__(self, task: Task, other: Task, rng: np.random.Generator) -> Task:
        here = rows(len(task.weight))
        mask = rectangles(here, task.seen.size, rng, area=self.area, aspect=self.aspect)
        mask &= torch.from_numpy(here.of(rng.random(here.whole)) < self.p)[:, None, None, None]
        mask = mask.to(task.weight.device, non_blocking=True)
        blank = replace(task.seen, data=task.seen.data.masked_fill(mask, 0.0), known=task.seen.known & ~mask)
        return replace(task, seen=blank, target=replace(task.target, known=task.target.known & ~mask))


@part
class ClassMix:
    """Half of the classes that the target sees in another image are pasted from it (Olsson et al. 2021)."""

    kind: Literal["classmix"] = "classmix"
    p: Probability = 1.0
    partner: Partner = "unlabelled"

    def __call__(self, task: Task, other: Task, rng: np.random.Generator) -> Task:
        batch, classes = task.target.data.shape[:2]
        here = rows(batch)
        ranks = torch.from_numpy(here.of(rng.permuted(np.tile(np.arange(classes), (here.whole, 1)), axis=1))) + 1
        device = task.weight.device
        predicted = torch.where(other.target.known, other.target.data.argmax(1, keepdim=True), classes)  # K: no class
        flat = predicted.flatten(1)
        occurs = torch.zeros((batch, classes + 1), dtype=torch.bool, device=device).scatter_(1, flat, True)
        # Of the occurring classes, the half with the lowest random ranks, rounded up.
        order = torch.where(occurs[:, :classes], ranks.to(device, non_blocking=True), classes + 1).argsort(1).argsort(1)
        half = (occurs[:, :classes].sum(1, keepdim=True) + 1) // 2
        chosen = torch.zeros_like(occurs)
        chosen[:, :classes] = (order < half) & occurs[:, :classes]
        mask = chosen.gather(1, flat).view_as(predicted)
        drawn = torch.from_numpy(here.of(rng.random(here.whole)) < self.p).to(device, non_blocking=True)
        return paste(task, other, mask & drawn[:, None, None, None])


@part
class Bands:
    """Alternating bands of rows come from another image (LaserMix, Kong et al. 2023, whose bands are inclinations).

    The number of bands is uniform in `bands`, and the offset of their common height random: the image's edges cut the
    first and the last. For scenes that are ordered by height.
    """

    kind: Literal["bands"] = "bands"
    bands: tuple[Annotated[int, Field(ge=2)], Annotated[int, Field(ge=2)]] = (3, 6)
    partner: Partner = "unlabelled"

    def __post_init__(self) -> None:
        if self.bands[0] > self.bands[1]:
            raise ValueError(f"bands: {list(self.bands)} is not a range; give low <= high, such as [3, 6]")

    def __call__(self, task: Task, other: Task, rng: np.random.Generator) -> Task:
        h = task.seen.size[0]
        here = rows(len(task.weight))
        count = rng.integers(self.bands[0], self.bands[1] + 1, size=(here.whole, 1))
        # From the first row to the last the height of count - 1 bands, so that any offset shows parts of count.
        place = np.arange(h) / max(h - 1, 1) * (count - 1) + rng.uniform(0, 2, size=count.shape)
        mask = torch.from_numpy(np.floor(here.of(place)).astype(np.int64) % 2 == 1)[:, None, :, None]
        return paste(task, other, mask.to(task.weight.device, non_blocking=True).expand_as(task.weight))


@part
class MixUp:
    """Each image is interpolated with another, and so are their targets (ICT, Verma et al. 2019).

    lambda ~ Beta(alpha, alpha) is the share of the other; a pixel counts where both do, by the interpolated weight.
    """

    kind: Literal["mixup"] = "mixup"
    alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.5
    partner: Partner = "unlabelled"

    def __call__(self, task: Task, other: Task, rng: np.random.Generator) -> Task:
        here = rows(len(task.weight))
        share = torch.from_numpy(here.of(rng.beta(self.alpha, self.alpha, size=here.whole))).float()
        share = share.to(task.weight.device, non_blocking=True)[:, None, None, None]

        def between(one: View, two: View) -> View:
            return View(torch.lerp(one.data, two.data, share), one.warp, one.known & two.known)

        seen, target = between(task.seen, other.seen), between(task.target, other.target)
        return replace(task, seen=seen, target=target, weight=torch.lerp(task.weight, other.weight, share))


Mix = Annotated[NoMix | CutMix | CutOut | ClassMix | Bands | MixUp, Field(discriminator="kind")]
ALONE = (NoMix, CutOut)  # those that need no other image


def paste(task: Task, other: Task, mask: Tensor) -> Task:
    """`task` with the pixels of `other` where `mask` (B, 1, H, W) holds; its warps hold for its own pixels only."""

    def mixed(one: View, two: View) -> View:
        return View(torch.where(mask, two.data, one.data), one.warp, torch.where(mask, two.known, one.known))

    weight = torch.where(mask, other.weight, task.weight)
    return replace(task, seen=mixed(task.seen, other.seen), target=mixed(task.target, other.target), weight=weight)


def rectangles(here: Rows, size: Size, rng: np.random.Generator, *, area: tuple[float, float], aspect: float) -> Tensor:
    """A random rectangle an image, (B, 1, *size) bool for the rows `here`, as `CutMix` describes it."""
    h, w = size
    mask = torch.zeros((here.here, 1, h, w), dtype=torch.bool)
    for image in range(-here.first, here.whole - here.first):
        share, stretch = rng.uniform(*area), math.exp(rng.uniform(-1, 1) * math.log(aspect) / 2)
        stretch = min(max(stretch, math.sqrt(share * w / h)), math.sqrt(w / h / share))
        height = max(1, round(math.sqrt(share * h * w) / stretch))
        width = max(1, round(math.sqrt(share * h * w) * stretch))
        top, left = rng.integers(h - height + 1), rng.integers(w - width + 1)
        if 0 <= image < here.here:
            mask[image, :, top : top + height, left : left + width] = True
    return mask


def _check_area(area: tuple[float, float]) -> None:
    low, high = area
    if not 0 < low <= high < 1:
        raise ValueError(f"area: [{low}, {high}] is not a range of shares; give 0 < low <= high < 1")
