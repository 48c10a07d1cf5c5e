"""Markdown tables of results, made of run folders: comparisons over seeds, and methods over seeds."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from mtseg.config import of_run
from mtseg.results.alike import refuse_apart
from mtseg.results.compare import NETWORKS
from mtseg.results.dots import dots
from mtseg.results.standings import Standings
from mtseg.settings.differences import differences
from mtseg.tally import HEADLINES, headline


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
    for folder in folders[1:]:
        unlike = differences(of_run(folders[0] / "method"), of_run(folder / "method"))
        unlike = [line for line in unlike if not line.partition(":")[0].endswith("seed")]
        if unlike:
            raise ValueError(f"{folders[0]} and {folder} differ in more than their seed:\n  " + "\n  ".join(unlike))
    refuse_apart([folder / "method" for folder in folders])
    for n, (folder, one) in enumerate(zip(folders, found, strict=True)):
        for earlier, other in zip(folders[:n], found[:n], strict=True):
            if one["seed"] == other["seed"]:
                raise ValueError(f"{folder} and {earlier} have the same seed, {one['seed']}; name each seed once")


def _finished(folder: Path) -> dict:
    path = folder / "comparison.json"
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; name folders of comparisons, or of runs METHOD/SEED")
    for pattern, what in (("*/comparison.json", "comparisons"), ("**/metrics.jsonl", "runs")):
        inner = sorted(found.parent for found in folder.glob(pattern))
        if inner and not path.is_file() and not (folder / "supervised/config.yaml").is_file():
            named = " ".join(map(str, inner[:3]))
            raise ValueError(f"{folder}: a folder of {what}; name each, as in: python tools/table.py {named}")
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


def of_methods(found: Standings) -> str:
    """A Markdown table with a row for each method: last step, mean and sample deviation, in percent.

    Where there is a method with all labels, the share of the gap between it and the baseline that a row closes is a
    column; where all runs held images out, so is the score of the checkpoint that those chose. Scores of a file, of
    one checkpoint each, have no best of several.
    """
    rows = found.histories
    gap = found.full in rows
    once = bool(found.scored)  # there is one evaluation, and no best of several
    held = all(run.selected is not None for seeds in rows.values() for run in seeds.values())
    spreads = "mean and sample deviation" if len(found.seeds) > 1 else "no other seeds"
    if once:
        last = [f": {spreads}", f"of {found.scored}."]
    else:
        chosen = ", held out the one that images held out of training chose" if held else ""
        of_all = "best is the teacher's best of all evaluations"
        last = [": the last", f"evaluation, {spreads}; {of_all}{chosen}."]
    columns = ["method", "student", "teacher", *([] if once else ["best"]), *(["held out"] if held else [])]
    columns += [f"teacher over {_plain(found.baseline)}, each seed", *(["gap closed"] if gap else [])]
    lines = [
        f"{found.called} on {found.split} in percent {found.when}, {_numbered(found.seeds)}{last[0]}",
        last[1],
        "",
        f"| {' | '.join(columns)} |",
        "|" + " --- |" * len(columns),
    ]
    bases = found.last(found.baseline, "student")
    for name, seeds in rows.items():
        teacher, runs = found.last(name, "teacher"), [seeds[seed] for seed in found.seeds]
        best = [max(run.teacher.values()) for run in runs]
        ahead = [value - base for value, base in zip(teacher, bases, strict=True)]
        cells = [_plain(name), spread(found.last(name, "student")), spread(teacher)]
        cells += [] if once else [spread(best)]
        cells += [spread([run.selected for run in runs if run.selected is not None])] if held else []
        cells += [", ".join(f"{value:+.1f}" for value in ahead)]
        if gap:
            whole = mean(found.last(found.full, "student")) - mean(bases)
            cells += [f"{100 * mean(ahead) / whole:.0f} %" if whole > 0 else "-"]
        lines.append(f"| {' | '.join(cells)} |")
    for name, without in found.uncounted().items():
        lines += [
            "",
            f"Not all means are over the same classes: {name}, which is labelled nowhere, counts as 0 where a",
        ]
        lines += [f"pixel is predicted as it, and not at all in {', '.join(without)}."]
    return "\n".join(lines)


def over_steps(found: Standings) -> str:
    """A Markdown table of the teachers at every evaluation, each seed: what one has who stops there.

    The last column is each row's smallest lead over the baseline's teacher, its averaged weights, of all seeds and all
    steps at which both have a score: below zero, a run that was stopped there had lost.
    """
    steps = found.evaluations()
    lines = [
        f"{found.called} of the teacher on {found.split} in percent, {_numbered(found.seeds)}, by the step; last, the",
        f"smallest lead over {found.baseline}'s averaged weights of all steps and seeds.",
        "",
        "| method | " + " | ".join(map(str, steps)) + " | smallest lead |",
        "| --- |" + " --- |" * (len(steps) + 1),
    ]
    base = found.histories[found.baseline]
    for name, seeds in found.histories.items():
        cells = [_each([seeds[seed].teacher.get(step) for seed in found.seeds]) for step in steps]
        leads = [
            value - base[seed].teacher[step]
            for seed in found.seeds
            for step, value in seeds[seed].teacher.items()
            if step in base[seed].teacher
        ]
        lead = "-" if name == found.baseline or not leads else f"{min(leads):+.1f}"
        lines.append(f"| {_plain(name)} | {' | '.join(cells)} | {lead} |")
    return "\n".join(lines)


def over_classes(found: Standings) -> str:
    """A Markdown table of what the teachers score in each class at the end, and of all pixels: mean and deviation.

    Where there is a method with all labels, the share of the gap that each other one closes stands beside it, of the
    teachers' means. Raises ValueError for runs without scores of classes.
    """
    rows, full = found.histories, found.full in found.histories
    names = list(next(iter(rows[found.baseline].values())).parts)
    if not names:
        raise ValueError("--classes: these runs have no IoU of classes; it is of maps")
    shown = [method for method in rows if method not in (found.baseline, found.full)]
    columns = ["teacher", *map(_plain, rows), *(f"gap closed, {_plain(method)}" for method in shown if full)]
    lines = [
        f"IoU of the teacher on {found.split} in percent {found.when}, {_numbered(found.seeds)}: mean and sample",
        f"deviation{'; the share of the gap is of these means' if full and shown else ''}.",
        "",
        f"| {' | '.join(columns)} |",
        "|" + " --- |" * len(columns),
    ]
    for name in names:
        values = {
            method: _known([seeds[seed].parts.get(name) for seed in found.seeds]) for method, seeds in rows.items()
        }
        cells = [spread(of) if of else "-" for of in values.values()]
        whole = mean(values[found.full]) - mean(values[found.baseline]) if full and all(values.values()) else 0
        for method in shown if full else ():
            share = (mean(values[method]) - mean(values[found.baseline])) / whole if whole > 0 else None
            cells.append("-" if share is None else f"{100 * share:.0f} %")
        lines.append(f"| {_plain(name)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _plain(name: str) -> str:
    """A name as a cell of Markdown, where a bar would end it and `<` begin a tag."""
    return name.replace("|", "&#124;").replace("<", "&lt;")


def _known(values: Sequence[float | None]) -> list[float]:
    """All of them where each seed has one, else none."""
    known = [value for value in values if value is not None]
    return known if len(known) == len(values) else []


def _each(values: Sequence[float | None]) -> str:
    return ", ".join("-" if value is None else f"{value:.1f}" for value in values)


def plot_of_methods(found: Standings) -> str:
    """The teachers of the same table as a picture (SVG), with lines at the baseline and at all labels."""
    values = {method: found.last(method, "teacher") for method in found.histories}
    title = f"{found.called} of the teacher on {found.split} {found.when}, %"
    return dots(title, values, lines=[line for line in (found.baseline, found.full) if line in values])
