"""The teacher's update against a copy of the same bytes, and against other ways to write it."""

from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor

from mtseg.bench.asked import Asked
from mtseg.bench.made import CLASSES
from mtseg.bench.paired import Group, Ratio, clock_of, timed
from mtseg.ema import Ema
from mtseg.models.smp import Smp

ENCODERS = ("resnet50", "mobilenet_v2")


def measure(asked: Asked) -> Iterator[Group]:
    """A group for DeepLabV3+ with each of ENCODERS."""
    device = torch.device(asked.device)
    for encoder in ENCODERS:
        name = f"DeepLabV3+ {encoder}"
        if asked.case in name:
            yield _measured(name, encoder, asked.rounds, device)


def _measured(name: str, encoder: str, rounds: int, device: torch.device) -> Group:
    student = Smp(encoder=encoder, weights="none").build(len(CLASSES)).to(device)  # type: ignore[arg-type]
    teacher = Ema(decay=0.99).build(student, 0, len(CLASSES))
    to, of = _floats(teacher.module), _floats(student)
    twin = deepcopy(teacher.module)

    @torch.no_grad()
    def as_dictionaries() -> None:
        mine, given = twin.state_dict(), student.state_dict()
        for key, value in mine.items():
            value.copy_(0.99 * value + 0.01 * given[key])

    cases = {
        "the update": lambda: teacher.update(student),
        "copy": lambda: torch._foreach_copy_(to, of),
        "lerp alone": lambda: torch._foreach_lerp_(to, of, 0.01),
        "a loop over state_dict": as_dictionaries,
    }
    seconds = timed(cases, rounds=rounds, clock=clock_of(device))
    ratios = (Ratio("the update", "copy", at_most=1.15), Ratio("a loop over state_dict", "the update"))
    return Group(f"{name}, {sum(t.numel() for t in to) / 1e6:.1f} million numbers", seconds, ratios)


def _floats(network: torch.nn.Module) -> list[Tensor]:
    both = (*network.parameters(), *network.buffers())
    return [tensor.detach() for tensor in both if tensor.is_floating_point()]
