"""Scores by class and in the mean: as a table on the terminal, and as CSV."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mtseg.inference.scored import sentence
from mtseg.tally import NETWORKS, percent

SUMMARY = {
    "top1": "accuracy",
    "error": "error",
    "top5": "top-5 accuracy",
    "top5_error": "top-5 error",
    "mIoU": "mean IoU",
    "mDice": "mean Dice (F1)",
    "boundary_mIoU": "mean boundary IoU",
    "frequency_weighted_IoU": "frequency-weighted IoU",
    "mean_class_accuracy": "mean class accuracy",
    "pixel_accuracy": "pixel accuracy",
    "ECE": "calibration error",
}
BY_CLASS = {"IoU": "IoU", "accuracy": "acc.", "boundary_IoU": "bound."}
DEPENDS = ("run", "step", "at", "split", "data", "sha256", "protocol", "resolution")  # what stands in every row


def print_table(found: dict[str, Any]) -> None:
    """The scores of the networks by class and in the mean, in percent, and what they depend on."""
    names = [name for name in NETWORKS if name in found]
    first = found[names[0]]
    kinds = [kind for kind in BY_CLASS if kind in first]
    table = Table(title=Text(f"{found['run']}, in percent"), box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("class", overflow="fold")  # where it is narrow, names are broken and not numbers
    for kind in kinds:
        for name in names:
            table.add_column(f"{name}\n{BY_CLASS[kind]}", justify="right", no_wrap=True)
    for row in found["classes"]:
        table.add_row(Text(row), *(percent(found[name][kind][row]) for kind in kinds for name in names))
    table.add_section()
    for key, label in SUMMARY.items():
        if key in first:
            table.add_row(label, *(percent(found[name][key]) for name in names))
    if "mIoU_interval" in first:
        for end, label in enumerate(("mean IoU, 95 % from", "to, over images")):
            table.add_row(label, *(percent(found[name]["mIoU_interval"][end]) for name in names))
    table.add_row("classes counted", *(str(found[name]["classes_counted"]) for name in names))
    console = Console()
    console.print(table)
    console.print(sentence(found), markup=False, highlight=False, soft_wrap=True)


def table_csv(found: dict[str, Any]) -> str:
    """The scores as CSV: a row a class and a network, one for the mean, each with what it depends on."""
    facts = {key: found[key] for key in DEPENDS}
    all_of = "pixel_accuracy" if "pixel_accuracy" in next(found[name] for name in NETWORKS if name in found) else "top1"
    kinds = {"IoU": "mIoU", "Dice": "mDice", "accuracy": all_of, "boundary_IoU": "boundary_mIoU"}
    rows = []
    for name in (name for name in NETWORKS if name in found):
        there = {kind: mean for kind, mean in kinds.items() if kind in found[name]}
        for row in found["classes"]:
            rows.append({"network": name, "class": row} | {kind: found[name][kind][row] for kind in there})
        rows.append({"network": name, "class": "(all)"} | {kind: found[name][mean] for kind, mean in there.items()})
    return as_csv([row | facts for row in rows])


def images_csv(found: dict[str, Any]) -> str:
    """The mIoU of each image as CSV, by network."""
    names = [name for name in NETWORKS if name in found]
    images, facts = found[names[0]]["images"], {key: found[key] for key in DEPENDS}
    rows = [{"image": image} | {name: found[name]["images"][image] for name in names} for image in images]
    return as_csv([row | facts for row in rows])


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of the same keys as CSV text; None is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
