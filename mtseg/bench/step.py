"""A training step of Mean Teacher against its floor: one student forward and backward, and one teacher forward."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle
from typing import Any

import torch

from mtseg.bench.asked import Asked
from mtseg.bench.made import CLASSES, in_memory
from mtseg.bench.networks import floor, forwards
from mtseg.bench.paired import Group, Ratio, clock_of, timed
from mtseg.bench.phases import phases
from mtseg.config import Config
from mtseg.data.batch import Batch
from mtseg.data.stream import Stream
from mtseg.settings.checked import validate
from mtseg.settings.merge import merge
from mtseg.settings.words import gather
from mtseg.state import State, sized
from mtseg.step import train_step
from mtseg.targets import Moment

GEOMETRY = {"scale": [0.75, 1.5], "rotation": 10, "flip": 0.5}


def _case(arch: str, encoder: str, crop: int, batch: int) -> dict[str, Any]:
    return {
        "data": {"kind": "scenes"},
        "views": {"crop": [crop, crop], "teacher": {"geometry": GEOMETRY}, "student": {"geometry": GEOMETRY}},
        "model": {"arch": arch, "encoder": encoder, "weights": "none"},
        "method": {},
        "optimizer": {"kind": "sgd", "lr": 1e-4},
        "batch": {"labelled": batch, "unlabelled": batch},
        "steps": 10_000,
        "out": "runs/bench",
    }


CASES = {
    "Unet mobilenet_v2, 128x128, 4 + 4": _case("unet", "mobilenet_v2", 128, 4),
    "DeepLabV3+ resnet18, 192x192, 4 + 4": _case("deeplabv3plus", "resnet18", 192, 4),
    "DeepLabV3+ resnet50, 320x320, 2 + 2": _case("deeplabv3plus", "resnet50", 320, 2),
}
LARGE = {  # for GPUs; asked for by name
    f"{name}, {crop}x{crop}, 8 + 8": _case(arch, encoder, crop, 8)
    for name, arch, encoder in (
        ("DeepLabV3+ resnet50", "deeplabv3plus", "resnet50"),
        ("Unet resnet18", "unet", "resnet18"),
    )
    for crop in (321, 801)
}


def measure(asked: Asked) -> Iterator[Group]:
    """A group for each of the cases."""
    for name, config in configs(asked):
        yield _measured(name, config, asked.rounds, torch.device(asked.device))


def configs(asked: Asked) -> Iterator[tuple[str, Config]]:
    """The cases that are asked for, and the runs that they are, `asked.words` laid on them.

    Without a name: CASES on a CPU, LARGE on a GPU.
    """
    both = {**CASES, **LARGE} if asked.case else CASES if asked.device == "cpu" else LARGE
    for name, tree in both.items():
        if asked.case in name:
            yield name, validate(Config, merge(merge(tree, {"device": asked.device}), gather(asked.words)))


def _measured(name: str, config: Config, rounds: int, device: torch.device) -> Group:
    state = sized(config, len(CLASSES), 8, device=device, pretrained=False)
    turns = cycle(batches(config, 2, device))
    clock = clock_of(device)

    def step() -> None:
        train_step(config, state, next(turns))

    parts = {
        "the step": step,
        "its floor": floor(forwards(state, step)),
        "warp and consistency": _agreeing(config, state, next(turns)),
    }
    seconds = timed(parts, rounds=rounds, clock=clock)
    seconds |= phases(state, step, rounds=rounds, clock=clock)
    return Group(
        name,
        seconds,
        (
            Ratio("its floor", "the step", at_least=0.9),
            Ratio("warp and consistency", "the step", at_most=0.05),
        ),
    )


def batches(config: Config, count: int, device: torch.device) -> list[Batch]:
    """The first of a run on drawn scenes a little larger than the crop."""
    size = (config.views.crop[0] * 5 // 4, config.views.crop[1] * 5 // 4)
    students = config.method.views_of_student if config.method.branches else None
    stream = Stream(in_memory(8, size), views=config.views, sizes=config.batch, students=students, seed=config.seed)
    return [stream[step].to(device) for step in range(count)]


def _agreeing(config: Config, state: State, batch: Batch) -> Callable[[], None]:
    """What warps the teacher's answer into the student's views, and takes the consistency loss and its gradient."""
    method, moment = config.method, Moment(state.step, config.steps, config.seed)
    plan = method.plan(
        batch, student=state.student, teacher=state.teacher, views=config.views, moment=moment, past=state.past
    )
    answer, tasks = plan.answer, plan.tasks
    logits = [torch.randn_like(task.target.data).requires_grad_() for task in tasks]

    def run() -> None:
        assert answer is not None
        warped = [replace(task, target=answer.seen_from(task.seen)) for task in tasks]
        torch.autograd.grad(method.consistency(logits, warped), logits)

    return run
