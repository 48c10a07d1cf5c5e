"""Teachers: who answers for an unlabelled image. Each also keeps the averaged weights that are evaluated and saved.

A teacher is asked with the teacher's view of a batch and the images' numbers in their pool, and answers with a `View`
of class probabilities (B, K, *S) in float32; after each update of the student it follows.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from mtseg.distributed import gathered
from mtseg.ema import Ema, EmaTeacher, check_average, probabilities
from mtseg.geometry import View, source_frame
from mtseg.part import part
from mtseg.task import Task
from mtseg.tta import ONCE, Augment

Count = Annotated[int, Field(ge=1)]
AVERAGE = Ema(decay=0.999, span=0.02)  # of who gives no answers: for runs of any length


class TeacherPart(Protocol):
    """What is asked of a part of the union `Teacher`, besides its `kind`.

    `cost`: how many pixels an answer makes networks see, for each pixel asked about. `averaging`: how the weights that
    are evaluated are averaged; supervised-only averages its own so. `build`, given the student and the numbers of
    unlabelled images and of classes, gives what has a state. One that asks for a gradient to its answer has a field
    `gradient`, which then is `both`.
    """

    @property
    def cost(self) -> float: ...

    def averaging(self) -> Ema: ...

    def build(self, student: nn.Module, images: int, classes: int) -> "TeacherState": ...


class TeacherState(Protocol):
    """What a built teacher is. `module`: the averaged network that is evaluated and saved. What is not in its weights
    and is needed to go on is `state_dict`, of types that `torch.load(weights_only=True)` takes."""

    module: nn.Module

    def answer(self, student: nn.Module, asked: View, index: Tensor) -> View: ...

    def update(self, student: nn.Module, tasks: Sequence[Task], logits: Sequence[Tensor]) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class _Averages:
    """What is common to the parts whose teacher is no average: one is kept all the same, to be evaluated."""

    average: Ema

    def __post_init__(self) -> None:
        check_average(self.average)

    def averaging(self) -> Ema:
        return self.average.averaging()


@part
class Itself(_Averages):
    """The student answers for itself (Pi-model, FixMatch, UniMatch); averaged weights are kept for evaluation only.

    `mode`: in `train` (its own batch statistics and dropout, which leave its running statistics alone) or `eval`.
    `gradient`: to the `student`'s side alone, or to `both` sides of the distance (the Pi-model of Laine & Aila
    2017; `squared` only: the others are not symmetric). `average` says how the evaluated weights are averaged.
    `augment`: as for `ema`.
    """

    kind: Literal["itself"] = "itself"
    mode: Literal["train", "eval"] = "train"
    gradient: Literal["student", "both"] = "student"
    average: Ema = AVERAGE
    augment: Augment = ONCE

    @property
    def cost(self) -> float:
        return self.augment.cost

    def build(self, student: nn.Module, images: int, classes: int) -> "ItselfTeacher":
        return ItselfTeacher(self, student)


@part
class Memory(_Averages):
    """Temporal Ensembling (Laine & Aila 2017): the average of what the student said of an image before.

    After each step Z <- decay Z + (1 - decay) z at every pixel that the student saw, z its prediction then, in the
    image's own frame at `size` ([] for whole images: classification); the answer is Z over the sum of its weights (the
    paper's bias correction, per pixel), unknown where nothing was said yet. It holds images x classes x `size`
    half-precision numbers, to which a higher `decay` would add steps below their precision. Of an image twice in a
    batch, the last view is remembered. Every process holds all of it, and is told what the others' students said.
    """

    kind: Literal["memory"] = "memory"
    decay: Annotated[float, Field(ge=0, le=0.99)] = 0.6
    size: tuple[Count, Count] | tuple[()]
    average: Ema = AVERAGE

    @property
    def cost(self) -> float:
        return 0  # no network is asked

    def build(self, student: nn.Module, images: int, classes: int) -> "MemoryTeacher":
        return MemoryTeacher(self, student, images, classes)


@part
class Ensemble:
    """Several averages, of which one follows the student at a time, `every` steps each, in turn; before its first turn
    each is the student.

    `answer`: the `mean` of all their probabilities (PS-MT, Liu et al. 2022), or the `current` one's (Dual Teacher,
    Na et al. 2023). Their mean is evaluated.
    """

    kind: Literal["ensemble"] = "ensemble"
    count: Annotated[int, Field(ge=2)] = 2
    every: Count
    answer: Literal["mean", "current"] = "mean"
    of: Ema = Ema()

    @property
    def cost(self) -> float:
        return self.of.cost * (self.count if self.answer == "mean" else 1)

    def own_update(self, update: int) -> int:
        """Which of its own updates it is, counted from 0, of the average whose turn `update` is."""
        rounds, place = divmod(update, self.every * self.count)
        return rounds * self.every + place % self.every

    def averaging(self) -> Ema:
        return self.of.averaging()

    def build(self, student: nn.Module, images: int, classes: int) -> "EnsembleTeacher":
        return EnsembleTeacher(self, student)


@part
class Peer(_Averages):
    """A second student answers, and learns in the same steps: from the same labels, and from what the first one says of
    the same views, mixed alike (cross pseudo supervision, CPS: Chen et al. 2021).

    It is the same network with other initial weights (but for pretrained ones) and an optimizer of its own. Each
    answers before either learns. The first is evaluated and saved as the student; the second is saved to go on with.
    `mode`, `average` and `augment`: as for `itself`.
    """

    kind: Literal["peer"] = "peer"
    mode: Literal["train", "eval"] = "train"
    average: Ema = AVERAGE
    augment: Augment = ONCE

    @property
    def cost(self) -> float:
        return self.augment.cost

    def build(self, student: nn.Module, images: int, classes: int) -> "PeerTeacher":
        return PeerTeacher(self, student)


Teacher = Annotated[Ema | Itself | Memory | Ensemble | Peer, Field(discriminator="kind")]


class _Averaged:
    """What follows the student without answering: the averaged weights."""

    def __init__(self, average: Ema, student: nn.Module) -> None:
        self.ema = EmaTeacher(average, student)
        self.module = self.ema.module

    def update(self, student: nn.Module, tasks: Sequence[Task], logits: Sequence[Tensor]) -> None:
        self.ema.update(student)

    def state_dict(self) -> dict[str, Any]:
        return self.ema.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.ema.load_state_dict(state)


class ItselfTeacher(_Averaged):
    """The running state of `Itself`: the averaged weights."""

    def __init__(self, rule: Itself, student: nn.Module) -> None:
        super().__init__(rule.average, student)
        self.rule = rule

    def answer(self, student: nn.Module, asked: View, index: Tensor) -> View:
        with torch.set_grad_enabled(self.rule.gradient == "both"):
            said = probabilities(student, asked.data, mode=self.rule.mode, aside=True, augment=self.rule.augment)
            return asked.answered(said)


class PeerTeacher(_Averaged):
    """The running state of `Peer`: the averaged weights of the student that it teaches, and its `peer`, which answers
    and is given it once both are built."""

    peer: nn.Module

    def __init__(self, rule: Peer, student: nn.Module) -> None:
        super().__init__(rule.average, student)
        self.rule = rule

    @torch.no_grad()
    def answer(self, student: nn.Module, asked: View, index: Tensor) -> View:
        return asked.answered(
            probabilities(self.peer, asked.data, mode=self.rule.mode, aside=True, augment=self.rule.augment)
        )


class MemoryTeacher(_Averaged):
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
    def update(self, student: nn.Module, tasks: Sequence[Task], logits: Sequence[Tensor]) -> None:
        """Remember what the student said of the first branch's images; follow it."""
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


class Panel(nn.Module):
    """Several networks as one, whose answer is the logarithm of their mean probability."""

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        mean = torch.stack([member(images).float().softmax(1) for member in self.members]).mean(0)
        return mean.clamp_min(torch.finfo(mean.dtype).tiny).log()


class EnsembleTeacher:
    """The running state of an `Ensemble`: its averages, and the number of updates so far."""

    def __init__(self, rule: Ensemble, student: nn.Module) -> None:
        self.rule, self.updates = rule, 0
        self.teachers = [EmaTeacher(rule.of, student) for _ in range(rule.count)]
        self.module: nn.Module = Panel(teacher.module for teacher in self.teachers)

    @property
    def current(self) -> EmaTeacher:
        """The one whose turn it is."""
        return self.teachers[self.updates // self.rule.every % self.rule.count]

    def answer(self, student: nn.Module, asked: View, index: Tensor) -> View:
        chosen = self.teachers if self.rule.answer == "mean" else [self.current]
        answers = [teacher.answer(student, asked, index).data for teacher in chosen]
        return asked.answered(torch.stack(answers).mean(0))

    def update(self, student: nn.Module, tasks: Sequence[Task], logits: Sequence[Tensor]) -> None:
        self.current.update(student)
        for teacher in self.teachers:
            if teacher.updates == 0:  # its turn is yet to come: until then it is the student, not the initial weights
                teacher.follow(student, 0.0)
                if self.rule.answer == "current" and self.rule.of.buffers == "own":  # nobody has asked it: it has none
                    teacher.take_buffers(student)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "each": [teacher.state_dict() for teacher in self.teachers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = int(state["updates"])
        for teacher, each in zip(self.teachers, state["each"], strict=True):
            teacher.load_state_dict(each)
