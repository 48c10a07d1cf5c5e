"""The doctor's pictures: what is wrong, marked, and what training will see: views, warped views, what is valid."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pil
from PIL import ImageDraw, ImageFont

from mtseg.config import Config
from mtseg.data.batch import BatchSizes, Crops
from mtseg.data.channels import COLOURS, visible
from mtseg.data.decode import read_mask
from mtseg.data.files import Files
from mtseg.data.masks import NO_CLASS
from mtseg.data.source import IGNORE, Source, Splits, Subset
from mtseg.data.stream import Stream
from mtseg.doctor.finding import Finding, key_of
from mtseg.doctor.survey import POOLS, Survey
from mtseg.geometry import View
from mtseg.results.gallery import coloured
from mtseg.views import Views

Pixels = NDArray[np.uint8]  # (H, W, 3)
Ink = tuple[int, ...]  # red, green, blue
WORST, SAMPLES, FURTHER, SIDE, NARROW, GAP, LINE = 3, 3, 3, 200, 160, 6, 16  # the last four in pixels
SQUARE, PATCH = 32, 10  # pixels
MARK = (255, 0, 255)  # of pixels that offend
NOTHING = np.full((120, 160, 3), 128, np.uint8)  # in place of what cannot be read


@dataclass(frozen=True)
class Row:
    """Pictures side by side, each with its title; `name` is whose they are."""

    name: str
    panels: tuple[tuple[str, Pixels], ...]


@dataclass(frozen=True)
class Sheet:
    """A picture of several rows: its file's name, its title, what is to be seen in it; classes and their colours."""

    key: str
    title: str
    words: str
    rows: tuple[Row, ...]
    legend: tuple[tuple[str, Ink], ...] = ()


def of_findings(findings: Sequence[Finding], survey: Survey, views: Views) -> list[Sheet]:
    """A sheet for each finding about files: image, mask in the classes' colours, and where it offends, of the worst."""
    places = {}
    for pool in reversed(POOLS):  # where an image is in several pools, one with a mask is shown
        for index, entry in enumerate(survey.of(pool)):
            for fact in (entry.image, entry.mask):
                if fact:
                    places[fact.name] = (pool, index)
    sheets = []
    for number, finding in enumerate(findings):
        shown = [places[name] for name in finding.files if name in places][:WORST]
        if shown and finding.severity != "note":
            rows = tuple(_problem(survey, pool, index, views) for pool, index in shown)
            sheets.append(Sheet(key_of(number, finding.code), finding.code, finding.text, rows))
    return sheets


def _problem(survey: Survey, pool: str, index: int, views: Views) -> Row:
    source: Source = getattr(survey.splits, pool)
    entry = survey.of(pool)[index]
    image = _or_nothing(lambda: views.visible(source.image(index), rgb=survey.splits.rgb))
    panels = [(_title("image", image) if entry.image.fault is None else "image: not usable", image)]
    if entry.mask is not None:
        label = _label(source, index, survey.splits)
        if label is None:
            panels.append(("mask: not usable", NOTHING))
        else:
            lost = label == NO_CLASS
            mask = coloured(np.where(lost, IGNORE, label).astype(np.uint8), survey.splits.palette)
            panels.append((_title("mask", mask), mask))
            if lost.any():
                panels.append(("offending pixels", _marked(image, mask, lost)))
    return Row(entry.image.name, tuple(panels))


def _label(source: Source, index: int, splits: Splits) -> NDArray[np.int16] | None:
    """The classes of a mask, IGNORE, or NO_CLASS; None where it cannot be read."""
    try:
        if isinstance(source, Files):
            return source.classes.lookup(read_mask(source.root / str(source.mask_name(index))), "")
        label = source.label(index).astype(np.int16)
    except (ValueError, OSError):
        return None
    return np.where((label >= len(splits.classes)) & (label != IGNORE), np.int16(NO_CLASS), label)


def _shown(label: NDArray[Any], splits: Splits) -> tuple[str, Pixels]:
    """A view's label: a map, or the class of the whole, as a square of its colour."""
    colour = coloured(label, splits.palette)
    if colour.ndim > 1:
        return "its label", colour
    name = splits.classes[int(label)] if 0 <= int(label) < len(splits.classes) else "none"
    return f"its class: {name}", np.tile(colour, (SQUARE, SQUARE, 1))


def _title(what: str, pixels: Pixels) -> str:
    return f"{what}, {pixels.shape[0]} x {pixels.shape[1]}"


def _or_nothing(read: Callable[[], Pixels]) -> Pixels:
    try:
        return read()
    except (ValueError, OSError):
        return NOTHING


def _marked(image: Pixels, mask: Pixels, lost: NDArray[np.bool_]) -> Pixels:
    """The image (its mask, where they are not of one size), darkened, with the lost pixels in the mark's colour."""
    below = image if image.shape == mask.shape else mask
    return np.where(lost[..., None], np.array(MARK, np.uint8), below // 2).astype(np.uint8)


def of_views(config: Config, survey: Survey) -> list[Sheet]:
    """What training sees: labelled views and their labels, and pairs of views under a shared and an own geometry."""
    splits = _readable(survey)
    sheets = []
    if len(splits.labelled):
        batch = _stream(config, splits, config.views, students=None)[0].labelled
        assert batch.label is not None
        labels = [_shown(label, splits) for label in batch.label.numpy()]
        views = batch.image.numpy()
        pictures = [config.views.visible(view, rgb=splits.rgb) for view in views]
        rows = tuple(
            Row(splits.labelled.name(int(i)), (("labelled view", shown), label, *_further(view)))
            for i, view, shown, label in zip(batch.index, views, pictures, labels, strict=True)
        )
        words = "What the supervised loss sees; white is ignored."
        sheets.append(Sheet("views-labelled", "Labelled views", words, rows, _legend(batch.label.numpy(), splits)))
    if config.method.branches and len(splits.unlabelled) and len(splits.labelled):
        sheets += [_pairs(config, splits, shared=shared) for shared in (True, False)]
    return sheets


def _legend(labels: NDArray[Any], splits: Splits) -> tuple[tuple[str, Ink], ...]:
    """The classes of maps, by their number, each with its colour."""
    if labels.ndim == 1:  # of wholes, whose class stands above each
        return ()
    there = [value for value in np.unique(labels).tolist() if value < len(splits.classes)]
    return tuple((splits.classes[value], tuple(splits.palette[value].tolist())) for value in there)


def _pairs(config: Config, splits: Splits, *, shared: bool) -> Sheet:
    student, chosen = config.views.student, (config.views.student.geometry == "shared") is shared
    other = replace(student, geometry="shared") if shared else replace(student, geometry=config.views.teacher.geometry)
    views = config.views if chosen else replace(config.views, student=other)
    batch = _stream(config, splits, views, students=1)[0]
    assert batch.teacher is not None
    teacher, seen = _view(batch.teacher, views), _view(batch.students[0], views)
    warped = teacher.seen_from(seen)

    def shown(view: View, number: int) -> Pixels:
        return views.visible((view.data[number] * 255).permute(1, 2, 0).numpy(), rgb=splits.rgb)

    rows = tuple(
        Row(
            splits.unlabelled.name(int(index)),
            (
                ("teacher's view", shown(teacher, n)),
                ("student's view", shown(seen, n)),
                ("teacher's, warped into student's", shown(warped, n)),
                ("valid", np.repeat(warped.known[n, 0].numpy()[..., None], 3, axis=2).astype(np.uint8) * 255),
            ),
        )
        for n, index in enumerate(batch.teacher.index)
    )
    name = "shared" if shared else "own"
    words = (
        f"{'As this config has it.' if chosen else 'Not what this config has; for comparison.'} The third picture must "
        "lie on the second, whatever their colours; consistency counts where the fourth is white."
    )
    return Sheet(f"views-{name}-geometry", f"Pairs of views, {name} geometry", words, rows)


def _stream(config: Config, splits: Splits, views: Views, *, students: int | None) -> Stream:
    sizes = BatchSizes(
        labelled=min(SAMPLES, len(splits.labelled)), unlabelled=max(1, min(SAMPLES, len(splits.unlabelled)))
    )
    return Stream(splits, views=views, sizes=sizes, students=students, seed=config.seed)


def _readable(survey: Survey) -> Splits:
    """The splits without images and masks that cannot be used."""

    def whole(pool: str) -> Subset:
        usable = [n for n, e in enumerate(survey.of(pool)) if not (e.image.fault or (e.mask and e.mask.fault))]
        return Subset(getattr(survey.splits, pool), usable)

    return replace(survey.splits, labelled=whole("labelled"), unlabelled=whole("unlabelled"))


def _further(image: NDArray[Any]) -> list[tuple[str, Pixels]]:
    """The first channels beyond red, green and blue, each from its darkest to its lightest value."""
    panels = []
    for n in range(COLOURS, min(image.shape[2], COLOURS + FURTHER)):
        low, high = float(image[..., n].min()), float(image[..., n].max())
        stretched = (image[..., n : n + 1] - np.float32(low)) * (255 / max(high - low, 1e-6))
        panels.append((f"channel {n}", visible(stretched)))
    return panels


def _view(crops: Crops, views: Views) -> View:
    """The pixels of crops in [0, 1], as a view."""
    return replace(crops.view(views), data=crops.image.permute(0, 3, 1, 2).float() / 255)


def draw(sheet: Sheet, path: Path) -> None:
    """Write a sheet as PNG: titles above the panels of a row, its name above them; the legend below all."""
    rows = [[(title, _shrunk(panel)) for title, panel in row.panels] for row in sheet.rows]
    width = max(sum(max(panel.shape[1], NARROW) + GAP for _, panel in row) for row in rows) + GAP
    heights = [2 * LINE + max(panel.shape[0] for _, panel in row) + GAP for row in rows]
    font = ImageFont.load_default()
    entries = _placed([(_plain(name), ink) for name, ink in sheet.legend], width, font)
    lines = 1 + max((line for line, *_ in entries), default=-1)
    canvas = Pil.new("RGB", (width, sum(heights) + GAP + lines * LINE), "white")
    pen = ImageDraw.Draw(canvas)
    top = GAP
    for row, drawn, height in zip(sheet.rows, rows, heights, strict=True):
        pen.text((GAP, top), _plain(row.name), fill="black", font=font)
        left = GAP
        for title, panel in drawn:
            pen.text((left, top + LINE), title, fill="#555555", font=font)
            canvas.paste(Pil.fromarray(panel), (left, top + 2 * LINE))
            frame = (left - 1, top + 2 * LINE - 1, left + panel.shape[1], top + 2 * LINE + panel.shape[0])
            pen.rectangle(frame, outline="#999999")
            left += max(panel.shape[1], NARROW) + GAP
        top += height
    for line, left, name, ink in entries:
        high = top + line * LINE
        pen.rectangle((left, high + 2, left + PATCH, high + 2 + PATCH), fill=ink, outline="#999999")
        pen.text((left + PATCH + GAP, high), name, fill="black", font=font)
    canvas.save(path, optimize=True)


def _placed(legend: Sequence[tuple[str, Ink]], width: int, font: Any) -> list[tuple[int, int, str, Ink]]:
    """Line and left end of each entry, as many a line as fit."""
    placed, line, left = [], 0, GAP
    for name, ink in legend:
        wide = PATCH + 3 * GAP + math.ceil(font.getlength(name))
        if left > GAP and left + wide > width:
            line, left = line + 1, GAP
        placed.append((line, left, name, ink))
        left += wide
    return placed


def _shrunk(panel: Pixels) -> Pixels:
    """At most SIDE high, half as much again wide; small ones are enlarged by whole pixels."""
    h, w = panel.shape[:2]
    factor = min(SIDE / h, 1.5 * SIDE / w)
    factor = max(1, int(factor)) if factor >= 1 else factor
    size = (max(1, round(w * factor)), max(1, round(h * factor)))
    return np.asarray(
        cv2.resize(panel, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST), np.uint8
    )


def _plain(text: str) -> str:
    """What PIL's own font has letters for."""
    return text.encode("ascii", "backslashreplace").decode()
