"""A run read back from its folder: which checkpoint, its networks, with its data or without."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from torch import nn

from mtseg.config import Config, dump, of_run, splits_of
from mtseg.data.kinds import channels_of
from mtseg.data.provenance import CLASSES, named
from mtseg.data.source import Nothing, Splits
from mtseg.device import pick_device
from mtseg.inference import hub
from mtseg.inference.trained import Name, Trained
from mtseg.run import checkpoint
from mtseg.saved import load_networks
from mtseg.settings.checked import validate
from mtseg.settings.differences import differences
from mtseg.settings.merge import merge
from mtseg.settings.words import gather
from mtseg.state import sized
from mtseg.tally import NETWORKS
from mtseg.whiten import refuse_another


class Restored(NamedTuple):
    """A run's config, its built data, its networks by name, and the step they are from."""

    config: Config
    splits: Splits
    networks: dict[str, nn.Module]
    step: int


def restored(run: Path, words: Sequence[str] = (), *, at: str = "last") -> Restored:
    """A run with its data, with `words` laid on its config. `at` is as in `found`."""
    return next(restored_at(run, words, (at,)))


def restored_at(run: Path, words: Sequence[str], ats: Sequence[str]) -> Iterator[Restored]:
    """`restored` at each of `ats`, with the data read once."""
    config = configured(run, words)
    splits = splits_of(config)
    _refuse_others(run, config, splits)
    for at in ats:
        yield _with(run, config, splits, at)


def _refuse_others(run: Path, config: Config, splits: Splits) -> None:
    """Raises ValueError where words give a run other classes, or a normalisation, than those that it learnt by."""
    path, views = run / CLASSES, of_run(run).views
    if path.is_file() and splits.classes != (learnt := named(path)[0]):
        raise ValueError(
            f"data: its classes are {', '.join(splits.classes)}, and those that {run} learnt are {', '.join(learnt)}; "
            "give data of the same classes in the same order"
        )
    if config.views.normalisation != views.normalisation:
        raise ValueError(
            f"views: {config.views.normalisation}; {run} was trained with {views.normalisation}; leave the words out"
        )


def configured(run: Path, words: Sequence[str]) -> Config:
    """The config of a run with `words` laid on it."""
    return validate(Config, merge(dump(of_run(run)), gather(words)))


def found(run: Path, at: str) -> checkpoint.Checkpoint:
    """A run's checkpoint: the `last` whole one; the `best`, whose teacher had the best score of the evaluations
    while it trained (on the split of these, whatever is scored now); the one that had it on the images held out,
    `holdout`; or that of a step, as digits.

    Raises ValueError where there is none, naming those there are, and for a damaged one that was asked for.
    """
    folder = run / "checkpoints"
    if at == "last":
        saved, damaged = checkpoint.load_newest(folder)
        for sentence in damaged.values():
            Console(stderr=True).print(sentence, markup=False, highlight=False, soft_wrap=True)
        return saved
    at = str(at)
    if at not in checkpoint.CHOICES and not at.isdecimal():
        raise ValueError(f"--at: {at!r} is neither last, best, holdout nor a step; write one of them, as in --at 2000")
    place = folder / checkpoint.name_of(int(at)) if at.isdecimal() else _chosen(run, at)
    if not place.is_dir():
        there = ", ".join(str(int(kept.name.removeprefix("step-"))) for kept in checkpoint.steps(folder)) or "none"
        raise ValueError(
            f"{run}: no checkpoint of step {at}; there are: {there}. A run keeps the newest `keep` of "
            "those that it writes every `checkpoint_every` steps"
        )
    try:
        return checkpoint.load(place)
    except Exception as error:  # what a damaged file raises is up to its reader
        raise ValueError(f"{place} is damaged ({error}); choose another step with --at") from error


def _chosen(run: Path, by: str) -> Path:
    pointed = checkpoint.chosen(run / "checkpoints", by)
    if pointed is None:
        needs = " (only a run with eval.select=holdout has one)" if by == "holdout" else ""
        raise ValueError(f"{run}: checkpoints/{by}.json names no checkpoint{needs}; use --at last, or a step")
    return pointed.place


def _with(run: Path, config: Config, splits: Splits, at: str) -> Restored:
    saved = found(run, at)
    config.views.check(splits.channels, rgb=splits.rgb)
    refuse_another(run, config.views.standard)
    sizes = (len(splits.classes), len(splits.unlabelled))
    state = sized(config, *sizes, device=pick_device(config.device), pretrained=False)
    try:
        load_networks(state, saved, run)
    except ValueError as error:
        if not (other := differences(of_run(run).model, config.model)):
            raise
        told = ", ".join(f"model.{line}" for line in other)
        raise ValueError(
            f"model: the network of a run cannot be changed ({told}): the weights of {run} do not fit another; leave "
            "model... out of the words, or train another run"
        ) from error
    networks = {"student": state.student.eval(), "teacher": state.teacher.module.eval()}
    return Restored(config, splits, networks, saved.step)


def load(run: Path, words: Sequence[str] = (), *, at: str = "last", network: Name = "teacher") -> Trained:
    """A network of a run, to predict with. `words` change its config, such as `device=cpu` or `eval.predictor...`.

    The folder may also be one that `mtseg export` made, which holds one network.
    Raises ValueError for a folder that holds no run, and where the weights do not fit.
    """
    if network not in NETWORKS:
        raise ValueError(f"network: {network!r} is none of a run's; give one of {', '.join(NETWORKS)}")
    if hub.holds(run):
        trained, handed = hub.read(run, words)
        if at not in ("last", str(trained.step)) or (network == "student" != handed.network):
            raise hub.nothing_else(run, handed)
        return trained
    config = configured(run, words)
    config, splits, networks, step = _with(run, config, _classes(run, config), at)
    about = (config.views, config.eval.predictor, splits.classes, splits.palette, step, channels_of(config.data))
    return Trained(networks[network], *about)


def refuse_whole(run: Path, config: Config, why: str) -> None:
    """Raises ValueError for a run whose network answers for whole images, which `why`."""
    if not config.model.dense:
        raise ValueError(
            f"{run}: a network that answers for whole images (model.kind: {config.model.kind}) {why}; use "
            "mtseg.load(RUN).predict(IMAGE)"
        )


def weights_of(run: Path, step: int, network: str) -> str:
    """A network's name and the SHA-256 of its weights, as the checkpoint's manifest has it."""
    if hub.holds(run):
        return hub.weights(run, network)
    place = run / "checkpoints" / checkpoint.name_of(step)
    files = json.loads((place / checkpoint.MANIFEST).read_text())["files"]
    return f"{network} {files[f'{network}.safetensors']['sha256']}"


def _classes(run: Path, config: Config) -> Splits:
    """The run's classes and no images; from its folder, or, for a run that wrote none there, from its data."""
    path = run / CLASSES
    if not path.is_file():
        return config.data.build()
    names, palette = named(path)
    none = Nothing()
    return Splits(names, palette, none, none, none, none, channels=config.views.channels)
