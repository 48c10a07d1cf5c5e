"""How finished runs of several methods ended, and what they scored on the way: what tables and plots are made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from mtseg.config import differences, of_run
from mtseg.logged import read, score_of, selected
from mtseg.tally import HEADLINES


@dataclass(frozen=True)
class Course:
    """A run's scores in percent at each evaluation, {step: score}, and the one `selected` on images held out."""

    student: Mapping[int, float]
    teacher: Mapping[int, float]
    selected: float | None


@dataclass(frozen=True)
class Standings:
    """Runs of several methods that compare: method -> seed -> course, the method with the best teacher first.

    `baseline` is the method that the others are compared with, `full` the one with all labels, which may be missing;
    `called` is the score (`mIoU`), of images of `split`; all ended at step `steps`.
    """

    courses: Mapping[str, Mapping[int, Course]]
    baseline: str
    full: str
    called: str
    split: str
    steps: int

    @property
    def seeds(self) -> list[int]:
        """Those that each method has."""
        return sorted(self.courses[self.baseline])

    def last(self, method: str, network: str) -> list[float]:
        """The last score of `student` or `teacher` of each seed."""
        return [getattr(self.courses[method][seed], network)[self.steps] for seed in self.seeds]

    def evaluations(self) -> list[int]:
        """The steps at which every run was evaluated."""
        every = [set(course.teacher) for seeds in self.courses.values() for course in seeds.values()]
        return sorted(set.intersection(*every))


def standings(
    runs: Sequence[tuple[str, Path]],
    *,
    baseline: str = "supervised",
    full: str = "supervised_all",
    vary: Sequence[str] = (),
) -> Standings:
    """How `runs`, methods' names and folders, ended.

    Raises ValueError for runs that are not finished, that differ in more than method, seeds, the number of labels and
    the keys in `vary` (`batch`), or that have not the same seeds for each method, and where no run is `baseline`'s.
    """
    courses: dict[str, dict[int, Course]] = {}
    for name, run in runs:
        courses.setdefault(name, {})[of_run(run).seed] = _course(run)
    _refuse_unlike(runs, courses, full=full, vary=vary)
    if baseline not in courses:
        raise ValueError(
            f"no run of {baseline!r} among {', '.join(courses)}; name its folders too, or another baseline"
        )
    one = of_run(runs[0][1])
    best = sorted(courses, key=lambda name: -mean(course.teacher[one.steps] for course in courses[name].values()))
    called = HEADLINES[score_of(read(runs[0][1]), one.eval.split, "teacher").rpartition("/")[2]]
    return Standings({name: courses[name] for name in best}, baseline, full, called, one.eval.split, one.steps)


def _course(run: Path) -> Course:
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
    return Course(found["student"], found["teacher"], 100 * chosen[0] if chosen else None)


def _refuse_unlike(
    runs: Sequence[tuple[str, Path]],
    courses: Mapping[str, Mapping[int, Course]],
    *,
    full: str,
    vary: Sequence[str],
) -> None:
    if sum(len(seeds) for seeds in courses.values()) != len(runs):
        raise ValueError("a method has the same seed twice; name each run once")
    if len({tuple(sorted(seeds)) for seeds in courses.values()}) > 1:
        shown = "; ".join(f"{name}: {sorted(seeds)}" for name, seeds in courses.items())
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
