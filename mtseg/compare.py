"""What do the unlabelled images buy? The same run without and with them; a table over seeds, a picture."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

from rich.console import Console
from rich.table import Table

from mtseg.config import Config
from mtseg.evaluate import source_of
from mtseg.log import read
from mtseg.report import gallery, percent, restored
from mtseg.trainer import fit

Rows = dict[str, dict[str, float]]  # network -> mIoU in [0, 1], "last" and "best" of the evaluations

# Row of the table -> which run, which of its networks. Averaged weights alone are worth something, so they are shown.
NETWORKS = {
    "supervised-only": ("supervised", "student"),
    "supervised-only, averaged weights": ("supervised", "teacher"),
    "student": ("method", "student"),
    "teacher": ("method", "teacher"),
}


def supervised_only(config: Config) -> Config:
    """`config` without its unlabelled branches: the same labels, model, labelled batches and steps."""
    return replace(config, method=replace(config.method, branches=()))


def compare(config: Config) -> Rows:
    """Train supervised-only in `out`/supervised and the method in `out`/method; print a table, draw a picture."""
    if not config.method.branches:
        raise ValueError("method.branches: this config is supervised-only already; give one with a method to compare")
    for name, run in (("supervised", supervised_only(config)), ("method", config)):
        fit(replace(run, out=config.out / name))
    rows = scores_of(config.out, config.eval.split)
    facts = {"split": config.eval.split, "seed": config.seed, "steps": config.steps, "mIoU": rows}
    (config.out / "comparison.json").write_text(json.dumps(facts, indent=1))
    _print(rows, config)
    _draw(config)
    return rows


def scores_of(out: Path, split: str) -> Rows:
    """Last and best mIoU of each network of a comparison in folder `out`, from the runs' metrics."""
    rows = {}
    for row, (run, network) in NETWORKS.items():
        key = f"{split}_{network}/mIoU"
        values = [line[key] for line in read(out / run) if key in line]
        rows[row] = {"last": values[-1], "best": max(values)}
    return rows


def table(folders: Sequence[Path]) -> str:
    """A Markdown table over comparisons that differ in their seed: mean and sample deviation, in percent.

    Raises ValueError for a folder without a finished comparison, and for comparisons of different lengths or splits.
    """
    found = [_finished(folder) for folder in folders]
    if len({(one["split"], one["steps"]) for one in found}) > 1:
        raise ValueError("these comparisons differ in split or steps, so they are not one table")
    seeds = ", ".join(str(one["seed"]) for one in found)
    lines = [
        f"mIoU on {found[0]['split']} in percent after {found[0]['steps']} steps, seeds {seeds}; each seed, then "
        "mean and sample deviation; best is the best of all evaluations.",
        "",
        "| network | each seed, last | last | best |",
        "| --- | --- | --- | --- |",
    ]
    for row in NETWORKS:
        last, best = ([100 * one["mIoU"][row][when] for one in found] for when in ("last", "best"))
        each = ", ".join(f"{value:.1f}" for value in last)
        lines.append(f"| {row} | {each} | {_spread(last)} | {_spread(best)} |")
    ahead = [100 * (one["mIoU"]["teacher"]["last"] - one["mIoU"]["supervised-only"]["last"]) for one in found]
    lines.append(f"| teacher over supervised-only | {', '.join(f'{a:+.1f}' for a in ahead)} | {_spread(ahead)} | |")
    return "\n".join(lines)


def _finished(folder: Path) -> dict:
    path = folder / "comparison.json"
    if not path.is_file():
        raise ValueError(f"{folder}: no comparison.json; make it with: python tools/compare.py CONFIG out={folder}")
    return dict(json.loads(path.read_text()))


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.1f} +- {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def _print(rows: Rows, config: Config) -> None:
    shown = Table(title=f"{config.out}: {config.eval.split}, step {config.steps}, seed {config.seed}")
    for heading in ("network", "mIoU", "over supervised-only", "best mIoU"):
        shown.add_column(heading, justify="left" if heading == "network" else "right")
    for name, value in rows.items():
        ahead = 100 * (value["last"] - rows["supervised-only"]["last"])
        shown.add_row(name, percent(value["last"]), f"{ahead:+.2f}", percent(value["best"]))
    Console().print(shown)


def _draw(config: Config) -> None:
    _, splits, without, _ = restored(config.out / "supervised")
    _, _, networks, _ = restored(config.out / "method")
    path = config.out / "comparison.png"
    gallery(
        path,
        splits,
        source_of(splits, config.eval.split),
        networks={"supervised-only": without["student"], "teacher": networks["teacher"]},
        views=config.views,
    )
    Console().print(f"picture: {path}", highlight=False)
