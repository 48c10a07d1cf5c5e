"""An evaluation, from files to scores, against the forwards of its network."""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mtseg.bench.asked import Asked
from mtseg.bench.made import CLASSES, in_files, scene
from mtseg.bench.paired import Group, Ratio, clock_of, timed
from mtseg.data.source import Source
from mtseg.evaluate import evaluate
from mtseg.models.smp import Smp
from mtseg.predictors import Predictor, Slide, Whole, joined
from mtseg.predictors import asked as answering
from mtseg.views import Views

BATCH, FILES = 4, 16  # a quarter of the files is for val
VIEWS = Views(crop=(320, 320))
WINDOWS = (128, 320)
CASES: dict[str, tuple[str, tuple[int, int], Predictor]] = {
    "mobilenet_v2, whole 500x375": ("mobilenet_v2", (375, 500), Whole()),
    "mobilenet_v2, windows of 320x320 in 500x375": ("mobilenet_v2", (375, 500), Slide(window=(320, 320))),
}


def measure(asked: Asked) -> Iterator[Group]:
    """A group for each of CASES, with DeepLabV3+, and of windows that share a forward; in seconds of an image."""
    for name, (encoder, size, predictor) in CASES.items():
        if asked.case in name:
            yield _measured(f"an image, {name}", encoder, size, predictor, asked)
    for side in WINDOWS:
        name = f"one image of 500x900, mobilenet_v2, windows of {side}x{side}"
        if asked.case in name:
            yield _in_windows(name, side, asked)


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
