"""A run's page, report.html: all of it is drawn from the run's folder, so it can be drawn again at any time."""

import base64
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from mtseg.atomic import write_whole
from mtseg.config import Config, of_run, written
from mtseg.data.provenance import CLASSES, named
from mtseg.data.source import Splits
from mtseg.diagnostics import mean_shares
from mtseg.results import seen
from mtseg.results.charts import Curve, chart
from mtseg.results.confusing import confusing
from mtseg.results.page import document, facts, folded, image, name_cell, share, table
from mtseg.results.run_facts import NO_FACTS, Lines, alarms_of, computed_by, facts_of, unless_damaged
from mtseg.run.log import Log
from mtseg.run.logged import comparable, score_of
from mtseg.run.mute import Mute
from mtseg.tally import HEADLINES, NETWORKS, Tally, percent

FILE = "report.html"
RECENT = 10  # logged steps over which the classes' shares are meaned
NONE = "<p>None yet.</p>"
COUNTED = {"mIoU": "pixels", "top1": "images"}  # by the score
MANY = 30  # classes from which on their table is folded
NO_PARTS: list[str] = []
NO_CLASSES: tuple[tuple[str, ...], NDArray[np.uint8]] = ((), np.zeros((0, 3), np.uint8))


def show(
    config: Config,
    splits: Splits,
    step: int,
    *,
    networks: Mapping[str, nn.Module],
    tallies: Mapping[str, Tally],
    log: Log | Mute,
) -> None:
    """Draw the page after an evaluation. What goes wrong is said, once, and ends nothing."""

    def draw() -> None:
        began = time.perf_counter()
        rows = seen.gallery(config, splits, networks, tallies)
        log.pictures(step, {f"{config.eval.split}/worst_{n}": seen.strip(row) for n, row in enumerate(rows.values())})
        seen.keep(config.out, step=step, split=config.eval.split, tallies=tallies, rows=rows, began=began)
        if step < config.steps:  # at the end it is drawn once for all
            refresh(config.out, config)

    log.attempt(FILE, draw, errors=Exception)


def refresh(run: Path, config: Config) -> None:
    """Draw the page of a run with this config from what is in its folder."""
    write_whole(run / FILE, page(run, config))


def page(run: Path, config: Config | None = None) -> str:
    """The page of the run in a folder. Raises ValueError for a folder without a run."""
    config, lines = config or of_run(run), comparable(run)
    score = scored_by(config, lines)
    trained, scored = by_step(lines, "train/loss"), by_step(lines, f"{config.eval.split}_teacher/{score}")
    newest, (names, palette) = seen.kept(run), unless_damaged(lambda: named(run / CLASSES), NO_CLASSES)
    called = "/".join(run.resolve().parts[-2:])  # a comparison's runs are `method` and `supervised` in its folder
    return document(
        f"mtseg: {called}",
        [
            f"<h1>{escape(called)}</h1>",
            facts(facts_of(run, config, lines, scored, newest, score)),
            *unless_damaged(lambda: alarms_of(config, names, lines), NO_PARTS),
            "<h2>Curves</h2>",
            f'<div class="charts">{"".join(curves(config, trained, scored, score))}</div>' if lines else NONE,
            "<h2>Classes</h2>" if scored else "",
            _by_class(config, names, list(palette), trained, scored) if scored else "",
            *unless_damaged(lambda: [*confusing(newest["confusion"]["teacher"], names, of=COUNTED[score])], NO_PARTS),
            *unless_damaged(lambda: _worst(newest["gallery"], score), NO_PARTS),
            "<h2>What computed it</h2>",
            facts(unless_damaged(lambda: computed_by(run), NO_FACTS)),
            folded("the config", f"<pre>{escape(written(config))}</pre>"),
        ],
    )


def scored_by(config: Config, lines: Lines) -> str:
    """The name of the score of a run's networks; of a run without an evaluation, that of maps."""
    with suppress(ValueError):
        return score_of(lines, config.eval.split, "teacher").rpartition("/")[2]
    return "mIoU"


def by_step(lines: Lines, key: str) -> list[dict[str, Any]]:
    """The lines that have `key`."""
    return [line for line in lines if key in line]


def curves(config: Config, trained: Lines, scored: Lines, score: str) -> list[str]:
    """The charts: losses, scores, schedules, the health of the targets."""
    split, peer = config.eval.split, any("train/loss_peer" in line for line in trained)
    teacher = config.method.teacher
    decay, own = teacher.averaging().decay_at, getattr(teacher, "own_update", lambda update: update)

    def of(lines: Lines, *keys: str, prefix: str = "train/") -> list[Curve]:
        return [Curve(key, [(line["step"], line.get(prefix + key)) for line in lines]) for key in keys]

    def means(key: str) -> Curve:
        name = key.removeprefix("train/").replace("_share", "")
        return Curve(name, [(line["step"], _spread(line.get(key))) for line in trained])

    scores = [
        Curve(name, [(line["step"], line.get(f"{split}_{name}/{score}")) for line in scored]) for name in NETWORKS
    ]
    errors = [
        Curve(name, [(line["step"], (line.get(f"{split}_{name}") or {}).get("ECE")) for line in scored])
        for name in NETWORKS
    ]
    return [
        chart(f"{HEADLINES[score]} on {split}, %", scores, percent=True),
        chart("loss", of(trained, "loss", "loss_sup", "loss_cons", *(["loss_peer"] if peer else []))),
        chart("weight of the consistency, ramp included", of(trained, "weight")),
        chart("learning rate", of(trained, "lr")),
        chart(
            "EMA decay", [Curve("decay", [(line["step"], decay(own(max(0, line["step"] - 1)))) for line in trained])]
        ),
        chart("targets: kept, confident, disputed, %", of(trained, "kept", "confidence", "disagreement"), percent=True),
        chart("known to both views, true where masks tell, %", of(trained, "pseudo_accuracy", "known"), percent=True),
        chart("classes that occur, effective number", [means("train/target_share"), means("train/label_share")]),
        chart("calibration error, %", errors, percent=True),
        chart("gradient norm", of(trained, "gradient")),
    ]


def _spread(shares: Sequence[float] | None) -> float | None:
    """The exponential of the entropy of `shares`: how many classes there would be, were all as frequent."""
    known = np.array([share for share in shares or () if share])
    return float(np.exp(-(known * np.log(known)).sum())) if len(known) else None


def _by_class(
    config: Config, names: Sequence[str], palette: Sequence[np.ndarray], trained: Lines, scored: Lines
) -> str:
    """A row a class: IoU of both networks, where it is known, accuracy, its shares of the last targets and labels."""
    split, shares = config.eval.split, {}
    for key in ("target_share", "label_share"):
        shares[key] = mean_shares(by_step(trained, f"train/{key}")[-RECENT:], key)
    found = {name: scored[-1].get(f"{split}_{name}") or {} for name in NETWORKS}
    columns = [("student", "IoU"), ("teacher", "IoU"), ("teacher", "accuracy")]
    if "IoU" not in found["teacher"]:
        columns = [("student", "accuracy"), ("teacher", "accuracy")]
    rows = []
    for n, (name, colour) in enumerate(zip(names, palette, strict=True)):
        values = [(found[network].get(kind, {}).get(name), kind) for network, kind in columns]
        cells = [share(value, "absent") if kind == "IoU" else share(value) for value, kind in values]
        cells += [share(values[n]) for values in shares.values() if n < len(values)]
        rows.append(name_cell(name, colour) + "".join(cells))
    heads = ["class", *(f"{network} {kind}" for network, kind in columns)]
    heads += [
        head for head, values in zip(("of recent targets", "of recent labels"), shares.values(), strict=True) if values
    ]
    return folded(f"{len(names)} classes", table(heads, rows), open_=len(names) <= MANY)


def _worst(rows: Sequence[Mapping[str, Any]], score: str) -> list[str]:
    return ["<h2>Where the teacher is worst</h2>", *(_row(row, score) for row in rows)] if rows else []


def _row(row: Mapping[str, Any], score: str) -> str:
    networks = NETWORKS
    scores = "mIoU of this image: " + ", ".join(f"{name} {percent(row[name])} %" for name in networks)
    if score != "mIoU":
        scores = ", ".join(f"{name} {'right' if row[name] else 'wrong'}" for name in networks)
    name = row["name"]
    panels = (
        f"<figure>{image(base64.b64decode(data), f'{title} of {name}')}"
        f"<figcaption>{escape(title)}</figcaption></figure>"
        for title, data in row["panels"].items()
    )
    return f'<h3>{escape(name)}</h3><p class="quiet">{escape(scores)}</p><div class="panels">{"".join(panels)}</div>'
