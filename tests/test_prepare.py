"""The scripts `datasets/*/prepare.py`: they count, make what is missing, and fetch lists, in whole or not at all."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trees
from PIL import Image
from scipy.io import loadmat
from smalls import write

from mtseg.data.cityscapes import Cityscapes
from mtseg.data.decode import read_image
from mtseg.data.prepare import fetch
from mtseg.data.voc import Voc

DATASETS = Path(__file__).parent.parent / "datasets"


def script(monkeypatch: pytest.MonkeyPatch, name: str, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["prepare.py", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(DATASETS / name / "prepare.py"), run_name="__main__")
    return int(end.value.code or 0)


WHOLE_IMAGES = {"cifar10", "cifar100", "svhn", "imagenet"}  # of classification; two of them need no preparation


def test_every_data_set_has_a_guide_a_script_and_a_config():
    guides = {path.parent.name for path in DATASETS.glob("*/README.md")}
    scripts = {path.parent.name for path in DATASETS.glob("*/prepare.py")}
    assert guides - WHOLE_IMAGES == set(trees.BY_KIND) - {"folder"}
    assert guides - WHOLE_IMAGES <= scripts <= guides
    assert not list(DATASETS.glob("**/__init__.py"))
    for name in guides:
        text = (DATASETS / name / "README.md").read_text()
        kind = name if name not in WHOLE_IMAGES else "image_folder" if name == "imagenet" else "small"
        assert f"kind: {kind}" in text
        assert name in WHOLE_IMAGES or "## Where to get it" in text
        assert name in WHOLE_IMAGES or "## The expected tree" in text


def test_the_augmented_set_is_vocs_own_masks_and_sbds_without_validation(tmp_path, monkeypatch, capsys):
    root, sbd = trees.voc(tmp_path / "VOC2012", augmented=False), trees.sbd(tmp_path / "dataset")
    assert script(monkeypatch, "voc", root, "--sbd", sbd) == 1  # a miniature has not the official counts
    assert "trainaug: 34 training images" in capsys.readouterr().out
    listed = (root / "ImageSets/Segmentation/trainaug.txt").read_text().split()
    assert listed == sorted(trees.VOC_TRAIN + trees.SBD_ONLY)
    assert not set(listed) & set(trees.VOC_VAL)
    for name in [*trees.VOC_TRAIN, *trees.VOC_VAL, *trees.SBD_ONLY]:
        made = Image.open(root / "SegmentationClassAug" / f"{name}.png")
        if name in trees.SBD_ONLY:
            content = loadmat(sbd / "cls" / f"{name}.mat")
            wanted = content["GTcls"]["Segmentation"][0, 0]
        else:
            wanted = np.asarray(Image.open(root / "SegmentationClass" / f"{name}.png"))
        assert made.mode == "P"
        assert np.array_equal(np.asarray(made), wanted)
    splits = Voc(root=root).build()
    assert (len(splits.labelled), len(splits.val)) == (34, 2)


def test_what_is_made_already_is_kept_and_a_damaged_mat_file_is_named(tmp_path, monkeypatch, capsys):
    root, sbd = trees.voc(tmp_path / "VOC2012", augmented=False), trees.sbd(tmp_path / "dataset")
    (sbd / "cls" / f"{trees.SBD_ONLY[3]}.mat").write_bytes(b"MATLAB 5.0")
    assert script(monkeypatch, "voc", root, "--sbd", sbd) == 1
    assert f"{trees.SBD_ONLY[3]}.mat: holds no GTcls.Segmentation" in capsys.readouterr().err
    made = sorted((root / "SegmentationClassAug").iterdir())
    before = {path: path.stat().st_mtime_ns for path in made}
    assert not [path for path in made if path.suffix != ".png"]
    (sbd / "cls" / f"{trees.SBD_ONLY[3]}.mat").write_bytes((sbd / "cls" / f"{trees.SBD_ONLY[4]}.mat").read_bytes())
    script(monkeypatch, "voc", root, "--sbd", sbd)
    assert {path: path.stat().st_mtime_ns for path in made} == before
    assert len(list((root / "SegmentationClassAug").iterdir())) == 36


def test_train_ids_are_those_that_the_reader_maps(tmp_path, monkeypatch, capsys):
    root = trees.cityscapes(tmp_path)
    assert script(monkeypatch, "cityscapes", root, "--train-ids") == 1
    assert "labelTrainIds: 36 masks made" in capsys.readouterr().out
    mapped, ready = (Cityscapes(root=root, masks=kind).build() for kind in ("labelIds", "labelTrainIds"))
    for one, other in ((mapped.labelled, ready.labelled), (mapped.val, ready.val)):
        for i in range(len(one)):
            assert np.array_equal(one.label(i), other.label(i))


def test_a_complete_tree_ends_with_0_and_a_missing_one_in_one_line(tmp_path, monkeypatch, capsys):
    for split, count in (("train", 367), ("val", 101), ("test", 233)):
        for folder in (split, f"{split}annot"):
            (tmp_path / folder).mkdir()
            for i in range(count):
                (tmp_path / folder / f"{i}.png").touch()
    assert script(monkeypatch, "camvid", tmp_path) == 0
    (tmp_path / "val/7.png").unlink()
    assert script(monkeypatch, "camvid", tmp_path) == 1
    assert "+1 wanted" in capsys.readouterr().out
    for name in trees.BY_KIND:
        if name != "folder":
            assert script(monkeypatch, name, tmp_path / "nowhere") == 1
            message = capsys.readouterr().err.strip()
            assert message.endswith("(see README.md beside this)")


def test_lists_are_fetched_into_the_place_where_the_configs_look(tmp_path, monkeypatch, capsys):
    root, web = trees.ade20k(tmp_path / "ade"), tmp_path / "web"
    for name, count in (("1_64", 316), ("1_32", 631), ("1_16", 1263), ("1_8", 2526), ("1_4", 5052)):
        (web / name).mkdir(parents=True)
        for pool, number in (("labeled", count), ("unlabeled", 20210 - count)):
            (web / name / f"{pool}.txt").write_text("\n".join(f"images/training/{i}.jpg" for i in range(number)))
    base = web.as_uri()
    script(monkeypatch, "ade20k", root, "--splits", "--base", base)
    for path in web.glob("*/*.txt"):
        assert (root / "splits" / path.relative_to(web)).read_bytes() == path.read_bytes()
    assert not list(root.glob("**/.tmp-*"))
    (root / "splits/1_64/labeled.txt").write_text("images/training/1.jpg")
    assert script(monkeypatch, "ade20k", root, "--splits", "--base", base) == 1
    assert "labeled.txt: names 1 images, 316 were published" in capsys.readouterr().err


def test_without_a_network_or_a_list_one_line_says_so_and_nothing_is_left(tmp_path):
    for base in ((tmp_path / "nowhere").as_uri(), "http://127.0.0.1:9"):
        with pytest.raises(ValueError, match=rf"{base}/a\.txt: cannot be fetched .*or name a list of your own") as no:
            fetch(base, {"x/a.txt": "a.txt"}, tmp_path / "splits", counts={})
        assert "\n" not in str(no.value)
        assert not list((tmp_path / "splits").glob("**/*.*"))


def test_the_addresses_are_the_authors():
    found = {name: runpy.run_path(str(DATASETS / name / "prepare.py")) for name in ("voc", "ade20k")}
    raw = "https://raw.githubusercontent.com/LiheYoung"
    assert found["voc"]["BASE"] == f"{raw}/UniMatch/main/splits/pascal"
    assert found["ade20k"]["BASE"] == f"{raw}/UniMatch-V2/main/splits/ade20k"
    assert {name: theirs for name, (theirs, *_) in found["voc"]["SPLITS"].items()} == {
        **{str(n): str(n) for n in (92, 183, 366, 732, 1464)},
        **{f"cps_1_{n}": f"1_{n}" for n in (4, 8, 16)},
        **{f"u2pl_1_{n}": f"u2pl_1_{n}" for n in (4, 8, 16)},
    }


@pytest.mark.parametrize(("side", "images", "warned"), [(4, 47, True), (4, 48, False)])
def test_a_whitening_of_fewer_images_than_values_is_warned_of(side, images, warned, tmp_path, capsys, monkeypatch):
    """4 x 4 pixels of three channels are 48 values."""
    write(tmp_path / "cifar10.npz", train=images, side=side)
    monkeypatch.setattr(sys, "argv", ["prepare.py", str(tmp_path), "--zca"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(DATASETS / "cifar10" / "prepare.py"), run_name="__main__")
    said = " ".join(capsys.readouterr().out.split())
    assert (f"warning: {images} images do not tell how 48 values vary together" in said) == warned
    assert (tmp_path / "zca.npz").is_file()


def test_imagenets_guide_converts_images_of_four_inks_and_leaves_the_others_as_they_are(tmp_path):
    """Its command is run as it stands there; colours stay within what JPEG changes."""
    grey = np.full((40, 60, 3), 128, np.uint8)
    grey[:, 30:] = (200, 90, 30)
    paths = [tmp_path / "train" / "n0144" / f"n0144_{i}.JPEG" for i in range(3)]
    paths[0].parent.mkdir(parents=True)
    for path, mode in zip(paths, ("RGB", "CMYK", "L"), strict=True):
        Image.fromarray(grey).convert(mode).save(path, format="JPEG", quality=95)
    before = [path.read_bytes() for path in paths]
    with pytest.raises(ValueError, match="CMYK"):
        read_image(paths[1])
    text = (DATASETS / "imagenet" / "README.md").read_text()
    (script,) = re.findall(r"python - data/imagenet <<'END'\n(.*?)\nEND\n", text, re.DOTALL)
    ran = subprocess.run(
        [sys.executable, "-", str(tmp_path)], input=script, text=True, capture_output=True, check=True, timeout=60
    )
    assert ran.stdout.split() == [str(paths[1])]
    assert [path.read_bytes() == was for path, was in zip(paths, before, strict=True)] == [True, False, True]
    assert np.abs(read_image(paths[1]).astype(int) - grey).mean() < 4
    assert sorted(tmp_path.rglob("*.*")) == sorted(paths)
