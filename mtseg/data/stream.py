"""The batch of a step: a pure function of (seed, step), whatever the number of workers or the step begun at."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.utils.data import Dataset

from mtseg.colour import Painter
from mtseg.data.in_hand import InHand
from mtseg.data.source import IGNORE, Pixels, Source, Splits
from mtseg.distributed import taken
from mtseg.geometry import Matrix, View, content, draw_image, draw_label
from mtseg.part import part
from mtseg.randomness import generator
from mtseg.views import Views

Shot = tuple[int, int, Pixels]  # a slot of the whole batch, the image's index in its pool, (H, W, C)


@part
class BatchSizes:
    """Images a step, over all processes: `labelled` with their masks, `unlabelled` for consistency."""

    labelled: Annotated[int, Field(ge=1)] = 4
    unlabelled: Annotated[int, Field(ge=1)] = 4


@dataclass(frozen=True)
class Crops:
    """Views of a batch of images as they leave a worker.

    image:  (B, H, W, C) uint8, or float32 on the same scale
    warp:   (B, 3, 3) float64, view -> image, normalised; stays on the CPU
    source: (B, 2) int64, height and width of the whole image in pixels; stays on the CPU
    index:  (B,) int64, which image of its pool; stays on the CPU
    label:  (B, H, W) uint8, class or IGNORE; None where there is none
    """

    image: Tensor
    warp: Tensor
    source: Tensor
    index: Tensor
    label: Tensor | None = None

    def taken(self, wanted: Sequence[int]) -> "Crops":
        """The rows that `wanted` names; see `distributed.taken`."""
        label = None if self.label is None else taken(self.label, wanted)
        image, warp, source, index = (
            taken(values, wanted) for values in (self.image, self.warp, self.source, self.index)
        )
        return Crops(image, warp, source, index, label)

    def view(self, views: Views) -> View:
        """The crops as network input: normalised on their device, with what is known of them."""
        size = (self.image.shape[1], self.image.shape[2])
        return View(
            views.normalise(self.image), self.warp, content(self.warp, size, self.source, device=self.image.device)
        )

    def to(self, device: torch.device) -> "Crops":
        label = None if self.label is None else self.label.to(device, non_blocking=True)
        return replace(self, image=self.image.to(device, non_blocking=True), label=label)

    def pin_memory(self) -> "Crops":
        """Pins only what `to` moves: a pinned copy of a shared warp would no longer be the very same object."""
        label = None if self.label is None else self.label.pin_memory()
        return replace(self, image=self.image.pin_memory(), label=label)


@dataclass(frozen=True)
class Batch:
    """What a step trains on. `teacher` and each of `students` show the same unlabelled images."""

    labelled: Crops
    teacher: Crops | None
    students: tuple[Crops, ...]

    def to(self, device: torch.device) -> "Batch":
        teacher = None if self.teacher is None else self.teacher.to(device)
        return Batch(self.labelled.to(device), teacher, tuple(crops.to(device) for crops in self.students))

    def pin_memory(self) -> "Batch":
        teacher = None if self.teacher is None else self.teacher.pin_memory()
        return Batch(self.labelled.pin_memory(), teacher, tuple(crops.pin_memory() for crops in self.students))


class Stream(Dataset[Batch]):
    """Batch number `step`, for each step of a run.

    `students` is how many student views an unlabelled image gets beside the teacher's; None: no unlabelled images.
    `masks`: the teacher's views have labels too, for diagnosis. `share` (process, processes): that process's slots of
    the whole batch, which is the same for any number of processes.
    """

    def __init__(
        self,
        splits: Splits,
        *,
        views: Views,
        sizes: BatchSizes,
        students: int | None,
        seed: int,
        masks: bool = False,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.splits, self.views, self.sizes = splits, views, sizes
        self.students, self.seed, self.masks, self.share = students, seed, masks, share
        self.in_hand = InHand(0)
        self._painters: dict[str, Painter] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_painters": {}}  # pipelines are rebuilt where they are used

    def __getitem__(self, step: int) -> Batch:
        labelled = self._labelled(step)
        if self.students is None:
            return Batch(labelled, None, ())
        shots = self._read("unlabelled", self.splits.unlabelled, self.sizes.unlabelled, step)
        warps = self._warps("teacher", shots, step)
        teacher = self._crops("teacher", shots, warps, step)
        if self.masks:
            teacher = replace(teacher, label=self._labels(self.splits.unlabelled, shots, warps))
        return Batch(labelled, teacher, tuple(self._student(n, shots, teacher, step) for n in range(self.students)))

    def _labelled(self, step: int) -> Crops:
        source = self.splits.labelled
        shots = self._read("labelled", source, self.sizes.labelled, step)
        warps = self._warps("labelled", shots, step)
        return replace(self._crops("labelled", shots, warps, step), label=self._labels(source, shots, warps))

    def _labels(self, source: Source, shots: list[Shot], warps: list[Matrix]) -> Tensor:
        labels = [
            draw_label(self._label(source, i, image), warp, self.views.crop)
            for (_, i, image), warp in zip(shots, warps, strict=True)
        ]
        return torch.from_numpy(np.stack(labels))

    def _student(self, branch: int, shots: list[Shot], teacher: Crops, step: int) -> Crops:
        if self.views.student.geometry == "shared":
            crops = self._crops("student", shots, list(teacher.warp.numpy()), step, branch)
            return replace(crops, warp=teacher.warp)  # the same object: nothing is resampled
        return self._crops("student", shots, self._warps("student", shots, step, branch), step, branch)

    def _read(self, pool: str, source: Source, size: int, step: int) -> list[Shot]:
        shots, (process, processes) = [], self.share
        slots = range(process * size // processes, (process + 1) * size // processes)
        indices = self._indices(pool, len(source), size, step)
        for slot in slots:
            self.in_hand.take(pool, indices[slot])
            shots.append((slot, indices[slot], source.image(indices[slot])))
        return shots

    def _indices(self, pool: str, count: int, size: int, step: int) -> list[int]:
        """Which images: consecutive slices of one fresh permutation of the pool after another."""
        places = range(step * size, (step + 1) * size)
        order = f"order of {pool}"
        passes = {n: generator(self.seed, order, n).permutation(count) for n in {p // count for p in places}}
        return [int(passes[p // count][p % count]) for p in places]

    def _label(self, source: Source, index: int, image: Pixels) -> NDArray[np.uint8]:
        """The label of `image`. Raises ValueError where its size or a value in it is wrong, naming the image."""
        self.in_hand.take("labelled" if source is self.splits.labelled else "unlabelled", index)
        label, classes = source.label(index), len(self.splits.classes)
        if label.shape != image.shape[:2]:
            raise ValueError(
                f"{source.name(index)}: the image is {image.shape[:2]} and its label {label.shape} (height, width); "
                "they must be equal: resize the label with nearest neighbour, or take the image it was drawn on"
            )
        wrong = label[(label >= classes) & (label != IGNORE)]
        if wrong.size:
            raise ValueError(
                f"{source.name(index)}: label {wrong[0]} on {wrong.size} pixels is no class of the {classes} "
                f"(0 to {classes - 1}) and not {IGNORE} (ignore); map it to one of them"
            )
        return label

    def _warps(self, view: str, shots: list[Shot], *counters: int) -> list[Matrix]:
        """A freshly sampled warp for each image."""
        geometry = getattr(self.views, view).geometry
        return [
            geometry.sample(
                generator(self.seed, f"geometry of {view}", *counters, slot),
                crop=self.views.crop,
                image=(image.shape[0], image.shape[1]),
            )
            for slot, _, image in shots
        ]

    def _crops(self, view: str, shots: list[Shot], warps: list[Matrix], *counters: int) -> Crops:
        painter = self._painter(view)
        seen = [
            painter.paint(
                draw_image(image, warp, self.views.crop),
                generator(self.seed, f"colour of {view}", *counters, slot),
            )
            for (slot, _, image), warp in zip(shots, warps, strict=True)
        ]
        return Crops(
            image=torch.from_numpy(np.stack(seen)),
            warp=torch.from_numpy(np.stack(warps)),
            source=torch.tensor([image.shape[:2] for _, _, image in shots]),
            index=torch.tensor([i for _, i, _ in shots]),
        )

    def _painter(self, view: str) -> Painter:
        if view not in self._painters:
            policy = getattr(self.views, view)
            self._painters[view] = Painter(policy.colour, policy.pick)
        return self._painters[view]
