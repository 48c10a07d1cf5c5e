"""The whole examination: build the data set, read it, judge it, and what can still be said where it cannot be built."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mtseg.config import Config
from mtseg.data.files import Pool, files
from mtseg.data.masks import in_order
from mtseg.data.match import Images
from mtseg.data.palette import voc_colours
from mtseg.data.provenance import Expected, provenance
from mtseg.data.search import search
from mtseg.data.source import Source, Splits
from mtseg.data.tree import is_image
from mtseg.doctor.cache import kept, of_cache
from mtseg.doctor.channels import completed, of_channels
from mtseg.doctor.files import of_files
from mtseg.doctor.finding import SEVERITIES, Finding
from mtseg.doctor.machine import Machine, of_installation, of_loading
from mtseg.doctor.plan import Plan, of_plan, plan
from mtseg.doctor.pools import Share, of_pools, shares
from mtseg.doctor.sizes import of_sizes
from mtseg.doctor.survey import Survey, survey
from mtseg.doctor.unread import of_unread
from mtseg.fits import unfit
from mtseg.lessons import refuse_other_lessons, told
from mtseg.run import checkpoint
from mtseg.warm_start import tried


@dataclass(frozen=True)
class Report:
    """What was found, errors first, and what the data set is.

    `classes`: of each class, and of what is ignored in the end, its share of the labelled and of the scored images'
    pixels, and how many images it is in. `read`: the files, where the data set could be built.
    """

    findings: tuple[Finding, ...]
    facts: dict[str, str] = field(default_factory=dict)
    classes: dict[str, dict[str, Share]] = field(default_factory=dict)
    read: Survey | None = None


def examine(config: Config, here: Machine, *, splits: Splits | None = None, workers: int | None = None) -> Report:
    """Read the data set of a config (or `splits` in its place), by its `workers` or as many, and judge all."""
    workers = config.workers if workers is None else workers
    found = list(of_installation(here))
    built, wrong = (splits, []) if splits is not None else _built(config)
    built, unfit = _apart(config, built)
    found += [*wrong, *unfit]
    found += of_unread(config.data) if splits is None else ()
    if built is None:
        found += [*_loose(config, workers), *of_loading(here, workers=config.workers, waiting=0)]
        return Report(_sorted(found))
    read, scored = survey(built, workers=workers), config.eval.split
    found += of_files(read, maps=hasattr(config.data, "mask_map"))
    without = isinstance(getattr(config.data, "unlabelled", None), Images)
    found += of_pools(read, scored=scored, unlabelled=bool(config.method.branches), without=without)
    found += of_channels(config, read)
    cache = kept(read)
    found += of_cache(cache) if cache else []
    facts = {"data": provenance(built).sentence(), "root": str(getattr(config.data, "root", "none: no files"))}
    facts |= {"cache": cache.sentence()} if cache else {}
    waiting = 0
    if not here.broken:  # no network can be built on a torchvision that cannot be imported
        needs, wrong = _needs(completed(config, read), read)
        found += wrong
        facts |= needs.facts() if needs else {}
        waiting = needs.waiting if needs else 0
        found += _of_start(config, built)
    found += _of_teachers(config, built)
    found += of_loading(here, workers=config.workers, waiting=waiting)
    names = (*built.classes, "(ignored)")
    columns = {pool: shares(read, pool) for pool in ("labelled", scored)}
    classes = {name: {pool: column[i] for pool, column in columns.items()} for i, name in enumerate(names)}
    return Report(_sorted(found), facts, classes, read)


def _sorted(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


def _built(config: Config) -> tuple[Splits | None, list[Finding]]:
    """The data set, without the counts that it should have where they are not those that it has."""
    data: Any = config.data
    try:
        return data.build(), []
    except (ValueError, OSError) as error:
        message = str(error)
    if not message.startswith("data.expect."):
        return None, [Finding("error", "data", message)]
    return replace(data, expect=Expected()).build(), [Finding("error", "expect", message)]


def _apart(config: Config, built: Splits | None) -> tuple[Splits | None, list[Finding]]:
    """The data set with the images held out that a checkpoint is chosen by, where they can be."""
    try:
        return (None if built is None else config.eval.apart(built, config.seed)), []
    except ValueError as error:
        return built, [Finding("error", "holdout", str(error))]


def _needs(config: Config, read: Survey) -> tuple[Plan | None, list[Finding]]:
    try:
        _refuse_unfit(config, read)
        needs = plan(config, read)
    except ValueError as error:
        return None, [Finding("error", "model", str(error))]
    return needs, [*of_sizes(config, read), *of_plan(config, read, needs)]


def _of_teachers(config: Config, built: Splits) -> list[Finding]:
    """Of the finished runs that are to teach."""
    try:
        refuse_other_lessons(config, built)
    except ValueError as error:
        return [Finding("error", "teacher", str(error))]
    return [Finding("warning", "teacher", sentence) for sentence in told(config, built)]


def _of_start(config: Config, built: Splits) -> list[Finding]:
    """Of the finished run that this one is to begin as, where it has not begun."""
    try:
        sentences = [] if checkpoint.steps(config.out / "checkpoints") else tried(config, built)
    except ValueError as error:
        return [Finding("error", "load-from", str(error))]
    return [Finding("warning" if number else "note", "load-from", text) for number, text in enumerate(sentences)]


def _refuse_unfit(config: Config, read: Survey) -> None:
    """Raises ValueError where the network is not for the labels, of which those that can be read tell."""
    masks = (entry.mask for entry in read.of("labelled", "val", "test"))
    pixels = next((mask.pixels for mask in masks if mask is not None and not mask.fault), None)
    if pixels is not None and (reason := unfit(config, dimensions=2 if pixels > 1 else 0)):
        raise ValueError(reason)


def _loose(config: Config, workers: int) -> list[Finding]:
    """What is wrong with the files under the root alone, whatever they are meant for."""
    root = getattr(config.data, "root", None)
    if not isinstance(root, Path) or not root.is_dir():
        return []
    try:
        names = sorted(name for name in search(root, set()) if is_image(name))
    except ValueError as error:
        return [Finding("error", "data", str(error))]
    nothing: Source = files(root, Pool([], []), in_order(1))
    every = files(root, Pool(names, []), in_order(1))
    loose = Splits(("any",), voc_colours(1), nothing, every, nothing, nothing)
    found = of_files(survey(loose, workers=workers), maps=False)
    return [finding for finding in found if finding.code == "image-unreadable"]
