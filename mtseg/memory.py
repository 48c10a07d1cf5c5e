"""Temporal Ensembling: a teacher that remembers what the student said of each image."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mtseg.averaged import AVERAGE, AveragedPart, AveragedState
from mtseg.distributed import gathered
from mtseg.ema import Ema
from mtseg.geometry import View, source_frame
from mtseg.part import part
from mtseg.task import Task

Count = Annotated[int, Field(ge=1)]


@part
class Memory(AveragedPart):
    """Temporal Ensembling (Laine & Aila 2017): the average of what the student said of an image before.

    After each step Z <- decay Z + (1 - decay) z at every pixel that the student saw, z its prediction then, in the
    image's own frame at `size` ([] for whole images: classification); the answer is Z over the sum of its weights (the
    paper's bias correction, per pixel), unknown where nothing was said yet. It holds images x classes x `size`
    half-precision numbers, which a higher `decay` would wear off by more than a hundredth. Of an image twice in a
    batch, the last view is remembered. Every process holds all of it, and is told what the others' students said.
    """

    kind: Literal["memory"] = "memory"
    decay: Annotated[float, Field(ge=0, le=0.95)] = 0.6
    size: tuple[Count, Count] | tuple[()]
    average: Ema = AVERAGE

    @property
    def cost(self) -> float:
        return 0  # no network is asked

    def build(self, student: nn.Module, images: int, classes: int) -> "MemoryTeacher":
        return MemoryTeacher(self, student, images, classes)


class MemoryTeacher(AveragedState):
    """The running state of `Memory`. said: (N, K, *size) float16, sums of weighted predictions in the images' own
    frame; weight: (N, 1, *size) float16, the sums of their weights. Both on the student's device."""

    def __init__(self, rule: Memory, student: nn.Module, images: int, classes: int) -> None:
        super().__init__(rule.average, student)
        self.rule = rule
        device = next(student.parameters()).device
        self.said = torch.zeros((images, classes, *rule.size), dtype=torch.float16, device=device)
        self.weight = torch.zeros((images, 1, *rule.size), dtype=torch.float16, device=device)

    @torch.no_grad()
    def answer(self, student: nn.Module, asked: View, index: Tensor) -> View:
        """What was said of the images `index`, in their own frame; known where anything was."""
        index = index.to(self.said.device, non_blocking=True)
        weight = self.weight[index].float()
        frame = source_frame(View(weight, asked.warp, asked.known))
        return View(self.said[index].float() / weight.clamp_min(1e-3), frame.warp, weight > 0)

    @torch.no_grad()
    def update(self, student: nn.Module, tasks: Sequence[Task] = (), logits: Sequence[Tensor] = ()) -> None:
        """Remember what the student said (`logits`) of the first branch's images (`tasks`); follow it."""
        super().update(student, tasks, logits)
        for task, values in zip(tasks[:1], logits[:1], strict=True):
            index = task.index.to(self.said.device, non_blocking=True)
            here = task.seen.answered(values.float().softmax(1))
            said = here.seen_from(source_frame(View(self.weight[index], here.warp, here.known)))
            keep = torch.where(said.known, self.rule.decay, 1.0)
            after = (keep * self.said[index] + (1 - keep) * said.data).half()
            weight = (keep * self.weight[index] + (1 - keep)).half()
            # Each image once: of values written to one place twice, CUDA keeps any.
            images: list[int] = gathered(task.index).tolist()
            last = torch.tensor(list({image: place for place, image in enumerate(images)}.values()))
            index, chosen = (of.to(index.device, non_blocking=True) for of in (torch.tensor(images)[last], last))
            self.said[index], self.weight[index] = gathered(after)[chosen], gathered(weight)[chosen]

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"said": self.said, "weight": self.weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError for the memory of other images, classes or size."""
        if state["said"].shape != self.said.shape:
            raise ValueError(
                f"the saved memory is of {tuple(state['said'].shape)} (images, classes, height, width), and this run's "
                f"is of {tuple(self.said.shape)}; continue with the data of the run, or choose another out="
            )
        super().load_state_dict(state)
        self.said.copy_(state["said"])
        self.weight.copy_(state["weight"])
