"""Findings about the run that a config asks for on this data: steps, memory, disk, a machine."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from mtseg.config import Config
from mtseg.data.files import Files
from mtseg.doctor.finding import Finding, megabytes
from mtseg.doctor.pools import shares
from mtseg.doctor.survey import Survey
from mtseg.estimate import estimate
from mtseg.log import lasting
from mtseg.optim import Sgd
from mtseg.state import pick_device

BACKWARD = 2  # forwards that a backward takes as long as
DAY = 86400.0  # seconds
UNEVEN = 50  # times as many labelled pixels of one class as of another
TRIED, TRIES = 0.5, 9  # seconds, and how often at most


@dataclass(frozen=True)
class Plan:
    """What a run will need. Bytes; `step` is a sentence on its memory.

    `forward`: seconds that one crop takes on this CPU, and `seconds` about what all steps do; None on a GPU.
    """

    labelled_passes: float
    unlabelled_passes: float
    batch: int  # uint8 views of a step, as they leave a worker
    waiting: int  # the batches that the workers hold ready, in shared memory
    step: str
    parameters: int
    checkpoints: int
    images: int  # their files
    free: int  # in the file system of out=
    forward: float | None = None
    seconds: float | None = None

    def facts(self) -> dict[str, str]:
        """The lines of the report."""
        return {
            "passes": f"labelled images {self.labelled_passes:.1f}, unlabelled images {self.unlabelled_passes:.1f}",
            "a batch": f"{megabytes(self.batch)} of views, {megabytes(self.waiting)} held ready by the workers",
            "a step": self.step,
            "parameters": f"{self.parameters / 1e6:.2f} million",
            "on the disk": f"images {megabytes(self.images)}, checkpoints {megabytes(self.checkpoints)}, "
            f"free {megabytes(self.free)}",
        } | ({"on this CPU": f"about {lasting(self.seconds)}, without evaluations"} if self.seconds is not None else {})


def plan(config: Config, survey: Survey) -> Plan:
    """Measure the run: one forward of one crop. Raises ValueError for a network that cannot be built, or fails."""
    channels, read_here = survey.splits.channels, not config.model.downloads()
    network = config.model.build(
        len(survey.splits.classes), channels=channels, rgb=survey.splits.rgb, pretrained=read_here
    )
    parameters = sum(parameter.numel() for parameter in network.parameters())
    sizes, branches = config.batch, config.method.branches
    area = config.views.crop[0] * config.views.crop[1]
    views = 1 + config.method.views_of_student if branches else 0
    view = area * channels * _bytes(survey)
    batch = view * (sizes.labelled + sizes.unlabelled * views) + area * sizes.labelled  # the label's one byte
    took = _try(network, config.views.crop, channels=channels)
    on_cpu = config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available())
    forward = took if on_cpu else None
    copies = 4 if isinstance(config.optimizer, Sgd) else 5  # student, shadow, teacher; momentum, or two moments
    return Plan(
        labelled_passes=config.steps * sizes.labelled / max(1, len(survey.splits.labelled)),
        unlabelled_passes=config.steps * sizes.unlabelled / max(1, len(survey.splits.unlabelled)) if branches else 0.0,
        batch=batch,
        waiting=batch * config.prefetch * config.workers,
        step=estimate(config, len(survey.splits.classes), len(survey.splits.unlabelled)).sentence(),
        parameters=parameters,
        checkpoints=4 * copies * parameters * (config.keep + 1),  # one more while it is written
        images=sum(entry.image.bytes for entry in survey.distinct()),
        free=shutil.disk_usage(_existing(config.out)).free,
        forward=forward,
        seconds=None if forward is None else forward * config.steps * _forwards(config),
    )


def _forwards(config: Config) -> int:
    """Of single crops in a step, with backwards counted as such."""
    labelled, asked = config.batch.forward if config.method.branches else (config.batch.labelled, 0)
    return (1 + BACKWARD) * (labelled + len(config.method.branches) * asked) + asked


def of_plan(config: Config, survey: Survey, needs: Plan) -> Iterator[Finding]:
    """The findings that follow from needs."""
    yield from _uneven(config, survey)
    try:
        pick_device(config.device)
    except ValueError as error:  # of the machine that looks, which need not be the one that trains
        yield Finding("warning", "device", str(error))
    if config.method.branches and needs.unlabelled_passes < 1:
        text = f"steps: {config.steps} see {needs.unlabelled_passes:.0%} of the unlabelled images, none of them twice"
        yield Finding("note", "part-of-a-pass", text)
    if config.method.branches and (unfinished := config.method.unfinished(config.steps)):
        yield Finding("warning", "ramp-longer-than-the-run", f"method.ramp: {unfinished}; shorten it, or raise steps")
    if needs.seconds is not None and needs.seconds > DAY:
        text = (
            f"steps: about {lasting(needs.seconds)} on this CPU, {needs.forward:.2g} s a crop: take a GPU, or lower "
            "steps, batch or views.crop, or take a smaller model"
        )
        yield Finding("warning", "days-on-a-cpu", text)
    if needs.free < needs.checkpoints:
        text = (
            f"out: {megabytes(needs.free)} are free where {config.out} will be, and the checkpoints take "
            f"{megabytes(needs.checkpoints)}; choose another out=, or a smaller keep="
        )
        yield Finding("error", "disk-full", text)


def _uneven(config: Config, survey: Survey) -> Iterator[Finding]:
    pixels = [share.pixels for share in shares(survey, "labelled")[:-1]]
    held = [number for number, count in enumerate(pixels) if count]
    if config.balance or not held:
        return
    rare, common = min(held, key=lambda n: pixels[n]), max(held, key=lambda n: pixels[n])
    if pixels[common] > UNEVEN * pixels[rare]:
        names, every = survey.splits.classes, sum(pixels)
        text = (
            f"{names[rare]} is {100 * pixels[rare] / every:.2g} % of the labelled pixels and {names[common]} "
            f"{100 * pixels[common] / every:.2g} %: with a balance, rare classes count more; compare with and without"
        )
        yield Finding("note", "classes-uneven", text, suggestion="balance=0.5")


def _bytes(survey: Survey) -> int:
    """Bytes of a value of a pixel."""
    source = survey.splits.labelled
    return 4 if isinstance(source, Files) and any(layer.range for layer in source.channels.layers) else 1


def _try(network: torch.nn.Module, crop: tuple[int, int], *, channels: int = 3) -> float:
    """The seconds of a forward of one crop, the median of some. Raises ValueError where the network fails on it."""
    images, took = torch.zeros(1, channels, *crop), [0.0]
    try:
        with torch.inference_mode():
            network.eval()(images)  # the first is slower than any other
            while sum(took) < TRIED and len(took) <= TRIES:
                begun = time.perf_counter()
                network(images)
                took.append(time.perf_counter() - begun)
    except RuntimeError as error:
        raise ValueError(f"model: fails on a crop of {crop[0]} x {crop[1]}: {error}") from error
    return median(took[1:])


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next((place for place in (path.absolute(), *path.absolute().parents) if place.exists()), Path("/"))
