"""Findings about images' sizes against the crop, and about the scales at which they are seen and asked at."""

import math
from collections.abc import Iterable, Iterator

import numpy as np

from mtseg.config import Config
from mtseg.doctor.finding import Finding, amount
from mtseg.doctor.survey import Survey
from mtseg.geometry import Geometry
from mtseg.predictors import Predictor
from mtseg.tta import LEAST_SCALE

CORNER = 0.5  # of an image's side: the crops of published recipes show more, at the smallest scale
HALF = 0.5  # of a crop's area
STRIDE = 16  # of usual networks, which pad other crops
Scale = tuple[float, float]


def of_sizes(config: Config, survey: Survey) -> Iterator[Finding]:
    """What follows from the sizes. Suggestions of several findings can be taken together."""
    yield from _sizes(config, survey)
    corner = _corner(config, survey)
    yield from corner
    if not any(finding.suggestion for finding in corner):  # which sees to what is asked too
        yield from _asked(config)


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


def _corner(config: Config, survey: Survey) -> list[Finding]:
    """Views that never show half of a side of an image of their pool's median size, if any."""
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
        return []
    worst = min(low, key=lambda view: shown[view])
    crop, median = (f"{height} x {width}" for height, width in (config.views.crop, sizes[worst]))
    text = (
        f"views.{', views.'.join(low)}: a crop of {crop} shows at most {shown[worst]:.0%} of a side of an image of "
        f"median size, {median}: nothing large is ever seen whole. For images of small things, as from the air, it may "
        "be right; else raise views.crop, or lower the scales, and ask at them too"
    )
    lowered = {view: _rounded(shown[worst] * edge for edge in geometry.scale) for view, geometry in geometries.items()}
    fits = low == list(geometries) and all(geometry.area is None for geometry in geometries.values())
    if not fits or math.sqrt(math.prod(lowered["labelled"])) < LEAST_SCALE:
        larger = [math.ceil(side * CORNER / shown[worst] / STRIDE) * STRIDE for side in config.views.crop]
        times = math.prod(larger) / math.prod(config.views.crop)
        text += f"; a crop of {larger[0]} x {larger[1]}, of {times:.2g} times the pixels, shows half of it"
        return [Finding("warning", "crop-is-a-corner", text, suggestion=f"views.crop={larger}")]
    word = ", ".join(f"{view}: {{geometry: {{scale: [{a:g}, {b:g}]}}}}" for view, (a, b) in lowered.items())
    return [
        Finding(
            "warning",
            "crop-is-a-corner",
            text,
            suggestion=f"views={{{word}}}",
            also=_asking(config.eval.predictor, lowered["labelled"]),
        )
    ]


def _rounded(values: Iterable[float]) -> Scale:
    """Two of them, as they are written."""
    low, high = (float(f"{value:.2g}") for value in values)
    return low, high


def _asked(config: Config) -> Iterator[Finding]:
    """Images that are asked about at scales at which none was seen."""
    geometry, predictor = config.views.labelled.geometry, config.eval.predictor
    if geometry.area is None and not _seen(predictor, geometry.scale):
        (least, most), asked = geometry.scale, predictor.augment.scales
        text = (
            f"eval.predictor: asks at scale {', '.join(f'{scale:g}' for scale in asked)}, and labelled images are seen "
            f"at {least:g} to {most:g} (views.labelled.geometry.scale); ask at one among these"
        )
        yield Finding("warning", "asked-at-another-scale", text, suggestion=_asking(predictor, geometry.scale))


def _seen(predictor: Predictor, seen: Scale) -> bool:
    """Whether it asks at one of the scales at least at which images are `seen`."""
    return any(seen[0] <= scale <= seen[1] for scale in predictor.augment.scales)


def _asking(predictor: Predictor, seen: Scale) -> str:
    """The word that asks in the middle of what is `seen`; empty where that is asked already, or is too small to be."""
    middle = math.sqrt(math.prod(seen))
    if _seen(predictor, seen) or middle < LEAST_SCALE:
        return ""
    return f"eval.predictor={{kind: {predictor.kind}, augment: {{scales: [{middle:.2g}]}}}}"


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
