"""Finished runs that teach another: their networks, and whether it can learn from them."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from mtseg.config import Config, of_run
from mtseg.data.channels import Channels
from mtseg.data.kinds import channels_of
from mtseg.data.provenance import files_of, learnt_classes, names_of, recorded
from mtseg.data.source import Splits
from mtseg.distil import Frozen, Renormalised
from mtseg.networks import networks_of
from mtseg.run import checkpoint
from mtseg.run.found import found
from mtseg.views import Views
from mtseg.whiten import refuse_another


def _lessons(config: Config) -> list[tuple[Path, str]]:
    """The runs that teach, and at which checkpoint; empty where the teacher is another."""
    rule = config.method.teacher
    return [(run, str(rule.at)) for run in rule.runs] if isinstance(rule, Frozen) else []


def teaching(config: Config, classes: int) -> list[nn.Module]:
    """The networks of the runs that teach, on the CPU; none where the teacher is another. Raises as `answering`."""
    rule = config.method.teacher
    return answering(rule, config.views, classes, torch.device("cpu"))[0] if isinstance(rule, Frozen) else []


def answering(rule: Frozen, views: Views, classes: int, device: torch.device) -> tuple[list[nn.Module], list[str]]:
    """The networks of a rule's runs, which are asked about images as `views` normalise them, and what tells each one's
    weights: their SHA-256, and the step. Raises ValueError for a run that is not there, or has other `classes`."""
    networks, digests = [], []
    for run in rule.runs:
        try:
            config, saved = of_run(run), found(run, str(rule.at))
            alone = (
                replace(config, norm="process") if config.norm == "sync" else config
            )  # which differ in training only
            network = networks_of(alone, classes, saved, run, device=device)["teacher"]
        except ValueError as error:
            raise ValueError(f"method.teacher.runs: {run} cannot answer: {error}") from error
        own = config.views
        if own.standard is None and (own.mean, own.std) != (views.mean, views.std):
            network = Renormalised(network, own=own, given=views).to(device)
        networks.append(network)
        digest = checkpoint.weights_of(run / "checkpoints", saved.step, "teacher")
        digests.append(f"{digest} of step {saved.step}")
    return networks, digests


def refuse_other_lessons(config: Config, splits: Splits) -> None:
    """Raises ValueError where a run that a `frozen` teacher names is none, or learnt something else: other classes, or
    from images of another kind. Reads the runs' folders."""
    refuse_untaught(config)
    for run, _ in _lessons(config):
        theirs = of_run(run)
        learnt = learnt_classes(run, otherwise=()) or theirs.data.build().classes
        for what, there, here in (
            ("classes", ", ".join(learnt), ", ".join(splits.classes)),
            ("data.channels", values_of(channels_of(theirs.data)), values_of(channels_of(config.data))),
            ("an answer for every pixel", theirs.model.dense, config.model.dense),
            ("views.standard", *(getattr(of.views.standard, "kind", "mean and std") for of in (theirs, config))),
        ):
            if there != here:
                raise ValueError(
                    f"method.teacher.runs: {run} has other {what} ({there}) than this run ({here}), whose images it is "
                    "asked about; name runs that have the same"
                )
        refuse_another(run, config.views.standard)
        sides = getattr(theirs.model, "sides", 1)
        if any(side % sides for side in config.views.crop):
            raise ValueError(
                f"method.teacher.runs: {run} takes sides that are divisible by {sides} (model.kind: "
                f"{theirs.model.kind}), and views.crop is {list(config.views.crop)}; choose another crop"
            )


def refuse_untaught(config: Config) -> None:
    """Raises ValueError where a `frozen` teacher's runs are none, or have no checkpoint to answer with."""
    for run, at in _lessons(config):
        try:
            of_run(run)
            if at != "last":
                found(run, at)
            elif not checkpoint.steps(run / "checkpoints"):
                raise ValueError(f"{run}: no checkpoint yet; train it first")
        except ValueError as error:
            raise ValueError(f"method.teacher.runs: {error}") from error


def values_of(channels: Channels) -> str:
    """What an image's channels hold, wherever they are read from."""
    layers = [
        f"{layer.used} channels" + (f", {list(layer.range)} as 0 to 1" if layer.range else "")
        for layer in channels.layers
    ]
    return "; ".join([*layers, "red, green and blue first" if channels.rgb else "no colours"])


def told(config: Config, splits: Splits) -> list[str]:
    """Sentences on the runs of a `frozen` teacher that `refuse_other_lessons` lets pass: those of `what_was_learnt`."""
    newest = {run: checkpoint.steps(run / "checkpoints")[-1].name for run, at in _lessons(config) if at == "last"}
    steps = {run: int(name.removeprefix("step-")) for run, name in newest.items()}
    found = [what_was_learnt("method.teacher.runs", run, steps.get(run), config, splits) for run, _ in _lessons(config)]
    return [sentence for of_one in found for sentence in of_one]


def what_was_learnt(key: str, run: Path, step: int | None, config: Config, splits: Splits) -> list[str]:
    """Sentences on a run that `config` learns from, as its `key` says: where it is not finished at that `step` (None:
    it was asked for), learnt from other labels, or may have learnt what is scored."""
    name, theirs, sentences = f"{key}: {run}", of_run(run), []
    if step is not None and step < theirs.steps:
        sentences.append(f"{name} stands at step {step} of {theirs.steps}: it is not finished")
    if recorded(run, "labelled").sha256 not in ("", names_of(splits.labelled).sha256):
        sentences.append(
            f"{name} learnt from other labelled images than this run's: compare with methods that have those too"
        )
    scored = [config.eval.split, *(["holdout"] if len(splits.holdout) else [])]
    return sentences + [
        f"{name} was scored on other images than this run's {split}, so it may have learnt from these; a score on what "
        "was learnt says nothing"
        for split in scored
        if not _aside(run, splits, split)
    ]


def _aside(run: Path, splits: Splits, split: str) -> bool:
    """Whether the images of a pool that is scored are a pool that `run` did not learn from, or it does not say."""
    source = getattr(splits, split)
    here = (names_of(source).sha256, files_of(source))
    pools = [recorded(run, pool) for pool in ("val", "test", "holdout")]
    return any((pool.sha256, pool.files or here[1]) == here for pool in pools) or not any(of.sha256 for of in pools)
