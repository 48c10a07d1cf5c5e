"""Findings about the run that a config asks for on this data: sizes against the crop, steps, memory, disk."""

import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from mtseg.config import Config
from mtseg.data.files import Files
from mtseg.doctor.finding import Finding, amount, megabytes
from mtseg.doctor.pools import shares
from mtseg.doctor.survey import Survey
from mtseg.estimate import estimate
from mtseg.geometry import Geometry
from mtseg.log import lasting
from mtseg.optim import Sgd
from mtseg.predictors import LEAST_SCALE
from mtseg.state import pick_device

CORNER = 0.5  # of an image's side: the crops of published recipes show more, at the smallest scale
HALF = 0.5  # of a crop's area
STRIDE = 16  # of usual networks, which pad other crops
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
    """The findings that follow from sizes and needs."""
    yield from _sizes(config, survey)
    yield from _corner(config, survey)
    yield from _asked(config)
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


def _sizes(config: Config, survey: Survey) -> Iterator[Finding]:
    (height, width), images = config.views.crop, [e.image for e in survey.distinct() if e.image.size != (0, 0)]
    if not images:
        return
    sizes = np.array([image.size for image in images])
    low, middle, high = (np.quantile(sizes, q, axis=0).astype(int) for q in (0, 0.5, 1))
    text = f"all images are {low[0]} x {low[1]}"
    if tuple(low) != tuple(high):
        text = f"images are {low[0]} to {high[0]} high (median {middle[0]}), {low[1]} to {high[1]} wide ({middle[1]})"
    yield Finding("note", "sizes", f"{text}; the crop is {height} x {width} (height x width)")
    policies = {"labelled": config.views.labelled, "unlabelled": config.views.teacher}
    for pool, policy in policies.items():
        if pool == "unlabelled" and not config.method.branches:
            continue
        if policy.geometry.area is None:  # a share of an image fills every crop
            yield from _small(survey, pool, (height, width), policy.geometry.scale)


def _corner(config: Config, survey: Survey) -> Iterator[Finding]:
    """Views that never show half of a side of an image of their pool's median size."""
    geometries: dict[str, Geometry] = {}
    shown: dict[str, float] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for view, pool in {"labelled": "labelled", "teacher": "unlabelled", "student": "unlabelled"}.items():
        geometry = getattr(config.views, view).geometry
        images = [entry.image.size for entry in survey.of(pool) if entry.image.size != (0, 0)]
        if images and isinstance(geometry, Geometry) and (pool == "labelled" or config.method.branches):
            high, wide = np.median(images, axis=0).astype(int).tolist()
            geometries[view], sizes[view] = geometry, (high, wide)
            shown[view] = geometry.reach(crop=config.views.crop, image=sizes[view])
    low = [view for view in shown if shown[view] < CORNER]
    if not low:
        return
    worst = min(low, key=lambda view: shown[view])
    crop, median = (f"{height} x {width}" for height, width in (config.views.crop, sizes[worst]))
    text = (
        f"views.{', views.'.join(low)}: a crop of {crop} shows at most {shown[worst]:.0%} of a side of an image of "
        f"median size, {median}: nothing large is ever seen whole. For images of small things, as from the air, it may "
        "be right; else raise views.crop, or lower the scales, and ask at them too"
    )
    lowered = {view: [shown[worst] * edge for edge in geometry.scale] for view, geometry in geometries.items()}
    fits = low == list(geometries) and all(geometry.area is None for geometry in geometries.values())
    word = ", ".join(f"{view}: {{geometry: {{scale: [{a:.2g}, {b:.2g}]}}}}" for view, (a, b) in lowered.items())
    fits = fits and math.sqrt(math.prod(lowered["labelled"])) >= LEAST_SCALE
    yield Finding("warning", "crop-is-a-corner", text, suggestion=f"views={{{word}}}" if fits else "")


def _asked(config: Config) -> Iterator[Finding]:
    """Images that are asked about at scales at which none was seen."""
    geometry, predictor = config.views.labelled.geometry, config.eval.predictor
    (least, most), asked = geometry.scale, predictor.augment.scales
    if geometry.area is None and not any(least <= scale <= most for scale in asked):
        text = (
            f"eval.predictor: asks at scale {', '.join(f'{scale:g}' for scale in asked)}, and labelled images are seen "
            f"at {least:g} to {most:g} (views.labelled.geometry.scale); ask at one among these"
        )
        middle = math.sqrt(least * most)
        word = f"eval.predictor={{kind: {predictor.kind}, augment: {{scales: [{middle:.2g}]}}}}"
        yield Finding("warning", "asked-at-another-scale", text, suggestion=word if middle >= LEAST_SCALE else "")


def _small(survey: Survey, pool: str, crop: tuple[int, int], scale: tuple[float, float]) -> Iterator[Finding]:
    """Images that fill no crop at scale 1, less than half of it at the middle scale, or none at any that is drawn."""
    most, middle = scale[1], math.sqrt(scale[0] * scale[1])
    images = [entry.image for entry in survey.of(pool) if entry.image.size != (0, 0)]
    images = list({image.name: image for image in images}.values())
    sides = np.array([image.size for image in images]).reshape(-1, 2)
    never = [images[i] for i in np.flatnonzero((sides * most < np.array(crop)).any(axis=1))]
    small = [images[i] for i in np.flatnonzero((sides < np.array(crop)).any(axis=1))]
    if never:
        h, w = min(image.size for image in never)
        text = (
            f"{pool}: {amount(len(never), 'image')} of {len(images)} never fill the crop of {crop[0]} x {crop[1]}, not "
            f"even at the largest scale ({most:g}): the smallest is {h} x {w}; lower views.crop, or raise the scale"
        )
        yield Finding("warning", "never-fills-the-crop", text, tuple(image.name for image in never))
    elif (filled := np.minimum(1, sides * middle / crop).prod(1).mean().item() if images else 1) < HALF:
        fits = [max(STRIDE, int(side) // STRIDE * STRIDE) for side in np.minimum(np.median(sides, 0) * middle, crop)]
        text = (
            f"{pool}: at {middle:.2g}, the middle of the scales, {filled:.0%} of a crop of {crop[0]} x {crop[1]} is "
            "image, and the rest its mirror image, which teaches nothing; lower views.crop, or raise the scale"
        )
        yield Finding("warning", "mostly-padding", text, suggestion=f"views.crop=[{fits[0]}, {fits[1]}]")
    elif small:
        text = f"{pool}: {amount(len(small), 'image')} of {len(images)} are smaller than the crop: padded at scale 1"
        yield Finding("note", "smaller-than-the-crop", text, tuple(image.name for image in small))


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
