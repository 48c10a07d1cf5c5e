"""A method is a table row: teacher, branches, distance, weight and ramp. Here the row becomes a loss."""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from mtseg.data.stream import Batch
from mtseg.geometry import View, source_frame
from mtseg.losses import CrossEntropy, Distance, Squared, average
from mtseg.mix import Mix, NoMix, paste_view
from mtseg.part import part
from mtseg.schedules import Constant, Schedule
from mtseg.teachers import Ema, EmaTeacher, Teacher
from mtseg.views import Views


@part
class Branch:
    """One student view of each unlabelled image: its share of the consistency loss and how it is mixed."""

    weight: Annotated[float, Field(gt=0)] = 1.0
    mix: Mix = NoMix()


@dataclass(frozen=True)
class Task:
    """What one branch asks of the student.

    seen:   the student's input, (B, 3, H, W), and its geometry
    target: the teacher's probabilities, (B, K, H, W), in the frame of comparison, and where they count
    """

    seen: View
    target: View


@part
class Method:
    """A row of the table of methods. Without branches it is supervised training (whose teacher is still an EMA).

    loss = supervised(labelled) + weight * ramp(step) * sum over branches of weight_b * mean over known pixels of
    distance(student, teacher). `frame` is where the two are compared: in the `student`'s view, to which only the
    teacher's probabilities are warped, or in the `source` image's own frame, to which both are (the literal
    inverse warping; its gradient passes through the sampler).
    """

    supervised: CrossEntropy = CrossEntropy()
    teacher: Teacher = Ema()
    branches: tuple[Branch, ...] = (Branch(),)
    distance: Distance = Squared(over_classes="sum")
    weight: Annotated[float, Field(ge=0)] = 1.0
    ramp: Schedule = Constant()
    frame: Literal["student", "source"] = "student"

    def __post_init__(self) -> None:
        if not self.branches and self.teacher.buffers == "own":
            raise ValueError(
                "teacher.buffers: 'own' are gathered by the teacher's answers, and without branches it gives none; "
                "use method.teacher.buffers=average and method.teacher.mode=eval"
            )
        if self.frame == "source" and any(not isinstance(branch.mix, NoMix) for branch in self.branches):
            raise ValueError("frame: 'source' cannot hold mixed images, which have no one source; use frame: student")

    @torch.no_grad()
    def plan(self, teacher: EmaTeacher, batch: Batch, *, views: Views, rng: np.random.Generator) -> list[Task]:
        """Ask the teacher, bring its answer to each branch's frame, and mix. No gradient passes."""
        if batch.teacher is None:
            return []
        asked = batch.teacher.view(views)
        answer = View(teacher.predict(asked.data), asked.warp, asked.known)
        tasks = []
        for branch, crops in zip(self.branches, batch.students, strict=True):
            seen = crops.view(views)
            target = answer.seen_from(seen if self.frame == "student" else source_frame(seen))
            mask = branch.mix.mask(len(seen.data), seen.size, rng)
            if mask is not None:
                mask = mask.to(seen.data.device, non_blocking=True)
                seen, target = paste_view(seen, mask), paste_view(target, mask)
            tasks.append(Task(seen, target))
        return tasks

    def consistency(self, logits: tuple[Tensor, ...], tasks: list[Task]) -> Tensor:
        """The branches' distances, each a mean over its known pixels, weighted and summed; without the ramp."""
        total = torch.zeros((), device=logits[0].device if logits else None)
        for branch, values, task in zip(self.branches, logits, tasks, strict=True):
            known = task.target.known
            if self.frame == "source":
                answer = View(values.float().softmax(1), task.seen.warp, task.seen.known).seen_from(task.target)
                values, known = answer.data.clamp_min(torch.finfo(torch.float32).tiny).log(), answer.known
            total = total + branch.weight * average(self.distance(values, task.target.data), known[:, 0])
        return total

    def weight_at(self, step: int, total: int) -> float:
        """The consistency weight of a step, ramp included."""
        return self.weight * self.ramp(step, total)
