"""How finished runs of several methods ended, and what they scored on the way: what tables and plots are made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

from mtseg.config import of_run
from mtseg.inference.scored import Scored, scored, when
from mtseg.results.alike import (
    refuse_apart,
    refuse_scored_otherwise,
    refuse_unknown,
    refuse_unlike,
    refuse_unpaired,
)
from mtseg.run.logged import comparable, score_of, selected
from mtseg.tally import HEADLINES, NETWORKS, headline

OVERALL = {"frequency_weighted_IoU": "frequency-weighted IoU", "pixel_accuracy": "pixel accuracy"}


@dataclass(frozen=True)
class History:
    """A run's scores in percent, {step: score} of the evaluations that had one, and the one `selected` on images
    held out; None where none were. `parts` are the teacher's other scores at the end, its classes' IoU first; None for
    a class that no image has."""

    student: Mapping[int, float]
    teacher: Mapping[int, float]
    selected: float | None
    parts: Mapping[str, float | None] = field(default_factory=dict)

    def last(self, network: str) -> float:
        """The score of `student` or `teacher` at the run's end."""
        of: Mapping[int, float] = getattr(self, network)
        return of[max(of)]


@dataclass(frozen=True)
class Standings:
    """Runs of several methods that compare: method -> seed -> history, the method with the best teacher first.

    `baseline` is the method that the others are compared with, `full` the one with all labels, which may be missing;
    `called` is the score (`mIoU`), of images of `split`, and `when` the point of the runs at which it is taken. Where
    scores are of a file of `tools/eval.py`, and not of the runs' own evaluations, `scored` says how they were asked.
    """

    histories: Mapping[str, Mapping[int, History]]
    baseline: str
    full: str
    called: str
    split: str
    when: str
    scored: str = ""

    @property
    def seeds(self) -> list[int]:
        """Those that each method has."""
        return sorted(self.histories[self.baseline])

    def last(self, method: str, network: str) -> list[float]:
        """The last score of `student` or `teacher` of each seed."""
        return [self.histories[method][seed].last(network) for seed in self.seeds]

    def uncounted(self) -> dict[str, list[str]]:
        """The classes that are in some teachers' means and not in others', by the runs (`method seed`) in whose they
        are not: neither labelled nor predicted."""
        without: dict[str, list[str]] = {}
        for method, seeds in self.histories.items():
            for seed, run in seeds.items():
                for name in (name for name, value in run.parts.items() if value is None):
                    without.setdefault(name, []).append(f"{method} {seed}")
        runs = sum(map(len, self.histories.values()))
        return {name: of for name, of in without.items() if len(of) < runs}

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

    Raises ValueError for runs that are not finished, that differ in more than OF_A_METHOD, seeds, the number of labels
    and the keys in `vary` (`batch`), or that have not the same seeds for each method, and for each seed the same
    images (but for `full`'s labels; and where `vary` names settings of the data); for a key that is no setting; where
    no run is `baseline`'s, or `full`'s; and where a file of `scores` is missing or of other images than the first's.
    """
    refuse_unknown(runs, vary)
    found = _histories(runs)
    for key, method in (("baseline", baseline), ("full", full or baseline)):
        if method not in found:
            raise ValueError(
                f"--{key}: no run of {method!r} among {', '.join(found)}; name its folders too, or one of these: "
                f"--{key} {next(iter(found))}"
            )
    full = full or "supervised_all"
    refuse_unlike(runs, found, full=full, vary=vary)
    if scores is None:
        refuse_scored_otherwise([run for _, run in runs])
    first = runs[0][1]
    one = of_run(first)
    called = HEADLINES[score_of(comparable(first), one.eval.split, "teacher").rpartition("/")[2]]
    steps = span([of_run(run).steps for _, run in runs])
    whole = Standings(found, baseline, full, called, one.eval.split, f"after {steps} steps")
    if scores is None:
        refuse_apart([run for _, run in runs])
    else:
        whole = _rescored(whole, runs, scores)
    if not any(key == "data" or key.startswith("data.") for key in vary):
        refuse_unpaired([run for name, run in runs if name != full], ["labelled"])
        refuse_unpaired([run for _, run in runs], [] if scores else [one.eval.split])
    best = sorted(found, key=lambda name: -mean(run.last("teacher") for run in whole.histories[name].values()))
    return replace(whole, histories={name: whole.histories[name] for name in best})


def _histories(runs: Sequence[tuple[str, Path]]) -> dict[str, dict[int, History]]:
    found: dict[str, dict[int, History]] = {}
    for name, run in runs:
        seed = of_run(run).seed
        if seed in found.get(name, {}):
            raise ValueError(
                f"{run}: the method {name!r} has seed {seed} twice; tables take a run's method from its folder, "
                f"METHOD/SEED, or from a word, METHOD={run}; name each run once"
            )
        found.setdefault(name, {})[seed] = _history(run)
    return found


def _rescored(whole: Standings, runs: Sequence[tuple[str, Path]], scores: str) -> Standings:
    """The same runs by the scores in their files of that name."""
    files = scored([run for _, run in runs], scores)
    found: dict[str, dict[int, History]] = {name: {} for name in whole.histories}
    for name, run in runs:
        found[name][of_run(run).seed] = _of_file(files[run])
    first = files[runs[0][1]]
    return replace(
        whole,
        histories=found,
        called=HEADLINES[headline(first["student"])],
        split=first["split"],
        when=when(first, span([of_run(run).steps for _, run in runs])),
        scored=f"{scores}: {first['protocol']}, labels of {first['resolution']}",
    )


def _of_file(found: Scored) -> History:
    score = headline(found["student"])
    student, teacher = ({found["step"]: 100 * found[network][score]} for network in NETWORKS)
    return History(student, teacher, None, _parts([dict(found)], "teacher"))


def _history(run: Path) -> History:
    config = of_run(run)
    lines = comparable(run)
    found: dict[str, dict[int, float]] = {}
    for network in NETWORKS:
        try:
            key = score_of(lines, config.eval.split, network)
        except ValueError as error:
            raise ValueError(f"{run}: {error}") from None
        scores = {line["step"]: line[key] for line in lines if key in line}
        found[network] = {step: 100 * score for step, score in scores.items() if score is not None}
        if scores.get(config.steps, 0) is None:
            raise ValueError(
                f"{run}: no labelled pixel was asked about at step {config.steps}, so there is no score; look at its "
                "eval.predictor, and at its labels"
            )
        if max(scores) != config.steps or config.steps not in found[network]:
            raise ValueError(f"{run}: not finished, or without a score at step {config.steps}; run its command again")
    chosen = selected(lines, config.eval.split, "teacher")
    parts = _parts(lines, f"{config.eval.split}_teacher")
    return History(found["student"], found["teacher"], 100 * chosen[0] if chosen else None, parts)


def _parts(lines: Sequence[dict[str, Any]], network: str) -> dict[str, float | None]:
    """What the last evaluation that has it says of a network's classes, and of all pixels."""
    last: dict[str, Any] = next((line[network] for line in reversed(lines) if network in line), {})
    found = dict(last.get("IoU", {})) | {said: last[key] for key, said in OVERALL.items() if key in last}
    return {name: None if value is None else 100 * value for name, value in found.items()}


def span(steps: Sequence[int]) -> str:
    """How long runs are: their steps, or the fewest and the most."""
    low, high = min(steps), max(steps)
    return f"{low}" if low == high else f"{low} to {high}"
