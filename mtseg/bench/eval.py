"""An evaluation, from files to scores, against the forwards of its network."""

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtseg.bench.asked import Asked
from mtseg.bench.made import CLASSES, in_files, scene
from mtseg.bench.paired import Group, Ratio, clock_of, timed
from mtseg.data.source import Source
from mtseg.evaluate import evaluate, evaluate_all
from mtseg.models.smp import Smp
from mtseg.predictors import Predictor, Slide, Whole, joined
from mtseg.predictors import asked as answering
from mtseg.tally import NETWORKS
from mtseg.views import Views

BATCH, FILES = 4, 16  # a quarter of the files is for val
VIEWS = Views(crop=(320, 320))
WINDOWS = (128, 320)
OF_TWO = "an image of 1024x2048, two networks that cost next to nothing"
CASES: dict[str, tuple[str, tuple[int, int], Predictor]] = {
    "mobilenet_v2, whole 500x375": ("mobilenet_v2", (375, 500), Whole()),
    "mobilenet_v2, windows of 320x320 in 500x375": ("mobilenet_v2", (375, 500), Slide(window=(320, 320))),
}


def measure(asked: Asked) -> Iterator[Group]:
    """A group for each of CASES, with DeepLabV3+, of windows that share a forward, and of images that are read for two
    networks; in seconds of an image."""
    for name, (encoder, size, predictor) in CASES.items():
        if asked.case in name:
            yield _measured(f"an image, {name}", encoder, size, predictor, asked)
    for side in WINDOWS:
        name = f"one image of 500x900, mobilenet_v2, windows of {side}x{side}"
        if asked.case in name:
            yield _in_windows(name, side, asked)
    if asked.case in OF_TWO:
        yield _of_two(asked)


def _in_windows(name: str, side: int, asked: Asked) -> Group:
    """What `mtseg predict` asks about an image, one window or several in a forward."""
    device = torch.device(asked.device)
    network = Smp(encoder="mobilenet_v2", weights=Path("none")).build(len(CLASSES)).to(device).eval()
    answer = answering(network, VIEWS, device)
    pixels = torch.from_numpy(scene(0, (500, 900))[0])[None]

    @torch.no_grad()
    def ask(batch: int) -> None:
        joined(Slide(window=(side, side), batch=batch)(answer, pixels), (500, 900))

    cases = {f"{batch} in a forward": partial(ask, batch) for batch in (1, 4, 8)}
    seconds = timed(cases, rounds=asked.rounds, clock=clock_of(device))
    return Group(name, seconds, tuple(Ratio("1 in a forward", f"{batch} in a forward") for batch in (4, 8)))


def _measured(name: str, encoder: str, size: tuple[int, int], predictor: Predictor, asked: Asked) -> Group:
    device, classes = torch.device(asked.device), len(CLASSES)
    network = Smp(encoder=encoder, weights="none").build(classes).to(device).eval()  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as place:
        source = in_files(Path(place), FILES, size).val
        how: dict[str, Any] = {"views": VIEWS, "batch": BATCH, "device": device, "predictor": predictor}
        work = partial(evaluate, network, source, classes=classes, **how)
        cases: dict[str, Callable[[], object]] = {
            "the evaluation": work,
            "its forwards": _forwards(network, work),
            "reading": _reading(source),
        }
        seconds = timed(cases, rounds=asked.rounds, clock=clock_of(device))
    each = {case: [value / len(source) for value in taken] for case, taken in seconds.items()}
    return Group(name, each, (Ratio("its forwards", "the evaluation"),))


class Coarse(nn.Module):
    """A network that costs next to nothing: each block of 16x16 pixels is seen as one."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = nn.Conv2d(3, len(CLASSES), 1)

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = F.interpolate(self.classes(F.avg_pool2d(images, 16)), scale_factor=16)
        return answer


def _of_two(asked: Asked) -> Group:
    """What reading once, and ahead, saves where the networks' own time does not hide it; by the wall clock."""
    device = torch.device(asked.device)
    networks = {name: Coarse().to(device).eval() for name in NETWORKS}
    with tempfile.TemporaryDirectory() as place:
        source = in_files(Path(place), 2 * FILES, (1024, 2048)).val
        how: dict[str, Any] = {"classes": len(CLASSES), "views": VIEWS, "batch": 2, "device": device}

        def apart() -> None:
            for network in networks.values():
                evaluate(network, source, **how)

        cases: dict[str, Callable[[], object]] = {"one after the other": apart}
        for workers, name in ((0, "read once"), (2, "read ahead by 2 processes")):
            cases[name] = partial(evaluate_all, networks, source, **how, workers=workers)
        seconds = timed(cases, rounds=asked.rounds, clock=time.perf_counter)
    each = {case: [value / len(source) for value in taken] for case, taken in seconds.items()}
    first, *others = each
    return Group(OF_TWO, each, tuple(Ratio(first, other) for other in others))


def _forwards(network: nn.Module, work: Callable[[], object]) -> Callable[[], None]:
    """What makes the forwards that `work` makes, with nothing around them."""
    given: list[Tensor] = []
    hook = network.register_forward_pre_hook(lambda _, images: given.append(images[0]))
    work()
    hook.remove()

    @torch.no_grad()
    def run() -> None:
        for images in given:
            network(images)

    return run


def _reading(source: Source) -> Callable[[], None]:
    def run() -> None:
        for index in range(len(source)):
            source.image(index)
            source.label(index)

    return run
