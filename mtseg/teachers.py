"""Teachers: what a student is asked to agree with."""

import copy
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from mtseg.part import part

Decay = Annotated[float, Field(ge=0, le=1)]


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

    def build(self, student: nn.Module) -> "EmaTeacher":
        return EmaTeacher(self, student)


Teacher = Ema


class EmaTeacher:
    """The running state of an `Ema`: a float32 shadow of the student and the number of updates so far."""

    def __init__(self, rule: Ema, student: nn.Module) -> None:
        self.rule = rule
        self.updates = 0
        self.module = copy.deepcopy(student).float().requires_grad_(False)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Class probabilities (B, K, *S) in float32 of normalised `images` (B, C, *S); no gradient."""
        train = self.rule.mode == "train"
        self.module.train(train)
        # Train mode writes into batch norm's buffers: into copies, unless they are to be the teacher's own.
        aside = train and self.rule.buffers != "own"
        copies = {name: buffer.clone() for name, buffer in self.module.named_buffers()} if aside else {}
        logits: Tensor = functional_call(self.module, copies, (images,))
        return logits.float().softmax(1)

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
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


def _follow(teacher: Iterable[Tensor], student: Iterable[Tensor], decay: float) -> None:
    """teacher <- decay teacher + (1 - decay) student in two launches; what is not floating point is copied."""
    pairs = [(t, s.to(t.dtype)) for t, s in zip(teacher, student, strict=True)]
    averaged = [pair for pair in pairs if pair[0].is_floating_point()]
    copied = [pair for pair in pairs if not pair[0].is_floating_point()]
    if decay == 0:
        averaged, copied = [], pairs
    if averaged:
        torch._foreach_lerp_([t for t, _ in averaged], [s for _, s in averaged], 1 - decay)
    if copied:
        torch._foreach_copy_([t for t, _ in copied], [s for _, s in copied])
