"""Teachers: who answers for an unlabelled image. Each also keeps the averaged weights that are evaluated and saved.

A teacher is asked with the teacher's view of a batch and the images' numbers in their pool, and answers with a `View`
of class probabilities (B, K, *S) in float32; after each update of the student it follows.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from mtseg.geometry import View, source_frame
from mtseg.mix import Task
from mtseg.part import part

Decay = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class TeacherState(Protocol):
    """What a built teacher is. `module`: the averaged network that is evaluated and saved."""

    module: nn.Module

    def answer(self, student: nn.Module, asked: View, index: Tensor) -> View: ...

    def update(self, student: nn.Module, tasks: Sequence[Task], logits: Sequence[Tensor]) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@part
class Ema:
    """An exponential moving average of the student (Tarvainen & Valpola 2017, eq. 2).

    After update t = 0, 1, ... of the student: teacher <- a teacher + (1 - a) student, with
    a = min(1 - 1 / (t + 1), decay), and `early_decay` in place of `decay` for the first `early_steps` updates
    (the paper: 0.99, then 0.999 once the ramp-up is over). The first update copies the student.

    `mode` is the teacher's behaviour when it gives targets: `train` (its own batch statistics, dropout; the paper)
    or `eval` (running statistics). `buffers`, its batch-norm statistics: `average` them like parameters,
    `copy` the student's, or keep its `own` (gathered by its own forwards, so with `train` only). Integer
    buffers are copied. Evaluation always uses running statistics.
    """

    kind: Literal["ema"] = "ema"
    decay: Decay = 0.99
    early_decay: Decay | None = None
    early_steps: Annotated[int, Field(ge=0)] = 0
    mode: Literal["train", "eval"] = "eval"
    buffers: Literal["average", "copy", "own"] = "average"

    def __post_init__(self) -> None:
        if self.mode == "eval" and self.buffers == "own":
            raise ValueError(
                "mode 'eval' never refreshes buffers of the teacher's own; "
                "use buffers 'average' or 'copy', or mode 'train'"
            )
        if (self.early_decay is None) != (self.early_steps == 0):
            raise ValueError(
                f"early_decay ({self.early_decay}) and early_steps ({self.early_steps}) go together; "
                "give both or neither"
            )

    def decay_at(self, update: int) -> float:
        """a of the update number `update`, counted from 0."""
        early = self.early_decay is not None and update < self.early_steps
        limit = self.early_decay if early and self.early_decay is not None else self.decay
        return min(1 - 1 / (update + 1), limit)

    def averaging(self) -> "Ema":
        """How weights are averaged, without a say in how answers are given."""
        return Ema(decay=self.decay, early_decay=self.early_decay, early_steps=self.early_steps)

    def build(self, student: nn.Module, images: int, classes: int) -> "EmaTeacher":
        return EmaTeacher(self, student)


@part
class Itself:
    """The student answers for itself (Pi-model, FixMatch, UniMatch); averaged weights are kept for evaluation only.

    `mode`: in `train` (its own batch statistics and dropout, which leave its running statistics alone) or `eval`.
    `gradient`: to the `student`'s side alone, or to `both` sides of the distance (the Pi-model of Laine & Aila
    2017; `squared` only: the others are not symmetric). `average` says how the evaluated weights are averaged.
    """

    kind: Literal["itself"] = "itself"
    mode: Literal["train", "eval"] = "train"
    gradient: Literal["student", "both"] = "student"
    average: Ema = Ema()

    def __post_init__(self) -> None:
        _check_average(self.average)

    def averaging(self) -> Ema:
        return self.average.averaging()

    def build(self, student: nn.Module, images: int, classes: int) -> "ItselfTeacher":
        return ItselfTeacher(self, student)


@part
class Memory:
    """Temporal Ensembling (Laine & Aila 2017): the average of what the student said of an image before.

    After each step Z <- decay Z + (1 - decay) z at every pixel that the student saw, z its prediction then, in the
    image's own frame at `size`; the answer is Z over the sum of its weights (the paper's bias correction, per
    pixel), unknown where nothing was said yet. It holds images x classes x `size` half-precision numbers, to which
    a higher `decay` would add steps below their precision. Of an image twice in a batch, the last view is remembered.
    """

    kind: Literal["memory"] = "memory"
    decay: Annotated[float, Field(ge=0, le=0.99)] = 0.6
    size: tuple[Count, Count]
    average: Ema = Ema()

    def __post_init__(self) -> None:
        _check_average(self.average)

    def averaging(self) -> Ema:
        return self.average.averaging()

    def build(self, student: nn.Module, images: int, classes: int) -> "MemoryTeacher":
        return MemoryTeacher(self, student, images, classes)


@part
class Ensemble:
    """Several averages, of which one follows the student at a time, `every` steps each, in turn.

    `answer`: the `mean` of all their probabilities (PS-MT, Liu et al. 2022), or the `current` one's (Dual Teacher,
    Na et al. 2023). Their mean is evaluated.
    """

    kind: Literal["ensemble"] = "ensemble"
    count: Annotated[int, Field(ge=2)] = 2
    every: Count
    answer: Literal["mean", "current"] = "mean"
    of: Ema = Ema()

    def averaging(self) -> Ema:
        return self.of.averaging()

    def build(self, student: nn.Module, images: int, classes: int) -> "EnsembleTeacher":
        return EnsembleTeacher(self, student)


Teacher = Annotated[Ema | Itself | Memory | Ensemble, Field(discriminator="kind")]


class EmaTeacher:
    """The running state of an `Ema`: a float32 shadow of the student and the number of updates so far."""

    def __init__(self, rule: Ema, student: nn.Module) -> None:
        self.rule = rule
        self.updates = 0
        self.module: nn.Module = copy.deepcopy(student).float().requires_grad_(False)

    @torch.no_grad()
    def answer(self, student: nn.Module, asked: View, index: Tensor) -> View:
        """Its probabilities for normalised images `asked`, in their view; no gradient."""
        aside = self.rule.buffers != "own"
        return View(probabilities(self.module, asked.data, mode=self.rule.mode, aside=aside), asked.warp, asked.known)

    @torch.no_grad()
    def update(self, student: nn.Module, tasks: Sequence[Task] = (), logits: Sequence[Tensor] = ()) -> None:
        """Follow `student` after its optimizer step."""
        decay = self.rule.decay_at(self.updates)
        _follow(self.module.parameters(), student.parameters(), decay)
        if self.rule.buffers != "own":
            _follow(self.module.buffers(), student.buffers(), decay if self.rule.buffers == "average" else 0.0)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs besides the module's own weights."""
        return {"updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = int(state["updates"])


class ItselfTeacher:
    """The running state of `Itself`: the averaged weights."""

    def __init__(self, rule: Itself, student: nn.Module) -> None:
        self.rule, self.ema = rule, EmaTeacher(rule.average, student)
        self.module = self.ema.module

    def answer(self, student: nn.Module, asked: View, index: Tensor) -> View:
        with torch.set_grad_enabled(self.rule.gradient == "both"):
            return View(probabilities(student, asked.data, mode=self.rule.mode, aside=True), asked.warp, asked.known)

    def update(self, student: nn.Module, tasks: Sequence[Task], logits: Sequence[Tensor]) -> None:
        self.ema.update(student)

    def state_dict(self) -> dict[str, Any]:
        return self.ema.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.ema.load_state_dict(state)


class MemoryTeacher:
    """The running state of `Memory`. said: (N, K, h, w) float16, sums of weighted predictions in the images' own
    frame; weight: (N, 1, h, w) float16, the sums of their weights. Both on the student's device."""

    def __init__(self, rule: Memory, student: nn.Module, images: int, classes: int) -> None:
        self.rule, self.ema = rule, EmaTeacher(rule.average, student)
        self.module = self.ema.module
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
        self.ema.update(student)
        for task, values in zip(tasks[:1], logits[:1], strict=True):
            # Each image once: of values written to one place twice, CUDA keeps any.
            last = torch.tensor(list({image: place for place, image in enumerate(task.index.tolist())}.values()))
            index, chosen = (of.to(self.said.device, non_blocking=True) for of in (task.index[last], last))
            here = View(values[chosen].float().softmax(1), task.seen.warp[last], task.seen.known[chosen])
            said = here.seen_from(source_frame(View(self.weight[index], here.warp, here.known)))
            keep = torch.where(said.known, self.rule.decay, 1.0)
            self.said[index] = (keep * self.said[index] + (1 - keep) * said.data).half()
            self.weight[index] = (keep * self.weight[index] + (1 - keep)).half()

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.ema.updates, "said": self.said, "weight": self.weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ValueError for the memory of other images, classes or size."""
        if state["said"].shape != self.said.shape:
            raise ValueError(
                f"the saved memory is of {tuple(state['said'].shape)} (images, classes, height, width), and this run's "
                f"is of {tuple(self.said.shape)}; continue with the data of the run, or choose another out="
            )
        self.ema.load_state_dict(state)
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
        return View(torch.stack(answers).mean(0), asked.warp, asked.known)

    def update(self, student: nn.Module, tasks: Sequence[Task], logits: Sequence[Tensor]) -> None:
        self.current.update(student)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "each": [teacher.state_dict() for teacher in self.teachers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = int(state["updates"])
        for teacher, each in zip(self.teachers, state["each"], strict=True):
            teacher.load_state_dict(each)


def probabilities(network: nn.Module, images: Tensor, *, mode: Literal["train", "eval"], aside: bool) -> Tensor:
    """Class probabilities (B, K, *S) in float32 of normalised `images` (B, C, *S); `network` is left in `mode`.

    `aside`: what train mode writes into the buffers of batch normalisation goes into copies.
    """
    network.train(mode == "train")
    copies = {name: buffer.clone() for name, buffer in network.named_buffers()} if aside and mode == "train" else {}
    logits: Tensor = functional_call(network, copies, (images,))
    return logits.float().softmax(1)


def _check_average(average: Ema) -> None:
    if average.mode == "train":
        raise ValueError("average.mode: 'train' is how a teacher answers, and the average gives none; leave it out")


def _follow(teacher: Iterable[Tensor], student: Iterable[Tensor], decay: float) -> None:
    """teacher <- decay teacher + (1 - decay) student in two launches; what is not floating point is copied."""
    pairs = [(t, s.to(t.dtype)) for t, s in zip(teacher, student, strict=True)]
    averaged = [pair for pair in pairs if pair[0].is_floating_point()]
    copied = [pair for pair in pairs if not pair[0].is_floating_point()]
    if averaged:
        torch._foreach_lerp_([t for t, _ in averaged], [s for _, s in averaged], 1 - decay)
    if copied:
        torch._foreach_copy_([t for t, _ in copied], [s for _, s in copied])
