"""Several runs on one page: a table, curves laid over one another, mean and spread over those that differ in seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from os.path import commonpath
from pathlib import Path
from statistics import mean
from typing import Any

from mtseg.config import Config, of_run
from mtseg.results.alike import apart, images_of
from mtseg.results.charts import Curve, chart
from mtseg.results.page import document, folded, name_cell, number, table
from mtseg.results.run_page import by_step, scored_by
from mtseg.results.tables import spread
from mtseg.run.logged import comparable
from mtseg.settings.differences import differences
from mtseg.tally import HEADLINES, NETWORKS, percent

CHARTS = {  # the title, and whether it is in percent
    "train/loss_sup": ("supervised loss", False),
    "train/loss_cons": ("consistency loss", False),
    "train/weight": ("weight of the consistency, ramp included", False),
    "train/lr": ("learning rate", False),
    "train/kept": ("targets that are kept, %", True),
    "train/disagreement": ("targets that the student disputes, %", True),
}


@dataclass(frozen=True)
class Run:
    """A run as it is compared: its folder's name among the others, that folder, its config, its lines of metrics."""

    name: str
    folder: Path
    config: Config
    lines: list[dict[str, Any]]

    def curve(self, key: str) -> Curve:
        return Curve(self.name, [(line["step"], line[key]) for line in by_step(self.lines, key)])

    @property
    def score(self) -> str:
        """What it is scored by."""
        return scored_by(self.config, self.lines)

    def scores(self, network: str) -> list[tuple[float, int]]:
        """The score of each evaluation, and its step."""
        key = f"{self.config.eval.split}_{network}/{self.score}"
        return [(line[key], line["step"]) for line in by_step(self.lines, key) if line[key] is not None]

    def at_the_end(self, network: str) -> bool:
        """Whether the network has a score at the run's last step."""
        scores = self.scores(network)
        return bool(scores) and scores[-1][1] == self.config.steps


def page(folders: Sequence[Path]) -> str:
    """The page of at least two runs. Raises ValueError for a folder without a run, and for a folder named twice."""
    paths = [folder.resolve() for folder in folders]
    if len(set(paths)) < len(paths):
        raise ValueError(f"{', '.join(map(str, folders))}: a run is named twice; name each once")
    shared = commonpath([path.parent for path in paths])
    runs = [
        Run(str(path.relative_to(shared)), folder, of_run(folder), comparable(folder))
        for path, folder in zip(paths, folders, strict=True)
    ]
    groups, called = grouped(runs), " or ".join(_called_scores(runs))
    return document(
        f"mtseg: {len(runs)} runs",
        [
            f"<h1>{len(runs)} runs</h1>",
            table(["run", "seed", "step", "split", "student", "teacher", "teacher's best"], map(_row, runs)),
            f'<p class="quiet">{called} in percent, the last evaluation; the best of all flatters.</p>',
            *_over_seeds(groups),
            "<h2>Curves</h2>",
            f'<div class="charts">{"".join(_charts(groups))}</div>',
            "<h2>What differs from the first</h2>",
            *(_difference(groups[0][0], group[0]) for group in groups[1:]),
            "" if groups[1:] else "<p>Nothing but seeds.</p>",
        ],
    )


def grouped(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs that differ in nothing but seeds, together."""
    groups: list[list[Run]] = []
    for run in runs:
        group = next((group for group in groups if not _unlike(group[0], run)), None)
        groups.append([run]) if group is None else group.append(run)
    return groups


def _unlike(one: Run, other: Run, *, paired: bool = False) -> list[str]:
    """How two runs differ; `paired`, in the seeds of their data too."""
    found = differences(one.config, other.config)
    unlike = [line for line in found if paired or not line.partition(":")[0].endswith("seed")]
    return [*unlike, *filter(None, [apart(images_of(one.folder, one.config), images_of(other.folder, other.config))])]


def _row(run: Run) -> str:
    student, teacher = run.scores("student"), run.scores("teacher")
    step = max((line["step"] for line in run.lines), default=0)
    score, at = max(teacher, key=lambda pair: (pair[0], -pair[1]), default=(None, 0))
    best = f"{percent(score)} at {at}" if teacher else "-"
    last = [percent(values[-1][0]) if values else "-" for values in (student, teacher)]
    cells = [str(run.config.seed), f"{step} of {run.config.steps}", run.config.eval.split, *last, best]
    return name_cell(run.name) + "".join(map(number, cells))


def _over_seeds(groups: Sequence[Sequence[Run]]) -> list[str]:
    """Mean and sample deviation of each group of several runs."""
    rows, left_out = [], 0
    for group in groups:
        scored = [run for run in group if all(run.at_the_end(name) for name in NETWORKS)]
        seeds = [run.config.seed for run in scored]
        if len(seeds) < 2 or len(set(seeds)) < len(seeds):
            left_out += len(group) > 1
            continue
        left_out += len(scored) < len(group)
        last = [spread([100 * run.scores(name)[-1][0] for run in scored]) for name in NETWORKS]
        rows.append(name_cell(_called(scored)) + "".join(map(number, [str(len(scored)), *last])))
    heads = ["runs", "seeds", "student", "teacher"]
    note = '<p class="quiet">Without runs that are not finished, and without runs of which a seed is there twice.</p>'
    shown = [table(heads, rows)] if rows else []
    said = [*shown, *([note] if left_out else [])]
    return ["<h2>Mean and sample deviation over seeds</h2>", *said] if said else []


def _called(group: Sequence[Run]) -> str:
    return group[0].name if len(group) == 1 else f"{group[0].name} and {len(group) - 1} more"


def _called_scores(runs: Sequence[Run]) -> dict[str, str]:
    """What the scores of the runs are called, and their names."""
    return {HEADLINES[run.score]: run.score for run in runs}


def _charts(groups: Sequence[Sequence[Run]]) -> list[str]:
    names = _called_scores([run for group in groups for run in group])
    networks = [
        (f"{{}}_{name}/{score}", f"{called} of the {name}, %", True)
        for called, score in names.items()
        for name in NETWORKS
    ]
    keys = [*networks, *((key, title, percent) for key, (title, percent) in CHARTS.items())]
    laid = ((title, [curve for group in groups for curve in _curves(group, key)], share) for key, title, share in keys)
    return [chart(title, curves, percent=share) for title, curves, share in laid]


def _curves(group: Sequence[Run], key: str) -> list[Curve]:
    """The mean of a group in a band of its extremes, where its runs were looked at after the same steps."""
    curves = [run.curve(key.format(run.config.eval.split)) for run in group]
    steps = [[step for step, _ in curve.points] for curve in curves]
    columns = [[value for _, value in curve.points] for curve in curves]
    if len(group) == 1 or any(other != steps[0] for other in steps) or any(None in column for column in columns):
        return curves
    known = list(zip(*([v for v in column if v is not None] for column in columns), strict=True))
    points = [(step, mean(values)) for step, values in zip(steps[0], known, strict=True)]
    return [Curve(_called(group), points, [min(values) for values in known], [max(values) for values in known])]


def _difference(first: Run, other: Run) -> str:
    lines = "\n".join(_unlike(first, other, paired=first.config.seed == other.config.seed))
    return folded(f"{first.name} -> {other.name}", f"<pre>{escape(lines)}</pre>", open_=True)
