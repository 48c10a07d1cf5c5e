"""A run read back from its folder: which checkpoint, its networks, with its data or without."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn

from mtseg.config import Config, dump, of_run, splits_of
from mtseg.data.kinds import channels_of
from mtseg.data.provenance import CLASSES, learnt_classes, named
from mtseg.data.source import Nothing, Splits
from mtseg.device import pick_device
from mtseg.inference import hub
from mtseg.inference.trained import Name, Trained
from mtseg.networks import networks_of, other_network
from mtseg.run import checkpoint
from mtseg.run.found import found
from mtseg.settings.checked import validate
from mtseg.settings.merge import merge
from mtseg.settings.words import gather
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
    learnt, views = learnt_classes(run, otherwise=splits.classes), of_run(run).views
    if learnt != splits.classes:
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


def _refuse_another_network(run: Path, config: Config) -> None:
    """Raises ValueError where words ask for another network than the run's; its weights might fit all the same."""
    if other := other_network(of_run(run), config):
        raise ValueError(
            f"model: the network of a run cannot be changed ({', '.join(other)}): its weights are for its own; leave "
            "these out of the words, or train another run"
        )


def _with(run: Path, config: Config, splits: Splits, at: str) -> Restored:
    saved = found(run, at)
    config.views.check(splits.channels, rgb=splits.rgb)
    refuse_another(run, config.views.standard)
    _refuse_another_network(run, config)
    networks = networks_of(config, len(splits.classes), saved, run, device=pick_device(config.device))
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
    return Trained(networks[network], *about, dense=config.model.dense, side=getattr(config.data, "side", None))


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
    return f"{network} {checkpoint.weights_of(run / 'checkpoints', step, network)}"


def _classes(run: Path, config: Config) -> Splits:
    """The run's classes and no images; from its folder, or, for a run that wrote none there, from its data."""
    path = run / CLASSES
    if not path.is_file():
        return config.data.build()
    names, palette = named(path)
    none = Nothing()
    return Splits(names, palette, none, none, none, none, channels=config.views.channels)
