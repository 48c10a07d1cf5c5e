"""What do the unlabelled images buy? The same run without and with them; a table, a picture."""

import json
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mtseg.atomic import write_whole
from mtseg.config import Config
from mtseg.evaluate import source_of
from mtseg.inference.restored import restored
from mtseg.lessons import refuse_untaught
from mtseg.results.gallery import gallery
from mtseg.run.logged import comparable, score_of
from mtseg.tally import HEADLINES, percent
from mtseg.torchrun import first_launched
from mtseg.trainer import fit

# network -> its score in [0, 1] (HEADLINES), "last" and "best" of the evaluations; None where nothing is labelled
Rows = dict[str, dict[str, float | None]]

# Row of the table -> which run, which of its networks. Averaged weights alone are worth something, so they are shown.
NETWORKS = {
    "supervised-only": ("supervised", "student"),
    "supervised-only, averaged weights": ("supervised", "teacher"),
    "student": ("method", "student"),
    "teacher": ("method", "teacher"),
}


def supervised_only(config: Config) -> Config:
    """`config` without its unlabelled branches: the same labels, model, labelled batches and steps.

    Its averaged weights take averaged statistics: nobody asks them, so they could not gather their own. And its loss
    counts in full, whatever share of it the method takes. Where all images came from one stream (`batch.labelled: 0`),
    as many labelled ones do. Where the method had no labelled views (`batch.consistency: all`), what is done to these
    alone is not done.
    """
    teacher = config.method.teacher.averaging()
    method = replace(config.method, branches=(), teacher=teacher, supervised_weight=1.0)
    batch = replace(config.batch, labelled=config.batch.labelled or config.batch.unlabelled)
    alike = config.batch.consistency == "unlabelled"
    views = config.views if alike else replace(config.views, oversample=0.0, copy_paste=0.0)
    return replace(config, method=method, batch=batch, views=views)


def runs(config: Config) -> dict[str, Config]:
    """The two runs of a comparison, each in its folder in `out`, by a heading."""
    if not config.method.branches:
        raise ValueError("method.branches: this config is supervised-only already; give one with a method to compare")
    alone = supervised_only(config)
    heading = f"1 of 2: supervised-only, {alone.batch.labelled} labelled images a step"
    return {
        heading: replace(alone, out=config.out / "supervised"),
        "2 of 2: the method, labelled and unlabelled images": replace(config, out=config.out / "method"),
    }


def compare(config: Config) -> Rows:
    """Train supervised-only in `out`/supervised and the method in `out`/method; print a table, draw a picture.

    Of several processes the first one prints, writes and draws.
    """
    first = first_launched()
    console = Console(quiet=not first)
    refuse_untaught(config)  # before the first run, not between the two
    for heading, run in runs(config).items():
        console.rule(heading, align="left")
        fit(run)
    rows = scores_of(config.out, config.eval.split)
    if not first:
        return rows
    name = score_of(comparable(config.out / "method"), config.eval.split, "teacher").rpartition("/")[2]
    facts = {"split": config.eval.split, "seed": config.seed, "steps": config.steps, name: rows}
    write_whole(config.out / "comparison.json", json.dumps(facts, indent=1))
    _print(rows, config, console, HEADLINES[name])
    _draw(config, console)
    return rows


def scores_of(out: Path, split: str) -> Rows:
    """Last and best score of each network of a comparison in folder `out`, from the runs' metrics."""
    rows: Rows = {}
    for row, (run, network) in NETWORKS.items():
        lines = comparable(out / run)
        try:
            key = score_of(lines, split, network)
        except ValueError as error:
            raise ValueError(f"{out / run}: {error}") from None
        values = [line[key] for line in lines if key in line]
        rows[row] = {"last": values[-1], "best": max((v for v in values if v is not None), default=None)}
    return rows


def _print(rows: Rows, config: Config, console: Console, called: str) -> None:
    title = f"{config.out}: {called} on {config.eval.split} in percent, step {config.steps}, seed {config.seed}"
    shown = Table(title=Text(title))
    shown.add_column("network", overflow="fold")
    for heading in ("last", "over the first", "best of all"):
        shown.add_column(heading, justify="right", no_wrap=True)
    baseline = rows["supervised-only"]["last"]
    for name, value in rows.items():
        known = value["last"] is not None and baseline is not None
        ahead = f"{100 * (value['last'] - baseline):+.2f}" if known else "-"  # type: ignore[operator]
        shown.add_row(name, percent(value["last"]), ahead, percent(value["best"]))
    console.print(shown)


def _draw(config: Config, console: Console) -> None:
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
    console.print(f"picture: {path}", highlight=False, markup=False, soft_wrap=True)
