"""How much memory a process's step wants: what is held for the backward, counted on tensors that have no content."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mtseg.config import Config
from mtseg.distil import Frozen
from mtseg.ensemble import Ensemble
from mtseg.memory import Memory
from mtseg.models.norm import normed
from mtseg.precision import casting
from mtseg.run import checkpoint
from mtseg.running import running, stages

SINGLE = 4  # bytes of a float32
MOMENTS = {"sgd": 1, "adamw": 2, "adam": 2}  # numbers that an optimizer keeps for each weight


@dataclass(frozen=True)
class Estimate:
    """Bytes a process holds at the peak of a step, by what they are for; libraries and loading are not in it."""

    weights: int  # students and their averages
    teachers: int  # networks of finished runs, which are not saved
    learning: int  # gradients, and what the optimizer gathers
    activations: int  # held in the backward of one part of the batch, the largest recomputed stage among them
    answers: int  # images, logits and targets, in single precision
    memory: int  # of a teacher that remembers

    @property
    def total(self) -> int:
        return sum(vars(self).values())

    def checkpoint(self, config: Config) -> int:
        """Bytes of what is saved of that: the networks, what the optimizer gathers, what is remembered."""
        moments = MOMENTS[config.optimizer.kind]
        return self.weights + self.learning * moments // (1 + moments) + self.memory

    def sentence(self) -> str:
        parts = ", ".join(f"{name} {_size(count)}" for name, count in vars(self).items() if count)
        return f"about {_size(self.total)} a process ({parts})"


def estimate(config: Config, network: nn.Module, classes: int, images: int, *, processes: int = 1) -> Estimate:
    """That of a step of `config`, whose `network` it is, for data of so many `classes` and unlabelled `images`.

    `processes` divide the batch. It takes a second, and no memory.
    """
    method, (h, w) = config.method, config.views.crop
    branches, teacher = len(method.branches), method.teacher
    crops, asked = (count // processes for count in config.crops)
    channels = config.views.channels
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    student = _without_content(network, fake)
    with fake:
        student = normed(student, config.norm, torch.device("cpu")).train()
        held, whole = _held(config, student, torch.zeros((-(-crops // config.accumulate), channels, h, w)))
        size = SINGLE * sum(value.numel() for value in [*student.parameters(), *student.buffers()])
        learnt = SINGLE * sum(value.numel() for value in student.parameters() if value.requires_grad)
    averages = teacher.count if isinstance(teacher, Ensemble) else 1
    remembered = images * (classes + 1) * math.prod(teacher.size) * 2 if isinstance(teacher, Memory) else 0
    if branches and getattr(teacher, "gradient", "student") == "both":
        held += held * asked // crops  # of the teacher's forward too
    # Of each crop: the image, and its logits, probabilities and their gradients; of each task its target.
    answers = 3 * classes * crops + config.students * (branches + 1) * asked * (classes if branches else 0)
    return Estimate(
        weights=size * (1 + averages) * config.students,
        teachers=sum(map(checkpoint.size_of, teacher.runs)) if isinstance(teacher, Frozen) else 0,
        learning=learnt * (1 + MOMENTS[config.optimizer.kind]) * config.students,
        activations=held,
        answers=SINGLE * (crops * channels * h * w + answers * (1 if whole else h * w)),
        memory=remembered,
    )


def _without_content(network: nn.Module, fake: FakeTensorMode) -> nn.Module:
    tensors = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(value): fake.from_tensor(value) for value in tensors})


def _held(config: Config, student: nn.Module, images: Tensor) -> tuple[int, bool]:
    """Bytes of what a forward of `images` leaves for the backward, weights excepted; whether it answers for wholes."""
    weights = {value.untyped_storage()._cdata for value in [*student.parameters(), *student.buffers()]}
    sizes: dict[int, tuple[int, Tensor]] = {}  # the tensor too: while it lives, no other has its identity

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage._cdata not in weights:
            sizes[storage._cdata] = (storage.nbytes(), value)
        return value

    def held() -> int:
        return sum(count for count, _ in sizes.values())

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value), casting(config.precision, images.device):
        largest = _largest(student, images, held) if config.recompute else 0
        sizes.clear()
        said = running(student, images[:2], compiled=False, recompute=config.recompute)(images)
    return held() + largest, said.dim() == 2


def _largest(student: nn.Module, images: Tensor, held: Callable[[], int]) -> int:
    """Bytes that the largest of the recomputed stages holds while it is recomputed; `held`: what is held by now."""
    found, before = [0], [0]

    def begin(*_: object) -> None:
        before.append(held())

    def end(*_: object) -> None:
        found.append(held() - before.pop())

    recomputed = stages(student, images[:2])
    hooks = [stage.register_forward_pre_hook(begin) for stage in recomputed]
    hooks += [stage.register_forward_hook(end) for stage in recomputed]
    student(images)
    for hook in hooks:
        hook.remove()
    return max(found)


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
