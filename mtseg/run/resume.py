"""Continuing a run: whether the folder's run is the one that is asked for, and where it stands."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mtseg.config import Config, of_run
from mtseg.run import checkpoint
from mtseg.settings.differences import differences, under

# What is saved would not fit another one of these, or would be another run.
FIXED = ("data", "model", "norm", "method.teacher.kind", "optimizer.kind", "seed")
MOVABLE = ("method.teacher.runs",)  # they may lie elsewhere by now; that their weights are the same is seen to


@dataclass(frozen=True)
class Standing:
    """The newest whole checkpoint of the run in a folder, none for a new one; what is wrong with newer ones; what the
    user should know."""

    saved: checkpoint.Checkpoint | None = None
    damaged: dict[Path, str] = field(default_factory=dict)
    sentences: tuple[str, ...] = ()


def continued(config: Config) -> tuple[checkpoint.Checkpoint | None, list[str]]:
    """The checkpoint that `config`'s run continues from, and what the user should know.

    Damaged checkpoints are set aside, and what scores there are of a run that was here before a new one. Raises
    ValueError as `standing` does.
    """
    found = standing(config)
    for place in found.damaged:
        checkpoint.set_aside(place)
    before = [] if found.saved else [checkpoint.set_aside(path, "former") for path in _scores(config.out)]
    names = ", ".join(path.name for path in before)
    told = [f"{config.out}: scores of the run that was here before are set aside: {names}"] if before else []
    return found.saved, [*found.sentences, *told]


def _scores(folder: Path) -> list[Path]:
    return sorted(path for pattern in ("eval_*.json", "eval_*.csv", "evaluation.json") for path in folder.glob(pattern))


def standing(config: Config) -> Standing:
    """Where the run in `config`'s folder stands; nothing is written.

    A folder with checkpoints holds a run. Raises ValueError where it is another one, but for the settings that
    `accept_changes` names.
    """
    folder = config.out / "checkpoints"
    if config.resume == "never" and (config.out / "config.yaml").exists():
        raise ValueError(f"out: {config.out} holds a run already and resume is never; choose another out=")
    if not checkpoint.steps(folder):
        begun = (config.out / "metrics.jsonl").exists()
        return Standing(sentences=(f"{config.out}: a run without a checkpoint, so it begins again",) if begun else ())
    before = of_run(config.out)
    if config.data.kind == "given" and before.data.kind != "given":  # whose config once named others
        before = replace(before, data=config.data)
    changed = [line for line in differences(before, config) if not under(line.partition(":")[0], MOVABLE)]
    accepted = _accepted(config, changed)
    saved, damaged = checkpoint.load_newest(folder)
    if accepted and saved.step == config.steps:
        lines = "\n  ".join(accepted)
        raise ValueError(
            f"out: {config.out} is finished, so nothing would be done with other settings; give more steps, leave "
            f"these out (tools/eval.py takes other ways to score), or choose another out=:\n  {lines}"
        )
    if saved.step > config.steps:
        raise ValueError(f"steps: {config.steps} are fewer than the {saved.step} that {config.out} has done already")
    going_on = [f"continuing {config.out} at step {saved.step}"] if saved.step < config.steps else []
    told = (*damaged.values(), *going_on, *(f"changed, as accepted: {line}" for line in accepted))
    told += _rates(before, config, saved.step) if accepted else ()
    return Standing(saved, damaged, told)


def _rates(before: Config, now: Config, step: int) -> tuple[str, ...]:
    """A sentence where the learning rate leaps, as where a schedule is stretched over more steps."""
    last, goes_on = before.schedule(step - 1, before.steps), now.schedule(step, now.steps)
    unlike = abs(goes_on - last) > 0.1
    text = (
        f"look: the learning rate was {last:.2g} of optimizer.lr and goes on at {goes_on:.2g}, as the schedule has it"
    )
    return (f"{text} now; a run of so many steps from the start is another one",) if unlike else ()


def _accepted(config: Config, changed: Sequence[str]) -> list[str]:
    """`changed`, all of which is accepted. Raises ValueError with what is not, and how it could be."""
    keys = [line.partition(":")[0] for line in changed]
    fixed = [line for line, key in zip(changed, keys, strict=True) if under(key, FIXED)]
    refused = [line for line, key in zip(changed, keys, strict=True) if not under(key, config.accept_changes)]
    if fixed or refused:
        lines = "\n  ".join(dict.fromkeys([*fixed, *refused]))
        others = dict.fromkeys(_named(line.partition(":")[0], keys) for line in refused)
        names = ", ".join([*config.accept_changes, *others])
        remedy = "" if fixed else f'; or, to continue it with the new ones, give "accept_changes=[{names}]"'
        raise ValueError(
            f"out: {config.out} holds a run with other settings; choose another out=, or restore them{remedy}:\n"
            f"  {lines}"
        )
    return list(changed)


def _named(key: str, changed: Sequence[str]) -> str:
    """What accepts the change of `key`: the part that is of another kind, some of whose keys are there no more."""
    kinds = [name.removesuffix(".kind") for name in changed if name.endswith(".kind")]
    return next((part for part in sorted(kinds, key=len) if under(key, [part])), key)
