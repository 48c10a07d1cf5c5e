"""Findings about channels other than red, green and blue, and the normalisation that they need."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from mtseg.config import Config
from mtseg.data.channels import COLOURS
from mtseg.data.kinds import channels_of
from mtseg.doctor.facts import Values
from mtseg.doctor.finding import Finding, amount
from mtseg.doctor.survey import Survey
from mtseg.views import Policy, StudentPolicy

CONSTANT = 1e-4  # standard deviation below which a channel says nothing
BEYOND = 1.0  # how far outside of [0, 1], in such ranges, values are beyond those that `range` names
NARROW = 0.2  # of a range, below which brightness and gamma of it say little of the values
OFF = 2.0  # factor between a standard deviation that is given and the true one


def of_channels(config: Config, survey: Survey) -> Iterator[Finding]:
    """The findings. Nothing is said of images of red, green and blue whose normalisation has three entries."""
    splits, found = survey.splits, measured(survey)
    if found:
        each = "; ".join(_said(n, values) for n, values in enumerate(found))
        yaml = _yaml(config, survey, found)
        text = f"{amount(splits.channels, 'channel')}: {each}; for the config, in YAML: views: {yaml}"
        yield Finding("note", "channels", text)
    yield from _normalisation(config, survey, found)
    for n, values in enumerate(found):
        if values.variance**0.5 < CONSTANT:
            text = f"channel {n} is {values.mean:.4g} almost everywhere, and says nothing: leave it out (take)"
            yield Finding("warning", "channel-constant", text)
        elif values.low < -BEYOND or values.high > 1 + BEYOND:
            text = (
                f"channel {n} goes from {values.low:.4g} to {values.high:.4g}, where 0 and 1 are the ends of its range "
                "in data.channels; nothing is clipped but what is shown: are these the ends that are meant?"
            )
            yield Finding("warning", "channel-range", text)
        elif values.high - values.low < NARROW and (ends := _ends(config, n, values)):
            text = (
                f"channel {n} fills {values.high - values.low:.1%} of its range in data.channels, between whose ends "
                f"colours work: a range of [{ends[0]:.4g}, {ends[1]:.4g}] holds all that was read"
            )
            yield Finding("note", "channel-narrow", text)
    try:
        completed(config, survey, colours=True).views.check(splits.channels, rgb=splits.rgb)
    except ValueError as error:
        yield Finding("error", "views", str(error))


def _ends(config: Config, number: int, values: Values) -> tuple[float, float] | None:
    """The raw values that a channel's lowest and highest are; None for one of 8 bits, which has no range."""
    layers = [layer for layer in channels_of(config.data).layers for _ in range(layer.used)]
    ends = layers[number].range if number < len(layers) else None
    if ends is None:
        return None
    low, high = (ends[0] + at * (ends[1] - ends[0]) for at in (values.low, values.high))
    return low, high


def measured(survey: Survey) -> list[Values]:
    """What the values of each channel of all readable training images are; nothing for red, green and blue alone."""
    images = {e.image.name: e.image for e in survey.of("labelled", "unlabelled") if e.image.values}.values()
    if not images:
        return []
    weights = np.array([image.size[0] * image.size[1] for image in images], np.float64)
    weights /= weights.sum()
    facts = np.array([[(v.low, v.high, v.mean, v.variance) for v in image.values] for image in images])
    mean = np.einsum("i,ic->c", weights, facts[..., 2])
    square = np.einsum("i,ic->c", weights, facts[..., 3] + facts[..., 2] ** 2)
    each = (facts[..., 0].min(0), facts[..., 1].max(0), mean, np.maximum(square - mean**2, 0))
    return [Values(*map(float, one)) for one in zip(*each, strict=True)]


def completed(config: Config, survey: Survey, *, colours: bool = False) -> Config:
    """`config` with what its views lack to show these images: normalisation, of those without red, green and blue as
    measured, and (unless `colours`) without colours that are not for them."""
    views, splits, found = config.views, survey.splits, measured(survey)
    if views.channels != splits.channels or (found and not splits.rgb):
        mean, std = _suggested(config, survey, found)
        views = replace(views, mean=mean, std=std)
    if not splits.rgb and not colours:
        plain = {name: _uncoloured(getattr(views, name)) for name in views.refused_colours(splits.channels)}
        views = replace(views, **plain)  # type: ignore[arg-type]
    return replace(config, views=views)


def _uncoloured(policy: Policy | StudentPolicy) -> Policy | StudentPolicy:
    return replace(policy, colour=(), pick=None)


def _normalisation(config: Config, survey: Survey, found: Sequence[Values]) -> Iterator[Finding]:
    views, splits = config.views, survey.splits
    if views.channels != splits.channels and not found:
        text = (
            f"views.mean: {views.channels} entries, and the images have {amount(splits.channels, 'channel')}; those of "
            "the training images are not known, for none could be read: mend the files, and ask again"
        )
        yield Finding("error", "normalisation", text)
        return
    yaml = _yaml(config, survey, found)
    if views.channels != splits.channels:
        kept = splits.rgb and views.channels >= COLOURS
        text = (
            f"views.mean: {views.channels} entries, and the images have {amount(splits.channels, 'channel')}; in YAML, "
            f"those of the training images{', but for red, green and blue,' if kept else ''} are views: {yaml}"
        )
        yield Finding("error", "normalisation", text, suggestion=f"views={yaml}")
        return
    first = COLOURS if splits.rgb else 0  # those of red, green and blue are the pretraining's
    off = [n for n in range(first, len(found)) if _is_off(views.mean[n], views.std[n], found[n])]
    if off:
        text = (
            f"views.mean and views.std of {', '.join(f'channel {n}' for n in off)} are far from those of the training "
            f"images; in YAML, these are views: {yaml}"
        )
        yield Finding("warning", "normalisation-off", text, suggestion=f"views={yaml}")


def _is_off(mean: float, std: float, values: Values) -> bool:
    true = values.variance**0.5
    return true >= CONSTANT and (abs(mean - values.mean) > true or not 1 / OFF <= std / true <= OFF)


def _yaml(config: Config, survey: Survey, found: Sequence[Values]) -> str:
    mean, std = _suggested(config, survey, found)
    return f"{{mean: {_listed(mean)}, std: {_listed(std)}}}"


def _suggested(config: Config, survey: Survey, found: Sequence[Values]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of each channel: those of the config for red, green and blue, those of the images for the others."""
    mean = [round(values.mean, 4) for values in found] or [0.5] * survey.splits.channels
    std = [round(max(values.variance**0.5, CONSTANT), 4) for values in found] or [0.25] * survey.splits.channels
    if survey.splits.rgb and config.views.channels >= COLOURS:
        mean[:COLOURS], std[:COLOURS] = config.views.mean[:COLOURS], config.views.std[:COLOURS]
    return tuple(mean), tuple(std)


def _listed(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:g}' for value in values)}]"


def _said(number: int, values: Values) -> str:
    std = values.variance**0.5
    return f"{number} from {values.low:.3g} to {values.high:.3g}, mean {values.mean:.4g}, std {std:.4g}"
