"""What a run leaves of its newest evaluation, for its page: the confusion matrices, and pictures, the worst first."""

import base64
import io
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pil
from torch import nn

from mtseg.atomic import write_whole
from mtseg.config import Config
from mtseg.data.source import IGNORE, Source, Splits
from mtseg.evaluate import source_of
from mtseg.predictors import asked, joined
from mtseg.results.gallery import coloured
from mtseg.tally import Tally, plain

FILE = "evaluation.json"
TILE = 128  # pixels, about: of a side of what is shown of a smaller whole image
SIDE = 320  # pixels of a panel's longer side
DIFFER = "student and teacher differ"
PHOTOS = ("image", DIFFER)  # the panels with many colours
MARK = np.array([255, 0, 255], np.uint8)  # of pixels where student and teacher name different classes
Pixels = NDArray[np.uint8]
Row = dict[str, Pixels]  # panels (h, w, 3) by their titles


def gallery(
    config: Config, splits: Splits, networks: Mapping[str, nn.Module], tallies: Mapping[str, Tally]
) -> dict[str, Row]:
    """Panels of the images whose teacher has the lowest score, `eval.gallery` of them, by the images' names."""
    source = source_of(splits, config.eval.split)
    score = {n: value for n, (_, value) in tallies["teacher"].alone.items() if not math.isnan(value)}
    worst = sorted(score, key=lambda n: (score[n], n))[: config.eval.gallery]
    return {source.name(n): _panels(config, splits, source, n, networks) for n in worst}


@torch.no_grad()
def _panels(config: Config, splits: Splits, source: Source, index: int, networks: Mapping[str, nn.Module]) -> Row:
    image, label = source.image(index), source.label(index)
    shown = config.views.visible(image, rgb=splits.rgb)
    said, sure = {}, np.zeros(0, np.float32)
    for name, network in networks.items():
        training = network.training
        answer = asked(network.eval(), config.views, next(network.parameters()).device)
        bands = config.eval.predictor(answer, torch.from_numpy(np.stack([image])))
        classes, confidence = joined(bands, (image.shape[0], image.shape[1]))
        network.train(training)
        said[name], sure = classes[0].cpu().numpy(), confidence[0].cpu().numpy()
    if not label.ndim:
        return _tiles(splits, shown, {"truth": label, **said}, float(sure))
    apart = (said["student"] != said["teacher"]) & (label != IGNORE)
    grey = cv2.cvtColor(shown, cv2.COLOR_RGB2GRAY)[..., None].repeat(3, axis=2)
    panels = {
        "image": shown,
        "truth": coloured(label, splits.palette),
        **{name: coloured(classes, splits.palette) for name, classes in said.items()},
        "teacher's confidence (light: 1)": (sure[..., None].repeat(3, axis=2) * 255).round().astype(np.uint8),
        DIFFER: np.where(apart[..., None], MARK, grey // 2 + 64),
    }
    return {title: _small(panel, smooth=title in PHOTOS) for title, panel in panels.items()}


def _tiles(splits: Splits, shown: Pixels, said: Mapping[str, NDArray[Any]], sure: float) -> Row:
    """The panels of a whole image, as large as a reader wants them: what is `said` of it as names and colours."""
    times = max(1, TILE // max(shown.shape[:2]))
    shown = _small(shown.repeat(times, 0).repeat(times, 1), smooth=True)
    named = {f"{name}: {splits.classes[int(of)]}": of for name, of in said.items()}
    tiles = {title: np.tile(splits.palette[int(of)], (*shown.shape[:2], 1)) for title, of in named.items()}
    last, tile = tiles.popitem()
    return {"image": shown, **tiles, f"{last}, {100 * sure:.0f} % sure": tile}


def keep(
    out: Path, *, step: int, split: str, tallies: Mapping[str, Tally], rows: Mapping[str, Row], began: float
) -> None:
    """Write all of it into the run's folder. `began`: the `time.perf_counter()` when drawing began."""
    names = {name: plain(value) for name, value in tallies["teacher"].alone.values()}
    student = dict(tallies["student"].alone.values())
    said: dict[str, Any] = {
        "step": step,
        "split": split,
        "confusion": {name: tally.confusion.counts.tolist() for name, tally in tallies.items()},
        "gallery": [
            {
                "name": name,
                "teacher": names[name],
                "student": plain(student[name]),
                "panels": {title: _encoded(panel, title in PHOTOS) for title, panel in row.items()},
            }
            for name, row in rows.items()
        ],
    }
    said["seconds"] = time.perf_counter() - began
    write_whole(out / FILE, json.dumps(said))


def kept(out: Path) -> dict[str, Any]:
    """What `keep` wrote; empty where there is nothing, or nothing that can be read."""
    try:
        found = json.loads((out / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def strip(row: Row) -> Pixels:
    """The panels side by side."""
    return np.concatenate(list(row.values()), axis=1)


def _small(panel: Pixels, *, smooth: bool) -> Pixels:
    h, w = panel.shape[:2]
    times = min(1.0, SIDE / max(h, w))
    if times == 1:
        return np.ascontiguousarray(panel)
    how = cv2.INTER_AREA if smooth else cv2.INTER_NEAREST
    size = (max(1, round(w * times)), max(1, round(h * times)))
    return np.asarray(cv2.resize(panel, size, interpolation=how), dtype=np.uint8)


def _encoded(panel: Pixels, photo: bool) -> str:
    file = io.BytesIO()
    Pil.fromarray(panel).save(file, "JPEG" if photo else "PNG", quality=85)
    return base64.b64encode(file.getvalue()).decode()
