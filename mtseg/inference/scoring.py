"""The scores of a trained run, with all that they depend on: a table, a JSON file and CSV files."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from mtseg.config import Config, of_run
from mtseg.data.provenance import files_of, names_of, recorded
from mtseg.device import pick_device
from mtseg.evaluate import ahead, evaluate_all, source_of
from mtseg.inference import exported, hub
from mtseg.inference.restored import Restored, restored_at
from mtseg.inference.scored import kept
from mtseg.metrics import interval
from mtseg.run.exhausted import evaluation_told
from mtseg.settings.differences import differences
from mtseg.tally import NETWORKS, Also, Tally, by_class, plain, scores

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
    device = pick_device(config.device)
    reading = {}  # an exported folder says nothing of it
    if isinstance(config, Config):
        reading = {"workers": ahead(config.workers, device), "timeout": config.loader_timeout}
    with evaluation_told(config.eval.batch, device):
        tallies = evaluate_all(
            {name: networks[name] for name in wanted.networks if name in networks},
            source,
            classes=len(splits.classes),
            views=config.views,
            batch=config.eval.batch,
            device=device,
            predictor=predictor,
            also=wanted.also,
            **reading,
        )
    for name, tally in tallies.items():
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
