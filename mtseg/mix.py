"""Mixing images of a batch with each other: input, target and weight alike. No unlabelled image is mixed with itself.

Where all images are unlabelled ones too (`data.unlabelled=all`), a labelled image that is mixed (`partner: labelled`,
or `batch.consistency: all` with labelled images of its own) may meet the same photograph. The batch is the whole one,
over all processes: what is drawn and who is mixed with whom do not depend on their number.

A mix is called with a task, its partners and a generator, and gives a task. It has a `partner`; one that needs none
stands in `ALONE`. It draws for all `rows` of the whole batch, and takes those here.
"""

import math
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from mtseg.distributed import Rows, rows
from mtseg.geometry import Probability, Size, View
from mtseg.part import LOW_HIGH, part
from mtseg.task import Task, paste, share_of

Partner = Literal["unlabelled", "labelled"]
NO_BORDERS = (
    "mix.kind: 'classmix' cuts along the borders of classes, and a network that answers for whole images draws none; "
    "use cutmix or mixup"
)


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

    With probability `p` for each image, or, `unsure`, the more often the less sure the teacher is of it: 1 - the mean
    over its known pixels of the highest probability times (1 - entropy / log K) (AugSeg, Zhao et al. 2023). The
    rectangle's share of the area is uniform
    in `area`, its width over its height log-uniform in [1 / aspect, aspect]; it lies wholly inside: one too long for
    the image is as long as that, and as much wider. `partner`: the next unlabelled image, or a labelled one, whose
    labels are the target.
    """

    kind: Literal["cutmix"] = "cutmix"
    p: Probability = 0.5
    area: Annotated[tuple[float, float], LOW_HIGH] = (0.02, 0.4)
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
    """A rectangle of the image is blank, and counts nowhere (DeVries & Taylor 2017; French et al. 2020).

    With probability `p` for each image; `area` and `aspect` as of `cutmix`.
    """

    kind: Literal["cutout"] = "cutout"
    p: Probability = 1.0
    area: Annotated[tuple[float, float], LOW_HIGH] = (0.1, 0.5)
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
        left = task.target.known & (share_of(mask, like=task.target.known) < 1)
        return replace(task, seen=blank, target=replace(task.target, known=left))


@part
class ClassMix:
    """Half of the classes that the target sees in another image are pasted from it (Olsson et al. 2021).

    With probability `p` for each image. Of an odd number the half is rounded up (the authors round down).
    """

    kind: Literal["classmix"] = "classmix"
    p: Probability = 1.0
    partner: Partner = "unlabelled"

    def __call__(self, task: Task, other: Task, rng: np.random.Generator) -> Task:
        batch, classes = task.target.data.shape[:2]
        if task.target.data.dim() == 2:
            raise ValueError(NO_BORDERS)
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
    bands: Annotated[tuple[Annotated[int, Field(ge=2)], Annotated[int, Field(ge=2)]], LOW_HIGH] = (3, 6)
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
        return paste(task, other, mask.to(task.weight.device, non_blocking=True).expand_as(task.seen.known))


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

        def between(one: Tensor, two: Tensor) -> Tensor:
            return torch.lerp(one, two, share_of(share, like=one))

        def both(one: View, two: View) -> View:
            return View(between(one.data, two.data), one.warp, one.known & two.known)

        seen, target = both(task.seen, other.seen), both(task.target, other.target)
        return replace(task, seen=seen, target=target, weight=between(task.weight, other.weight))


Mix = Annotated[NoMix | CutMix | CutOut | ClassMix | Bands | MixUp, Field(discriminator="kind")]
ALONE = (NoMix, CutOut)  # those that need no other image
ALONG_BORDERS = (ClassMix,)  # those that need maps of classes


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
