"""The doctor, on sets that are broken in one way each, and on clean ones."""

import dataclasses
import json
import math
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import zlib
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import smalls
import torch
import trees
from browser import Page
from PIL import Image
from runs import TINY, tiny
from trees import BY_KIND, SIZE

from mtseg import cli
from mtseg.config import Config
from mtseg.data.files import Files
from mtseg.data.kinds import data_of
from mtseg.data.source import IGNORE, Subset
from mtseg.data.unread import REMEDY
from mtseg.doctor import machine as machine_module
from mtseg.doctor import plan as plan_module
from mtseg.doctor import survey as survey_module
from mtseg.doctor.examine import examine
from mtseg.doctor.facts import look
from mtseg.doctor.finding import Finding
from mtseg.doctor.machine import Machine, machine, of_installation, of_loading
from mtseg.doctor.pictures import MARK, draw, of_findings, of_views
from mtseg.doctor.survey import survey
from mtseg.doctor.unread import of_unread
from mtseg.run import duration
from mtseg.run.estimate import Estimate, estimate
from mtseg.settings.checked import dump, validate
from mtseg.settings.merge import merge
from mtseg.settings.strict_yaml import to_yaml
from mtseg.settings.words import gather
from mtseg.views import Views

ROOT = Path(__file__).parent.parent
HEALTHY = Machine({"torch": "2.6", "torchvision": "0.21", "opencv-python-headless": "4.9"}, "", 2**40, 2**20)
CLASSES = ("background", "road", "car")


MEASURED = ("sizes", "few-scored")  # what is said of a clean set too


def stripes(values, seed: int, size=SIZE) -> np.ndarray:
    """A mask of all `values`, row by row, begun at another one for each seed; its last column is ignored."""
    mask = np.repeat(np.resize(np.roll(values, seed), size[0])[:, None], size[1], axis=1)
    mask[:, -1] = IGNORE
    return mask.astype(np.uint8)


def draw_clean(root: Path) -> Path:
    """8 labelled images, 5 unlabelled, 3 of val and 2 of test; PNG but for the labelled ones; all classes in each."""
    for pool, count, seed in (("labelled", 8, 0), ("val", 3, 20), ("test", 2, 30), ("unlabelled", 5, 40)):
        for i in range(count):
            suffix = "jpg" if pool == "labelled" else "png"
            folder = root / pool / ("" if pool == "unlabelled" else "images")
            trees.image(folder / f"{pool}_{i}.{suffix}", seed + i)
            if pool != "unlabelled":
                trees.mask(root / pool / "masks" / f"{pool}_{i}.png", stripes(range(3), seed + i))
    return root


ESTIMATED: dict[str, Estimate] = {}


def estimated(config: Config, network: torch.nn.Module, classes: int, images: int) -> Estimate:
    """`estimate`, asked once for each network and step: most tests have the same."""
    parts = ("model", "method", "views", "optimizer", "batch", "accumulate", "precision", "norm", "recompute")
    key = repr([classes, images, *(getattr(config, part) for part in parts)])
    if key not in ESTIMATED:
        ESTIMATED[key] = estimate(config, network, classes, images)
    return ESTIMATED[key]


@pytest.fixture(autouse=True)
def _estimated_once(monkeypatch) -> None:
    monkeypatch.setattr(plan_module, "estimate", estimated)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    return draw_clean(tmp_path_factory.mktemp("clean"))


@pytest.fixture
def root(drawn: Path, tmp_path: Path) -> Path:
    return shutil.copytree(drawn, tmp_path / "data")


def folder_data(root: Path) -> dict:
    data = {"kind": "folder", "root": str(root), "classes": list(CLASSES), "unlabelled": {"images": "unlabelled"}}
    return data | {pool: {"images": f"{pool}/images", "masks": f"{pool}/masks"} for pool in ("labelled", "val", "test")}


def config_of(root: Path, *words: str, data: dict | None = None) -> Config:
    tree = dump(tiny(root.parent / "out")) | {"data": data or folder_data(root)}
    return validate(Config, merge(tree, gather(words)))


def laid(folder: Path, words: list[str]) -> Config:
    """A small recipe under a data set's file and words."""
    tree = dump(tiny(folder))
    del tree["data"]
    return validate(Config, merge(tree, gather(words)))


def found(root: Path, *words: str, data: dict | None = None, here: Machine = HEALTHY) -> tuple[Finding, ...]:
    return examine(config_of(root, *words, data=data), here).findings


def told(findings) -> list[tuple[str, str, tuple[str, ...]]]:
    return sorted((finding.severity, finding.code, tuple(sorted(finding.files))) for finding in findings)


def serious(findings) -> list[Finding]:
    return [finding for finding in findings if finding.severity != "note"]


# -- clean sets -------------------------------------------------------------------------------------------------------


def redrawn(source: Files, seed: int) -> None:
    """Every image of `source` anew, different from all others, and every mask with all classes."""
    table = source.classes.table[:-1]
    raw = [int(np.flatnonzero(table == number)[0]) for number in range(table[table < IGNORE].max() + 1)]
    for index in range(len(source)):
        trees.image(source.root / source.name(index), seed + index)
        if source.mask_name(index):
            values = np.resize(np.roll(raw, index), SIZE).astype(np.uint8)
            trees.mask(source.root / source.mask_name(index), values)


@pytest.mark.parametrize("kind", sorted(BY_KIND))
def test_a_clean_set_of_each_reader_has_no_error_and_no_warning(kind, tmp_path):
    root = BY_KIND[kind](tmp_path / "data")
    name = "own" if kind == "folder" else kind
    words = [str(ROOT / f"configs/data/{name}.yaml"), f"data.root={root}"]
    words += [] if kind == "folder" else ["data.labels=all", "data.unlabelled=all"]
    everything = laid(tmp_path, words).data.build()
    for number, pool in enumerate(("labelled", "unlabelled", "val", "test")):
        if pool != "unlabelled" or kind == "folder":
            redrawn(getattr(everything, pool), 1000 * number)
    words += [] if kind == "folder" else ["data.labels=17"]
    report = examine(laid(tmp_path, words), HEALTHY)
    assert serious(report.findings) == []
    assert sum(len(report.read.pools[pool]) for pool in ("labelled", "val")) > 7


def test_the_embedded_scenes_have_no_error_and_no_warning(tmp_path):
    words = ("data.images=60", "data.labels=16", "data.val=8")
    assert serious(examine(tiny(tmp_path, *words), HEALTHY).findings) == []


def test_a_clean_folder_is_only_measured(root):
    assert {(f.severity, f.code) for f in found(root)} == {("note", code) for code in MEASURED}


def test_pictures_of_kinds_that_are_not_read_are_counted_with_the_remedy_and_other_files_are_not(root):
    for i in range(3):
        (root / f"unlabelled/day {i}").mkdir()
        (root / f"unlabelled/day {i}/IMG_{i}.HEIC").touch()
    others = ["notes.txt", "labels.json", "a.xml", "a.csv", "Thumbs.db", ".b.heic", "clip.mp4.txt", "README"]
    for name in ["a.jfif", *others]:
        (root / "unlabelled" / name).touch()
    (root / "val/masks/val_0.gif").touch()
    said = {finding.text for finding in found(root) if finding.code == "not-read" and finding.severity == "warning"}
    assert said == {
        f"4 files in data.unlabelled.images are not read: .heic (3), .jfif (1); {REMEDY}",
        f"1 file in data.val.masks is not read: .gif (1); {REMEDY}",
    }
    (only,) = [f.text for f in found(root, "data.unlabelled.images=unlabelled/*") if "unlabelled" in f.text]
    assert "1 file in data.unlabelled.images is not read: .jfif (1)" in only


def test_a_pool_of_pictures_that_are_not_read_is_refused_with_their_kind(root):
    for path in list((root / "unlabelled").iterdir()):
        path.rename(path.with_suffix(".heic"))
    findings = found(root)
    assert [(f.severity, f.code) for f in findings] == [("error", "data"), ("warning", "not-read")]
    assert "'unlabelled' names no image under" in findings[0].text
    assert findings[0].text.endswith(f", and .heic (5) there is not read: {REMEDY}")


def test_pictures_that_are_not_read_are_counted_in_folders_of_classes(tmp_path):
    for side in ("train", "val"):
        for seed, name in enumerate(("cat", "dog")):
            trees.image(tmp_path / side / name / "0.png", seed)
    (tmp_path / "train/cat/1.avif").touch()
    data = {"kind": "image_folder", "root": str(tmp_path)}
    (only,) = of_unread(data_of(data))
    assert only.text.startswith("1 file in data.root, train is not read: .avif (1);")


@pytest.mark.parametrize(("images", "few"), [(19, True), (20, False)])
def test_a_score_of_few_images_is_noted(images, few, tmp_path):
    findings = examine(tiny(tmp_path, f"data.val={images}"), HEALTHY).findings
    said = [finding.text for finding in findings if finding.code == "few-scored"]
    assert [text.startswith("val has 19 images:") for text in said] == [True] * few


@pytest.mark.parametrize(("cars", "uneven"), [(40, True), (100, False)])
def test_classes_of_very_different_shares_are_noted_with_words_that_have_rare_ones_seen_more(cars, uneven, root):
    def with_cars(mask: np.ndarray) -> np.ndarray:
        flat = np.where(np.arange(mask.size) % 2, 1, 0)
        flat[:cars] = 2
        return flat.reshape(mask.shape).astype(np.uint8)

    every_mask(root, "labelled", with_cars)
    assert (SIZE[0] * SIZE[1] // 2 > 50 * cars) == uneven
    codes = ("classes-uneven", "rare-things")
    said = [finding for finding in found(root) if finding.code in codes]
    assert [finding.suggestion for finding in said] == ["balance=0.5", "views.copy_paste=0.5"] * uneven
    assert all(finding.text.startswith(f"car is {100 * cars / SIZE[0] / SIZE[1]:.2g} % of") for finding in said)
    assert not [one for one in found(root, "balance=0.5", "views.copy_paste=0.1") if one.code in codes]


@pytest.mark.parametrize(
    ("words", "share"),
    [
        (["views.labelled.geometry.scale=[2.0, 2.0]"], 24 * 24 / 4 / (SIZE[0] * SIZE[1])),
        (["views.labelled.geometry.scale=[2.0, 2.0]", "balance=0.5"], 24 * 24 / 4 / (SIZE[0] * SIZE[1])),
        (["views.labelled.geometry={area: [0.1, 0.4]}"], 0.2),
        (["views.labelled.geometry.scale=[0.5, 0.5]"], None),
        (["views.labelled.geometry.scale=[2.0, 2.0]", "views.oversample=0.1"], None),
    ],
)
def test_crops_that_show_a_part_and_a_class_that_is_rare_are_noted_with_the_word_that_places_them(words, share, root):
    every_mask(root, "labelled", lambda mask: (np.arange(mask.size) == 7).reshape(mask.shape).astype(np.uint8))
    said = [finding for finding in found(root, "views.crop=[24, 24]", *words) if finding.code == "rare-in-crops"]
    assert [finding.suggestion for finding in said] == ["views.oversample=0.33"] * (share is not None)
    assert all(f"shows {share:.0%} of an image" in finding.text for finding in said)


# -- broken sets: each fault alone, and what is said of it -------------------------------------------------------------


def image_at(root: Path, name: str) -> Image.Image:
    with Image.open(root / name) as image:
        image.load()
        return image.copy()


def values_at(root: Path, name: str) -> np.ndarray:
    return np.array(image_at(root, name))


def save(root: Path, name: str, picture, **options) -> None:
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    picture.save(root / name, **options)


def every_mask(root: Path, pool: str, change) -> None:
    for path in sorted((root / pool / "masks").iterdir()):
        save(root, f"{pool}/masks/{path.name}", change(values_at(root, f"{pool}/masks/{path.name}")))


L2, M2, U1 = "labelled/images/labelled_2.jpg", "labelled/masks/labelled_2.png", "unlabelled/unlabelled_1.png"
V0, T0 = "val/images/val_0.png", "test/images/test_0.png"


def cut_half(root, name):
    whole = (root / name).read_bytes()
    (root / name).write_bytes(whole[: len(whole) // 2])


def no_image(root):
    (root / U1).write_text("<html>404 Not Found</html>")


def bomb(root):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0))
    (root / U1).write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))


def see_through(root):
    picture = image_at(root, U1).convert("RGBA")
    picture.putpixel((3, 4), (1, 2, 3, 7))
    save(root, U1, picture)


def deep(root):
    save(root, U1, np.arange(66 * 96, dtype=np.uint16).reshape(SIZE))


def four_inks(root):
    save(root, L2, image_at(root, L2).convert("CMYK"))


def marked_turned(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(root, L2, image_at(root, L2), exif=exif)


def turned_for_the_mask(root):
    marked_turned(root)
    save(root, M2, np.ascontiguousarray(np.rot90(values_at(root, M2))))


def other_size(root):
    save(root, M2, stripes(range(3), 0, (33, 48)))


def lossy(root):
    save(root, M2, image_at(root, M2), format="JPEG")


def see_through_mask(root):
    grey = image_at(root, M2)
    save(root, M2, Image.merge("LA", (grey, Image.new("L", grey.size, 9))))


def in_colours(root):
    save(root, M2, image_at(root, M2).convert("RGB"))


def of_floats(root):
    save(root, M2, values_at(root, M2).astype(np.float32), format="TIFF")


def seven(root):
    values = values_at(root, M2)
    values[:2, :5] = 7
    save(root, M2, values)


def ignored(root):
    save(root, M2, np.full(SIZE, IGNORE, np.uint8))


def one_class(root):
    save(root, M2, np.full(SIZE, 1, np.uint8))


def one_class_each(root):
    def flat(values):
        return np.full(SIZE, values[0, 0], np.uint8)

    every_mask(root, "labelled", flat)


def mostly_void(root):
    def lost(values):
        values[:, : SIZE[1] * 6 // 10] = IGNORE
        return values

    every_mask(root, "labelled", lost)


def no_cars(root, pool):
    every_mask(root, pool, lambda values: np.where(values == 2, 1, values).astype(np.uint8))


def one_car(root):
    kept = (root / M2).read_bytes()
    no_cars(root, "labelled")
    (root / M2).write_bytes(kept)


def one_car_in_val(root):
    kept = (root / V0.replace("images", "masks")).read_bytes()
    no_cars(root, "val")
    (root / V0.replace("images", "masks")).write_bytes(kept)


def twice(root, *, same_mask):
    shutil.copy(root / L2, root / "labelled/images/labelled_3.jpg")
    if same_mask:
        shutil.copy(root / M2, root / "labelled/masks/labelled_3.png")


def as_png(root, source, target):
    """The same pixels in another file."""
    save(root, target, image_at(root, source).convert("RGB"), format="PNG", compress_level=1)


def renamed(root, source, target):
    (root / source).rename(root / target)


def small(root):
    trees.image(root / U1, 99, (15, 90))


def large(root):
    save(root, U1, Image.new("RGB", (3000, 2700), (9, 200, 30)))


def grey(root):
    save(root, U1, image_at(root, U1).convert("L"))


LABELLED_MASKS = tuple(f"labelled/masks/labelled_{i}.png" for i in range(8))
L3 = "labelled/images/labelled_3.jpg"

FAULTS = {
    "truncated image": (lambda r: cut_half(r, L2), [("error", "image-unreadable", (L2,))], "not a whole image"),
    "no image at all": (no_image, [("error", "image-unreadable", (U1,))], "not a whole image"),
    "decompression bomb": (bomb, [("error", "image-unreadable", (U1,))], "cut it into tiles"),
    "transparent image": (see_through, [("error", "image-alpha", (U1,))], "alpha down to 7"),
    "16-bit grey image": (deep, [("error", "image-depth", (U1,))], "more than 8 bits"),
    "CMYK image": (four_inks, [("error", "image-colours", (L2,))], "CMYK"),
    "EXIF orientation": (marked_turned, [("warning", "exif-orientation", (L2,))], "orientation 6"),
    "mask of the turned image": (
        turned_for_the_mask,
        [("error", "size-mismatch", (M2,)), ("warning", "exif-orientation", (L2,))],
        "drawn on the turned picture",
    ),
    "mask of another size": (other_size, [("error", "size-mismatch", (M2,))], "(33, 48)"),
    "JPEG mask": (lossy, [("error", "mask-lossy", (M2,))], "JPEG changes the values"),
    "truncated mask": (lambda r: cut_half(r, M2), [("error", "mask-unreadable", (M2,))], "not a whole"),
    "transparent mask": (see_through_mask, [("error", "mask-alpha", (M2,))], "alpha down to 9"),
    "RGB mask": (in_colours, [("error", "mask-channels", (M2,))], "three (RGB)"),
    "mask of floats": (of_floats, [("error", "mask-mode", (M2,))], "this is F"),
    "value outside of the set": (seven, [("error", "labels-outside", (M2,))], "value 7 on 10 pixels"),
    "ignored mask": (ignored, [("warning", "mask-all-ignored", (M2,))], "every pixel is ignored"),
    "one class in a mask": (one_class, [("note", "mask-single-class", (M2,))], "1 mask of 8"),
    "one class in each mask": (
        one_class_each,  # of 8, so that one of the three is in two of them
        [("warning", "mask-single-class", LABELLED_MASKS), ("warning", "class-rare", ())],
        "no border",
    ),
    "mostly ignored": (mostly_void, [("warning", "mostly-ignored", LABELLED_MASKS)], "60% of the pixels"),
    "class not labelled": (lambda r: no_cars(r, "labelled"), [("warning", "class-absent-labelled", ())], "car: in no"),
    "one class in all masks": (
        lambda r: every_mask(r, "labelled", np.zeros_like),  # which training refuses
        [("warning", "mask-single-class", LABELLED_MASKS), ("error", "class-absent-labelled", ())],
        "nothing tells classes apart",
    ),
    "class not in val": (
        lambda r: no_cars(r, "val"),
        [("warning", "class-absent-scored", ())],
        "car: in no mask of val",
    ),
    "rare class": (one_car, [("warning", "class-rare", ())], "car (1)"),
    "rare class in val": (
        one_car_in_val,
        [("warning", "class-rare-scored", ())],
        "fewer than 3 images of val: car (1)",
    ),
    "duplicate": (lambda r: twice(r, same_mask=True), [("warning", "duplicates", (L2, L3))], "one picture"),
    "contradiction": (
        lambda r: twice(r, same_mask=False),
        [("error", "labels-contradict", (L2, L3))],
        "different masks",
    ),
    "labelled image in val": (lambda r: as_png(r, L2, V0), [("error", "labelled-in-val", (L2, V0))], f"(there {V0})"),
    "labelled image in test": (lambda r: as_png(r, L2, T0), [("error", "labelled-in-test", (L2, T0))], T0),
    "val image unlabelled": (lambda r: as_png(r, V0, U1), [("warning", "unlabelled-in-val", (U1, V0))], V0),
    "test image unlabelled": (lambda r: as_png(r, T0, U1), [("warning", "unlabelled-in-test", (T0, U1))], T0),
    "val image in test": (lambda r: as_png(r, V0, T0), [("warning", "val-in-test", (T0, V0))], T0),
    "labelled image unlabelled": (lambda r: as_png(r, L2, U1), [("note", "labelled-in-unlabelled", (L2, U1))], L2),
    "names alike": (
        lambda r: renamed(r, U1, "unlabelled/Val-0 (1).png"),
        [("note", "names-alike", ("unlabelled/Val-0 (1).png", V0))],
        "of different pictures",
    ),
    "tiny image": (small, [("warning", "never-fills-the-crop", (U1,))], "15 x 90"),
    "huge image": (large, [("warning", "image-large", (U1,))], "3000 x 2700"),
    "grey image": (grey, [("note", "image-grey", (U1,))], "1 image"),
}


def test_a_huge_image_is_none_where_what_is_decoded_is_kept(root, tmp_path):
    large(root)
    codes = [{finding.code for finding in found(root, *words)} for words in ([], [f"data.cache={tmp_path / 'kept'}"])]
    assert ["image-large" in these for these in codes] == [True, False]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_nothing_else(fault, root):
    break_it, expected, words = FAULTS[fault]
    break_it(root)
    findings = [finding for finding in found(root) if finding.code not in MEASURED]
    assert told(findings) == sorted((severity, code, tuple(sorted(names))) for severity, code, names in expected)
    assert any(words in finding.text for finding in findings)


@pytest.mark.parametrize("pools", [("val",), ("test",), ("val", "test")])
def test_scored_files_among_the_unlabelled_ones_are_left_out_by_the_suggestion(pools, root):
    words = [f"data.unlabelled.images=[unlabelled, {', '.join(f'{pool}/images' for pool in pools)}]"]
    warned = serious(found(root, *words))
    assert [finding.code for finding in warned] == [f"unlabelled-in-{pool}" for pool in pools]
    for finding in warned:
        assert not serious(found(root, *words, finding.suggestion))


def test_a_copy_of_a_scored_picture_is_not_left_out_by_a_setting_and_none_is_suggested(root):
    as_png(root, V0, U1)
    (warned,) = serious(found(root))
    assert (warned.code, warned.suggestion) == ("unlabelled-in-val", "")


def test_the_doctor_counts_what_trains_where_images_are_held_out_and_reads_those_too(root):
    from mtseg.run.dry_run import facts as of_dry_run

    config = config_of(root, "eval.select=holdout", "eval.holdout=1/2")
    report = examine(config, HEALTHY)
    assert report.read is not None
    count = len(report.read.pools["labelled"])
    assert count + len(report.read.pools["holdout"]) == len(config.data.build().labelled)
    assert report.facts["passes"].startswith(f"labelled images {config.steps * config.batch.labelled / count:.1f}")
    assert of_dry_run(config)["data"] == report.facts["data"]
    (root / report.read.pools["holdout"][0].image.name).write_bytes(b"")
    assert [finding.severity for finding in serious(examine(config, HEALTHY).findings)] == ["error"]


def test_images_that_cannot_be_held_out_are_told_as_the_run_tells_it(root):
    config = config_of(root, "eval.select=holdout", "eval.holdout=99")
    (error,) = [finding for finding in examine(config, HEALTHY).findings if finding.code == "holdout"]
    assert error.severity == "error"
    with pytest.raises(ValueError, match=f"^{re.escape(error.text)}$"):
        config.eval.apart(config.data.build(), config.seed)


def test_flat_pictures_of_as_many_pixels_and_other_sides_are_no_duplicates(root):
    for i, size in enumerate([(96, 66), (66, 96), (132, 48)]):  # width, height
        save(root, f"unlabelled/unlabelled_{i}.png", Image.new("RGB", size, (9, 200, 30)))
    assert "duplicates" not in {finding.code for finding in found(root)}


@pytest.mark.parametrize("channel", range(3))
def test_an_image_with_one_channel_of_its_own_is_not_grey(channel, root):
    pixels = np.repeat(values_at(root, U1)[..., :1], 3, axis=2)
    pixels[..., channel] = 77
    save(root, U1, pixels)
    assert "image-grey" not in {finding.code for finding in found(root)}


def test_values_are_named_with_the_commonest_first_and_files_with_the_worst_first(root):
    seven(root)
    values = values_at(root, M2)
    values[10:20, :10] = 9
    save(root, M2, values)
    worst = values_at(root, "val/masks/val_1.png")
    worst[:40] = 11
    save(root, "val/masks/val_1.png", worst)
    (only,) = serious(found(root))
    assert only.files == ("val/masks/val_1.png", M2)
    assert f"val_1.png: value 11 on {40 * SIZE[1]} pixels" in only.text
    (root / "val/masks/val_1.png").unlink()
    (root / "val/images/val_1.png").unlink()
    (only,) = serious(found(root))
    assert "value 9 on 100 pixels, value 7 on 10 pixels" in only.text


def test_a_copy_under_the_same_name_is_a_leak_and_not_a_likeness_too(root):
    as_png(root, L2, "val/images/labelled_2.png")
    shutil.copy(root / M2, root / "val/masks/labelled_2.png")
    expected = [("error", "labelled-in-val", tuple(sorted((L2, "val/images/labelled_2.png"))))]
    assert told(finding for finding in found(root) if finding.code not in MEASURED) == expected


# -- sets that cannot be built, lists, counts, pools, sizes ------------------------------------------------------------


def errors(findings) -> list[tuple[str, tuple[str, ...]]]:
    return [(finding.code, finding.files) for finding in findings if finding.severity == "error"]


def test_files_that_are_not_there_are_named(root):
    """Lists are checked when they are read; files may go after that, and sources may be made in other ways."""
    config = config_of(root)
    splits = config.data.build()
    (root / U1).unlink()
    (root / M2).unlink()
    assert told(serious(examine(config, HEALTHY, splits=splits).findings)) == [
        ("error", "image-missing", (U1,)),
        ("error", "mask-missing", (M2,)),
    ]


def test_a_set_that_cannot_be_built_is_an_error_and_its_files_are_read_all_the_same(root):
    (root / M2).unlink()
    cut_half(root, U1)
    findings = found(root)
    assert errors(findings) == [("data", ()), ("image-unreadable", (U1,))]
    assert "labelled_2.jpg" in findings[0].text


def test_a_set_with_a_link_out_of_it_is_an_error_and_its_files_are_read_all_the_same(root, tmp_path):
    trees.image(tmp_path / "disk/more.png", 1)
    (root / "unlabelled/linked").symlink_to(tmp_path / "disk")
    cut_half(root, U1)
    findings = found(root)
    assert errors(findings) == [("data", ()), ("image-unreadable", (U1,))]
    assert "'unlabelled/linked' is a link to" in findings[0].text


def test_a_root_that_is_not_there_is_an_error(tmp_path):
    (only,) = found(tmp_path / "nowhere")
    assert (only.severity, only.code) == ("error", "data")
    assert "nowhere is not a folder" in only.text


def test_a_line_that_is_there_twice_is_an_error_with_its_number(root):
    (root / "list.txt").write_text(f"{U1}\n{V0}\n{U1}\n")
    findings = found(root, "data.unlabelled.images=list.txt")
    assert errors(findings) == [("data", ())]
    assert "list.txt, line 3" in findings[0].text


def test_an_image_that_a_list_spells_in_two_ways_is_there_twice(root):
    (root / "pairs.txt").write_text(f"{L2} {M2}\n/{L2} {M2}\n{L3} labelled/masks/labelled_3.png\n")
    data = folder_data(root) | {"labelled": {"pairs": "pairs.txt"}}
    (finding,) = found(root, data=data)
    assert f"line 2: {'/' + L2!r} is there already, at line 1" in finding.text


def test_another_count_than_expected_is_an_error_and_the_rest_is_still_judged(root):
    seven(root)
    findings = found(root, "data.expect.labelled=9")
    assert errors(findings) == [("expect", ()), ("labels-outside", (M2,))]
    assert "has 8 labelled images, and 9 are expected" in findings[0].text


def test_unlabelled_images_that_are_the_labelled_ones_are_a_warning_unless_the_method_wants_none(root):
    data = folder_data(root)
    del data["unlabelled"]
    assert [(f.severity, f.code) for f in serious(found(root, data=data))] == [("warning", "nothing-unlabelled")]
    assert serious(found(root, "method.branches=[]", data=data)) == []


@pytest.mark.parametrize(
    ("pool", "code"),
    [("labelled", "nothing-labelled"), ("val", "nothing-scored"), ("unlabelled", "nothing-unlabelled")],
)
def test_a_pool_without_images_is_an_error(pool, code, root):
    config = config_of(root)
    splits = config.data.build()
    splits = dataclasses.replace(splits, **{pool: getattr(splits, pool).only([])})
    assert errors(examine(config, HEALTHY, splits=splits).findings) == [(code, ())]


def test_scoring_on_a_pool_that_is_empty_is_an_error(root):
    data = folder_data(root)
    del data["test"]
    assert errors(found(root, "eval.split=test", data=data)) == [("nothing-scored", ())]


@pytest.mark.parametrize(("bad", "severity"), [((1,), "warning"), ((1, 3), "error")])
def test_images_that_skip_passes_over_are_a_warning_until_they_are_too_many(bad, severity, root):
    for i in bad:
        cut_half(root, f"unlabelled/unlabelled_{i}.png")
    findings = serious(found(root, "data.on_bad_image=skip"))
    assert [(f.severity, f.code, len(f.files)) for f in findings] == [(severity, "image-unreadable", len(bad))]


def test_what_skip_passes_over_in_training_is_an_error_where_it_is_scored_too(root):
    cut_half(root, V0)
    words = ("data.on_bad_image=skip", "data.unlabelled.images=[unlabelled, val/images]")
    assert errors(found(root, *words)) == [("image-unreadable", (V0,))]


def test_images_smaller_than_the_crop_are_noted_and_those_that_never_fill_it_warned_of(root):
    wide = (SIZE[1] - 10, SIZE[1])  # higher than the images; at scale 2 they fill it
    codes = {(f.severity, f.code) for f in found(root, f"views.crop=[{wide[0]}, {wide[1]}]")}
    assert codes == {("note", code) for code in (*MEASURED, "smaller-than-the-crop")}
    findings = found(root, f"views.crop=[{wide[0]}, {wide[1]}]", "views.teacher.geometry.scale=[0.5, 1.25]")
    (warned,) = serious(findings)
    assert (warned.code, len(warned.files), "unlabelled" in warned.text) == ("never-fills-the-crop", 5, True)


def scaled(low: float, high: float, *views: str) -> list[str]:
    return [f"views.{view}.geometry.scale=[{low}, {high}]" for view in views or ("labelled", "teacher", "student")]


@pytest.mark.parametrize(
    ("low", "high", "share"), [(0.5, 2, "26%"), (0.9, 2, "46%"), (1, 2, None), (1, 4, None), (0.5, 1.9, "never")]
)
def test_crops_that_are_mostly_mirror_image_are_warned_of_and_the_suggestion_fills_them(low, high, share, root):
    """Images of 66 x 96 in a crop of 130 x 190: 26 % at scale 1, 46 % at the root of 1.8, 51 % at that of 2."""
    words = ["views.crop=[130, 190]", *scaled(low, high)]
    warned = serious(found(root, *words))
    code = "never-fills-the-crop" if share == "never" else "mostly-padding"
    assert [(finding.code, finding.text.partition(":")[0]) for finding in warned] == (
        [(code, "labelled"), (code, "unlabelled")] if share else []
    )
    if code == "mostly-padding":
        for finding in warned:
            assert f"{share} of a crop of 130 x 190 is image" in finding.text
            assert not serious(found(root, *words, finding.suggestion))
            crop, middle = config_of(root, *words, finding.suggestion).views.crop, math.sqrt(low * high)
            assert all(crop[axis] <= SIZE[axis] * middle < crop[axis] + 16 for axis in (0, 1))


def corners(root: Path, *words: str) -> list[Finding]:
    return [finding for finding in found(root, *words) if finding.code == "crop-is-a-corner"]


@pytest.mark.parametrize("student", ["own", "shared"])
@pytest.mark.parametrize(
    ("crop", "scale", "share"),
    [((24, 80), 2.0, "42%"), ((24, 96), 2.0, None), ((32, 40), 1.0, "48%"), ((33, 40), 1.0, None)],
)
def test_a_crop_that_never_shows_half_of_a_side_is_warned_of_and_the_suggestion_shows_a_whole_one(
    crop, scale, share, student, root
):
    assert SIZE == (66, 96)  # at scale 2, 132 x 192
    views = ("labelled", "teacher", "student") if student == "own" else ("labelled", "teacher")
    words = [f"views.crop=[{crop[0]}, {crop[1]}]", *scaled(scale, scale + 1, *views)]
    words += ["views.student.geometry=shared"] if student == "shared" else []
    warned = corners(root, *words)
    assert len(warned) == (share is not None)
    for finding in warned:
        assert finding.text.startswith(", ".join(f"views.{view}" for view in views) + ": ")
        assert f"shows at most {share} of a side" in finding.text
        after = config_of(root, *words, finding.suggestion).views
        for view in views:
            geometry = getattr(after, view).geometry
            assert geometry.reach(crop=crop, image=SIZE) == pytest.approx(1, rel=0.05)
            assert geometry.scale[1] / geometry.scale[0] == pytest.approx((scale + 1) / scale, rel=0.05)
        assert not corners(root, *words, finding.suggestion)


def test_suggestions_for_crops_and_for_what_is_asked_are_taken_together(root):
    words = ["views.crop=[24, 40]", *scaled(1, 2)]
    assert {finding.code for finding in found(root, *scaled(1, 2))}.isdisjoint({"asked-at-another-scale"})
    (corner,) = serious(found(root, *words))  # what asks at scale 1 is right as long as images are seen at it
    assert corner.code == "crop-is-a-corner"
    suggested = shlex.split(corner.words)
    assert len(suggested) == 2
    assert not serious(found(root, *words, *suggested))
    after = config_of(root, *words, *suggested)
    low, high = after.views.labelled.geometry.scale
    assert low <= after.eval.predictor.augment.scales[0] <= high < 1


def test_of_two_things_to_say_about_what_is_asked_the_one_that_fits_the_suggested_scales_is_said(root):
    words = ["views.crop=[24, 40]", *scaled(1, 2), "eval.predictor={kind: whole, augment: {scales: [3]}}"]
    (corner,) = serious(found(root, *words))
    assert not serious(found(root, *words, *shlex.split(corner.words)))


@pytest.mark.parametrize(("renamed", "noted"), [(1, True), (3, False)])
def test_pools_that_number_their_images_alike_are_no_news_and_single_names_are(renamed, noted, root):
    for number in range(renamed):
        for kind, suffix in (("images", "jpg"), ("masks", "png")):
            path = root / f"labelled/{kind}/labelled_{number}.{suffix}"
            path.rename(path.with_stem(f"val_{number}"))
    alike = [finding for finding in found(root) if finding.code == "names-alike"]
    assert bool(alike) == noted


def test_a_corner_is_judged_by_the_images_of_its_own_pool(root):
    for path in (root / "unlabelled").rglob("*.png"):
        Image.open(path).resize((960, 660)).save(path)
    (warned,) = corners(root, "views.crop=[64, 96]", *scaled(1, 2))
    assert warned.text.startswith("views.teacher, views.student: a crop of 64 x 96 shows at most 10% of a side")
    assert warned.suggestion == "views.crop=[320, 480]"  # at one scale the pools show different things
    assert "320 x 480, of 25 times the pixels" in warned.text
    assert not corners(root, *scaled(1, 2), warned.suggestion)
    assert not corners(root, "views.crop=[64, 96]", *scaled(1, 2), "method.branches=[]")


def test_a_share_of_the_area_is_no_corner_whatever_its_unused_scale(root):
    words = ["views.crop=[24, 24]", *scaled(8, 9)]
    areas = [f"views.{view}.geometry.area=[0.3, 1]" for view in ("labelled", "teacher", "student")]
    assert corners(root, *words)
    assert not corners(root, *words, *areas)


def test_scales_at_which_nothing_was_seen_are_warned_of_and_the_suggestion_asks_between(root):
    words = ["views.crop=[24, 40]", *scaled(0.2, 0.45)]
    (warned,) = serious(found(root, *words))
    assert (warned.code, "asks at scale 1" in warned.text) == ("asked-at-another-scale", True)
    assert config_of(root, *words, warned.suggestion).eval.predictor.augment.scales == (0.3,)
    assert not serious(found(root, *words, warned.suggestion))
    assert not serious(found(root, *words, "eval.predictor={kind: whole, augment: {scales: [0.4, 1]}}"))


@pytest.mark.parametrize(
    ("ramp", "steps", "gets_to"),
    [
        ("{kind: rampup, steps: 8}", 4, 3 * math.exp(-5 * (5 / 8) ** 2)),  # at step 3, the last of four
        ("{kind: rampup, steps: 40}", 40, None),
        ("{kind: rampup_share, share: 1}", 40, None),
        ("{kind: cosine, warmup: 10}", 40, None),  # falls at the end
        ("{kind: ramps, up: 8, down: 40}", 40, None),
        ("{kind: constant}", 1, None),
    ],
)
def test_a_ramp_that_is_longer_than_the_run_is_warned_of(ramp, steps, gets_to, root):
    words = [f"steps={steps}", "method.weight=3.0", f"method.ramp={ramp}"]
    warned = serious(found(root, *words))
    assert [finding.code for finding in warned] == (["ramp-longer-than-the-run"] if gets_to else [])
    assert all(f"rises to {gets_to:.2g} of 3" in finding.text for finding in warned)
    assert not serious(found(root, *words, "method.branches=[]"))


def test_steps_that_do_not_see_all_unlabelled_images_are_noted(root):
    (noted,) = [finding for finding in found(root, "steps=2") if finding.code == "part-of-a-pass"]
    assert "80%" in noted.text  # 2 steps of 2, of 5 images
    assert "part-of-a-pass" not in {finding.code for finding in found(root, "steps=3")}


def test_a_network_that_answers_for_something_else_than_the_labels_is_an_error(root, tmp_path):
    (root / "labelled/masks/labelled_0.png").write_bytes(b"no mask")  # the others tell
    seen = found(root, "model={kind: convnet13, width: 8}")
    (text,) = [finding.text for finding in seen if (finding.severity, finding.code) == ("error", "model")]
    assert "convnet13 answers for whole images, and the labels of data.kind: folder are maps" in text
    for number, name in enumerate(["train/cat", "train/dog", "val/cat", "val/dog"]):
        trees.image(tmp_path / "pictures" / name / "0.png", number)
    seen = found(root, data={"kind": "image_folder", "root": str(tmp_path / "pictures")})
    (text,) = [finding.text for finding in seen if (finding.severity, finding.code) == ("error", "model")]
    assert "smp answers for every pixel, and the labels of data.kind: image_folder are one class an image" in text


def test_a_network_that_cannot_be_built_or_fails_on_a_crop_is_an_error(root):
    assert [code for code, _ in errors(found(root, "model.weights=none.pth"))] == ["model"]


def test_a_source_of_ones_own_is_judged_by_what_it_gives(root):
    class Faulty:
        def __len__(self):
            return 3

        def name(self, index):
            return f"mine-{index}"

        def image(self, index):
            if index == 0:
                raise ValueError("the archive is gone")
            return np.random.default_rng(index).integers(0, 256, (*SIZE, 3), dtype=np.uint8)

        def label(self, index):
            return stripes([0, 1, 2], index) if index == 1 else stripes([0, 1, 9], index)

    config = config_of(root)
    splits = dataclasses.replace(config.data.build(), labelled=Faulty())
    findings = examine(config, HEALTHY, splits=splits).findings
    assert errors(findings) == [("image-unreadable", ("mine-0",)), ("labels-outside", ("mine-2",))]
    assert "the archive is gone" in findings[0].text


# -- what the values of masks may mean ---------------------------------------------------------------------------------


def rewritten(root: Path, change) -> None:
    for pool in ("labelled", "val", "test"):
        every_mask(root, pool, change)


def shares_of(report) -> dict[str, int]:
    return {name: row["labelled"].pixels for name, row in report.classes.items()}


@pytest.mark.parametrize(
    ("meant", "classes", "code"),
    [
        ({0: 0, 1: 255}, 2, "mask-0-255"),
        ({0: 10, 1: 20, 2: 30}, 3, "labels-outside"),
        ({0: 0, 1: 128, 2: 254}, 3, "labels-outside"),
        ({0: 1, 1: 2, 2: 3}, 3, "labels-outside"),
    ],
)
def test_a_suggested_mask_map_gives_every_class_the_pixels_that_it_was_drawn_with(meant, classes, code, root):
    """`meant`: class -> raw value. What is not drawn in these is ignored, as 255 where that means nothing else."""
    rewritten(root, lambda values: np.where(values >= classes, np.uint8(0 if classes == 2 else IGNORE), values))
    data = folder_data(root) | {"classes": list(CLASSES[:classes])}
    right = shares_of(examine(config_of(root, data=data), HEALTHY))
    rewritten(root, lambda values: np.vectorize(lambda v: meant.get(v, v), otypes=[np.uint8])(values))
    before = [finding for finding in found(root, data=data) if finding.severity == "error"]
    told_too = "class-absent-labelled"  # what follows, where one value alone is a class as it stands
    assert [finding.code for finding in before if finding.code != told_too] == [code]
    assert before[0].suggestion.startswith("data.mask_map={")
    after = examine(config_of(root, before[0].suggestion, data=data), HEALTHY)
    assert serious(after.findings) == []
    assert shares_of(after) == right


@pytest.mark.parametrize("meant", [{IGNORE: 3}, {0: 1, 1: 2, 2: 3, IGNORE: 0}], ids=["last", "first"])
def test_one_value_more_than_classes_has_both_its_meanings_named_and_neither_guessed(meant, root):
    right = shares_of(examine(config_of(root), HEALTHY))
    rewritten(root, lambda values: np.vectorize(lambda v: meant.get(v, v), otypes=[np.uint8])(values))
    (only,) = serious(found(root))
    assert (only.code, only.suggestion) == ("labels-outside", "")
    void_is_last, void_is_first = re.findall(r"data\.\w+=(?:\d+|\{.*?\})", only.text)
    after = examine(config_of(root, void_is_last if meant.get(IGNORE) else void_is_first), HEALTHY)
    assert serious(after.findings) == []
    assert shares_of(after) == right


@pytest.mark.parametrize("own", [True, False], ids=["of one's own", "VOC's"])
def test_masks_in_the_colours_of_the_palette_or_of_voc_are_mapped_by_them(own, root):
    right = shares_of(examine(config_of(root), HEALTHY))
    inks = np.full((256, 3), 255, np.uint8)
    inks[:3] = [[1, 2, 3], [100, 0, 9], [7, 200, 30]] if own else [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    rewritten(root, lambda values: inks[values])
    data = folder_data(root) | ({"palette": [bytes(ink).hex() for ink in inks[:3]]} if own else {})
    (only,) = serious(found(root, data=data))
    assert (only.code, len(only.files)) == ("mask-channels", 13)
    after = examine(config_of(root, only.suggestion, data=data), HEALTHY)
    assert serious(after.findings) == []
    assert shares_of(after) == right


def test_one_mask_that_was_resized_is_named_and_the_others_colours_are_said_all_the_same(root):
    inks = np.full((256, 3), 255, np.uint8)
    inks[:3] = [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    rewritten(root, lambda values: inks[values])
    smooth = image_at(root, M2).resize((500, 500), Image.Resampling.BICUBIC).resize(image_at(root, M2).size)
    save(root, M2, smooth)
    (only,) = [finding for finding in serious(found(root)) if finding.code == "mask-channels"]
    assert '"#800000": ' in only.suggestion
    assert f"by 12 of 13 masks; {M2} holds " in only.text
    assert "was it resized or saved as JPEG once?" in only.text
    left = [finding for finding in serious(found(root, only.suggestion)) if finding.code != "sizes"]
    assert [(finding.code, finding.files) for finding in left] == [("labels-outside", (M2,))]


def test_masks_in_black_and_white_of_two_classes_are_mapped_as_pictures_show_them(root):
    """Whatever the palette is called: the second class's own colour is in none of them."""
    data = folder_data(root) | {"classes": ["other", "car"]}
    rewritten(root, lambda values: np.where(values == 2, 1, 0).astype(np.uint8))
    right = shares_of(examine(config_of(root, data=data), HEALTHY))
    rewritten(root, lambda values: np.repeat(255 * values[..., None], 3, 2).astype(np.uint8))
    (only,) = serious(found(root, data=data))
    assert (only.code, len(only.files)) == ("mask-channels", 13)
    assert only.suggestion == 'data.mask_map={"#000000": "other", "#ffffff": "car"}'
    after = examine(config_of(root, only.suggestion, data=data), HEALTHY)
    assert serious(after.findings) == []
    assert shares_of(after) == right


def test_no_map_is_suggested_by_black_and_white_alone_where_there_are_more_classes(root):
    rewritten(root, lambda values: np.repeat(np.where(values == 2, 255, 0)[..., None], 3, 2).astype(np.uint8))
    (only,) = [finding for finding in serious(found(root)) if finding.code == "mask-channels"]
    assert only.suggestion == ""
    assert "the masks hold #000000, #ffffff: say in data.mask_map" in only.text


def test_for_a_few_masks_in_colours_among_others_no_map_is_suggested(root):
    """It would be one for all of them."""
    in_colours(root)
    (only,) = serious(found(root))
    assert (only.code, only.files, only.suggestion) == ("mask-channels", (M2,), "")
    assert "save it with one channel" in only.text


def test_values_spread_up_to_the_void_one_are_mapped_as_suggested(root):
    rewritten(root, lambda values: np.where(values == 255, 0, values).astype(np.uint8))
    right = shares_of(examine(config_of(root), HEALTHY))
    rewritten(root, lambda values: np.array([0, 127, 255], np.uint8)[values])
    (only,) = [finding for finding in serious(found(root)) if finding.code == "labels-outside"]
    first, second, third = config_of(root).data.classes
    assert only.suggestion == f'data.mask_map={{"0": "{first}", "127": "{second}", "255": "{third}"}}'
    assert "data.ignore takes 255 for void" in only.text
    after = examine(config_of(root, only.suggestion), HEALTHY)
    assert serious(after.findings) == []
    assert shares_of(after) == right


def test_a_stray_value_can_be_ignored_as_suggested(root):
    seven(root)
    (only,) = serious(found(root))
    assert only.suggestion == "data.other=ignore"
    assert serious(found(root, only.suggestion)) == []


def test_white_of_16_bits_beside_that_of_8_is_a_class_and_not_suggested_to_be_ignored(root):
    """Of some masks, as where two programs saved them; ignored, these would teach no object."""
    masks = sorted(root.glob("**/masks/*.png"))
    for n, path in enumerate(masks):
        white = np.asarray(Image.open(path)) == 2
        values = np.where(white, 65535, 0).astype(np.uint16) if n % 2 else np.where(white, 255, 0).astype(np.uint8)
        trees.mask(path, values)
    data = folder_data(root) | {"classes": ["background", "cell"], "mask_map": {"0": "background", "255": "cell"}}
    only = next(finding for finding in found(root, data=data) if finding.code == "labels-outside")
    assert only.suggestion == ""
    assert "say in data.mask_map that it is the class that 255 is" in only.text
    mapped = data | {"mask_map": data["mask_map"] | {"65535": "cell"}}
    assert "labels-outside" not in {finding.code for finding in found(root, data=mapped)}


def test_values_of_a_class_more_than_named_are_counted(root):
    data = folder_data(root) | {"classes": ["background"]}
    more, alone = sorted(serious(found(root, data=data)), key=lambda finding: finding.code)
    assert (more.code, len(more.files)) == ("labels-outside", 13)
    assert "hold 3 values and data.classes has 1" in more.text
    assert (alone.code, alone.severity) == ("one-class", "error")  # which training refuses too
    after = examine(config_of(root, more.suggestion, data=data), HEALTHY)
    assert serious(after.findings) == []
    assert list(after.classes) == ["background", "class 1", "class 2", "(ignored)"]


def test_masks_of_0_and_255_among_masks_of_classes_are_named(root):
    data = folder_data(root) | {"classes": ["other", "car"]}
    rewritten(root, lambda values: np.where(values == 2, 1, np.where(values == IGNORE, 0, values)).astype(np.uint8))
    save(root, M2, np.where(values_at(root, M2) == 1, IGNORE, 0).astype(np.uint8))
    assert told(serious(found(root, data=data))) == [("warning", "mask-0-255", (M2,))]


def test_void_around_one_class_is_no_fault_in_a_set_of_many(root):
    values = np.zeros(SIZE, np.uint8)
    values[:3] = IGNORE
    save(root, M2, values)
    assert serious(found(root)) == []


def test_a_data_set_without_a_mask_map_is_offered_none(tmp_path):
    root = BY_KIND["camvid"](tmp_path / "data", images=4)
    mask = root / "trainannot/0001TP_006690.png"
    Image.fromarray(np.full((90, 120), 77, np.uint8)).save(mask)
    words = (str(ROOT / "configs/data/camvid.yaml"), f"data.root={root}", "data.labels=all")
    findings = examine(laid(tmp_path, words), HEALTHY).findings
    (only,) = [finding for finding in findings if finding.code == "labels-outside"]
    assert (only.files, only.suggestion) == (("trainannot/0001TP_006690.png",), "")
    assert "value 77 on 10800 pixels" in only.text


# -- counts, processes, needs ------------------------------------------------------------------------------------------


def test_the_histogram_counts_pixels_and_images(root):
    classes = examine(config_of(root), HEALTHY).classes
    whole = np.concatenate([values_at(root, name).ravel() for name in LABELLED_MASKS])
    expected = [int((whole == value).sum()) for value in (0, 1, 2, IGNORE)]
    assert [row["labelled"].pixels for row in classes.values()] == expected
    assert list(classes) == [*CLASSES, "(ignored)"]
    assert all(row["labelled"].images == 8 and row["val"].images == 3 for row in classes.values())


def test_many_processes_see_what_one_sees(root):
    for break_it in (lambda r: cut_half(r, U1), seven, turned_for_the_mask):
        break_it(root)
    splits = config_of(root).data.build()
    assert survey(splits, workers=2).pools == survey(splits, workers=0).pools


def test_a_file_that_is_in_several_pools_is_read_once(tmp_path, monkeypatch):
    root = BY_KIND["camvid"](tmp_path / "data", images=6)
    words = (str(ROOT / "configs/data/camvid.yaml"), f"data.root={root}", "data.labels=4")
    splits = laid(tmp_path, words).data.build()
    assert len(splits.unlabelled) == 6
    asked = []
    monkeypatch.setattr(
        survey_module, "look", lambda source, index: asked.append(source.name(index)) or look(source, index)
    )
    read = survey(splits, workers=0)
    assert sorted(asked) == sorted(entry.image.name for entry in read.distinct())
    assert len(asked) == 6 + 2 + 3
    assert all(entry.mask is None for entry in read.pools["unlabelled"])
    assert all(entry.mask is not None for entry in read.pools["labelled"])


class Deadly:
    """Kills the process that it is brought into."""

    def __reduce__(self):
        return os._exit, (9,)


def test_a_reading_process_that_dies_is_told_in_words(root):
    splits = config_of(root).data.build()
    splits = dataclasses.replace(splits, val=dataclasses.replace(splits.val, classes=Deadly()))
    with pytest.raises(ValueError, match=r"a reading process died: .*workers=1"):
        survey(splits, workers=1)


def test_the_needs_of_a_run_are_those_of_its_batches_and_networks(root, tmp_path, monkeypatch):
    from mtseg.data.blocks import Blocks
    from mtseg.data.stream import Stream

    config = config_of(root, "workers=2", "prefetch=3", "eval.batch=1")
    splits = config.data.build()
    needs = plan_module.plan(config, survey(splits, workers=0))
    monkeypatch.setattr(plan_module, "on_cpu", lambda *_, **__: None)
    on_a_gpu = plan_module.plan(config, survey(splits, workers=0))
    batch = Stream(splits, views=config.views, sizes=config.batch, students=1, seed=0)[0]
    blocks = Blocks(splits.val, 1)
    ahead = [alike.images.nbytes for number in range(len(blocks)) for alike in blocks[number]]
    tensors = [batch.labelled.image, batch.labelled.label, batch.teacher.image, batch.students[0].image]
    assert needs.batch == sum(tensor.nbytes for tensor in tensors)
    assert needs.waiting == needs.batch * 3 * 2
    assert on_a_gpu.waiting == needs.waiting + sum(sorted(ahead)[-2:])
    network = config.model.build(3, pretrained=False)
    assert needs.parameters == sum(p.numel() for p in network.parameters())
    assert (needs.labelled_passes, needs.unlabelled_passes) == (1.0, 1.6)


def test_the_checkpoints_of_a_run_take_about_what_is_said(tmp_path):

    from mtseg.trainer import fit

    config = tiny(tmp_path / "run")
    fit(config)
    taken = sum(path.stat().st_size for path in (tmp_path / "run/checkpoints").rglob("*") if path.is_file())
    needs = plan_module.plan(config, survey(config.data.build(), workers=0))
    kept = len(list((tmp_path / "run/checkpoints").glob("step-*")))
    assert taken == pytest.approx(needs.checkpoints * kept / (config.keep + 2), rel=0.15)  # and the best, and a new one


def test_the_doctor_and_the_dry_run_say_one_thing_of_a_steps_memory(root):
    from mtseg.run.dry_run import facts as of_dry_run

    config = config_of(root)
    assert examine(config, HEALTHY).facts["a step"] == of_dry_run(config)["memory in a step"]


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_the_doctor_and_the_dry_run_say_one_time_on_a_cpu(device, root, monkeypatch):
    from mtseg.run.dry_run import facts as of_dry_run

    monkeypatch.setattr(duration, "tried", lambda *_, **__: 0.5)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = config_of(root, f"device={device}", "steps=700")
    said = examine(config, HEALTHY).facts["on this CPU"]
    assert of_dry_run(config)["time"] == f"{said}, on this CPU"


@pytest.mark.parametrize(("steps", "days"), [(86400 // 31, []), (86400 // 31 + 1, ["days-on-a-cpu"])])
def test_a_run_of_over_a_day_on_a_cpu_is_warned_of(steps, days, root, monkeypatch):
    """A step asks about 8 labelled crops and 2 branches of 1 each, at 3 forwards' time, and the teacher about 1."""
    monkeypatch.setattr(duration, "tried", lambda *_, **__: 1.0)
    words = ("batch={labelled: 8, unlabelled: 1}", "method.branches=[{}, {}]", f"steps={steps}", "device=cpu")
    report = examine(config_of(root, *words), HEALTHY)
    assert [finding.code for finding in report.findings if finding.code == "days-on-a-cpu"] == days
    assert "without evaluations" in report.facts["on this CPU"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="wants a machine without a GPU")
def test_a_gpu_that_is_not_here_is_a_warning_and_no_time_is_said_for_it(root):
    report = examine(config_of(root, "device=cuda"), HEALTHY)
    assert [(f.severity, f.code) for f in report.findings if f.code not in MEASURED] == [("warning", "device")]
    assert "a step" in report.facts
    assert "on this CPU" not in report.facts


@pytest.mark.parametrize(("branches", "forwards"), [("[]", 3 * 8), ("[{}, {}]", 3 * (8 + 2 * 1) + 1)])
def test_the_time_of_a_run_is_that_of_its_crops(branches, forwards, root, monkeypatch):
    monkeypatch.setattr(duration, "tried", lambda *_, **__: 2.0)
    config = config_of(root, "batch={labelled: 8, unlabelled: 1}", f"method.branches={branches}", "device=cpu")
    needs = plan_module.plan(config, survey(config.data.build(), workers=0))
    assert needs.duration is not None
    assert needs.duration.steps == 2.0 * forwards * config.steps


@pytest.mark.skipif(torch.cuda.is_available(), reason="wants a machine without a GPU")
def test_without_a_gpu_auto_is_timed_as_the_cpu_is(root):
    assert "on this CPU" in examine(config_of(root, "device=auto"), HEALTHY).facts


def test_a_disk_without_room_for_the_checkpoints_is_an_error(root, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(plan_module.shutil, "disk_usage", lambda path: usage(2, 1, 1000))
    assert errors(found(root)) == [("disk-full", ())]


# -- the machine -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "severity", "code", "says"),
    [
        ({"broken": "RuntimeError: operator torchvision::nms does not exist"}, "error", "torchvision", "nms"),
        ({"versions": {"opencv-python": "4", "opencv-python-headless": "4"}}, "warning", "two-opencvs", "cv2"),
        ({"versions": {"albumentationsx": "2.1"}}, "warning", "albumentationsx", "AGPL"),
        ({"shared_memory": 10_000}, "error", "shared-memory", "--shm-size"),
        ({"open_files": 256}, "warning", "open-files", "ulimit -n"),
    ],
)
def test_a_fault_of_the_machine_is_found(changes, severity, code, says, root):
    here = dataclasses.replace(HEALTHY, **changes)
    (only,) = serious([*of_installation(here), *of_loading(here, workers=2, waiting=10_001)])
    assert (only.severity, only.code) == (severity, code)
    assert says in only.text
    assert only in found(root, "workers=1", here=here) or code == "shared-memory"


def test_without_loading_processes_neither_shared_memory_nor_open_files_matter():
    here = dataclasses.replace(HEALTHY, shared_memory=0, open_files=10)
    assert list(of_loading(here, workers=0, waiting=10**9)) == []


def test_the_machine_is_seen_as_it_is(tmp_path, monkeypatch):
    import importlib.metadata

    for name, version in (("opencv_python", "9.9"), ("albumentationsx", "7.7")):
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    here = machine()
    assert (here.versions["opencv-python"], here.versions["albumentationsx"]) == ("9.9", "7.7")
    assert here.versions["torch"] == importlib.metadata.version("torch")
    assert here.broken == ""
    assert here.open_files is None or here.open_files > 0
    assert {"two-opencvs", "albumentationsx"} == {finding.code for finding in of_installation(here)}
    monkeypatch.setattr(machine_module, "SHARED_MEMORY", tmp_path / "none")
    assert machine().shared_memory is None


def test_a_torchvision_of_another_release_is_told_in_words_and_the_data_is_judged_all_the_same(tmp_path):
    fake = tmp_path / "torchvision"
    fake.mkdir()
    (fake / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    ran = subprocess.run(
        [
            sys.executable,
            str(ROOT / "tools/doctor.py"),
            str(ROOT / "configs/demo.yaml"),
            "data.images=40",
            "data.val=9",
        ],
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 1
    assert "error torchvision: " in ran.stdout
    assert "torchvision::nms" in ran.stdout
    assert "1 error, 0 warnings" in ran.stdout
    assert ran.stderr == ""


def test_a_library_that_cannot_be_imported_is_told_in_words(tmp_path):
    (tmp_path / "cv2").mkdir()
    (tmp_path / "cv2/__init__.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    for name in ("opencv_python", "opencv_python_headless"):
        info = tmp_path / f"{name}-9.9.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 9.9\n")
    ran = subprocess.run(
        [sys.executable, str(ROOT / "tools/doctor.py"), str(ROOT / "configs/demo.yaml")],
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    first, second = ran.stderr.splitlines()
    assert "the installation is broken: ImportError: libGL.so.1" in first
    assert "opencv-python and opencv-python-headless are installed" in second


# -- the command, the page, the pictures -------------------------------------------------------------------------------


def written_config(root: Path, folder: Path) -> str:
    path = folder / "config.yaml"
    path.write_text(json.dumps(TINY | {"data": folder_data(root)}))  # JSON is YAML
    return str(path)


def test_the_exit_code_is_1_for_errors_alone(root, tmp_path, capsys):
    config = written_config(root, tmp_path)
    assert cli.main(["doctor", config]) == 0
    marked_turned(root)
    assert cli.main(["doctor", config]) == 0
    assert "warning exif-orientation" in capsys.readouterr().out
    seven(root)
    assert cli.main(["doctor", config]) == 1
    assert "1 error, 1 warning" in capsys.readouterr().out


def test_json_has_every_finding_with_every_file(root, tmp_path, capsys):
    for i in range(8):
        cut_half(root, f"labelled/masks/labelled_{i}.png")
    assert cli.main(["doctor", written_config(root, tmp_path), "--json"]) == 1
    tree = json.loads(capsys.readouterr().out)
    (error,) = [finding for finding in tree["findings"] if finding["severity"] == "error"]
    assert (tree["errors"], error["code"], error["files"]) == (1, "mask-unreadable", list(LABELLED_MASKS))
    assert tree["classes"]["car"]["val"]["images"] == 3


def test_the_page_asks_for_nothing_from_elsewhere_and_shows_all_that_was_found(root, tmp_path, capsys):
    evil = "unlabelled/<img src=x onerror=alert(1)>&[bold]$a_1$.png"
    (root / U1).rename(root / evil)
    cut_half(root, evil)
    seven(root)
    assert cli.main(["doctor", written_config(root, tmp_path), "--out", str(tmp_path / "page")]) == 1
    assert capsys.readouterr().out.count(evil) == 2  # in the sentence and the list of files; no markup is read in it
    text = (tmp_path / "page/doctor.html").read_text()
    page = Page(text)
    assert page.open == []
    assert page.links
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    assert evil in page.text
    report = json.loads((tmp_path / "page/findings.json").read_text())
    assert [finding["text"] in page.text for finding in report["findings"]] == [True] * len(report["findings"])
    pictures = sorted(path.name for path in (tmp_path / "page").glob("*.png"))
    assert len(pictures) == len(page.links)
    assert [name.partition("-")[2] for name in pictures] == [
        *("image-unreadable.png", "labels-outside.png"),
        *("labelled.png", "own-geometry.png", "shared-geometry.png"),
    ]


def test_pictures_of_what_was_mended_are_taken_away_and_no_others(root, tmp_path):
    (page := tmp_path / "page").mkdir()
    (page / "00-my-own.png").touch()  # in a folder that is no page yet
    command = ["doctor", written_config(root, tmp_path), "--out", str(page)]
    whole = values_at(root, M2)
    seven(root)
    assert cli.main(command) == 1
    assert (page / "00-labels-outside.png").is_file()
    (page / "notes.png").touch()
    trees.mask(root / M2, whole)
    assert cli.main(command) == 0
    there = {path.name for path in page.glob("*.png")}
    assert there >= {"notes.png", "00-my-own.png"}
    assert [name for name in there if "labels-outside" in name] == []


def test_the_page_of_a_set_that_cannot_be_built_says_why(tmp_path):
    config = written_config(tmp_path / "nowhere", tmp_path)
    assert cli.main(["doctor", config, "--out", str(tmp_path / "page")]) == 1
    assert "nowhere is not a folder" in Page((tmp_path / "page/doctor.html").read_text()).text


def test_offending_pixels_are_marked_and_no_others(root):
    seven(root)
    report = examine(config_of(root), HEALTHY)
    (sheet,) = of_findings(report.findings, report.read, Views(crop=(32, 32)))
    (row,) = sheet.rows
    panels = dict(row.panels)
    assert row.name == L2
    lost = values_at(root, M2) == 7
    assert ((panels["offending pixels"] == MARK).all(-1) == lost).all()
    assert (panels["offending pixels"][~lost] == np.array(image_at(root, L2))[~lost] // 2).all()
    assert (panels["image, 66 x 96"] == np.array(image_at(root, L2))).all()


def test_the_warped_view_lies_on_the_students_where_it_is_valid(tmp_path):
    """Scenes are smooth: views of one place differ by interpolation, views of two places by their contents."""
    plain = "views.student={colour: [], geometry: {scale: [0.8, 1.25], rotation: 20, flip: 0.5}}"
    config = tiny(tmp_path, "data.size=[96, 128]", "data.images=4", "views.crop=[96, 128]", *[plain])
    sheets = {sheet.key: sheet for sheet in of_views(config, examine(config, HEALTHY).read)}
    assert set(sheets) == {"views-labelled", "views-shared-geometry", "views-own-geometry"}
    assert sheets["views-own-geometry"].words.startswith("As this config has it.")
    for row in sheets["views-own-geometry"].rows:
        teacher, student, warped, valid = (panel.astype(float) for _, panel in row.panels)
        inside = valid > 0
        assert inside.mean() > 0.2
        near = np.abs(warped - student)[inside].mean()
        assert near < 0.5 * np.abs(teacher - student)[inside].mean()
    for row in sheets["views-shared-geometry"].rows:
        panels = dict(row.panels)
        assert (panels["teacher's, warped into student's"] == panels["teacher's view"]).all()


def test_pictures_are_drawn_of_what_can_be_read(root):
    """Broken files are neither views nor the reason for none."""
    for break_it in (no_image, lambda r: cut_half(r, L2), lambda r: cut_half(r, "labelled/masks/labelled_3.png")):
        break_it(root)
    config = config_of(root)
    report = examine(config, HEALTHY)
    shown = [row.name for sheet in of_views(config, report.read) for row in sheet.rows]
    assert len(shown) == 9
    assert not {L2, L3, U1} & set(shown)
    assert isinstance(report.read.splits.labelled, Files)
    assert not isinstance(report.read.splits.labelled, Subset)


def test_images_with_a_class_each_are_drawn_with_its_name(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("mtseg.doctor.pictures.draw", lambda sheet, path: drawn.append(sheet) or draw(sheet, path))
    (tmp_path / "small.yaml").write_text(to_yaml(dump(smalls.small(tmp_path))))
    assert cli.main(["doctor", str(tmp_path / "small.yaml"), "--out", str(tmp_path / "page")]) == 0
    labelled = smalls.small(tmp_path).data.build().labelled
    classes = {labelled.name(i): int(labelled.label(i)) for i in range(len(labelled))}
    rows = next(sheet for sheet in drawn if sheet.key == "views-labelled").rows
    assert [row.panels[1][0] for row in rows] == [f"its class: {classes[row.name]}" for row in rows]
    assert list((tmp_path / "page").rglob("views-labelled*"))


def test_the_labelled_views_have_a_legend_of_the_classes_in_them(root, tmp_path):
    from PIL import Image

    config = config_of(root)
    report = examine(config, HEALTHY)
    sheet = next(sheet for sheet in of_views(config, report.read) if sheet.key == "views-labelled")
    splits = report.read.splits
    shown = {tuple(ink) for row in sheet.rows for title, panel in row.panels if "label" in title for ink in panel[0]}
    there = {tuple(ink) for row in sheet.rows for ink in dict(row.panels)["its label"].reshape(-1, 3).tolist()}
    wanted = [(name, tuple(ink)) for name, ink in zip(splits.classes, splits.palette.tolist(), strict=True)]
    assert list(sheet.legend) == [(name, ink) for name, ink in wanted if ink in there]
    assert shown
    many = dataclasses.replace(sheet, legend=tuple((f"class number {i}", (i, 200, 7)) for i in range(40)))
    for one, path in ((sheet, tmp_path / "one.png"), (many, tmp_path / "many.png")):
        draw(one, path)
    few, more = (np.array(Image.open(tmp_path / name)) for name in ("one.png", "many.png"))
    assert more.shape[1] == few.shape[1]
    assert all((more == (i, 200, 7)).all(-1).sum() >= 64 for i in range(40))  # each is drawn, and none over another


def test_masks_in_which_0_may_be_void_and_every_class_one_too_low_are_asked_about(root):
    def absent() -> str:
        (finding,) = [one for one in found(root) if one.code == "class-absent-labelled"]
        return finding.text

    def lower(values):
        return np.where(values == 255, 255, np.minimum(values, 1)).astype(np.uint8)

    every_mask(root, "labelled", lower)
    assert "too low" not in absent()  # something is void
    every_mask(root, "labelled", lambda values: np.where(values == 255, 0, values).astype(np.uint8))
    asked = absent()
    assert "one too low" in asked
    assert '"0": "ignore", "1": "' in asked
