"""The batch of a step: a pure function of (seed, step), whatever the number of workers or the step begun at."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtseg.colour import Painter
from mtseg.data.batch import Batch, BatchSizes, Crops, nothing_like
from mtseg.data.copy_paste import paste
from mtseg.data.files import Files
from mtseg.data.in_hand import InHand, Reading
from mtseg.data.oversample import Pixel, pixel_of_a_class
from mtseg.data.source import IGNORE, UNKNOWN, Label, Pixels, Source, Splits, shared
from mtseg.geometry import Matrix
from mtseg.randomness import generator
from mtseg.views import Views
from mtseg.warping import draw_image, draw_label

Shot = tuple[int, int, Pixels]  # a slot of the whole batch, the image's index in its pool, (H, W, C)


class Stream(Reading[Batch]):
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
        if self.students is None:
            return Batch(self._labelled(step), None, ())
        shots = self._read("unlabelled", self.splits.unlabelled, self.sizes.unlabelled, step)
        if self.sizes.consistency == "all":
            return self._of_all(step, shots)
        warps = self._warps("teacher", shots, step)
        teacher = self._crops("teacher", shots, warps, step)
        if self.masks:
            teacher = replace(teacher, label=self._labels(self.splits.unlabelled, shots, warps))
        students = tuple(self._student(n, shots, teacher, step) for n in range(self.students))
        return Batch(self._labelled(step), teacher, students)

    def pool(self, name: str) -> Source:
        source: Source = getattr(self.splits, name)
        return source

    def _of_all(self, step: int, shots: list[Shot]) -> Batch:
        """A batch whose consistency is asked of all images, the labelled ones of which are numbered after the pool."""
        pool = len(self.splits.unlabelled)
        own = self._read("labelled", self.splits.labelled, self.sizes.labelled, step) if self.sizes.labelled else []
        known = [i for _, i, _ in own] + [self.labelled_at.get(_shown(self.splits.unlabelled, i)) for _, i, _ in shots]
        after = self.sizes.labelled
        shots = [(slot, pool + i, image) for slot, i, image in own] + [(after + slot, i, im) for slot, i, im in shots]
        teacher = self._crops("teacher", shots, self._warps("teacher", shots, step), step)
        students = [self._student(n, shots, teacher, step) for n in range(self.students or 0)]
        truths = [(slot, i, image) for i, (slot, _, image) in zip(known, shots, strict=True)]
        students[0] = replace(
            students[0], label=self._labels(self.splits.labelled, truths, list(students[0].warp.numpy()))
        )
        return Batch(nothing_like(teacher), teacher, tuple(students))

    @cached_property
    def labelled_at(self) -> dict[int, int]:
        """Of the unlabelled pool's images that are labelled too, their place among the labelled ones."""
        if self.sizes.labelled:  # they are read from a stream of their own; the pool's labels are not looked at
            return {}
        return shared(self.splits)

    def _labelled(self, step: int) -> Crops:
        shots = self._read("labelled", self.splits.labelled, self.sizes.labelled, step)
        crops = self._with_labels(shots, step)
        copied = self._copied(shots, step)
        if copied:
            paste(self._with_labels(copied, step, 1), crops, [slot - shots[0][0] for slot, _, _ in copied])
        return crops

    def _copied(self, shots: list[Shot], step: int) -> list[Shot]:
        """Another labelled image for each slot onto which something is pasted, drawn alike from all others."""
        source, found = self.splits.labelled, []
        for slot, index, _ in shots if len(source) > 1 else []:
            rng = generator(self.seed, "copy-paste", step, slot)
            if rng.random() < self.views.copy_paste:
                other = (index + 1 + int(rng.integers(len(source) - 1))) % len(source)
                self.in_hand.take("labelled", other)
                image = source.image(other)
                if _shown(source, other) != _shown(source, index):  # in place of one that cannot be read
                    found.append((slot, other, image))
        return found

    def _with_labels(self, shots: list[Shot], *counters: int) -> Crops:
        """The labelled views of images, with their labels."""
        labels = [self._label(self.splits.labelled, i, image) for _, i, image in shots]
        onto = [self._sought(label, slot, *counters) for label, (slot, _, _) in zip(labels, shots, strict=True)]
        warps = self._warps("labelled", shots, *counters, onto=onto)
        return replace(self._crops("labelled", shots, warps, *counters), label=self._framed(labels, warps))

    def _sought(self, label: Label, slot: int, *counters: int) -> Pixel | None:
        """A pixel that the labelled view shall show, where it is one that is oversampled."""
        if not self.views.oversample:
            return None
        rng = generator(self.seed, "oversampling", *counters, slot)
        return pixel_of_a_class(label, rng) if rng.random() < self.views.oversample else None

    def _labels(self, source: Source, shots: Sequence[tuple[int, int | None, Pixels]], warps: list[Matrix]) -> Tensor:
        """The labels in the views' frames, (B, *S); of the image None, that it has none."""
        return self._framed([None if i is None else self._label(source, i, image) for _, i, image in shots], warps)

    def _framed(self, labels: Sequence[Label | None], warps: list[Matrix]) -> Tensor:
        """Labels of whole images in the views' frames, (B, *S); of None, those of an image without."""
        drawn = [
            self._no_label if label is None else self._drawn(label, warp)
            for label, warp in zip(labels, warps, strict=True)
        ]
        return torch.from_numpy(np.stack(drawn))

    @cached_property
    def _no_label(self) -> Label:
        """The label of an image that has none, like those of the labelled images."""
        whole = self.splits.labelled.label(0).ndim == 0
        return np.array(UNKNOWN, np.int64) if whole else np.full(self.views.crop, IGNORE, np.uint8)

    def _drawn(self, label: Label, warp: Matrix) -> Label:
        return label if label.ndim == 0 else draw_label(label, warp, self.views.crop)

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
        return in_turn(self.seed, pool, count, size, step)

    def _label(self, source: Source, index: int, image: Pixels) -> Label:
        """The label of `image`. Raises ValueError where its size or a value in it is wrong, naming the image."""
        self.in_hand.take("labelled" if source is self.splits.labelled else "unlabelled", index)
        label, classes = source.label(index), len(self.splits.classes)
        if label.shape not in ((), image.shape[:2]):
            raise ValueError(
                f"{source.name(index)}: the image is {image.shape[:2]} and its label {label.shape} (height, width); "
                "they must be equal: resize the label with nearest neighbour, or take the image it was drawn on"
            )
        whole = label.ndim == 0
        wrong = label[((label >= classes) & ((label != IGNORE) | whole)) | ((label < 0) & (not whole))]
        if wrong.size:
            raise ValueError(
                f"{source.name(index)}: label {wrong[0]} on {wrong.size} pixels is no class of the {classes} "
                f"(0 to {classes - 1}) and not {IGNORE} (ignore); map it to one of them"
            )
        return label

    def _warps(
        self, view: str, shots: list[Shot], *counters: int, onto: Sequence[Pixel | None] | None = None
    ) -> list[Matrix]:
        """A freshly sampled warp for each image, of views of a pixel where `onto` has one."""
        geometry = getattr(self.views, view).geometry
        return [
            geometry.sample(
                generator(self.seed, f"geometry of {view}", *counters, slot),
                crop=self.views.crop,
                image=(image.shape[0], image.shape[1]),
                onto=pixel,
            )
            for (slot, _, image), pixel in zip(shots, onto or [None] * len(shots), strict=True)
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
            noise=getattr(self.views, view).noise,
            seed=seed_of_noise(self.seed, view, *counters),
        )

    def _painter(self, view: str) -> Painter:
        if view not in self._painters:
            self._painters[view] = Painter(*self.views.colours(view), rgb=self.splits.rgb)
        return self._painters[view]


def _shown(source: Source, index: int) -> int:
    """Which image was read for that of `index`, which need not be readable."""
    return source.shown_at(index) if isinstance(source, Files) else index


def in_turn(seed: int, pool: str, count: int, size: int, step: int) -> list[int]:
    """Which images of a pool: consecutive slices of one fresh permutation of the pool after another.

    Raises ValueError where the pool is empty.
    """
    if size and not count:
        remedy = "" if pool == "labelled" else ", or train without them: configs/method/supervised.yaml"
        raise ValueError(f"data: a batch takes {size} {pool} images, and there are none; add some{remedy}")
    places = range(step * size, (step + 1) * size)
    return [int(_order(seed, pool, count, p // count)[p % count]) for p in places]


@lru_cache(maxsize=8)
def _order(seed: int, pool: str, count: int, number: int) -> NDArray[np.int64]:
    """The order of a pool in its pass `number`."""
    return generator(seed, f"order of {pool}", number).permutation(count)


def seed_of_noise(seed: int, view: str, *counters: int) -> int:
    """The seed of the noise on one batch of views."""
    return int(generator(seed, f"noise of {view}", *counters).integers(2**63))
