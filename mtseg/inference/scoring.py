"""The scores of a trained run, with all that they depend on: a table, a JSON file and CSV files."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mtseg.config import of_run
from mtseg.data.provenance import files_of, names_of, recorded
from mtseg.device import pick_device
from mtseg.evaluate import evaluate, source_of
from mtseg.inference import exported, hub
from mtseg.inference.restored import Restored, restored_at
from mtseg.inference.scored import kept, sentence
from mtseg.metrics import interval
from mtseg.run.exhausted import evaluation_told
from mtseg.settings.differences import differences
from mtseg.tally import NETWORKS, Also, Tally, by_class, percent, plain, scores

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
WORST = 10
MATRIX = 256  # classes, of more of which no confusion matrix is written


@dataclass(frozen=True)
class Wanted:
    """Which checkpoint, which of its networks, and what is scored besides; see `Also`. `seed` is the bootstrap's."""

    at: str = "last"
    networks: tuple[str, ...] = NETWORKS
    also: Also = field(default_factory=Also)
    seed: int = 0


def score_run(run: Path, words: Sequence[str] = (), wanted: Wanted = Wanted()) -> dict[str, Any]:
    """The scores of a run's networks and what they depend on, as plain values.

    For each network those of `scores`, the means over classes of accuracy and Dice, Dice and precision of each class,
    and, of up to MATRIX classes, the `confusion` matrix, rows of labels; with boundaries `boundary_mIoU` and
    `boundary_IoU`; with images `mIoU_interval` (95 %, bootstrap over images), the `worst` images, and `images`, the
    mIoU of each over the classes that occur in it.
    """
    return score_checkpoints(run, words, wanted, (wanted.at,))[wanted.at]


def score_checkpoints(run: Path, words: Sequence[str], wanted: Wanted, ats: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`score_run` of several checkpoints, by what they are called: `last`, `best`, `holdout`, a step.

    Of a folder that `mtseg export` made, those of the one network in it; `words` say on which data.
    """
    if hub.holds(run):
        opened = (exported.opened(run, words, at=at, networks=wanted.networks) for at in ats)
        return {at: _scored(run, there, replace(wanted, at="exported")) for at, there in zip(ats, opened, strict=True)}
    found: dict[str, dict[str, Any]] = {}
    for at, there in zip(ats, restored_at(run, words, ats), strict=True):
        same = next((other for other in found.values() if other["step"] == there.step), None)
        found[at] = same | {"at": at} if same else _scored(run, there, replace(wanted, at=at)) | _changed(run, there)
    return found


def _changed(run: Path, there: Restored) -> dict[str, list[str]]:
    """The settings of the data that are not as the run's, each with both, and the hash of files of the same names that
    are not the run's; nothing where all are."""
    lines = [line for line in differences(of_run(run), there.config) if line.startswith("data.")]
    split = there.config.eval.split
    before, now = recorded(run, split).files, files_of(getattr(there.splits, split))
    if before and now and before != now:
        lines.append(f"files: {before[:12]} -> {now[:12]}")
    return {"changed": lines} if lines else {}


def _scored(run: Path, there: Restored | exported.Opened, wanted: Wanted) -> dict[str, Any]:
    config, splits, networks, step = there
    split, predictor = config.eval.split, config.eval.predictor
    source = source_of(splits, split)
    found: dict[str, Any] = {
        "run": str(run),
        "step": step,
        "at": wanted.at,
        "split": split,
        "images": len(source),
        "data": splits.name,
        "sha256": names_of(source).sha256,
        "files": files_of(source),
        "protocol": predictor.sentence(),
        "classes": list(splits.classes),
    }
    for name in (name for name in wanted.networks if name in networks):
        device = pick_device(config.device)
        with evaluation_told(config.eval.batch, device):
            tally = evaluate(
                networks[name],
                source,
                classes=len(splits.classes),
                views=config.views,
                batch=config.eval.batch,
                device=device,
                predictor=predictor,
                also=wanted.also,
            )
        found["resolution"] = _resolution(tally.sizes)
        found[name] = scores(tally, splits.classes) | _besides(tally, splits.classes, wanted.seed)
    return found


def file_name(run: Path, found: dict[str, Any]) -> str:
    """What a run's evaluation is called: by split and checkpoint; by what differs from the run's own (images, as their
    names' hash, way of asking, networks), where it does."""
    exports = hub.holds(run)
    own = (hub.described(run, {}) if exports else of_run(run)).eval.predictor.sentence()
    protocol, networks = str(found["protocol"]), [name for name in NETWORKS if name in found]
    parts = ["eval", found["split"]]
    parts += _beside(run, found) if exports else _other_images(run, found)
    parts += [] if found["at"] == "last" or exports else [found["at"]]
    parts += [] if protocol == own else [re.sub(r"[^\w.]+", "-", protocol).strip("-")]
    return "_".join(parts + (networks if len(networks) == 1 and not exports else []))


def _beside(folder: Path, found: dict[str, Any]) -> list[str]:
    """By what scores of an exported folder are told from those of other images that it holds already."""
    others = {scores["sha256"] for name, scores in kept(folder).items() if name == f"eval_{found['split']}.json"}
    return [found["sha256"][:12]] if others - {found["sha256"]} else []


def _other_images(run: Path, found: dict[str, Any]) -> list[str]:
    """By what scores of other images than the run's own of that split, or of images that are read otherwise, are told
    from those; nothing, for its own."""
    own, changed = recorded(run, found["split"]).sha256, found.get("changed")
    if own not in ("", found["sha256"]):
        return [found["sha256"][:12]]
    return [sha256("\n".join(changed).encode()).hexdigest()[:12]] if changed else []


def unlike_the_runs(run: Path, found: dict[str, Any]) -> str:
    """What to know of scores on other images than the run's own, where no word asked for others; empty: nothing."""
    own = recorded(run, found["split"]).sha256
    if own in ("", found["sha256"]) or any(line.startswith("data.") for line in found.get("changed", ())):
        return ""
    return (
        f"look: these {found['split']} images are not those that the run recorded ({own[:12]} -> "
        f"{found['sha256'][:12]}): files came or went since, with which a share such as data.val=0.25 changes, so "
        "the run may have learnt from some of them; compare runs on images that have a folder or a list of their own"
    )


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


def _besides(tally: Tally, classes: tuple[str, ...], seed: int) -> dict[str, Any]:
    confusion = tally.confusion
    found: dict[str, Any] = {
        "mean_class_accuracy": plain(confusion.mean_class_accuracy()),
        "mDice": plain(confusion.mean_dice()),
        "Dice": by_class(confusion.dice(), classes),
        "precision": by_class(confusion.precision(), classes),
        **({"confusion": confusion.counts.tolist()} if len(classes) <= MATRIX else {}),
    }
    if tally.boundary is not None:
        found |= {
            "boundary_ratio": tally.boundary.ratio,
            "boundary_mIoU": plain(tally.boundary.mean_iou()),
            "boundary_IoU": by_class(tally.boundary.iou(), classes),
        }
    if tally.images is not None:
        each = {name: plain(value) for name, value in tally.alone.values()}
        worst = sorted((value, name) for name, value in each.items() if value is not None)[:WORST]
        if tally.sizes != {()}:  # of whole images no mIoU is reported
            found["mIoU_interval"] = [plain(bound) for bound in interval(list(tally.images.values()), seed=seed)]
        found |= {
            "worst": {name: value for value, name in worst},
            "images": each,
        }
    return found


def _resolution(sizes: set[tuple[int, ...]]) -> str:
    """The labels' sizes, height x width; where they differ, the least and the greatest of both sides."""
    if sizes == {()}:
        return "whole images, a class each"
    if len(sizes) == 1:
        ((h, w),) = sizes
        return f"{h}x{w}, their own size"
    low, high = np.min(list(sizes), 0), np.max(list(sizes), 0)
    return f"{low[0]}x{low[1]} to {high[0]}x{high[1]}, their own sizes"
