"""Each reader on its data set's tree in miniature, against the files themselves; every published list on it."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import trees
import yaml
from PIL import Image
from runs import TINY

from mtseg import cli
from mtseg.data.ade20k import CLASSES as ADE_CLASSES
from mtseg.data.ade20k import Ade20k
from mtseg.data.camvid import Camvid
from mtseg.data.cityscapes import Cityscapes
from mtseg.data.coco import CLASSES as COCO_CLASSES
from mtseg.data.coco import Coco
from mtseg.data.idd import Idd
from mtseg.data.kinds import training_data
from mtseg.data.source import Source, Splits
from mtseg.data.voc import Voc
from mtseg.settings.merge import merge

ROOT = Path(__file__).parent.parent
# labelId -> trainId for three classes of each end of the official table, and void
TRAIN_IDS = {7: 0, 8: 1, 11: 2, 31: 16, 32: 17, 33: 18, 0: 255, 9: 255, 14: 255, 29: 255, 30: 255}


def names(source: Source) -> list[str]:
    return [source.name(i) for i in range(len(source))]


def check_files(splits: Splits, root: Path, counts: tuple[int, int, int, int]) -> None:
    """Counts of the pools; one colour and one name a class; images are the files'."""
    pools = (splits.labelled, splits.unlabelled, splits.val, splits.test)
    assert tuple(map(len, pools)) == counts
    assert len({tuple(colour) for colour in splits.palette}) == len(splits.classes) == len(set(splits.classes))
    for pool in pools:
        for i, name in enumerate(names(pool)):
            assert np.array_equal(pool.image(i), np.asarray(Image.open(root / name)))


def raws(pool: Source, root: Path, mask_of: dict[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """All labels of a pool, and the raw values of its masks, flat."""
    labels, raw = [], []
    for i, name in enumerate(names(pool)):
        for old, new in mask_of.items():
            name = name.replace(old, new)
        labels.append(pool.label(i).ravel())
        raw.append(np.asarray(Image.open(root / name)).ravel())
    return np.concatenate(labels), np.concatenate(raw)


VOC_MASKS = {"JPEGImages": "SegmentationClassAug", ".jpg": ".png"}


def test_voc_palette_masks_are_indices_and_void_is_ignored(tmp_path):
    root = trees.voc(tmp_path)
    splits = Voc(root=root).build()
    check_files(splits, root, (34, 34, 2, 0))
    for pool, masks in ((splits.labelled, "SegmentationClassAug"), (splits.val, "SegmentationClass")):
        label, raw = raws(pool, root, VOC_MASKS | {"JPEGImages": masks})
        assert np.array_equal(label, raw)
        assert {0, 20, 255} <= set(label.tolist()) or pool is splits.val
    assert Image.open(root / "SegmentationClass/2007_000032.png").mode == "P"
    official = Voc(root=root, train="train", masks="SegmentationClass").build()
    assert [Path(name).stem for name in names(official.labelled)] == trees.VOC_TRAIN
    assert len(names(official.unlabelled)) == 4


def test_voc_a_list_that_names_an_image_of_val_is_refused_with_its_line(tmp_path):
    root = trees.voc(tmp_path / "voc")
    (tmp_path / "mine.txt").write_text(f"{trees.VOC_TRAIN[0]}\n{trees.VOC_VAL[0]}\n")
    with pytest.raises(ValueError, match=rf"mine\.txt, line 2: '\S*{trees.VOC_VAL[0]}\.jpg' is a val image of voc"):
        Voc(root=root, split=tmp_path / "mine.txt").build()


def test_cityscapes_label_ids_are_mapped_and_train_ids_are_taken_as_they_are(tmp_path):
    root = trees.cityscapes(tmp_path, train_ids=True)
    for kind in ("labelIds", "labelTrainIds"):
        splits = Cityscapes(root=root, masks=kind).build()
        masks = {"leftImg8bit/": "gtFine/", "_leftImg8bit": f"_gtFine_{kind}"}
        check_files(splits, root, (34, 34, 2, 0))
        label, raw = raws(splits.labelled, root, masks)
        if kind == "labelTrainIds":
            assert np.array_equal(label, raw)
            continue
        for value, train in TRAIN_IDS.items():
            assert set(label[raw == value].tolist()) == {train}
        assert set(label.tolist()) == {*range(19), 255}


def test_ade20k_counts_from_one_and_zero_is_ignored(tmp_path):
    root = trees.ade20k(tmp_path)
    splits = Ade20k(root=root).build()
    masks = {"images/": "annotations/", ".jpg": ".png"}
    check_files(splits, root, (34, 34, 2, 0))
    label, raw = raws(splits.labelled, root, masks)
    assert (label[raw == 0] == 255).all()
    assert np.array_equal(label[raw > 0], raw[raw > 0] - 1)
    assert raw.max() > 140
    # the benchmark's objectInfo150: 1 wall, 2 building, 13 person, 21 car, 150 flag
    assert [ADE_CLASSES[i - 1] for i in (1, 2, 13, 21, 150)] == ["wall", "building", "person", "car", "flag"]
    assert len(ADE_CLASSES) == 150


def test_coco_has_81_classes_and_void_is_one_of_them(tmp_path):
    root = trees.coco(tmp_path)
    splits = Coco(root=root).build()
    masks = {"train2017": "masks", "val2017": "masks", ".jpg": ".png"}
    check_files(splits, root, (34, 34, 2, 0))
    label, raw = raws(splits.labelled, root, masks)
    assert np.array_equal(label, raw)
    assert (raw == 0).any()
    assert len(COCO_CLASSES) == 81
    # in the order of category ids: 1 person, 3 car, 62 chair (57th), 90 toothbrush (80th)
    assert [COCO_CLASSES[i] for i in (0, 1, 3, 57, 80)] == ["background", "person", "car", "chair", "toothbrush"]


@pytest.mark.parametrize(("level", "classes"), [(3, 26), (1, 7)])
def test_idd_takes_the_masks_of_its_level(level, classes, tmp_path):
    root = trees.idd(tmp_path)
    splits = Idd(root=root, level=level).build()
    masks = {"leftImg8bit/": "gtFine/", "_leftImg8bit": f"_gtFine_labellevel{level}Ids", ".jpg": ".png"}
    check_files(splits, root, (34, 34, 2, 0))
    label, raw = raws(splits.labelled, root, masks)
    assert np.array_equal(label, raw)
    assert len(splits.classes) == classes
    assert set(label.tolist()) == {*range(classes), 255}


def test_images_without_a_mask_file_are_counted_and_named_before_the_first_step(tmp_path):
    root = trees.cityscapes(tmp_path)
    gone = sorted((root / "gtFine/train/jena").iterdir())[:7]
    for path in gone:
        path.unlink()
    with pytest.raises(ValueError, match=r"7 of 34 masks of labelled images are not there: .*jena.* and 2 more"):
        Cityscapes(root=root).build()


@pytest.mark.parametrize("reader", [Voc, Cityscapes, Ade20k, Coco, Idd, Camvid])
def test_an_empty_and_a_missing_root_are_told_by_path(reader, tmp_path):
    with pytest.raises(ValueError, match=str(tmp_path)):
        reader(root=tmp_path).build()
    with pytest.raises(ValueError, match=r"data\.root: .*nowhere is not a folder"):
        reader(root=tmp_path / "nowhere").build()


def test_the_tutorials_own_lists_of_camvid_are_read_as_they_are(tmp_path):
    root = trees.camvid(tmp_path)
    before = names(Camvid(root=root).build().labelled)
    lines = (root / "train.txt").read_text().splitlines()
    prefix = "/SegNet/CamVid/"
    (root / "train.txt").write_text("".join(f"{prefix}{line.replace(' ', f' {prefix}')}\n" for line in lines))
    assert names(Camvid(root=root).build().labelled) == before


# Published lists on the trees -----------------------------------------------------------------------------------------


def test_voc_lists_of_every_format_name_the_same_images_and_have_the_same_hash(tmp_path):
    root = trees.voc(tmp_path / "voc")
    ids = ["2007_000039", "2008_000007"]
    formats = {
        "unimatch.txt": "\n".join(f"JPEGImages/{i}.jpg SegmentationClass/{i}.png" for i in ids),
        "u2pl.txt": "\n".join(ids) + "\n",
        "cct.txt": "".join(f"/JPEGImages/{i}.jpg /SegmentationClassAug/{i}.png\n" for i in ids),
        "cct.json": json.dumps({i: [0.0, 1.0] for i in ids}),
        "windows.txt": "\ufeff" + "\r\n".join(f"JPEGImages/{i}.jpg" for i in reversed(ids)),
    }
    from mtseg.data.provenance import provenance

    hashes = set()
    for name, content in formats.items():
        (tmp_path / name).write_text(content, newline="")
        splits = Voc(root=root, split=tmp_path / name, unlabelled="rest").build()
        assert sorted(names(splits.labelled)) == [f"JPEGImages/{i}.jpg" for i in ids]
        assert len(splits.unlabelled) == 32
        assert splits.name == f"voc {name}"
        for i, image in enumerate(names(splits.labelled)):
            mask = root / "SegmentationClassAug" / f"{Path(image).stem}.png"
            assert np.array_equal(splits.labelled.label(i), np.asarray(Image.open(mask)))
        hashes.add(provenance(splits).labelled)
    assert len(hashes) == 1


def test_a_folder_of_lists_needs_no_list_of_all_images(tmp_path):
    root = trees.voc(tmp_path / "voc")
    (root / "ImageSets/Segmentation/trainaug.txt").unlink()
    (tmp_path / "92").mkdir()
    (tmp_path / "92/labeled.txt").write_text("2007_000039\n2008_000007")
    (tmp_path / "92/unlabeled.txt").write_text("2008_000008\n2008_000009\n2008_000010")
    for which, count in (("rest", 3), ("all", 5)):
        splits = Voc(root=root, split=tmp_path / "92", unlabelled=which).build()
        assert (len(splits.labelled), len(splits.unlabelled)) == (2, count)
        assert splits.name == "voc 92"
    with pytest.raises(ValueError, match=r"no .*trainaug\.txt; see datasets/voc/README\.md"):
        Voc(root=root).build()


def remedies(message: str) -> list[str]:
    """The words that a message offers."""
    return re.findall(r"data\.\w+=[^\s;)]+", message)


@pytest.mark.parametrize(
    ("make", "kind", "tree", "root"),
    [
        (trees.cityscapes, "cityscapes", "cityscapes", "cityscapes/leftImg8bit"),
        (trees.cityscapes, "cityscapes", "cityscapes", "cityscapes/leftImg8bit/train"),
        (trees.cityscapes, "cityscapes", "cityscapes", "."),
        (trees.voc, "voc", "VOCdevkit/VOC2012", "VOCdevkit"),
        (trees.voc, "voc", "VOCdevkit/VOC2012", "."),
        (trees.voc, "voc", "VOCdevkit/VOC2012", "VOCdevkit/VOC2012/JPEGImages"),
    ],
)
def test_a_root_one_folder_off_is_answered_with_the_word_that_mends_it(make, kind, tree, root, tmp_path, monkeypatch):
    make(tmp_path / "data" / tree)
    monkeypatch.chdir(tmp_path)
    wrong = (Path("data") / root).as_posix()
    with pytest.raises(ValueError, match=rf"{wrong}/\w+: no such folder; .*datasets/{kind}/README\.md") as refusal:
        built(kind, f"data.root={wrong}")
    (word,) = remedies(str(refusal.value))
    assert word == f"data.root=data/{tree}"
    assert len(built(kind, word).labelled) > 0


def built(kind: str, *words: str) -> Splits:
    return training_data([str(ROOT / f"configs/data/{kind}.yaml"), "data.labels=2", *words]).build()


@pytest.mark.parametrize("words", [[], ["data.train=train"]])
def test_voc_without_sbd_is_answered_with_words_that_take_its_own_masks(words, tmp_path):
    root = f"data.root={trees.voc(tmp_path, augmented=False)}"
    with pytest.raises(ValueError, match="SegmentationClass") as refusal:
        built("voc", root, *words)
    found = built("voc", root, *remedies(str(refusal.value)))
    assert set(names(found.unlabelled)) == {f"JPEGImages/{name}.jpg" for name in trees.VOC_TRAIN}


def test_a_cityscapes_of_half_its_masks_says_which_archive_to_unpack_and_its_readme_names_it(tmp_path):
    root = trees.cityscapes(tmp_path)
    shutil.rmtree(root / "gtFine/train/jena")
    with pytest.raises(ValueError, match=r"are not there: .*; unpack all of (\w+\.zip) into data\.root") as refusal:
        Cityscapes(root=root).build()
    archive = re.findall(r"\w+\.zip", str(refusal.value))[0]
    assert archive in (ROOT / "datasets/cityscapes/README.md").read_text()
    with pytest.raises(ValueError, match=r"34 of 34 masks .*--train-ids makes them; or say data\.masks=labelIds"):
        Cityscapes(root=root, masks="labelTrainIds").build()


def test_cityscapes_lists_of_unimatch_u2pl_and_cps_name_the_same_images(tmp_path):
    root = trees.cityscapes(tmp_path / "city")
    stems = ["train/jena/jena_000001_000019", "train/zurich/zurich_000032_000019"]
    flat = [stem.rpartition("/")[2] for stem in stems]
    formats = {
        "unimatch.txt": [f"leftImg8bit/{s}_leftImg8bit.png gtFine/{s}_gtFine_labelTrainIds.png" for s in stems],
        "u2pl.txt": [f"leftImg8bit/{s}_leftImg8bit.png" for s in stems],
        "cps.txt": [f"/images/train/{s}.png\t/segmentation/train/{s}_gtFine.png" for s in flat],
        "ids.txt": flat,
    }
    for name, lines in formats.items():
        (tmp_path / name).write_text("\n".join(lines))
        splits = Cityscapes(root=root, split=tmp_path / name).build()
        assert names(splits.labelled) == [f"leftImg8bit/{stem}_leftImg8bit.png" for stem in stems]
        assert len(splits.unlabelled) == 34
        raw = np.asarray(Image.open(root / f"gtFine/{stems[0]}_gtFine_labelIds.png"))
        assert set(splits.labelled.label(0)[raw == 26].tolist()) <= {13}


def test_extra_images_without_masks_join_the_unlabelled_ones(tmp_path):
    root = trees.cityscapes(tmp_path / "city")
    (tmp_path / "v2").mkdir()
    extra = [f"leftImg8bit/train_extra/bayreuth/bayreuth_{i:06d}_000019_leftImg8bit.png" for i in range(3)]
    (tmp_path / "v2/labeled.txt").write_text("leftImg8bit/train/jena/jena_000001_000019_leftImg8bit.png")
    (tmp_path / "v2/unlabeled.txt").write_text("".join(f"{name} None\n" for name in extra))
    splits = Cityscapes(root=root, split=tmp_path / "v2", unlabelled="rest").build()
    assert names(splits.unlabelled) == extra
    assert splits.unlabelled.image(0).shape == (66, 96, 3)
    with pytest.raises(ValueError, match="unlabelled image"):
        splits.unlabelled.label(0)
    (tmp_path / "v2/labeled.txt").write_text(f"{extra[0]} None")
    with pytest.raises(ValueError, match=r"labeled\.txt, line 1: .* has no mask in cityscapes"):
        Cityscapes(root=root, split=tmp_path / "v2").build()


def test_idd_lists_name_the_drive_too(tmp_path):
    root = trees.idd(tmp_path / "idd")
    (tmp_path / "list.txt").write_text("1/frame0003\n0/frame0003\n")
    splits = Idd(root=root, split=tmp_path / "list.txt").build()
    assert names(splits.labelled) == [f"leftImg8bit/train/{drive}/frame0003_leftImg8bit.png" for drive in (1, 0)]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("../x.jpg SegmentationClass/x.png", "refused: a name is relative to"),
        ("JPEGImages/../../x.jpg", "refused: a name is relative to"),
        ("/etc/hosts", "neither a file under .* nor an image of voc"),
        ("JPEGImages/2007_009999.jpg", "neither a file under .* nor an image of voc"),
        ("JPEGImages/link.jpg", "is a link to .*outside"),
        ("JPEGImages/2007_000039.jpg SegmentationClass/2007_000032.png", "is not the mask of"),
        ("JPEGImages/2007_000039.jpg ../2007_000039.png", "refused: a name is relative to"),
    ],
)
@pytest.mark.parametrize("pool", ["labeled", "unlabeled"])
def test_a_line_that_leads_out_or_nowhere_is_refused_with_its_number(pool, line, says, tmp_path):
    root = trees.voc(tmp_path / "voc")
    (tmp_path / "outside.jpg").write_bytes((root / "JPEGImages/2007_000039.jpg").read_bytes())
    (root / "JPEGImages/link.jpg").symlink_to(tmp_path / "outside.jpg")
    (tmp_path / "labeled.txt").write_text("2007_000032\n")
    (tmp_path / "unlabeled.txt").write_text("2007_000063\n")
    with (tmp_path / f"{pool}.txt").open("a") as file:
        file.write(f"2007_000068\n\n{line}\n")
    if pool == "unlabeled" and line.startswith("JPEGImages/2007_000039"):
        Voc(root=root, split=tmp_path).build()  # the masks of unlabelled images are not read
        return
    with pytest.raises(ValueError, match=rf"{pool}\.txt, line 4: .*{says}"):
        Voc(root=root, split=tmp_path).build()


def test_split_and_labels_are_not_mixed_and_both_spellings_are_not_guessed_between(tmp_path):
    root = trees.voc(tmp_path / "voc")
    (tmp_path / "labeled.txt").write_text("2007_000032\n")
    with pytest.raises(ValueError, match=r"data\.labels: '1/2' and data\.split both choose"):
        Voc(root=root, split=tmp_path, labels="1/2").build()
    (tmp_path / "labelled.txt").write_text("2007_000039\n")
    with pytest.raises(ValueError, match=r"holds both labelled\.txt and labeled\.txt"):
        Voc(root=root, split=tmp_path).build()
    with pytest.raises(ValueError, match=rf"data\.split: no {root}/splits/92; fetch .* or write an absolute path"):
        Voc(root=root, split=Path("splits/92")).build()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no labelled\.txt or labeled\.txt"):
        Voc(root=root, split=tmp_path / "empty").build()


# Through the commands -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(trees.BY_KIND))
def test_train_and_eval_work_on_every_tree(kind, tmp_path, capsys):
    root = trees.BY_KIND[kind](tmp_path / "data")
    data = {"kind": kind, "root": str(root), "labels": "1/2"}
    if kind == "folder":
        data |= {"classes": ["a", "b", "c"], "labelled": {"images": "labelled/images", "masks": "labelled/masks"}}
        data |= {"unlabelled": {"images": "unlabelled"}, "val": 0.25}
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(merge(TINY, {"data": data, "steps": 2})))
    assert cli.main(["train", str(config), f"out={tmp_path / 'run'}"]) == 0
    assert cli.main(["eval", str(tmp_path / "run")]) == 0
    found = json.loads((tmp_path / "run/eval_val.json").read_text())
    assert found["step"] == 2
    assert found["images"] == 2
    if kind != "camvid":  # the only one with test labels
        assert cli.main(["eval", str(tmp_path / "run"), "eval.split=test"]) == 1
        assert "eval.split: this data set has no test images" in capsys.readouterr().err
