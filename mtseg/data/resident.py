"""Batches of small images that lie on the device: gathered there, moved and mirrored in batch, without workers."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtseg.data.batch import Batch, BatchSizes, Crops, nothing_like
from mtseg.data.held import Held, held_by
from mtseg.data.source import UNKNOWN, Source, Splits, shared
from mtseg.data.stream import Stream, in_turn, seed_of_noise
from mtseg.geometry import Geometry
from mtseg.randomness import generator
from mtseg.views import Views


class Resident:
    """Batch number `step`, for each step of a run, on `device`; a function of (seed, step), as that of a `Stream`.

    The images stay there as uint8; what is not known of the labels is UNKNOWN. Raises ValueError for images that do
    not lie in memory, and for those of another size than the crop.
    """

    def __init__(
        self,
        splits: Splits,
        *,
        views: Views,
        sizes: BatchSizes,
        students: int | None,
        seed: int,
        device: torch.device,
        masks: bool = False,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.views, self.sizes, self.students, self.seed, self.masks = views, sizes, students, seed, masks
        self.share = share
        on: dict[int, tuple[Tensor, Tensor]] = {}
        self.labelled = _Pool(splits.labelled, "labelled", views, device, on)
        self.unlabelled = _Pool(splits.unlabelled, "unlabelled", views, device, on)
        self.unlabelled.show(list(shared(splits)) if sizes.labelled == 0 else [])

    def __getitem__(self, step: int) -> Batch:
        sizes = self.sizes
        own = self._here("labelled", len(self.labelled), sizes.labelled, step)
        if self.students is None:
            return Batch(self._crops("labelled", self._images(own, []), step), None, ())
        others = self._here("unlabelled", len(self.unlabelled), sizes.unlabelled, step)
        together = sizes.consistency == "all"
        shown = self._images(own if together else [], others)
        bare = replace(shown, label=None)
        teacher = self._crops("teacher", bare, step)
        students = [
            self._student(n, shown if together and n == 0 else bare, teacher, step) for n in range(self.students)
        ]
        if self.masks:
            teacher = replace(teacher, label=self.unlabelled.take(others, known=True)[1])
        labelled = nothing_like(teacher) if together else self._crops("labelled", self._images(own, []), step)
        return Batch(labelled, teacher, tuple(students))

    def _here(self, pool: str, count: int, size: int, step: int) -> list[int]:
        """Which images of a pool are in this process's part of the whole batch."""
        process, processes = self.share
        whole = in_turn(self.seed, pool, count, size, step) if size else []
        return whole[process * size // processes : (process + 1) * size // processes]

    def _images(self, own: list[int], others: list[int]) -> Crops:
        """Whole images, `own` of the labelled pool, then `others` of the unlabelled one, with what labels are known."""
        found = [self.labelled.take(own, known=True)] if own else []
        found += [self.unlabelled.take(others, known=False)] if others else []
        images, labels = zip(*found, strict=True)
        count = len(own) + len(others)
        return Crops(
            image=torch.cat(images),
            warp=torch.eye(3, dtype=torch.float64).expand(count, 3, 3),
            source=torch.tensor([self.views.crop]).expand(count, 2),
            index=torch.tensor([*(len(self.unlabelled) + i for i in own), *others] if others else own),
            label=torch.cat(labels),
        )

    def _student(self, branch: int, whole: Crops, teacher: Crops, step: int) -> Crops:
        if self.views.student.geometry == "shared":
            crops = replace(whole, warp=teacher.warp, taps=teacher.taps)  # the same object: nothing is resampled
            return self._with_noise("student", crops, step, branch)
        return self._crops("student", whole, step, branch)

    def _crops(self, view: str, whole: Crops, *counters: int) -> Crops:
        """Freshly moved and mirrored views of `whole` images; drawn for the images of all processes."""
        rng = generator(self.seed, f"geometry of {view}", *counters)
        count, (process, processes) = len(whole.image), self.share
        warp, taps = moves(getattr(self.views, view).geometry, processes * count, self.views.crop[0], rng)
        here = slice(process * count, (process + 1) * count)
        crops = replace(whole, warp=warp[here], taps=taps[here].to(whole.image.device, non_blocking=True))
        return self._with_noise(view, crops, *counters)

    def _with_noise(self, view: str, crops: Crops, *counters: int) -> Crops:
        return replace(crops, noise=getattr(self.views, view).noise, seed=seed_of_noise(self.seed, view, *counters))


def stream_of(
    splits: Splits,
    *,
    views: Views,
    sizes: BatchSizes,
    students: int | None,
    seed: int,
    masks: bool,
    device: torch.device,
    share: tuple[int, int] = (0, 1),
) -> Stream | Resident:
    """The batches of a run, made as `views.made` says; of each the part of `share` (process, processes)."""
    how: dict[str, Any] = {
        "views": views,
        "sizes": sizes,
        "students": students,
        "seed": seed,
        "masks": masks,
        "share": share,
    }
    return Resident(splits, device=device, **how) if views.made == "device" else Stream(splits, **how)


def moves(geometry: Geometry, count: int, side: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Warps (count, 3, 3) of whole-pixel moves and mirrors of square images, and the same as `taps` of `Crops`."""
    shift = rng.integers(-geometry.translate, geometry.translate + 1, size=(count, 2))  # rows, columns of the image
    chances = np.array([geometry.flip_vertical, geometry.flip])
    sign = np.where(rng.random((count, 2)) < chances, -1, 1)
    warp = np.zeros((count, 3, 3))
    warp[:, 0, 0], warp[:, 1, 1], warp[:, 2, 2] = sign[:, 1], sign[:, 0], 1
    warp[:, :2, 2] = shift[:, ::-1] * 2 / side
    place = np.arange(side)
    straight = np.where(sign[:, :, None] > 0, place, side - 1 - place) + shift[:, :, None]
    return torch.from_numpy(warp), torch.from_numpy(_reflected(straight, side))


def _reflected(place: NDArray[np.int64], side: int) -> NDArray[np.int64]:
    """Indices past the border, mirrored at the centres of the border's pixels, which stand once."""
    period = max(2 * (side - 1), 1)
    place = np.abs(place) % period
    return np.minimum(place, period - place) if side > 1 else place * 0


class _Pool:
    """A pool's images and labels on the device, of which other pools share what they have in common."""

    def __init__(
        self, source: Source, name: str, views: Views, device: torch.device, on: dict[int, tuple[Tensor, Tensor]]
    ) -> None:
        held, places = held_by(source, name)
        size = held.images.shape[1:3]
        if size != views.crop or size[0] != size[1]:
            raise ValueError(
                f"views.crop: {list(views.crop)} of {name} images of {list(size)} (height, width); views made on the "
                "device are of square images and as large as these"
            )
        if id(held) not in on:
            on[id(held)] = _placed(held, device)
        self.images, self._truth = on[id(held)]
        self.labels = self._truth
        self.places = torch.from_numpy(places).to(device)

    def __len__(self) -> int:
        return len(self.places)

    def show(self, shown: Sequence[int]) -> None:
        """Let only the labels of the images `shown` be known."""
        here = self.places[torch.tensor(shown, dtype=torch.int64).to(self.places.device, non_blocking=True)]
        self.labels = torch.full_like(self._truth, UNKNOWN)
        self.labels[here] = self._truth[here]

    def take(self, indices: Sequence[int], *, known: bool) -> tuple[Tensor, Tensor]:
        """Images (B, H, W, 3) uint8 and labels (B,) int64; `known`: of all, and not only of those that are shown."""
        which = self.places[torch.tensor(indices).to(self.places.device, non_blocking=True)]
        return self.images[which], (self._truth if known else self.labels)[which]


def _placed(held: Held, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(held.images).to(device), torch.from_numpy(held.labels).to(device)
