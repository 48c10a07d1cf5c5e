"""Prediction of many images: what is written, under which names, resumed, in parts, with failures; pseudo-labels."""

import copy
import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import trees
import yaml
from PIL import Image
from runs import TINY, tiny

import mtseg
from mtseg import cli
from mtseg.config import load, of_run
from mtseg.data.channels import Channels, Layer
from mtseg.data.decode import read_mask, size_of
from mtseg.data.source import IGNORE
from mtseg.inference import pictures
from mtseg.inference.answering import LARGE, asking
from mtseg.inference.inputs import items, place, shard
from mtseg.inference.pseudo import classes_kept
from mtseg.inference.restored import restored
from mtseg.inference.trained import Trained
from mtseg.predictors import Centre, Slide, Whole
from mtseg.settings.words import gather
from mtseg.trainer import fit

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    fit(tiny(out), quiet=True)
    return out


def photo(path: Path, seed: int = 0, size: tuple[int, int] = (40, 56)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two folders with files of the same name, another size, another suffix, and what is no image."""
    folder = tmp_path / "photos"
    photo(folder / "a" / "x.png", 1)
    photo(folder / "b" / "x.png", 2, (33, 71))
    photo(folder / "b" / "deep" / "y.JPG", 3)
    photo(folder / ".hidden" / "z.png", 4)
    (folder / "notes.txt.md").write_text("no image")
    return folder


NAMES = ["a/x", "b/deep/y", "b/x"]


def predicted(*words: object) -> int:
    return cli.main(["predict", *map(str, words)])


def outputs(out: Path, kind: str = "mask") -> list[str]:
    return sorted(path.relative_to(out / kind).as_posix() for path in (out / kind).rglob("*") if path.is_file())


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- what is written


def test_mask_overlay_and_confidence_are_the_teachers_answer_in_the_images_size(run, photos, tmp_path):
    out = tmp_path / "out"
    assert predicted(run, photos, "--out", out, "--save", "mask,overlay,confidence,image") == 0
    model = mtseg.load(run)
    for kind in ("mask", "overlay", "confidence", "image"):
        assert outputs(out, kind) == [f"{name}.png" for name in NAMES]
    for name, source in zip(NAMES, ("a/x.png", "b/deep/y.JPG", "b/x.png"), strict=True):
        image, answer = np.array(Image.open(photos / source)), model.predict(photos / source)
        mask = Image.open(out / "mask" / f"{name}.png")
        assert mask.mode == "P"
        assert (np.array(mask) == answer.classes).all()
        assert (read_mask(out / "mask" / f"{name}.png") == answer.classes).all()
        assert (np.array(mask.convert("RGB")) == model.palette[answer.classes]).all()
        confidence = np.array(Image.open(out / "confidence" / f"{name}.png"))
        assert np.abs(confidence / 255 - answer.confidence).max() < 0.51 / 255
        overlay = np.array(Image.open(out / "overlay" / f"{name}.png"))
        mixed = image / 2 + model.palette[answer.classes] / 2
        assert np.abs(overlay - mixed).max() <= 0.5
        assert (np.array(Image.open(out / "image" / f"{name}.png")) == image).all()
    assert not list(out.rglob(".tmp*"))


def test_the_student_another_step_and_another_way_of_asking_are_taken_by_option(run, photos, tmp_path):
    image = photos / "a/x.png"
    for n, (options, same) in enumerate(
        (
            (["--network", "student"], mtseg.load(run, network="student")),
            (["--at", "2"], mtseg.load(run, at="2")),
            (
                ["--set", "eval.predictor={kind: slide, window: [16, 16]}", "device=cpu"],
                mtseg.load(run, ["eval.predictor={kind: slide, window: [16, 16]}"]),
            ),
        )
    ):
        out = tmp_path / str(n)
        assert predicted(run, image, "--out", out, "--save", "confidence", *options) == 0
        confidence = np.array(Image.open(out / "confidence/x.png"))
        assert np.abs(confidence / 255 - same.predict(image).confidence).max() < 0.51 / 255
        assert np.abs(confidence / 255 - mtseg.load(run).predict(image).confidence).max() > 1 / 255


def test_overlay_shows_the_image_itself_where_no_class_is_named_in_every_band():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2 * pictures.ROWS + 7, 5, 3), dtype=np.uint8)
    classes = rng.choice([0, 1, IGNORE], image.shape[:2]).astype(np.uint8)
    palette = np.array([[200, 0, 10], [0, 100, 30]], np.uint8)
    drawn = np.concatenate(
        list(pictures.overlay(pictures.strips(image), pictures.strips(classes), palette, share=0.25))
    )
    assert (drawn[classes == IGNORE] == image[classes == IGNORE]).all()
    for k in (0, 1):
        assert np.abs(drawn[classes == k] - (0.75 * image[classes == k] + 0.25 * palette[k])).max() <= 0.5


def test_black_is_laid_on_no_image_for_it_would_be_a_shadow():
    image = np.random.default_rng(1).integers(1, 256, (9, 5, 3), dtype=np.uint8)
    classes = np.arange(45, dtype=np.uint8).reshape(9, 5) % 2
    drawn = np.concatenate(list(pictures.overlay([image], [classes], np.array([[0, 0, 0], [0, 0, 9]], np.uint8))))
    assert (drawn[classes == 0] == image[classes == 0]).all()
    assert (drawn[classes == 1] != image[classes == 1]).any()


@pytest.mark.parametrize("size", [(1, 1), (3, 7), (pictures.ROWS + 1, 5), (3 * pictures.ROWS, 2)])
def test_pictures_written_row_by_row_are_read_by_others_as_they_were(size, tmp_path):
    import cv2

    rng = np.random.default_rng(1)
    grey, rgb = rng.integers(0, 256, size, dtype=np.uint8), rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    palette = rng.integers(0, 256, (7, 3), dtype=np.uint8)
    pictures.write(tmp_path / "grey.png", pictures.strips(grey), size)
    pictures.write(tmp_path / "rgb.png", pictures.strips(rgb), size)
    pictures.write(tmp_path / "mask.png", pictures.strips(grey % 7), size, palette)
    modes = {name: Image.open(tmp_path / f"{name}.png").mode for name in ("grey", "rgb", "mask")}
    assert modes == {"grey": "L", "rgb": "RGB", "mask": "P"}
    assert (np.array(Image.open(tmp_path / "grey.png")) == grey).all()
    assert (np.array(Image.open(tmp_path / "rgb.png")) == rgb).all()
    assert (np.array(Image.open(tmp_path / "mask.png")) == grey % 7).all()
    assert (cv2.imread(str(tmp_path / "rgb.png"))[..., ::-1] == rgb).all()
    assert (cv2.imread(str(tmp_path / "mask.png"))[..., ::-1] == palette[grey % 7]).all()
    assert all(pictures.whole(tmp_path / f"{name}.png") for name in modes)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-9], lambda b: b[:100], lambda b: b"", lambda b: b[:60] + b"x" + b[61:]]
)
def test_a_picture_that_is_cut_off_or_changed_is_not_whole(damage, tmp_path):
    path = tmp_path / "x.png"
    pictures.write(path, pictures.strips(np.random.default_rng(0).integers(0, 256, (30, 30), dtype=np.uint8)), (30, 30))
    path.write_bytes(damage(path.read_bytes()))
    assert not pictures.whole(path)


def test_a_picture_that_fails_half_way_leaves_nothing(tmp_path):
    def rows():
        yield np.zeros((2, 4), np.uint8)
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        pictures.write(tmp_path / "x.png", rows(), (4, 4))
    assert list(tmp_path.iterdir()) == []


# --- names


def test_files_folders_globs_and_lists_name_the_same_images(photos, tmp_path, monkeypatch):
    listed = photos / "list.txt"
    listed.write_text("a/x.png\nb/x.png\nb/deep/y.JPG\n")
    monkeypatch.chdir(tmp_path)
    ways = [
        [str(photos)],
        [str(photos / "a"), str(photos / "b")],
        ["photos/a/x.png", "photos/b/x.png", "photos/b/deep/y.JPG", "photos/../photos/a/x.png"],
        [str(listed)],
        [str(photos / "**/*.[pJ]*"), str(photos)],
    ]
    for words in ways:
        found = items(words, tmp_path / "out")
        assert [(item.name, item.said) for item in found] == [
            ("a/x", str(photos / "a/x.png")),
            ("b/deep/y", str(photos / "b/deep/y.JPG")),
            ("b/x", str(photos / "b/x.png")),
        ]


def test_images_that_differ_in_their_suffix_alone_keep_it(tmp_path):
    for name in ("x.png", "x.jpg", "y.png", "z.tar.png"):
        photo(tmp_path / name)
    assert [item.name for item in items([str(tmp_path)], tmp_path / "out")] == ["x.jpg", "x.png", "y", "z.tar"]


def test_images_that_would_still_be_called_the_same_are_refused(tmp_path):
    for name in ("x.png", "x.jpg", "x.jpg.png"):
        photo(tmp_path / name)
    with pytest.raises(ValueError, match=r"would be called x\.jpg"):
        items([str(tmp_path)], tmp_path / "out")


def test_outputs_are_no_inputs(run, photos):
    assert predicted(run, photos, "--out", photos / "out") == 0
    assert predicted(run, photos, "--out", photos / "out") == 0
    assert outputs(photos / "out") == [f"{name}.png" for name in NAMES]


@pytest.mark.parametrize("kind", ["mask", "image"])
def test_an_image_is_never_written_over(kind, run, tmp_path):
    before = photo(tmp_path / kind / "x.png").read_bytes()
    assert predicted(run, tmp_path / kind, "--out", tmp_path, "--save", kind) == 1
    assert (tmp_path / kind / "x.png").read_bytes() == before


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "a\nb", "a\0b", "\udcff"])
def test_a_name_that_leads_out_or_cannot_be_written_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="no name for a file"):
        place(tmp_path, name, ".png")


def test_files_that_are_not_read_and_photographs_that_viewers_turn_are_said(run, photos, tmp_path, capsys):
    assert predicted(run, photos, "--out", tmp_path / "plain") == 0
    assert not re.search("not read|EXIF", capsys.readouterr().out)
    (photos / "b/IMG_1.HEIC").write_bytes(b"of a telephone")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(photos / "b/deep/y.JPG").save(photos / "b/deep/y.JPG", exif=exif)
    assert predicted(run, photos, "--out", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "1 not read: .heic (1); convert what is wanted to PNG" in said
    assert re.search(r"look: 1 predicted as stored, .*EXIF.* \(.*b/deep/y.JPG\)", said)


def test_a_link_in_the_output_folder_is_not_followed_out_of_it(run, photos, tmp_path, capsys):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (out / "mask").mkdir(parents=True)
    (out / "mask" / "a").symlink_to(elsewhere)
    assert predicted(run, photos, "--out", out) == 1
    assert list(elsewhere.iterdir()) == []
    assert outputs(out) == ["b/deep/y.png", "b/x.png"]
    (failure,) = lines(out / "errors.jsonl")
    assert "leads out of" in failure["error"]


def test_names_do_not_depend_on_where_they_are_named_from(photos, tmp_path, monkeypatch):
    names = []
    for here, word in ((tmp_path, "photos"), (photos, "."), (photos / "a", "..")):
        monkeypatch.chdir(here)
        names.append([item.name for item in items([word], tmp_path / "out")])
    assert names == [NAMES] * 3


# --- resumed, in parts, with failures


def test_what_is_there_and_whole_is_kept_and_what_is_not_is_made_again(run, photos, tmp_path, capsys):
    out = tmp_path / "out"
    predicted(run, photos, "--out", out)
    whole = (out / "mask/a/x.png").read_bytes()
    (out / "mask/a/x.png").write_bytes(whole[:-9])
    (out / "mask/b/x.png").unlink()
    kept = (out / "mask/b/deep/y.png").stat().st_mtime_ns
    capsys.readouterr()
    assert predicted(run, photos, "--out", out) == 0
    assert "2 predicted, 1 there already, 0 failed" in capsys.readouterr().out
    assert (out / "mask/a/x.png").read_bytes() == whole
    assert (out / "mask/b/deep/y.png").stat().st_mtime_ns == kept


def test_a_record_that_a_crash_cut_off_is_made_again(run, photos, tmp_path, capsys):
    out = tmp_path / "out"
    predicted(run, photos, "--out", out)
    text = (out / "predictions.jsonl").read_text()
    (out / "predictions.jsonl").write_text(text[:-20])
    capsys.readouterr()
    assert predicted(run, photos, "--out", out, "--rank") == 0
    assert "1 predicted, 2 there already" in capsys.readouterr().out
    assert len((out / "ranking.csv").read_text().splitlines()) == 4


@pytest.mark.parametrize("change", ["pixels", "time alone"])
def test_an_image_that_was_replaced_since_is_predicted_again_and_no_other(change, run, photos, tmp_path, capsys):
    out = tmp_path / "out"
    predicted(run, photos, "--out", out)
    before = (photos / "a/x.png").stat()
    if change == "pixels":
        photo(photos / "a/x.png", 9)
    else:
        os.utime(photos / "a/x.png", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    capsys.readouterr()
    assert predicted(run, photos, "--out", out) == 0
    assert "1 predicted, 2 there already, 0 failed" in capsys.readouterr().out
    assert (read_mask(out / "mask/a/x.png") == mtseg.load(run).predict(photos / "a/x.png").classes).all()
    assert predicted(run, photos, "--out", out) == 0
    assert "0 predicted, 3 there already" in capsys.readouterr().out


def test_a_further_file_of_an_image_and_an_image_of_a_pool_are_noticed_too(own_run, tmp_path, capsys):
    (run, words), out = own_run, tmp_path / "out"
    root = load([*words, "out=x"]).data.root
    layers = Channels(layers=(Layer(), Layer(ending=("_rgb", "_more"))))
    trees.image(tmp_path / "a_rgb.png", 1)
    trees.image(tmp_path / "a_more.png", 2)
    (item,) = items([str(tmp_path / "a_rgb.png")], out, layers)
    stamp = item.stamp()
    assert item.stamp() == stamp
    os.utime(tmp_path / "a_more.png", ns=(0, 0))
    assert item.stamp() != stamp
    assert predicted(run, "--pool", "unlabelled", "--out", out) == 0
    os.utime(root / "unlabelled/snap_3.png", ns=(0, 0))
    assert predicted(run, "--pool", "unlabelled", "--out", out) == 0
    assert "1 predicted, 7 there already" in capsys.readouterr().out


def test_lines_of_the_record_that_say_too_little_are_none(run, photos, tmp_path):
    out = tmp_path / "out"
    predicted(run, photos, "--out", out)
    with (out / "predictions.jsonl").open("a") as file:
        file.write('{}\n{"name": "z"}\n[]\n[[1, 2]]\n7\n')
    assert predicted(run, photos, "--out", out, "--rank") == 0
    assert len((out / "ranking.csv").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("options", "other"),
    [
        (["--network", "student"], "weights"),
        (["--at", "2"], "weights, step"),
        (["--min-confidence", "0.5"], "min_confidence"),
        (["--set", "views.mean=[0.4, 0.5, 0.5]"], "normalisation"),
        (["--set", "eval.predictor={kind: whole, augment: {scales: [0.5]}}"], "protocol"),
    ],
)
def test_predictions_of_others_are_never_mixed(options, other, run, photos, tmp_path, capsys):
    predicted(run, photos, "--out", tmp_path / "out")
    assert predicted(run, photos, "--out", tmp_path / "out", *options) == 1
    assert f"holds predictions with other {other}; choose" in capsys.readouterr().err


def test_settings_that_no_prediction_depends_on_make_no_other_predictions(run, photos, tmp_path, capsys):
    predicted(run, photos, "--out", tmp_path / "out")
    said = (tmp_path / "out/prediction.json").read_bytes()
    assert predicted(run, photos, "--out", tmp_path / "out", "--set", "views.crop=[32, 32]") == 0
    assert (tmp_path / "out/prediction.json").read_bytes() == said
    assert "3 there already" in capsys.readouterr().out


def test_an_image_of_the_same_name_from_elsewhere_is_not_taken_for_the_one_that_is_there(run, photos, tmp_path):
    out = tmp_path / "out"
    predicted(run, photos / "a/x.png", "--out", out)
    before = (out / "mask/x.png").read_bytes()
    assert predicted(run, photos / "b/x.png", "--out", out) == 1
    assert "has predictions of" in lines(out / "errors.jsonl")[0]["error"]
    assert (out / "mask/x.png").read_bytes() == before


def test_a_file_is_not_listed_twice_though_it_is_named_by_the_pool_and_by_its_folder(own_run, tmp_path, capsys):
    (run, words), out = own_run, tmp_path / "out"
    folder = load([*words, "out=x"]).data.root / "unlabelled"
    (tmp_path / "link").symlink_to(folder)
    assert predicted(run, "--pool", "unlabelled", "--out", out, "--save", "none") == 0
    shares = (out / "shares.csv").read_text()
    for named in (folder, tmp_path / "link", folder / "snap_3.png"):
        assert predicted(run, named, "--out", out, "--save", "none") == 1
        said = capsys.readouterr().err
        assert f"{folder.resolve()}/snap_" in said
        assert "choose another --out" in said
    assert (out / "shares.csv").read_text() == shares
    assert predicted(run, "--pool", "val", "--out", out, "--save", "none") == 0  # other files may join them
    assert len(lines(out / "predictions.jsonl")) > len(shares.splitlines()) - 1


def test_two_links_to_one_file_are_two_images_also_when_the_command_comes_again(run, photos, tmp_path, capsys):
    (photos / "a/also.png").symlink_to(photos / "a/x.png")
    assert predicted(run, photos / "a", "--out", tmp_path / "out") == 0
    (tmp_path / "out/predictions.jsonl").write_text((tmp_path / "out/predictions.jsonl").read_text().splitlines()[0])
    assert predicted(run, photos / "a", "--out", tmp_path / "out") == 0
    assert "1 predicted, 1 there already, 0 failed" in capsys.readouterr().out


def test_the_newest_record_of_an_image_counts_in_whatever_part_it_was_predicted(run, photos, tmp_path, capsys):
    """`predictions-1-of-2.jsonl` comes before `predictions.jsonl` by name, and after it in time."""
    out = tmp_path / "out"
    predicted(run, photos, "--out", out)
    photo(photos / "a/x.png", 9, (21, 30))
    for part in ("1/2", "2/2"):
        assert predicted(run, photos, "--out", out, "--shard", part) == 0
    capsys.readouterr()
    assert predicted(run, photos, "--out", out) == 0
    assert "0 predicted, 3 there already" in capsys.readouterr().out
    classes = mtseg.load(run).predict(photos / "a/x.png").classes
    (row,) = (row for row in csv.DictReader((out / "shares.csv").open()) if row["image"].endswith("a/x.png"))
    for number, name in enumerate(mtseg.load(run).classes):
        assert float(row[name]) == pytest.approx(100 * (classes == number).mean(), abs=0.001)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_parts_are_every_image_once_and_together_the_whole(count, photos, tmp_path):
    whole = items([str(photos)], tmp_path / "out")
    parts = [shard(whole, f"{i}/{count}") for i in range(1, count + 1)]
    assert sorted(item.name for part in parts for item in part) == NAMES
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_parts_write_what_one_process_writes(run, photos, tmp_path):
    one, parts = tmp_path / "one", tmp_path / "parts"
    predicted(run, photos, "--out", one, "--rank")
    for part in ("2/2", "1/2"):
        assert predicted(run, photos, "--out", parts, "--rank", "--shard", part) == 0
    assert (one / "ranking.csv").read_text() == (parts / "ranking.csv").read_text()
    for name in outputs(one):
        assert (one / "mask" / name).read_bytes() == (parts / "mask" / name).read_bytes()


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_a_part_that_is_none_is_refused(part, run, photos, tmp_path, capsys):
    assert predicted(run, photos, "--out", tmp_path / "out", f"--shard={part}") == 1
    assert "--shard" in capsys.readouterr().err


def test_failures_are_listed_and_the_rest_goes_on_and_they_are_tried_again(run, photos, tmp_path, capsys):
    out = tmp_path / "out"
    broken = photos / "a" / "x.png"
    good = broken.read_bytes()
    broken.write_bytes(good[:200])
    assert predicted(run, photos, photos / "gone.png", "--out", out) == 1
    assert "2 images failed" in capsys.readouterr().err
    failures = {Path(line["image"]).name: line["error"] for line in lines(out / "errors.jsonl")}
    assert "not a whole image" in failures["x.png"]
    assert "no such file" in failures["gone.png"]
    assert outputs(out) == ["b/deep/y.png", "b/x.png"]
    broken.write_bytes(good)
    assert predicted(run, photos, "--out", out) == 0
    assert not (out / "errors.jsonl").exists()
    assert outputs(out) == [f"{name}.png" for name in NAMES]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "name images"),
        (["{photos}", "--pool", "val"], "not both"),
        (["{photos}", "--save", "masks"], "masks is not known; choose among mask"),
        (["{photos}", "--min-confidence", "2"], "no probability"),
        (["{photos}/none*.png"], "names no image"),
        (["{photos}s"], "photoss: no such file or folder"),
        (["{photos}", "--at", "9"], "no checkpoint of step 9"),
        (["{photos}", "--set", "eval.predictorr=1"], "did you mean 'predictor'"),
    ],
)
def test_a_mistake_is_answered_before_anything_is_written(words, says, run, photos, tmp_path, capsys):
    assert predicted(run, *(word.format(photos=photos) for word in words), "--out", tmp_path / "out") == 1
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --- for the next round


def test_pseudo_labels_are_the_sure_pixels_and_a_data_set_that_trains(run, tmp_path):
    out, model, splits = tmp_path / "round", mtseg.load(run), restored(run).splits
    sure = float(np.median(model.predict(splits.unlabelled.image(3)).confidence))
    words = ["--save", "mask,image", "--min-confidence", sure]
    assert predicted(run, "--pool", "unlabelled", "--out", out, *words) == 0
    labelled = {splits.labelled.name(i) for i in range(len(splits.labelled))}
    asked = [i for i in range(len(splits.unlabelled)) if splits.unlabelled.name(i) not in labelled]
    assert 0 < len(asked) == len(outputs(out)) == len(outputs(out, "image"))
    for i in asked:
        answer = model.predict(splits.unlabelled.image(i))
        mask = read_mask(out / "mask" / f"{splits.unlabelled.name(i)}.png")
        assert (mask == np.where(answer.confidence < np.float32(sure), IGNORE, answer.classes)).all()
        assert 0 < (mask == IGNORE).mean() < 1
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({key: value for key, value in TINY.items() if key != "data"}))
    words = [str(tmp_path / "tiny.yaml"), str(out / "data.yaml"), "steps=2", f"out={tmp_path / 'next'}", "data.val=0.4"]
    scores = mtseg.fit(words, quiet=True)
    assert scores["teacher"]["mIoU"] is not None
    assert mtseg.load(tmp_path / "next").classes == splits.classes


OWN_MASKS = {0: 40, 1: 90, 2: 200, IGNORE: 7}  # class -> the value that a user's own masks have for it


@pytest.fixture(scope="module")
def own_run(tmp_path_factory) -> tuple[Path, list[str]]:
    """A run on photographs of one's own, whose masks have values of their own, and its words."""
    place = tmp_path_factory.mktemp("own")
    root = trees.own(place / "data")
    Image.new("RGB", (150, 120), "gray").save(root / "unlabelled/snap_7.png")  # larger than all others, and plain
    for path in (root / "labelled/masks").iterdir():
        raw = np.array(Image.open(path))
        Image.fromarray(np.select([raw == c for c in OWN_MASKS], list(OWN_MASKS.values())).astype(np.uint8)).save(path)
    (place / "tiny.yaml").write_text(yaml.safe_dump({key: value for key, value in TINY.items() if key != "data"}))
    words = [str(place / "tiny.yaml"), str(ROOT / "configs/data/own.yaml"), "steps=2"]
    own = [f"data.root={root}", 'data.mask_map={"40": background, "90": road, "200": car}', "data.ignore=7"]
    (place / "own.yaml").write_text(yaml.safe_dump(gather(own)))
    words.append(str(place / "own.yaml"))
    mtseg.fit([*words, f"out={place / 'run'}"], quiet=True)
    return place / "run", words


def test_the_next_round_has_the_persons_labels_beside_and_is_laid_on_their_own_config(own_run, tmp_path, capsys):
    """Each label of the next round is what its picture had before: a person's, or the network's."""
    (run, words), out = own_run, tmp_path / "next"
    before = restored(run).splits
    sure = float(np.quantile(mtseg.load(run).predict(before.unlabelled.image(0)).confidence, 0.3))
    options = ["--save", "mask,image", "--min-confidence", sure]
    assert predicted(run, "--pool", "unlabelled", "--out", out, *options) == 0
    said = capsys.readouterr().out
    masks = {hash_of(np.array(Image.open(out / "image" / n))): read_mask(out / "mask" / n) for n in outputs(out)}
    assert len({mask.shape for mask in masks.values()}) > 1  # where a mean over images is not one over pixels
    share = np.mean(np.concatenate([mask.ravel() for mask in masks.values()]) != IGNORE)
    assert f"{100 * share:.1f} % of the pixels are kept" in said
    classes = np.bincount(np.concatenate([mask[mask != IGNORE] for mask in masks.values()]), minlength=3)
    of_them = sorted(zip(classes / classes.sum(), ("background", "road", "car"), strict=True), reverse=True)
    assert ", ".join(f"{name} {part:.0%}" for part, name in of_them if part) in said
    assert ("look: " in said) == (0 in classes)
    assert all(name in said.partition("have no pixel (")[2] for part, name in of_them if not part)
    after = load([*words, str(out / "data.yaml"), f"out={tmp_path / 'run'}"]).data.build()
    wanted = {hash_of(before.labelled.image(i)): before.labelled.label(i) for i in range(len(before.labelled))}
    for pool, truth in (("labelled", wanted | {k: m for k, m in masks.items() if (m != IGNORE).any()}), ("val", None)):
        source, old = getattr(after, pool), getattr(before, pool)
        truth = truth or {hash_of(old.image(i)): old.label(i) for i in range(len(old))}
        found = {hash_of(source.image(i)): source.label(i) for i in range(len(source))}
        assert found.keys() == truth.keys()
        assert all((found[key] == truth[key]).all() for key in truth)
    assert {hash_of(after.unlabelled.image(i)) for i in range(len(after.unlabelled))} == masks.keys()
    assert (after.classes, after.palette.tolist()) == (before.classes, before.palette.tolist())
    scores = mtseg.fit([*words, str(out / "data.yaml"), f"out={tmp_path / 'run'}"], quiet=True)
    assert scores["teacher"]["mIoU"] is not None
    demo = load([str(ROOT / "configs/demo.yaml"), str(out / "data.yaml")])  # whose labelled images have colours
    assert demo.views.colours("labelled") == of_run(run).views.colours("labelled") == ((), None)


def test_the_next_round_of_a_run_that_held_images_out_has_their_labels_too(own_run, tmp_path):
    (_, words), out = own_run, tmp_path / "next"
    mtseg.fit([*words, "eval.select=holdout", "eval.holdout=1/3", f"out={tmp_path / 'run'}"], quiet=True)
    before = restored(tmp_path / "run").splits
    assert len(before.holdout)
    assert predicted(tmp_path / "run", "--pool", "unlabelled", "--out", out, "--save", "mask,image") == 0
    assert (
        predicted(
            tmp_path / "run",
            "--pool",
            "unlabelled",
            "--out",
            tmp_path / "sure",
            "--save",
            "mask,image",
            "--min-confidence",
            "0.999999",
        )
        == 0
    )
    after = load([*words, str(tmp_path / "sure/data.yaml"), f"out={tmp_path / 'x'}"]).data.build()
    pools = (before.labelled, before.holdout)
    wanted = {hash_of(pool.image(i)): pool.label(i) for pool in pools for i in range(len(pool))}
    found = {hash_of(after.labelled.image(i)): after.labelled.label(i) for i in range(len(after.labelled))}
    assert wanted.keys() <= found.keys()
    assert all((found[key] == wanted[key]).all() for key in wanted)


@pytest.mark.parametrize("scored", ["pool", "files"])
def test_what_is_labelled_or_scored_is_no_pseudo_label_of_the_next_round(scored, own_run, tmp_path, capsys):
    (run, words), out = own_run, tmp_path / "next"
    before = restored(run).splits
    wish = ["--save", "mask,image", "--min-confidence", 0.01, "--out", out]
    if scored == "files":
        root = load([*words, "out=x"]).data.root
        assert predicted(run, *(root / before.val.name(i) for i in range(len(before.val))), *wish) == 0
    else:
        assert predicted(run, "--pool", "val", *wish) == 0
        assert predicted(run, "--pool", "labelled", *wish) == 0
    capsys.readouterr()
    assert predicted(run, "--pool", "unlabelled", *wish) == 0
    known = len(before.val) + (len(before.labelled) if scored == "pool" else 0)
    assert f"; {known} images that are labelled or scored already are left out" in capsys.readouterr().out
    after = load([*words, str(out / "data.yaml"), "out=x"]).data.build()
    learnt = [hash_of(pool.image(i)) for pool in (after.labelled, after.unlabelled) for i in range(len(pool))]
    assert not {hash_of(before.val.image(i)) for i in range(len(before.val))} & {*learnt}
    wanted = {hash_of(before.labelled.image(i)): before.labelled.label(i) for i in range(len(before.labelled))}
    found = [(hash_of(after.labelled.image(i)), after.labelled.label(i)) for i in range(len(after.labelled))]
    assert len({key for key, _ in found}) == len(found)
    assert all((label == wanted[key]).all() for key, label in found if key in wanted)


def test_further_images_are_added_to_a_round_and_the_persons_labels_stay(own_run, tmp_path, photos, capsys):
    (run, words), out = own_run, tmp_path / "next"
    wish = ["--save", "mask,image", "--min-confidence", 0.01, "--out", out]
    assert predicted(run, "--pool", "unlabelled", *wish) == 0
    first = load([*words, str(out / "data.yaml"), "out=x"]).data.build()
    capsys.readouterr()
    assert predicted(run, photos / "a", *wish) == 0
    assert f"beside {len(restored(run).splits.labelled)} of persons" in capsys.readouterr().out
    after = load([*words, str(out / "data.yaml"), "out=x"]).data.build()
    assert (len(after.labelled), len(after.unlabelled)) == (len(first.labelled) + 1, len(first.unlabelled) + 1)
    assert [after.val.name(i) for i in range(len(after.val))] == [first.val.name(i) for i in range(len(first.val))]


def test_the_classes_that_are_kept_of_masks_of_any_size_are_counted(run, photos, tmp_path, monkeypatch):
    assert predicted(run, photos, "--out", tmp_path, "--min-confidence", 0.2) == 0
    masks = np.concatenate([read_mask(tmp_path / "mask" / name).ravel() for name in outputs(tmp_path)])
    classes = mtseg.load(run).classes
    counts = np.bincount(masks[masks != IGNORE], minlength=len(classes))
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 100)  # as is a GeoTIFF's that is read band by band
    expected = dict(zip(classes, counts / counts.sum(), strict=True))
    assert classes_kept(tmp_path, classes) == pytest.approx(expected)


def test_an_exported_folder_has_no_pools(run, tmp_path, capsys):
    assert cli.main(["export", str(run), "--out", str(tmp_path / "export")]) == 0
    assert predicted(tmp_path / "export/hf", "--pool", "val", "--out", tmp_path / "out") == 1
    assert "--pool: an exported folder knows no data; name images" in capsys.readouterr().err


def hash_of(pixels: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def test_pseudo_labels_of_which_nothing_is_kept_are_said_and_leave_the_persons_labels(own_run, tmp_path, capsys):
    (run, words), wish = own_run, ["--min-confidence", 1, "--save", "mask,image"]
    root = load([*words, "out=x"]).data.root
    assert predicted(run, root / "unlabelled", "--out", tmp_path / "files", *wish) == 0
    assert "0.0 % of the pixels are kept" in (said := capsys.readouterr().out)
    assert "look: no pixel has a class; lower --min-confidence" in said
    assert not (tmp_path / "files/data.yaml").exists()
    assert predicted(run, "--pool", "unlabelled", "--out", tmp_path / "pool", *wish) == 0
    assert "look: no pixel has a class" in (said := capsys.readouterr().out)
    assert "0 pseudo-labels" in said
    assert "tools/train.py" not in said  # another round would learn from nothing
    data = load([*words, str(tmp_path / "pool/data.yaml"), "out=x"]).data.build()
    assert (len(data.labelled), len(data.unlabelled), len(data.val)) == (6, 8, 2)


@pytest.mark.parametrize("least", ["0", "0.25"])
def test_shares_are_those_of_the_classes_in_the_masks(least, run, photos, tmp_path):
    out = tmp_path / "out"
    assert (
        cli.main(["predict", str(run), str(photos), "--out", str(out), "--save", "mask", "--min-confidence", least])
        == 0
    )
    with (out / "shares.csv").open() as file:
        rows = list(csv.reader(file))
    classes = json.loads((out / "prediction.json").read_text())["classes"]
    assert rows[0] == ["image", *classes]
    assert len(rows) == 1 + len(list(out.glob("mask/**/*.png"))) > 2
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    names = {line["image"]: line["name"] for line in lines}
    for image, *shares in rows[1:]:
        mask = read_mask(out / f"mask/{names[image]}.png")
        expected = 100 * np.bincount(mask.ravel(), minlength=256)[: len(classes)] / mask.size
        assert [float(share) for share in shares] == pytest.approx(expected, abs=5e-4)


def test_the_ranking_has_the_images_the_teacher_is_least_sure_of_first(run, photos, tmp_path):
    out = tmp_path / "out"
    assert predicted(run, photos, "--out", out, "--rank", "--save", "none") == 0
    with (out / "ranking.csv").open() as file:
        rows = [(row["image"], float(row["uncertainty"])) for row in csv.DictReader(file)]
    model = mtseg.load(run)
    oracle = {image: 1 - model.predict(image).confidence.mean(dtype=float) for image, _ in rows}
    assert dict(rows) == pytest.approx(oracle, abs=1e-5)
    assert [image for image, _ in rows] == sorted(oracle, key=lambda image: -oracle[image])
    assert len(rows) == 3
    assert not (out / "mask").exists()


# --- large images


def test_large_images_are_asked_about_in_windows_and_others_as_the_run_says():
    side = round(LARGE**0.5)
    assert asking(Whole(), (side - 1, side)) == Whole()
    assert isinstance(asking(Whole(average="logits"), (side, side)), Slide)
    assert asking(Whole(average="logits"), (side, side)).average == "logits"
    assert asking(Whole(), (side, side)).batch == 1  # their memory is the image's own
    for predictor in (Slide(window=(16, 16)), Centre(size=(16, 16))):
        assert asking(predictor, (2 * side, side)) == predictor


@pytest.mark.slow
def test_an_image_of_144_million_pixels_is_predicted_within_2_gigabytes(run, tmp_path):
    """Mask, overlay and confidence, decoding and writing included, in a process of its own."""
    rng = np.random.default_rng(0)
    tile = Image.fromarray(rng.integers(0, 256, (300, 300, 3), dtype=np.uint8)).resize((1200, 1200))
    whole = Image.new("RGB", (12_000, 12_000))
    for top in range(0, 12_000, 1200):
        for left in range(0, 12_000, 1200):
            whole.paste(tile, (left, top))
    whole.save(tmp_path / "large.jpg")
    del whole
    code = (
        "import re, sys\nfrom pathlib import Path\nfrom mtseg import cli\n"
        "assert cli.main(sys.argv[1:]) == 0 == cli.main(sys.argv[1:])\n"
        "peak = re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())\n"
        "print('peak', int(peak[1]) * 1024)"
    )
    words = ["predict", str(run), str(tmp_path / "large.jpg"), "--out", str(tmp_path / "out")]
    ran = subprocess.run(
        [sys.executable, "-c", code, *words, "--save", "mask,overlay,confidence"],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    print(ran.stdout)
    assert int(ran.stdout.split()[-1]) < 2e9, ran.stdout
    assert "1 there already" in ran.stdout
    assert size_of(tmp_path / "out/mask/large.png") == (12_000, 12_000)


# --- from Python


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, mtseg; mtseg.load, mtseg.fit; assert not {'torch', 'numpy', 'cv2', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_fit_and_load_take_what_the_commands_take(tmp_path):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    scores = mtseg.fit([tmp_path / "tiny.yaml", f"out={tmp_path / 'run'}"], quiet=True)
    model = mtseg.load(str(tmp_path / "run"))
    assert cli.main(["eval", str(tmp_path / "run")]) == 0
    found = json.loads((tmp_path / "run/eval_val.json").read_text())["teacher"]
    assert found == found | scores["teacher"]
    assert model.step == 4
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(ValueError, match=r"no config\.yaml"):
        mtseg.load(tmp_path / "run")


# -- videos ------------------------------------------------------------------------------------------------------------


def video(path: Path, frames: int) -> list[np.ndarray]:
    """A lossless video of so many pictures, which are returned."""
    cv2 = pytest.importorskip("cv2")
    made = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"FFV1"), 10, (64, 48))
    if not made.isOpened():
        pytest.skip("this OpenCV cannot write FFV1")
    draw = np.random.default_rng(0)
    pictures = [draw.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(frames)]
    for picture in pictures:
        made.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    made.release()
    return pictures


def test_the_frames_of_a_video_are_predicted_as_images_in_any_part(run, tmp_path):
    pictures_of = video(tmp_path / "clip.avi", 5)
    assert predicted(run, tmp_path / "clip.avi", "--out", tmp_path / "out", "--shard", "2/2") == 0
    assert predicted(run, tmp_path / "*.avi", "--out", tmp_path / "out") == 0
    masks = sorted((tmp_path / "out/mask").rglob("*.png"))
    assert [str(path.relative_to(tmp_path / "out/mask")) for path in masks] == [
        f"clip.avi/{n:06d}.png" for n in range(5)
    ]
    trained = mtseg.load(run)
    for path, picture in zip(masks, pictures_of, strict=True):
        assert np.abs(trained.predict(picture).classes != read_mask(path)).mean() < 0.02  # colours are converted twice


def test_frames_are_read_in_any_order(tmp_path):
    from mtseg.data.video import Frames

    pictures_of = video(tmp_path / "clip.avi", 4)
    frames = Frames(tmp_path / "clip.avi")
    assert (frames.count, frames.cut_off) == (4, False)
    for index in (2, 0, 3, 1, 1):
        apart = np.abs(frames.read(index).astype(int) - pictures_of[index]).mean(axis=(0, 1, 2))
        others = [np.abs(frames.read(index).astype(int) - p).mean() for p in pictures_of]
        assert np.argmin(others) == index
        assert apart < 10


@pytest.mark.parametrize("kept", [0.6, 0.0])
def test_a_video_that_is_cut_off_is_listed_and_its_frames_are_predicted(kept, run, tmp_path):
    video(tmp_path / "clip.avi", 20)
    whole = (tmp_path / "clip.avi").read_bytes()
    (tmp_path / "clip.avi").write_bytes(whole[: int(kept * len(whole))])
    photo(tmp_path / "x.png", 1)
    words = (run, tmp_path / "clip.avi", tmp_path / "x.png", tmp_path / "none.mp4", "--out", tmp_path / "out")
    assert predicted(*words) == 1
    failed = [json.loads(line) for line in (tmp_path / "out/errors.jsonl").read_text().splitlines()]
    assert [Path(line["image"]).name.partition("#")[0] for line in failed] == ["clip.avi", "none.mp4"]
    assert "cannot be read" in failed[0]["error"]
    masks = [path.name for path in (tmp_path / "out/mask").rglob("*.png")]
    assert "x.png" in masks
    assert (len(masks) > 5) == (kept > 0)


def test_predicting_leaves_the_network_and_its_mode_as_they_were(run):
    network = mtseg.load(run)
    image = np.random.default_rng(0).integers(0, 256, (70, 91, 3), dtype=np.uint8)
    expected, weights = network.predict(image), copy.deepcopy(network.network.state_dict())
    network.network.train()
    found = network.predict(image)
    assert network.network.training
    np.testing.assert_array_equal(found.confidence, expected.confidence)
    assert all(torch.equal(value, weights[name]) for name, value in network.network.state_dict().items())


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError("")], ids=["gpu", "cpu"])
def test_an_image_that_the_memory_is_too_small_for_is_listed_and_the_rest_goes_on(
    error, run, photos, tmp_path, capsys, monkeypatch
):
    every = len(items([str(photos)], tmp_path / "out"))
    asked, answer = [], Trained.answer

    def short(self, pixels):
        asked.append(pixels.shape)
        if len(asked) == 2:
            raise error
        return answer(self, pixels)

    monkeypatch.setattr(Trained, "answer", short)
    assert predicted(run, photos, "--out", tmp_path / "out") == 1
    assert f"{every - 1} predicted, 0 there already, 1 failed" in capsys.readouterr().out
    (line,) = lines(tmp_path / "out/errors.jsonl")
    assert "eval.predictor={kind: slide" in line["error"]
