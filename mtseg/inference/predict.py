"""Predictions of many images into a folder: what is there is kept, what fails is listed, the rest goes on."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from mtseg.atomic import write_whole
from mtseg.data.channels import PLAIN
from mtseg.data.geotiff import georeference, in_bands, no_data
from mtseg.device import out_of_memory
from mtseg.inference import answering, pictures, rasters
from mtseg.inference.answering import Answered, answered, asking
from mtseg.inference.inputs import CLAIM, KINDS, Item, place, shard
from mtseg.inference.pictures import ROWS
from mtseg.inference.records import append, classified, ranking, recorded, refuse_twice, shares
from mtseg.inference.trained import Trained
from mtseg.predictors import Canvas
from mtseg.settings.checked import dump


@dataclass(frozen=True)
class Wishes:
    """What is written: `save`, some of KINDS, each into a folder of its name; and for which `part` (i/n) of the images.

    min_confidence: masks have IGNORE where the network is less sure; rank: write ranking.csv
    """

    save: tuple[str, ...] = ("mask",)
    min_confidence: float = 0.0
    rank: bool = False
    part: str = "1/1"

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.save if kind not in KINDS]
        if unknown:
            raise ValueError(f"--save: {', '.join(unknown)} is not known; choose among {', '.join(KINDS)}")
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(f"--min-confidence: {self.min_confidence} is no probability; give one in [0, 1]")


class Outcome(NamedTuple):
    """How many images were predicted, were there already, and failed; and why the first of these did."""

    done: int
    kept: int
    failed: int
    why: str = ""


def predict(trained: Trained, wanted: Sequence[Item], out: Path, wishes: Wishes, *, weights: str) -> Outcome:
    """Predict the images of `wishes.part` into `out`. `weights` says whose they are, as a run's name and a hash do.

    Raises ValueError where `out` holds the predictions of others. An image that fails is a line in errors.jsonl.
    """
    if wishes.save and not trained.dense:
        raise ValueError(
            f"--save: {', '.join(wishes.save)} is of networks that answer for pixels, and this one answers for whole "
            "images: predictions.csv has their classes; leave it out, or give none"
        )
    if "image" in wishes.save and trained.channels != PLAIN:
        raise ValueError(
            "--save: image is red, green and blue of 8 bits, and this run's images are what data.channels says; give "
            "--save mask, and name the images themselves beside the masks, in data.labelled.pairs"
        )
    _claim(out, trained, wishes, weights)
    marks = "" if wishes.part == "1/1" else "-" + wishes.part.replace("/", "-of-")
    record, errors = out / f"predictions{marks}.jsonl", out / f"errors{marks}.jsonl"
    before = recorded(out)
    refuse_twice(before, wanted, out)
    kept = failed = done = 0
    why = ""
    errors.unlink(missing_ok=True)
    mine = shard(wanted, wishes.part)
    for item in track(mine, "predicting", disable=len(mine) < 2):
        try:
            if item.name in before and _there(before[item.name], item, out, wishes):
                kept += 1
                continue
            append(record, _predicted(trained, item, out, wishes))
            done += 1
        except (ValueError, OSError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not out_of_memory(error):
                raise
            windows = "; ask in windows: --set 'eval.predictor={kind: slide, window: [512, 512]}'"
            failed, said = failed + 1, str(error) + windows * out_of_memory(error)
            why = why or said
            append(errors, {"image": item.said, "error": said})
    if wishes.rank:
        write_whole(out / "ranking.csv", ranking(out))
    if trained.dense:
        write_whole(out / "shares.csv", shares(out, trained.classes))
    else:
        write_whole(out / "predictions.csv", classified(out))
    return Outcome(done, kept, failed, why)


def _there(before: dict[str, Any], item: Item, out: Path, wishes: Wishes) -> bool:
    """Whether all outputs of an image as it is now are there and whole. Raises ValueError where they are another's."""
    if before["image"] != item.said:
        raise ValueError(f"{out} has predictions of {before['image']} as {item.name!r} already; choose another --out")
    whole, suffix = (rasters.whole, ".tif") if georeference(item.path) else (pictures.whole, ".png")
    there = (whole(place(out / kind, item.name, suffix)) for kind in wishes.save)
    return before.get("files") == item.stamp() and all(there)


def _predicted(trained: Trained, item: Item, out: Path, wishes: Wishes) -> dict[str, Any]:
    """Write an image's outputs, TIFFs with its georeference where it has one; what is recorded of it."""
    tags = georeference(item.path)
    places = {kind: place(out / kind, item.name, ".tif" if tags else ".png") for kind in wishes.save}
    for path in places.values():
        if os.path.realpath(path) == os.path.realpath(item.said):
            raise ValueError(f"{item.said}: its output would be written over it; choose another --out")
    files = item.stamp()
    if not trained.dense:
        return _record(trained, item, files) | _class_of(trained, item, wishes)
    with in_bands(item.path, trained.channels, answering.LARGE) as bands:
        image: Canvas = torch.from_numpy(item.read())[None] if bands is None else bands
        answer = answered(trained, image, wishes.min_confidence, out, empty=no_data(item.path, trained.channels))
        for kind, path in places.items():
            rows, palette = _drawn(kind, trained, image, answer)
            if tags:
                rasters.write(path, rows, answer.size, tags, palette)
            else:
                pictures.write(path, rows, answer.size, palette)
    return _record(trained, item, files) | {
        "size": list(answer.size),
        "uncertainty": answer.uncertainty,
        "named": answer.named,
        "shares": answer.shares,
        "protocol": asking(trained.predictor, answer.size).sentence(),
    }


def _record(trained: Trained, item: Item, files: list[list[int]]) -> dict[str, Any]:
    """What is recorded of an image, whatever is predicted."""
    return {
        "name": item.name,
        "image": item.said,
        "origin": item.origin,
        "time": time.time(),
        "files": files,
        "protocol": trained.predictor.sentence(),
    }


def _class_of(trained: Trained, item: Item, wishes: Wishes) -> dict[str, Any]:
    """The class of an image as a whole, empty where the network is less sure than it shall be."""
    image = item.read()
    found = trained.predict(image)
    place, confidence = int(found.classes), float(found.confidence)
    sure = confidence >= wishes.min_confidence
    return {
        "size": list(image.shape[:2]),
        "uncertainty": 1 - confidence,
        "named": float(sure),
        "shares": [float(sure and number == place) for number in range(len(trained.classes))],
        "class": trained.classes[place] if sure else "",
        "confidence": round(confidence, 6),
    }


def _drawn(
    kind: str, trained: Trained, image: Canvas, answer: Answered
) -> tuple[Iterator[NDArray[np.uint8]], NDArray[np.uint8] | None]:
    """The strips of an output, and the palette that they are indices of."""
    if kind == "mask":
        return answer.classes.strips(), trained.palette
    if kind == "confidence":
        return answer.confidence.strips(), None
    strips = (image[:, top : top + ROWS, :][0].numpy() for top in range(0, answer.size[0], ROWS))
    shown = (trained.views.visible(strip, rgb=trained.channels.rgb) for strip in strips)
    return shown if kind == "image" else pictures.overlay(shown, answer.classes.strips(), trained.palette), None


def _claim(out: Path, trained: Trained, wishes: Wishes, weights: str) -> None:
    """Say in `out` whose predictions it holds. Raises ValueError where it holds others, which would be mixed."""
    said = {
        "weights": weights,
        "step": trained.step,
        "classes": list(trained.classes),
        "protocol": trained.predictor.sentence(),
        "normalisation": trained.views.normalisation,
        "channels": dump(trained.channels),
        "min_confidence": wishes.min_confidence,
        **({} if trained.side is None else {"side": trained.side}),
    }
    path = out / CLAIM
    out.mkdir(parents=True, exist_ok=True)
    before: Any = said
    if path.is_file():
        with suppress(ValueError):
            before = json.loads(path.read_text(encoding="utf-8"))
    if before != said:
        known = before if isinstance(before, dict) else {}
        changed = [key for key in {**known, **said} if known.get(key) != said.get(key)]
        raise ValueError(f"{out} holds predictions with other {', '.join(changed)}; choose another --out")
    write_whole(path, json.dumps(said, indent=1))
