"""A method is a table row: teacher, target, branches, distance, weight and ramp. Here the row becomes a loss."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Literal, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from mtseg.data.stream import Batch, Crops
from mtseg.geometry import View, source_frame
from mtseg.losses import CrossEntropy, Distance, Squared, Supervised, average
from mtseg.mix import Mix, NoMix, Task
from mtseg.part import part
from mtseg.perturb import ChannelDropout, Features, Vat, disturbance
from mtseg.randomness import generator
from mtseg.schedules import Constant, Schedule
from mtseg.targets import Memory, Moment, Soft, Target, one_hot
from mtseg.teachers import Ema, Ensemble, Itself, Teacher, TeacherState
from mtseg.teachers import Memory as MemoryOfImages
from mtseg.views import Views


@part
class Branch:
    """One thing asked of the student about each unlabelled image, with its share of the consistency loss.

    `sees`: a `student`'s view, freshly drawn for this branch, or the `teacher`'s own pixels. Then, in this order, an
    `adversary` changes the input, images are mixed, and `features` disturbs what the encoder makes of it.
    `distance`: this branch's own, in place of the method's.
    """

    weight: Annotated[float, Field(gt=0)] = 1.0
    sees: Literal["student", "teacher"] = "student"
    adversary: Vat | None = None
    mix: Mix = NoMix()
    features: ChannelDropout | None = None
    distance: Distance | None = None


@part
class Method:
    """A row of the table of methods. Without branches it is supervised training (whose teacher is still an average).

    loss = supervised_weight * supervised(labelled) + weight * ramp(step) * sum over branches of weight_b * mean over
    pixels of distance(student, target). The mean is a sum, weighted by the target, divided by the number of `known`
    pixels (a pixel left out by a threshold still divides, as in FixMatch) or by the sum of the weights (`counted`).
    `frame` is where the two are compared: in the `student`'s view, to which only the teacher's probabilities are
    warped, or in the `source` image's own frame, to which both are (the literal inverse warping; its gradient passes
    through the sampler).
    """

    supervised: Supervised = CrossEntropy()
    supervised_weight: Annotated[float, Field(gt=0)] = 1.0
    teacher: Teacher = Ema()
    target: Target = Soft()
    branches: tuple[Branch, ...] = (Branch(),)
    distance: Distance = Squared(over_classes="sum")
    weight: Annotated[float, Field(ge=0)] = 1.0
    ramp: Schedule = Constant()
    mean_over: Literal["known", "counted"] = "known"
    frame: Literal["student", "source"] = "student"

    def __post_init__(self) -> None:
        mixed = any(not isinstance(branch.mix, NoMix) for branch in self.branches)
        answering = self.teacher.of if isinstance(self.teacher, Ensemble) else self.teacher
        if not self.branches and isinstance(answering, Ema) and answering.buffers == "own":
            raise ValueError(
                "teacher.buffers: 'own' are gathered by the teacher's answers, and without branches it gives none; "
                "use method.teacher.buffers=average and method.teacher.mode=eval"
            )
        if self.frame == "source" and mixed:
            raise ValueError("frame: 'source' cannot hold mixed images, which have no one source; use frame: student")
        if isinstance(self.teacher, MemoryOfImages) and self.branches and not isinstance(self.branches[0].mix, NoMix):
            raise ValueError("teacher: 'memory' remembers the first branch's images, which must be whole; mix another")
        if isinstance(self.teacher, Itself) and self.teacher.gradient == "both" and not self._symmetric():
            raise ValueError(
                "teacher.gradient: 'both' wants a distance and a target that are the same from both sides; "
                "use distance {kind: squared} with target {kind: soft}, or gradient: student"
            )

    def _symmetric(self) -> bool:
        distances = [branch.distance or self.distance for branch in self.branches]
        return isinstance(self.target, Soft) and all(isinstance(distance, Squared) for distance in distances)

    @property
    def views_of_student(self) -> int:
        """How many student views of each unlabelled image a batch must hold."""
        return sum(branch.sees == "student" for branch in self.branches)

    def plan(
        self, batch: Batch, *, student: nn.Module, teacher: TeacherState, views: Views, moment: Moment, memory: Memory
    ) -> tuple[list[Task], Memory]:
        """Ask the teacher, bring its answer to each branch's frame, make targets of it, mix; and what to remember.

        No gradient passes, but to the teacher's side where the teacher asks for that.
        """
        if batch.teacher is None:
            return [], memory
        asked = batch.teacher.view(views)
        answer = teacher.answer(student, asked, batch.teacher.index)
        students, tasks = iter(batch.students), []
        rng = generator(moment.seed, "mixing", moment.step)
        for branch in self.branches:
            seen = asked if branch.sees == "teacher" else next(students).view(views)
            known = answer.seen_from(seen if self.frame == "student" else source_frame(seen))
            aim, weight, memory = self.target(known, moment, memory)
            if branch.adversary is not None:
                seen = replace(seen, data=branch.adversary(student, seen.data, rng))
            task = Task(seen, replace(known, data=aim), weight, batch.teacher.index)
            other = task.partners() if branch.mix.partner == "unlabelled" else _labelled(batch.labelled, task, views)
            tasks.append(branch.mix(task, other, rng))
        return tasks, memory

    def disturbance(
        self, tasks: Sequence[Task], *, after: int, moment: Moment
    ) -> Callable[[Features], Features] | None:
        """What is done to the features of a batch of `after` labelled images and the tasks' images; None: nothing.

        Branches draw alike, so that the halves of a pair of complementary dropouts fit.
        """

        def draw(level: int) -> np.random.Generator:
            return generator(moment.seed, "features", moment.step, level)

        parts = [(branch.features, len(task.weight), draw) for branch, task in zip(self.branches, tasks, strict=False)]
        return disturbance([(None, after, draw), *parts])

    def consistency(self, logits: Sequence[Tensor], tasks: Sequence[Task]) -> Tensor:
        """The branches' distances, each a mean over its pixels, weighted and summed; without the ramp."""
        total = torch.zeros((), device=logits[0].device if logits else None)
        for branch, values, task in zip(self.branches, logits, tasks, strict=True):
            known = task.target.known
            if self.frame == "source":
                answer = View(values.float().softmax(1), task.seen.warp, task.seen.known).seen_from(task.target)
                values, known = answer.data.clamp_min(torch.finfo(torch.float32).tiny).log(), answer.known
            distances = (branch.distance or self.distance)(values, task.target.data)
            counted, weight = known[:, 0], task.weight[:, 0]
            mean = average(distances * weight, counted)
            if self.mean_over == "counted":
                mean = mean / average(weight, counted).clamp_min(1e-6)
            total = total + branch.weight * mean
        return total

    def weight_at(self, step: int, total: int) -> float:
        """The consistency weight of a step, ramp included."""
        return self.weight * self.ramp(step, total)


def _labelled(crops: Crops, task: Task, views: Views) -> Task:
    """The labelled images as partners of `task`'s, repeated to as many: their labels are the target."""
    which = torch.arange(len(task.weight)) % len(crops.image)
    view, label = crops.view(views), cast(Tensor, crops.label)[which.to(crops.image.device)]
    target = one_hot(label, task.target.data.shape[1])
    seen = View(view.data[which.to(view.data.device)], view.warp[which], view.known[which.to(view.data.device)])
    known = target.sum(1, keepdim=True) > 0
    return Task(seen, View(target, seen.warp, known), known.float(), crops.index[which])
