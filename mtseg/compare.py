"""What do the unlabelled images buy? The same run without and with them, a table and a picture."""

import json
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from mtseg.config import Config
from mtseg.evaluate import source_of
from mtseg.report import gallery, percent, restored
from mtseg.trainer import Scores, fit


def supervised_only(config: Config) -> Config:
    """`config` without its unlabelled branches: the same labels, model, labelled batches and steps."""
    return replace(config, method=replace(config.method, branches=()))


def compare(config: Config) -> dict[str, Scores]:
    """Train supervised-only in `out`/supervised and the method in `out`/method; print a table, draw a picture."""
    if not config.method.branches:
        raise ValueError("method.branches: this config is supervised-only already; give one with a method to compare")
    runs = {"supervised": supervised_only(config), "method": config}
    runs = {name: replace(run, out=config.out / name) for name, run in runs.items()}
    found = {name: fit(run) for name, run in runs.items()}
    rows = table_rows(found)
    (config.out / "comparison.json").write_text(json.dumps(rows, indent=1))
    _print(rows, config)
    _draw(config, runs)
    return found


def table_rows(found: dict[str, Scores]) -> dict[str, float]:
    """mIoU of the networks, in [0, 1], by the name of the row; supervised-only also with averaged weights."""
    return {
        "supervised-only": found["supervised"]["student"]["mIoU"],
        "supervised-only, averaged weights": found["supervised"]["teacher"]["mIoU"],
        "student": found["method"]["student"]["mIoU"],
        "teacher": found["method"]["teacher"]["mIoU"],
    }


def _print(rows: dict[str, float], config: Config) -> None:
    table = Table(title=f"{config.out}: {config.eval.split}, step {config.steps}, seed {config.seed}")
    table.add_column("network")
    table.add_column("mIoU", justify="right")
    table.add_column("over supervised-only", justify="right")
    for name, value in rows.items():
        table.add_row(name, percent(value), f"{100 * (value - rows['supervised-only']):+.2f}")
    Console().print(table)


def _draw(config: Config, runs: dict[str, Config]) -> None:
    _, splits, without, _ = restored(runs["supervised"].out)
    _, _, networks, _ = restored(runs["method"].out)
    path = config.out / "comparison.png"
    gallery(
        path,
        source_of(splits, config.eval.split),
        {"supervised-only": without["student"], "teacher": networks["teacher"]},
        palette=splits.palette,
        views=config.views,
    )
    Console().print(f"picture: {path}", highlight=False)
