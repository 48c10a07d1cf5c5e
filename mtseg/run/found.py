"""Which of a run's checkpoints is meant: the last, the best, that of a step."""

from pathlib import Path

from rich.console import Console

from mtseg.run import checkpoint


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
        raise ValueError(f"{place} is damaged ({error}); ask for another step") from error


def _chosen(run: Path, by: str) -> Path:
    pointed = checkpoint.chosen(run / "checkpoints", by)
    if pointed is None:
        needs = " (only a run with eval.select=holdout has one)" if by == "holdout" else ""
        raise ValueError(f"{run}: checkpoints/{by}.json names no checkpoint{needs}; ask for the last, or a step")
    return pointed.place
