"""A finished run's networks, from its folder; and whether these can teach another run."""

from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from mtseg.config import Config, of_run
from mtseg.data.kinds import channels_of
from mtseg.data.provenance import learnt_classes, names_of, recorded
from mtseg.data.source import Splits
from mtseg.distil import Frozen, Renormalised
from mtseg.models.norm import normed
from mtseg.precision import memory_format
from mtseg.run import checkpoint
from mtseg.views import Views
from mtseg.whiten import refuse_another


def network_of(
    config: Config, classes: int, *, device: torch.device, pretrained: bool = False, rgb: bool = True
) -> nn.Module:
    """The network of a run at step 0, on the device; its initial weights are drawn from PyTorch's generator."""
    built = config.model.build(classes, channels=config.views.channels, rgb=rgb, pretrained=pretrained)
    moved: nn.Module = normed(built, config.norm, device)
    return moved.to(device, memory_format=memory_format(config.precision, device))  # type: ignore[call-overload]


def networks_of(
    config: Config, classes: int, saved: checkpoint.Checkpoint, run: Path, *, device: torch.device
) -> dict[str, nn.Module]:
    """The student and the teacher of `saved`, a checkpoint of `run`. Raises ValueError where they do not fit."""
    student = network_of(config, classes, device=device)
    networks = {"student": student, "teacher": config.method.teacher.build(student, 0, classes).module}
    load_networks(networks, saved, run)
    return {name: network.eval() for name, network in networks.items()}


def load_networks(networks: dict[str, nn.Module], saved: checkpoint.Checkpoint, run: Path) -> None:
    """Put the weights of `saved` into the student and the teacher. Raises ValueError where they do not fit."""
    for name, network in networks.items():
        try:
            network.load_state_dict(getattr(saved, name))
        except RuntimeError as error:
            raise ValueError(
                f"{run}: the {name} of step {saved.step} does not fit the network of its config.yaml, whose weights "
                "have other names or sizes; take the model and the number of classes that it was trained with"
            ) from error


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
