"""Markdown tables of results, made of run folders: comparisons over seeds, and methods over seeds."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from mtseg.compare import NETWORKS
from mtseg.config import differences, of_run
from mtseg.dots import dots
from mtseg.logged import read, score_of, selected
from mtseg.tally import HEADLINES, headline

Rows = dict[str, dict[int, dict[str, float]]]  # method -> seed -> the scores of its run


def over_seeds(folders: Sequence[Path]) -> str:
    """A Markdown table over comparisons that differ in their seed: mean and sample deviation, in percent.

    Raises ValueError for a folder without a finished comparison, for one seed twice, and for comparisons that
    differ in more than seeds and places.
    """
    found = [_finished(folder) for folder in folders]
    _refuse_unlike(folders, found)
    seeds = _numbered([one["seed"] for one in found])
    name = headline(found[0])
    lines = [
        f"{HEADLINES[name]} on {found[0]['split']} in percent after {found[0]['steps']} steps, {seeds}; each "
        "seed, then mean and sample deviation; best is the best of all evaluations.",
        "",
        "| network | each seed, last | last | best |",
        "| --- | --- | --- | --- |",
    ]
    for row in NETWORKS:
        last, best = ([100 * one[name][row][when] for one in found] for when in ("last", "best"))
        each = ", ".join(f"{value:.1f}" for value in last)
        lines.append(f"| {row} | {each} | {spread(last)} | {spread(best)} |")
    ahead = [100 * (one[name]["teacher"]["last"] - one[name]["supervised-only"]["last"]) for one in found]
    lines.append(f"| teacher over supervised-only | {', '.join(f'{a:+.1f}' for a in ahead)} | {spread(ahead)} | |")
    return "\n".join(lines)


def _numbered(seeds: Sequence[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"


def _refuse_unlike(folders: Sequence[Path], found: Sequence[dict]) -> None:
    for n, (folder, one) in enumerate(zip(folders, found, strict=True)):
        for earlier, other in zip(folders[:n], found[:n], strict=True):
            if one["seed"] == other["seed"]:
                raise ValueError(f"{folder} and {earlier} have the same seed, {one['seed']}; name each seed once")
    for folder in folders[1:]:
        unlike = differences(of_run(folders[0] / "method"), of_run(folder / "method"))
        unlike = [line for line in unlike if not line.partition(":")[0].endswith("seed")]
        if unlike:
            raise ValueError(f"{folders[0]} and {folder} differ in more than their seed:\n  " + "\n  ".join(unlike))


def _finished(folder: Path) -> dict:
    path = folder / "comparison.json"
    if not path.is_file():
        raise ValueError(f"{folder}: no comparison.json; make it with: python tools/compare.py CONFIG out={folder}")
    try:
        found = dict(json.loads(path.read_text()))
        numbers = [found[headline(found)][row][when] for row in NETWORKS for when in ("last", "best")]
        whole = {"split", "seed", "steps"} <= found.keys() and all(isinstance(n, float) for n in numbers)
    except (ValueError, TypeError, KeyError, StopIteration):
        whole = False
    if not whole:
        raise ValueError(f"{path}: not a whole comparison with a score of every network; make it again")
    return found


def spread(values: Sequence[float]) -> str:
    """Mean and sample deviation; of one value, that."""
    return f"{mean(values):.1f} +- {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def of_methods(
    runs: Sequence[Path], *, baseline: str = "supervised", full: str = "supervised_all", vary: Sequence[str] = ()
) -> str:
    """A Markdown table with a row for each method over finished runs in folders NAME/SEED, sorted by the teacher.

    `baseline` is the row that the others are compared with; `full` the one with all labels, where there is one: then
    the share of the gap between the two that a row closes is a column. Percent; last step, mean and sample deviation.

    Raises ValueError for runs that are not finished, that differ in more than method, seeds, the number of labels and
    the keys in `vary` (`batch`), or that have not the same seeds in each row.
    """
    rows = _of_runs(runs, baseline=baseline, full=full, vary=vary)
    one, gap = of_run(runs[0]), " gap closed |" if full in rows else ""
    apart = " held out |" if all("selected" in seed for row in rows.values() for seed in row.values()) else ""
    name = score_of(read(runs[0]), one.eval.split, "teacher").rpartition("/")[2]
    seeds = sorted(next(iter(rows.values())))
    lines = [
        f"{HEADLINES[name]} on {one.eval.split} in percent after {one.steps} steps, {_numbered(seeds)}: the last",
        "evaluation, mean and sample deviation; best is the teacher's best of all evaluations"
        f"{', held out the one that images held out of training chose' if apart else ''}.",
        "",
        f"| method | student | teacher | best |{apart} teacher over {baseline}, each seed |{gap}",
        f"| --- | --- | --- | --- |{' --- |' if apart else ''} --- |{' --- |' if gap else ''}",
    ]
    for name in rows:
        student, teacher, best = ([rows[name][seed][key] for seed in seeds] for key in ("student", "teacher", "best"))
        bases = [rows[baseline][seed]["student"] for seed in seeds]
        ahead = [value - base for value, base in zip(teacher, bases, strict=True)]
        line = f"| {name} | {spread(student)} | {spread(teacher)} | {spread(best)} | "
        line += f"{spread([rows[name][seed]['selected'] for seed in seeds])} | " if apart else ""
        line += ", ".join(f"{value:+.1f}" for value in ahead) + " |"
        if gap:
            whole = mean(rows[full][seed]["student"] for seed in seeds) - mean(bases)
            line += f" {100 * mean(ahead) / whole:.0f} % |" if whole > 0 else " - |"
        lines.append(line)
    return "\n".join(lines)


def plot_of_methods(
    runs: Sequence[Path], *, baseline: str = "supervised", full: str = "supervised_all", vary: Sequence[str] = ()
) -> str:
    """The teachers of the same table as a picture (SVG), with lines at `baseline` and `full`. Raises what it raises."""
    rows = _of_runs(runs, baseline=baseline, full=full, vary=vary)
    one = of_run(runs[0])
    name = score_of(read(runs[0]), one.eval.split, "teacher").rpartition("/")[2]
    values = {method: [seeds[seed]["teacher"] for seed in sorted(seeds)] for method, seeds in rows.items()}
    title = f"{HEADLINES[name]} of the teacher on {one.eval.split} after {one.steps} steps, %"
    return dots(title, values, lines=[line for line in (baseline, full) if line in rows])


def _of_runs(runs: Sequence[Path], *, baseline: str, full: str, vary: Sequence[str]) -> Rows:
    """The scores of `runs`, the method with the best teacher first."""
    rows: Rows = {}
    for run in runs:
        rows.setdefault(run.parent.name, {})[of_run(run).seed] = _scores(run)
    _refuse_unlike_runs(runs, rows, full=full, vary=vary)
    if baseline not in rows:
        raise ValueError(f"no run of {baseline!r} among {', '.join(rows)}; name its folders too, or another baseline")
    best = sorted(rows, key=lambda name: -mean(seed["teacher"] for seed in rows[name].values()))
    return {name: rows[name] for name in best}


def _scores(run: Path) -> dict[str, float]:
    """Last student, last and best teacher of a finished run, in percent, and the one `selected` on images held out."""
    config = of_run(run)
    lines = read(run)
    try:
        keys = {name: score_of(lines, config.eval.split, name) for name in ("student", "teacher")}
    except ValueError as error:
        raise ValueError(f"{run}: {error}") from None
    found = [line for line in lines if keys["teacher"] in line]
    if not found or found[-1]["step"] != config.steps or None in (found[-1][key] for key in keys.values()):
        raise ValueError(f"{run}: not finished, or without a score at step {config.steps}; run its command again")
    best = max(line[keys["teacher"]] for line in found if line[keys["teacher"]] is not None)
    chosen = selected(lines, config.eval.split, "teacher")
    return ({"selected": 100 * chosen[0]} if chosen else {}) | {
        "student": 100 * found[-1][keys["student"]],
        "teacher": 100 * found[-1][keys["teacher"]],
        "best": 100 * best,
    }


def _refuse_unlike_runs(runs: Sequence[Path], rows: Rows, *, full: str, vary: Sequence[str]) -> None:
    if sum(len(seeds) for seeds in rows.values()) != len(runs):
        raise ValueError("a method has the same seed twice; name each run once")
    if len({tuple(sorted(seeds)) for seeds in rows.values()}) > 1:
        shown = "; ".join(f"{name}: {sorted(seeds)}" for name, seeds in rows.items())
        raise ValueError(f"the rows have different seeds ({shown}); train what is missing")
    own = ("method", "views", "model.heads", *vary)
    for run in runs[1:]:
        unlike = [
            line
            for line in differences(of_run(runs[0]), of_run(run))
            if not line.startswith(own)
            and not line.partition(":")[0].endswith("seed")
            and not (line.startswith("data.labels:") and full in (run.parent.name, runs[0].parent.name))
        ]
        if unlike:
            listed = "\n  ".join(unlike)
            raise ValueError(
                f"{runs[0]} and {run} differ in more than method and seed:\n  {listed}\n"
                f"If that is what is compared, say so: --vary {unlike[0].partition(':')[0]}"
            )
