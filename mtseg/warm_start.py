"""A run that begins as a network of a finished one, in the place of weights that are drawn or of an encoder alone."""

from dataclasses import replace

import torch
from torch import nn

from mtseg.config import Config, of_run
from mtseg.data.kinds import channels_of
from mtseg.data.provenance import learnt_classes
from mtseg.data.source import Splits
from mtseg.lessons import values_of, what_was_learnt
from mtseg.load_from import LoadFrom
from mtseg.networks import network_of, networks_of, other_network
from mtseg.run import checkpoint
from mtseg.run.found import found
from mtseg.whiten import refuse_another


def begin(student: nn.Module, rule: LoadFrom, config: Config, splits: Splits) -> list[str]:
    """Give `student`, a network of `config`, the weights that `rule` names, but for what is of other classes; sentences
    on what it begins as, and as `what_was_learnt` says.

    Raises ValueError for a run that is not there, and for one of another network, normalisation, or kind of images.
    """
    theirs, saved, learnt = _begun(rule)
    _refuse_unlike(rule, theirs, config)
    alone = replace(theirs, norm="process") if theirs.norm == "sync" else theirs
    network = networks_of(alone, len(learnt), saved, rule.run, device=torch.device("cpu"))[rule.network]
    weights = network.state_dict()
    if weights.keys() != student.state_dict().keys():
        raise ValueError(
            f"load_from.network: the {rule.network} of {rule.run} is several networks (method.teacher.kind: "
            f"{theirs.method.teacher.kind}), of which one is needed; use load_from.network=student"
        )
    anew = _of_classes(config, len(learnt)) if learnt != splits.classes else set()
    student.load_state_dict({name: value for name, value in weights.items() if name not in anew}, strict=False)
    digest = checkpoint.weights_of(rule.run / "checkpoints", saved.step, rule.network)
    begins = f"begins as the {rule.network} of {rule.run}, step {saved.step} (weights {digest[:12]})"
    begins += "; it learnt other classes, so what is of the classes is drawn anew" if anew else ""
    step = saved.step if rule.at == "last" else None
    return [begins, *what_was_learnt("load_from.run", rule.run, step, config, splits)]


def tried(config: Config, splits: Splits) -> list[str]:
    """What `begin` says of a network that is made for it; nothing where a run begins as no other. Raises as `begin`."""
    if config.load_from is None:
        return []
    network = network_of(config, len(splits.classes), device=torch.device("cpu"), rgb=splits.rgb)
    return begin(network, config.load_from, config, splits)


def _begun(rule: LoadFrom) -> tuple[Config, checkpoint.Checkpoint, tuple[str, ...]]:
    """The config of the run, its checkpoint, and its classes."""
    try:
        theirs = of_run(rule.run)
        learnt = learnt_classes(rule.run, otherwise=()) or theirs.data.build().classes
        return theirs, found(rule.run, str(rule.at)), learnt
    except ValueError as error:
        raise ValueError(f"load_from.run: {rule.run} cannot be begun as: {error}") from error


def _refuse_unlike(rule: LoadFrom, theirs: Config, config: Config) -> None:
    """Raises ValueError where a network of `theirs` is no network of `config`, or is for other images."""
    if other := other_network(theirs, config):
        raise ValueError(
            f"load_from.run: {rule.run} is a run of another network than this one ({', '.join(other)}), whose weights "
            "fit its own alone; give its settings, or load_from=null"
        )
    for what, there, here in (
        ("data.channels", *(values_of(channels_of(of.data)) for of in (theirs, config))),
        ("views", theirs.views.normalisation, config.views.normalisation),
    ):
        if there != here:
            raise ValueError(
                f"load_from.run: {rule.run} has other {what} ({there}) than this run ({here}); give the same, or "
                "load_from=null"
            )
    refuse_another(rule.run, config.views.standard)


def _of_classes(config: Config, classes: int) -> set[str]:
    """The tensors of the config's network whose size is that of the classes."""
    sizes = []
    for number in (classes, classes + 1):
        network = config.model.build(number, channels=config.views.channels, pretrained=False)
        sizes.append({name: value.shape for name, value in network.state_dict().items()})
    return {name for name, size in sizes[0].items() if sizes[1][name] != size}
