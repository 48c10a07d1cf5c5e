"""Checkpoints of one run side by side: the last, the best of all evaluations, the choice of the images held out."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mtseg.data.provenance import recorded
from mtseg.inference import hub
from mtseg.inference.restored import configured
from mtseg.inference.score_table import SUMMARY, as_csv
from mtseg.run import checkpoint
from mtseg.tally import HEADLINES, NETWORKS, headline, percent

Found = Mapping[str, dict[str, Any]]  # what `score_run` gives, by what the checkpoint is called


def called(run: Path, words: Sequence[str]) -> tuple[str, ...]:
    """The checkpoints that `mtseg eval` scores where none is named: the last, and, where images are held out, all
    that were chosen."""
    if hub.holds(run) or configured(run, words).eval.select == "split":
        return ("last",)
    folder = run / "checkpoints"
    return ("last", *(by for by in checkpoint.CHOICES if checkpoint.chosen(folder, by) is not None))


def chosen_by(run: Path, at: str) -> str:
    """By what a checkpoint was chosen: `teacher's mIoU 41.20 on holdout`; nothing for the last and for a step."""
    found = checkpoint.chosen(run / "checkpoints", at) if at in checkpoint.CHOICES else None
    return "" if found is None else f"teacher {percent(found.score)} on {found.split}"


def print_side_by_side(run: Path, found: Found) -> None:
    """The score of each network of each checkpoint, in percent, with its step and by what it was chosen."""
    first = next(iter(found.values()))
    networks = [name for name in NETWORKS if name in first]
    score = headline(first[networks[0]])
    title = f"{run}: {HEADLINES[score]} on {first['split']} in percent"
    table = Table(title=Text(title), box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for heading in ("checkpoint", "step", *networks, "chosen by"):
        number = heading in ("step", *networks)
        table.add_column(heading, justify="right" if number else "left", no_wrap=number)
    for at, of in found.items():
        table.add_row(at, str(of["step"]), *(percent(of[name][score]) for name in networks), chosen_by(run, at) or "-")
    console = Console()
    console.print(table)
    own = recorded(run, first["split"]).sha256 in ("", first["sha256"])
    flatters = [at for at in found if own and chosen_by(run, at).endswith(f" on {first['split']}")]
    if flatters:
        sentence = f"{flatters[0]} was chosen on the images that are scored here, which flatters it"
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def files(run: Path, found: Found) -> dict[str, str]:
    """The same as JSON, all that `score_run` says of each, and as CSV, a row a checkpoint and a network; by suffix."""
    rows = []
    for at, of in found.items():
        facts = {key: of[key] for key in ("run", "split", "data", "sha256", "protocol", "resolution")}
        for name in (name for name in NETWORKS if name in of):
            means = {key: of[name][key] for key in SUMMARY if key in of[name]}
            rows.append(
                {"checkpoint": at, "step": of["step"], "chosen_by": chosen_by(run, at), "network": name} | means | facts
            )
    return {".json": json.dumps(found, indent=1), ".csv": as_csv(rows)}
