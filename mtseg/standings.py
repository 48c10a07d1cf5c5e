"""How finished runs of several methods ended, and what they scored on the way: what tables and plots are made of."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from mtseg.complaints import near
from mtseg.config import of_run
from mtseg.differences import differences, names_of_settings
from mtseg.logged import read, score_of, selected
from mtseg.tally import HEADLINES, headline

# What runs must have been scored by, each alike, to stand in one table.
FACTS = ("split", "sha256", "classes", "protocol", "at")


@dataclass(frozen=True)
class History:
    """A run's scores in percent, {step: score} of the evaluations that had one, and the one `selected` on images
    held out; None where none were."""

    student: Mapping[int, float]
    teacher: Mapping[int, float]
    selected: float | None

    def last(self, network: str) -> float:
        """The score of `student` or `teacher` at the run's end."""
        of: Mapping[int, float] = getattr(self, network)
        return of[max(of)]


@dataclass(frozen=True)
class Standings:
    """Runs of several methods that compare: method -> seed -> history, the method with the best teacher first.

    `baseline` is the method that the others are compared with, `full` the one with all labels, which may be missing;
    `called` is the score (`mIoU`), of images of `split`; the first run had `steps` steps. `scored` says how the images
    were asked, where the scores are of a file of `tools/eval.py` and not of the runs' own evaluations.
    """

    histories: Mapping[str, Mapping[int, History]]
    baseline: str
    full: str
    called: str
    split: str
    steps: int
    scored: str = ""

    @property
    def seeds(self) -> list[int]:
        """Those that each method has."""
        return sorted(self.histories[self.baseline])

    def last(self, method: str, network: str) -> list[float]:
        """The last score of `student` or `teacher` of each seed."""
        return [self.histories[method][seed].last(network) for seed in self.seeds]

    def evaluations(self) -> list[int]:
        """The steps at which any run's teacher was evaluated."""
        every = [set(run.teacher) for seeds in self.histories.values() for run in seeds.values()]
        return sorted(set.union(*every))


def standings(
    runs: Sequence[tuple[str, Path]],
    *,
    baseline: str = "supervised",
    full: str | None = None,
    vary: Sequence[str] = (),
    scores: str | None = None,
) -> Standings:
    """How `runs`, methods' names and folders, ended. `full` is, unless named, `supervised_all` where there is such.

    `scores` names a file that `tools/eval.py` wrote into each run's folder, `eval_test.json`: its scores are taken.

    Raises ValueError for runs that are not finished, that differ in more than method, seeds, the number of labels and
    the keys in `vary` (`batch`), or that have not the same seeds for each method; for a key that is no setting; where
    no run is `baseline`'s, or `full`'s; and where a file of `scores` is missing or of other images than the first's.
    """
    known = sorted({setting for _, run in runs for setting in names_of_settings(of_run(run))}) if vary else []
    for key in vary:
        if key not in known:
            raise ValueError(f"--vary {key}: no setting of these runs{near(key, known, '; ')}")
    files = {run: _scored(run, scores) for _, run in runs} if scores else {}
    _refuse_other_images(files)
    found: dict[str, dict[int, History]] = {}
    for name, run in runs:
        seed = of_run(run).seed
        if seed in found.get(name, {}):
            raise ValueError(
                f"{run}: the method {name!r} has seed {seed} twice; tables read METHOD/SEED from a run's folder: train "
                "with out=runs/METHOD/SEED, and name each run once"
            )
        found.setdefault(name, {})[seed] = _of_file(files[run]) if scores else _history(run)
    for key, method in (("baseline", baseline), ("full", full or baseline)):
        if method not in found:
            raise ValueError(
                f"--{key}: no run of {method!r} among {', '.join(found)}; name its folders too, or another"
            )
    full = full or "supervised_all"
    _refuse_unlike(runs, found, full=full, vary=vary)
    one = of_run(runs[0][1])
    best = sorted(found, key=lambda name: -mean(run.last("teacher") for run in found[name].values()))
    ordered = {name: found[name] for name in best}
    if scores:
        first = files[runs[0][1]]
        called, asked = HEADLINES[headline(first["student"])], f"{first['protocol']}, {first['at']} checkpoint"
        return Standings(ordered, baseline, full, called, first["split"], one.steps, scored=f"{scores}: {asked}")
    called = HEADLINES[score_of(read(runs[0][1]), one.eval.split, "teacher").rpartition("/")[2]]
    return Standings(ordered, baseline, full, called, one.eval.split, one.steps)


def _scored(run: Path, name: str) -> dict[str, Any]:
    """What `tools/eval.py` wrote into `run`/`name`."""
    path = run / name
    if not path.is_file():
        there = sorted(file.name for file in run.glob("eval_*.json"))
        has = f"; the run has {', '.join(there)}" if there else ""
        raise ValueError(
            f"--scores {name}: no {path}{has}; score every run: python tools/eval.py {run} eval.split=test"
        )
    try:
        found = dict(json.loads(path.read_text()))
        numbers = [found[network][headline(found[network])] for network in ("student", "teacher")]
        whole = {"step", *FACTS} <= found.keys() and all(isinstance(number, float) for number in numbers)
    except (ValueError, TypeError, KeyError, StopIteration):
        whole = False
    if not whole:
        raise ValueError(
            f"--scores: {path} has not the scores of a student and of a teacher; make it with tools/eval.py"
        )
    return found


def _refuse_other_images(files: Mapping[Path, Mapping[str, Any]]) -> None:
    for run, found in files.items():
        first, begun = next(iter(files.items()))
        unlike = next((fact for fact in FACTS if found[fact] != begun[fact]), None)
        if unlike:
            raise ValueError(
                f"--scores: {first} and {run} were not scored alike: {unlike} {begun[unlike]} and {found[unlike]}; "
                "score them again with the same words"
            )
        if found["at"] == "last" and found["step"] != of_run(run).steps:
            raise ValueError(
                f"--scores: {run} was scored at step {found['step']} of {of_run(run).steps}; run its command again, "
                "then tools/eval.py"
            )


def _of_file(found: Mapping[str, Any]) -> History:
    score = headline(found["student"])
    student, teacher = ({found["step"]: 100 * found[network][score]} for network in ("student", "teacher"))
    return History(student, teacher, None)


def _history(run: Path) -> History:
    config = of_run(run)
    lines = read(run)
    found: dict[str, dict[int, float]] = {}
    for network in ("student", "teacher"):
        try:
            key = score_of(lines, config.eval.split, network)
        except ValueError as error:
            raise ValueError(f"{run}: {error}") from None
        scores = {line["step"]: line[key] for line in lines if key in line}
        found[network] = {step: 100 * score for step, score in scores.items() if score is not None}
        if max(scores) != config.steps or config.steps not in found[network]:
            raise ValueError(f"{run}: not finished, or without a score at step {config.steps}; run its command again")
    chosen = selected(lines, config.eval.split, "teacher")
    return History(found["student"], found["teacher"], 100 * chosen[0] if chosen else None)


def _refuse_unlike(
    runs: Sequence[tuple[str, Path]],
    found: Mapping[str, Mapping[int, History]],
    *,
    full: str,
    vary: Sequence[str],
) -> None:
    if len({tuple(sorted(seeds)) for seeds in found.values()}) > 1:
        shown = "; ".join(f"{name}: {sorted(seeds)}" for name, seeds in found.items())
        raise ValueError(f"the rows have different seeds ({shown}); train what is missing")
    own = ("method", "views", "model.heads", *vary)
    (first, begun), *rest = runs
    for name, run in rest:
        unlike = [
            line
            for line in differences(of_run(begun), of_run(run))
            if not line.startswith(own)
            and not line.partition(":")[0].endswith("seed")
            and not (line.startswith("data.labels:") and full in (name, first))
        ]
        if unlike:
            listed = "\n  ".join(unlike)
            raise ValueError(
                f"{begun} and {run} differ in more than method and seed:\n  {listed}\n"
                f"If that is what is compared, say so: --vary {unlike[0].partition(':')[0]}"
            )
