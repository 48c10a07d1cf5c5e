"""Finished runs that teach another: their networks, and whether it can learn from them."""

import torch
from torch import nn

from mtseg.config import Config, of_run
from mtseg.data.kinds import channels_of
from mtseg.data.provenance import learnt_classes, names_of, recorded
from mtseg.data.source import Splits
from mtseg.distil import Frozen, Renormalised
from mtseg.networks import networks_of
from mtseg.run import checkpoint
from mtseg.run.found import found
from mtseg.views import Views
from mtseg.whiten import refuse_another


def answering(rule: Frozen, views: Views, classes: int, device: torch.device) -> tuple[list[nn.Module], list[str]]:
    """The networks of a rule's runs, which are asked about images as `views` normalise them, and the SHA-256 of each
    one's weights. Raises ValueError for a run that is not there, or does not answer for so many `classes`."""
    networks, digests = [], []
    for run in rule.runs:
        config, saved = of_run(run), found(run, str(rule.at))
        network = networks_of(config, classes, saved, run, device=device)["teacher"]
        if (config.views.mean, config.views.std) != (views.mean, views.std):
            network = Renormalised(network, own=config.views, given=views).to(device)
        networks.append(network)
        digests.append(checkpoint.weights_of(run / "checkpoints", saved.step, "teacher"))
    return networks, digests


def refuse_other_lessons(config: Config, splits: Splits) -> None:
    """Raises ValueError where a run that a `frozen` teacher names is none, or learnt something else: other classes, or
    from images of another kind. Reads the runs' folders."""
    rule = config.method.teacher
    for run, at in [(run, str(rule.at)) for run in rule.runs] if isinstance(rule, Frozen) else []:
        try:
            theirs = of_run(run)
            refuse_another(run, theirs.views.standard)
            found(run, at)
        except ValueError as error:
            raise ValueError(f"method.teacher.runs: {error}") from error
        learnt = learnt_classes(run, otherwise=splits.classes)
        for what, there, here in (
            ("classes", ", ".join(learnt), ", ".join(splits.classes)),
            ("data.channels", channels_of(theirs.data), channels_of(config.data)),
            ("an answer for every pixel", theirs.model.dense, config.model.dense),
            ("views.standard", theirs.views.standard, config.views.standard),
        ):
            if there != here:
                raise ValueError(
                    f"method.teacher.runs: {run} has other {what} ({there}) than this run ({here}), whose images it is "
                    "asked about; name runs that have the same"
                )


def scored_on_others(config: Config, splits: Splits) -> list[str]:
    """A sentence for each run of a `frozen` teacher that was scored on other images than this one will be."""
    rule, split = config.method.teacher, config.eval.split
    if not isinstance(rule, Frozen):
        return []
    here = names_of(getattr(splits, split)).sha256
    return [
        f"method.teacher.runs: {run} was scored on other images than this run's {split}, so it may have learnt from "
        "these; a score on what a teacher has learnt says nothing"
        for run in rule.runs
        if recorded(run, split).sha256 not in ("", here)
    ]
