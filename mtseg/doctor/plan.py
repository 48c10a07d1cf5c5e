"""Findings about the run that a config asks for on this data: steps, memory, disk, a machine."""

import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtseg.config import Config
from mtseg.data.files import Files
from mtseg.device import pick_device
from mtseg.doctor.finding import Finding, megabytes
from mtseg.doctor.pools import shares
from mtseg.doctor.survey import Survey
from mtseg.idle import idle
from mtseg.run.duration import Duration, on_cpu, tried
from mtseg.run.estimate import estimate
from mtseg.run.log import lasting

DAY = 86400.0  # seconds
UNEVEN = 50  # times as many labelled pixels of one class as of another
PART = 0.25  # of an image in a crop, below which where crops lie decides what is seen


@dataclass(frozen=True)
class Plan:
    """What a run will need. Bytes; `step` is a sentence on its memory.

    `duration`: on this CPU; None on a GPU.
    """

    labelled_passes: float
    unlabelled_passes: float
    batch: int  # uint8 views of a step, as they leave a worker
    waiting: int  # what the workers of training and of an evaluation hold ready, in shared memory
    step: str
    parameters: int
    checkpoints: int
    images: int  # their files
    free: int  # in the file system of out=
    duration: Duration | None = None

    def facts(self) -> dict[str, str]:
        """The lines of the report."""
        return {
            "passes": f"labelled images {self.labelled_passes:.1f}, unlabelled images {self.unlabelled_passes:.1f}",
            "a batch": f"{megabytes(self.batch)} of views, {megabytes(self.waiting)} held ready by the workers",
            "a step": self.step,
            "parameters": f"{self.parameters / 1e6:.2f} million",
            "on the disk": f"images {megabytes(self.images)}, checkpoints {megabytes(self.checkpoints)}, "
            f"free {megabytes(self.free)}",
        } | ({"on this CPU": self.duration.sentence()} if self.duration else {})


def plan(config: Config, survey: Survey) -> Plan:
    """Measure the run: one forward of one crop. Raises ValueError for a network that cannot be built, or fails."""
    channels, read_here = survey.splits.channels, config.load_from is None and not config.fetches
    network = config.model.build(
        len(survey.splits.classes), channels=channels, rgb=survey.splits.rgb, pretrained=read_here
    )
    parameters = sum(parameter.numel() for parameter in network.parameters())
    sizes, branches = config.batch, config.method.branches
    area = config.views.crop[0] * config.views.crop[1]
    views = 1 + config.method.views_of_student if branches else 0
    view = area * channels * _bytes(survey)
    batch = view * (sizes.labelled + sizes.unlabelled * views) + area * sizes.labelled  # the label's one byte
    duration = on_cpu(config, network, len(survey.splits.classes), channels=channels)
    if duration is None:
        tried(network, config.views.crop, channels=channels)  # it may fail on a crop all the same
    step = estimate(config, network, len(survey.splits.classes), len(survey.splits.unlabelled))
    return Plan(
        labelled_passes=config.steps * sizes.labelled / max(1, len(survey.splits.labelled)),
        unlabelled_passes=config.steps * sizes.unlabelled / max(1, len(survey.splits.unlabelled)) if branches else 0.0,
        batch=batch,
        waiting=batch * config.prefetch * config.workers + (_ahead(config, survey) if duration is None else 0),
        step=step.sentence(),
        parameters=parameters,
        # One more while it is written.
        checkpoints=step.checkpoint(config) * (config.keep + len(config.eval.chosen_on) + 1),
        images=sum(entry.image.bytes for entry in survey.distinct()),
        free=shutil.disk_usage(_existing(config.out)).free,
        duration=duration,
    )


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
    yield from (Finding("note", "without-effect", sentence) for sentence in idle(config))
    if (takes := needs.duration) is not None and takes.steps > DAY:
        text = (
            f"steps: about {lasting(takes.steps)} on this CPU, {takes.forward:.2g} s a crop: take a GPU, or lower "
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
    """Words for classes of very different shares of the labelled pixels, where none is given already."""
    pixels = [share.pixels for share in shares(survey, "labelled")[:-1]]
    held = [number for number, count in enumerate(pixels) if count]
    rare, common = (choose(held, key=lambda n: pixels[n], default=0) for choose in (min, max))
    if not held or pixels[common] <= UNEVEN * pixels[rare]:
        return
    names, every = survey.splits.classes, sum(pixels)
    of_rare = f"{names[rare]} is {100 * pixels[rare] / every:.2g} % of the labelled pixels"
    if not config.balance:
        text = (
            f"{of_rare} and {names[common]} {100 * pixels[common] / every:.3g} %: with a balance, rare classes count "
            "more; compare with and without"
        )
        yield Finding("note", "classes-uneven", text, suggestion="balance=0.5")
    if not config.views.copy_paste and config.model.dense and len(survey.splits.labelled) > 1:
        text = (
            f"{of_rare}: the half of its classes that a labelled view shows least of can be pasted onto another one, "
            "and is then seen at more places; compare with and without"
        )
        yield Finding("note", "rare-things", text, suggestion="views.copy_paste=0.5")
    shown = _shown(config, survey)
    if shown < PART and not config.views.oversample:
        text = (
            f"{of_rare}, and a labelled crop shows {shown:.0%} of an image: most hold nothing of what is small or "
            "rare. A share of them can be placed on pixels of classes drawn alike; compare with and without"
        )
        yield Finding("note", "rare-in-crops", text, suggestion="views.oversample=0.33")


def _shown(config: Config, survey: Survey) -> float:
    """The share of a labelled image of median size that a crop shows at the middle of the scales."""
    geometry, images = config.views.labelled.geometry, [entry.image.size for entry in survey.of("labelled")]
    if not config.model.dense:
        return 1.0
    if geometry.area is not None:
        return math.sqrt(math.prod(geometry.area))
    sides = np.array(config.views.crop) / math.sqrt(math.prod(geometry.scale))
    return float(np.minimum(1, sides / np.maximum(1, np.median(images, axis=0))).prod())


def _ahead(config: Config, survey: Survey) -> int:
    """Bytes of the images that an evaluation's workers hold ready on a GPU, if all are as large as the largest."""
    pools = [[math.prod(entry.image.size) for entry in survey.of(pool)] for pool in config.eval.pools]
    area, count = max((max(areas, default=0), len(areas)) for areas in pools)
    blocks = min(config.workers, -(-count // config.eval.batch))
    return area * survey.splits.channels * _bytes(survey) * min(count, config.eval.batch * blocks)


def _bytes(survey: Survey) -> int:
    """Bytes of a value of a pixel."""
    source = survey.splits.labelled
    return 4 if isinstance(source, Files) and any(layer.range for layer in source.channels.layers) else 1


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next((place for place in (path.absolute(), *path.absolute().parents) if place.exists()), Path("/"))
