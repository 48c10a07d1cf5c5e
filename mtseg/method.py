"""A method is a table row: teacher, target, branches, distance, weight and ramp. Here the row becomes a loss."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from mtseg.data.batch import Batch, Crops
from mtseg.distil import Frozen
from mtseg.distributed import rows, taken, total, world
from mtseg.ema import Ema
from mtseg.ensemble import Ensemble
from mtseg.geometry import View, source_frame
from mtseg.losses import CrossEntropy, Distance, Squared, Supervised, average, has_class, one_hot
from mtseg.memory import Memory
from mtseg.mix import ALONE, CutMix, Mix, NoMix
from mtseg.part import part
from mtseg.perturb import Perturbation, Vat
from mtseg.randomness import generator
from mtseg.schedules import Constant, Schedule
from mtseg.targets import Moment, Past, Soft, Target, aimed
from mtseg.task import Task, sureness
from mtseg.teachers import Itself, Peer, Teacher, TeacherState
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
    features: Perturbation | None = None
    distance: Distance | None = None


@dataclass(frozen=True)
class Plan:
    """What a step asks of the student, what targets remember after it, and the teacher's answer in its own view."""

    tasks: list[Task]
    past: Past
    answer: View | None = None


@dataclass(frozen=True)
class Counts:
    """What the means of a step's losses are over, in the whole batch, over all processes.

    labelled: () pixels with a label; known: (branches,) known pixels; with `normalise: batch` both all pixels of all
    images. kept: (branches,) the sum of the known pixels' weights
    """

    labelled: Tensor
    known: Tensor
    kept: Tensor


@part
class Method:
    """A row of the table of methods. Without branches it is supervised training (whose teacher is still an average).

    loss = supervised_weight * supervised(labelled) + weight * ramp(step) * sum over branches of weight_b * mean over
    pixels of distance(student, target). The mean is a sum, weighted by the target, divided (`mean_over`) by the number
    of `known` pixels (a pixel left out by a threshold still divides, as in FixMatch) or by the sum of the weights
    (`counted`).
    `frame` is where the two are compared: in the `student`'s view, to which only the teacher's probabilities are
    warped, or in the `source` image's own frame, to which both are (the literal inverse warping; its gradient passes
    through the sampler). `normalise: batch` divides both losses, as sums, by the pixels of all images of the batch,
    labelled or not, in place of those that they count (the paper's code). `logit_distance`, for a model with two heads:
    the second head answers the consistency, and this times the squared distance of their logits, summed over classes,
    is added (the paper's section 3.4).
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
    normalise: Literal["counted", "batch"] = "counted"
    frame: Literal["student", "source"] = "student"
    logit_distance: Annotated[float, Field(ge=0)] | None = None

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
        if isinstance(self.teacher, Peer) and not self.branches:
            raise ValueError(
                "teacher: a 'peer' learns with the student from its answers, and without branches it gives none; use "
                "method.teacher.kind=ema"
            )
        if isinstance(self.teacher, Frozen) and not self.branches:
            raise ValueError(
                "teacher: 'frozen' networks are learnt from by their answers, and without branches there are none; use "
                "method.teacher.kind=ema"
            )
        if isinstance(self.teacher, Memory) and self.branches and not isinstance(self.branches[0].mix, NoMix):
            raise ValueError("teacher: 'memory' remembers the first branch's images, which must be whole; mix another")
        if self.normalise == "batch" and (self.mean_over == "counted" or not isinstance(self.supervised, CrossEntropy)):
            raise ValueError(
                f"normalise: 'batch' divides sums over known pixels, and supervised {self.supervised.kind} with "
                f"mean_over: {self.mean_over} are none; use cross_entropy and mean_over: known, or normalise: counted"
            )
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
        self, batch: Batch, *, student: nn.Module, teacher: TeacherState, views: Views, moment: Moment, past: Past
    ) -> Plan:
        """Ask the teacher, bring its answer to each branch's frame, make targets of it, mix.

        No gradient passes, but to the teacher's side where the teacher asks for that.
        """
        if batch.teacher is None:
            return Plan([], past)
        asked = batch.teacher.view(views)
        answer = teacher.answer(student, asked, batch.teacher.index)
        students, tasks, remembered = iter(batch.students), [], []
        rng = generator(moment.seed, "mixing", moment.step)
        for branch in self.branches:
            seen = asked if branch.sees == "teacher" else next(students).view(views)
            known = answer.seen_from(seen if self.frame == "student" else source_frame(seen))
            aim, weight, after = aimed(self.target, known, moment, past)
            remembered.append(after)
            if branch.adversary is not None:
                seen = replace(seen, data=branch.adversary(student, seen.data, rng))
            asks = isinstance(branch.mix, CutMix) and branch.mix.unsure
            sure = sureness(known) if asks else weight.new_zeros(len(weight))
            task = Task(seen, replace(known, data=aim), weight, batch.teacher.index, sure)
            tasks.append(branch.mix(task, _other(branch.mix, task, batch.labelled, views), rng))
        return Plan(tasks, remembered[0], answer)  # a step is remembered once, whatever the number of branches

    def counts(self, label: Tensor, tasks: Sequence[Task], *, images: int = 0) -> Counts:
        """What is counted of the labels (B, *S) and the tasks of this process and of all others.

        `images`: how many different ones are here, for `normalise: batch`.
        """
        if self.normalise == "batch":
            sizes = [values[0].numel() for values in (label, *(task.target.known for task in tasks))]
            all_of = images * world() * torch.tensor(sizes, dtype=torch.float64).to(label.device, non_blocking=True)
            return Counts(all_of[0], all_of[1:], all_of[1:])
        known = [self._known(task)[:, 0] for task in tasks]
        kept = [torch.where(of, task.weight[:, 0], 0).sum() for of, task in zip(known, tasks, strict=True)]
        here = [has_class(label).sum(), *(of.sum() for of in known), *kept]
        sums = total(torch.stack([count.double() for count in here]))  # one exchange for all
        return Counts(sums[0], sums[1 : 1 + len(tasks)], sums[1 + len(tasks) :])

    def _known(self, task: Task) -> Tensor:
        """(B, 1, *S) bool: where a task is known, in the frame of comparison."""
        if self.frame == "student":
            return task.target.known
        return task.seen.answered(task.weight).seen_from(task.target).known

    def consistency(self, logits: Sequence[Tensor], tasks: Sequence[Task], counts: Counts | None = None) -> Tensor:
        """The branches' distances, each a mean over its pixels, weighted and summed; without the ramp.

        `counts` are those of the whole batch; None: of these tasks, in all processes.
        """
        cost = torch.zeros((), device=logits[0].device if logits else None)
        if not tasks:
            return cost
        counts = self.counts(logits[0].new_empty(1), tasks, images=len(tasks[0].index)) if counts is None else counts
        sums = counts.kept if self.mean_over == "counted" else counts.known
        for branch, values, task, over in zip(self.branches, logits, tasks, sums, strict=True):
            said = self.compared(values, task)
            distances = (branch.distance or self.distance)(said.data, task.target.data)
            counted, weight = said.known[:, 0], task.weight[:, 0]
            cost = cost + branch.weight * average(distances * weight, counted, over)
        return cost

    def compared(self, logits: Tensor, task: Task) -> View:
        """The student's logits (B, K, *S) of a task in the frame of comparison, known where both sides are."""
        if self.frame == "student":
            return replace(task.target, data=logits)
        answer = task.seen.answered(logits.float().softmax(1)).seen_from(task.target)
        return replace(answer, data=answer.data.clamp_min(torch.finfo(torch.float32).tiny).log())

    def head_cost(self, logits: Tensor, agreeing: Tensor) -> Tensor:
        """What keeps the two heads' logits (B, K, *S) together; 0 for one head."""
        if self.logit_distance is None:
            return logits.new_zeros(())
        return self.logit_distance * (logits.float() - agreeing.float()).square().sum(1).mean()

    def weight_at(self, step: int, total: int) -> float:
        """The consistency weight of a step, ramp included."""
        return self.weight * self.ramp(step, total)

    def unfinished(self, total: int) -> str:
        """A sentence on a ramp that still rises where a run of `total` steps ends, and is short by over a hundredth."""
        first, half, last = (self.weight_at(step, total) for step in (0, total // 2, total - 1))
        rising = last > half or last == half > first  # a ramp may move on once in many steps
        if not rising or last > 0.99 * self.weight:
            return ""
        return f"the consistency weight rises to {last:.2g} of {self.weight:g} in the run's {total} steps"


def _other(mix: Mix, task: Task, labelled: Crops, views: Views) -> Task:
    """What `task` is mixed with: the next unlabelled images, or the labelled ones; itself where it stays alone."""
    if isinstance(mix, ALONE):
        return task
    return task.partners() if mix.partner == "unlabelled" else _labelled(labelled, task, views)


def _labelled(crops: Crops, task: Task, views: Views) -> Task:
    """The labelled images as partners of `task`'s, repeated to as many: their labels are the target."""
    wanted = (torch.arange(rows(len(task.weight)).whole) % rows(len(crops.image)).whole).tolist()
    view, label = crops.view(views), taken(cast(Tensor, crops.label), wanted)
    seen = View(*(taken(values, wanted) for values in (view.data, view.warp, view.known)))
    target = one_hot(label, task.target.data.shape[1])
    known = target.sum(1, keepdim=True) > 0
    return Task(seen, View(target, seen.warp, known), known.float(), taken(crops.index, wanted), task.sure)
