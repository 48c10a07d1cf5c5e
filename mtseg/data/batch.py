"""What a step trains on: the views of its images, as they leave a worker, and how many of each kind."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from mtseg.distributed import rows
from mtseg.geometry import View, content
from mtseg.part import part
from mtseg.views import Views


@part
class BatchSizes:
    """Images a step, over all processes: `labelled` with their labels, `unlabelled` for consistency.

    `consistency: all` asks it of the labelled images too (the two-stream batches of the paper's PyTorch code). With
    `labelled: 0` there is one stream, of the unlabelled pool, and labels are those its images happen to have (the mixed
    batches of the paper's CIFAR-10).
    """

    labelled: Annotated[int, Field(ge=0)] = 4
    unlabelled: Annotated[int, Field(ge=1)] = 4
    consistency: Literal["unlabelled", "all"] = "unlabelled"

    def __post_init__(self) -> None:
        if self.labelled == 0 and self.consistency == "unlabelled":
            raise ValueError(
                "labelled: 0 takes all images from the unlabelled pool, labels and all, so consistency is asked of "
                "each; set batch.consistency=all, or labelled images"
            )

    @property
    def forward(self) -> tuple[int, int]:
        """How many labelled images the student sees by themselves, and how many a branch asks about."""
        both = self.labelled + self.unlabelled
        return (0, both) if self.consistency == "all" else (self.labelled, self.unlabelled)


@dataclass(frozen=True)
class Crops:
    """Views of a batch of images as they leave a worker.

    image:  (B, H, W, C) uint8, or float32 on the same scale; where there are `taps`, the whole images
    warp:   (B, 3, 3) float64, view -> image, normalised; stays on the CPU
    source: (B, 2) int64, height and width of the whole image in pixels; stays on the CPU
    index:  (B,) int64, which image of its pool; stays on the CPU
    label:  (B, *S), class, IGNORE or UNKNOWN; None where there is none
    taps:   (B, 2, side) int64, the row and the column of the image that each row and column of the view shows
    noise:  standard deviation of the noise on normalised pixels, drawn by `seed`
    """

    image: Tensor
    warp: Tensor
    source: Tensor
    index: Tensor
    label: Tensor | None = None
    taps: Tensor | None = None
    noise: float = 0.0
    seed: int = 0

    def view(self, views: Views) -> View:
        """The crops as network input: normalised on their device, with what is known of them."""
        data = views.normalise(self.image)
        if self.taps is not None:  # after the normalisation, which is of whole images
            down, right = self.taps.unbind(1)
            image = torch.arange(len(data), device=data.device)[:, None, None]
            data = data.permute(0, 2, 3, 1)[image, down[:, :, None], right[:, None, :]].permute(0, 3, 1, 2).contiguous()
        if self.noise:
            draw = torch.Generator(data.device).manual_seed(self.seed)
            here = rows(len(data))  # drawn for the whole batch, whatever the number of processes
            data = data + self.noise * here.of(
                torch.randn((here.whole, *data.shape[1:]), generator=draw, device=data.device)
            )
        size = (data.shape[2], data.shape[3])
        return View(data, self.warp, content(self.warp, size, self.source, device=data.device))

    def to(self, device: torch.device) -> "Crops":
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Crops":
        """Pins only what `to` moves: a pinned copy of a shared warp would no longer be the very same object."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, moved: Callable[[Tensor], Tensor]) -> "Crops":
        label = None if self.label is None else moved(self.label)
        taps = None if self.taps is None else moved(self.taps)
        return replace(self, image=moved(self.image), label=label, taps=taps)


@dataclass(frozen=True)
class Batch:
    """What a step trains on. `teacher` and each of `students` show the same images, which are unlabelled.

    With `consistency: all` those are all images, `labelled` has none, and the first of `students` has the labels.
    """

    labelled: Crops
    teacher: Crops | None
    students: tuple[Crops, ...]

    @property
    def label(self) -> Tensor:
        """The labels of the first images of the student's forward: (B', *S)."""
        return torch.cat(self._labels)

    @property
    def _labels(self) -> list[Tensor]:
        return [crops.label for crops in (self.labelled, *self.students[:1]) if crops.label is not None]

    @property
    def images(self) -> int:
        """How many different images it holds."""
        return len(self.labelled.index) + (0 if self.teacher is None else len(self.teacher.index))

    def to(self, device: torch.device) -> "Batch":
        teacher = None if self.teacher is None else self.teacher.to(device)
        return Batch(self.labelled.to(device), teacher, tuple(crops.to(device) for crops in self.students))

    def pin_memory(self) -> "Batch":
        teacher = None if self.teacher is None else self.teacher.pin_memory()
        return Batch(self.labelled.pin_memory(), teacher, tuple(crops.pin_memory() for crops in self.students))


def nothing_like(crops: Crops) -> Crops:
    """No crops, of the same kind."""
    taps = None if crops.taps is None else crops.taps[:0]
    return Crops(crops.image[:0], crops.warp[:0], crops.source[:0], crops.index[:0], taps=taps)
