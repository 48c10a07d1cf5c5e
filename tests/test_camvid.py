"""The CamVid reader and the choice of labelled images."""

import os
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from trees import camvid

from mtseg.data.camvid import CLASSES, PALETTE, Camvid
from mtseg.data.source import IGNORE
from mtseg.data.splits import choose


def test_images_and_masks_are_those_of_the_files_and_void_is_ignored(tmp_path):
    root = camvid(tmp_path)
    built = Camvid(root=root).build()
    assert (len(built.labelled), len(built.unlabelled), len(built.val), len(built.test)) == (34, 34, 2, 3)
    for pool, split in ((built.labelled, "train"), (built.val, "val"), (built.test, "test")):
        for i in range(len(pool)):
            stem = pool.name(i).removeprefix(f"{split}/").removesuffix(".jpg")
            mask = np.asarray(Image.open(root / f"{split}annot" / f"{stem}.png"))
            assert np.array_equal(pool.image(i), np.asarray(Image.open(root / split / f"{stem}.jpg")))
            assert np.array_equal(pool.label(i)[mask != 11], mask[mask != 11])
            assert (pool.label(i)[mask == 11] == IGNORE).all()
    assert len(CLASSES) == len(PALETTE) == len({tuple(colour) for colour in PALETTE}) == 11


@pytest.mark.parametrize(
    ("labels", "count"), [("all", 367), ("1/2", 183), ("1/4", 91), ("1/8", 45), ("1/16", 22), (7, 7)]
)
def test_a_share_is_rounded_down(labels, count):
    chosen = choose(367, labels, seed=3)
    assert len(set(chosen)) == len(chosen) == count
    assert all(0 <= i < 367 for i in chosen)


def test_the_choice_is_nested_and_seeded():
    for seed in range(5):
        choices = [set(choose(367, labels, seed)) for labels in ("1/16", "1/8", "1/4", "1/2", "all")]
        assert all(small < large for small, large in pairwise(choices))
    assert len({tuple(choose(367, "1/16", seed)) for seed in range(20)}) == 20


def test_the_rest_is_what_is_not_labelled(tmp_path):
    built = Camvid(root=camvid(tmp_path), labels="1/2", unlabelled="rest").build()
    names = [{pool.name(i) for i in range(len(pool))} for pool in (built.labelled, built.unlabelled)]
    assert len(names[0]) == len(names[1]) == 17
    assert not names[0] & names[1]


@pytest.mark.parametrize("labels", ["2/1", "0/4", "1/0", "half", "1/400", 0, 35])
def test_impossible_shares_are_refused_by_key(labels, tmp_path):
    with pytest.raises(ValueError, match="labels"):
        Camvid(root=camvid(tmp_path), labels=labels).build()


def test_nothing_left_is_refused(tmp_path):
    with pytest.raises(ValueError, match="rest"):
        Camvid(root=camvid(tmp_path), unlabelled="rest").build()


def test_a_missing_tree_names_the_file_and_where_to_read_on(tmp_path):
    with pytest.raises(ValueError, match=r"train\.txt.*datasets/camvid/README\.md"):
        Camvid(root=tmp_path).build()


@pytest.mark.parametrize("line", ["train/a.jpg", "a b c", "../x.jpg train/a.png", "train/a.jpg /etc/hosts"])
def test_a_bad_line_is_refused_with_its_number(line, tmp_path):
    root = camvid(tmp_path)
    with (root / "val.txt").open("a") as file:
        file.write(f"\n{line}\n")
    with pytest.raises(ValueError, match=r"val\.txt, line 3"):
        Camvid(root=root).build()


def test_a_link_out_of_the_root_is_refused(tmp_path):
    root = camvid(tmp_path / "data")
    outside = tmp_path / "outside.png"
    Image.new("L", (4, 4)).save(outside)
    (root / "train" / "link.png").symlink_to(outside)
    with (root / "train.txt").open("a") as file:
        file.write("\ntrain/link.png trainannot/x.png")
    with pytest.raises(ValueError, match=r"line 35.*outside"):
        Camvid(root=root).build()


def test_files_that_are_not_whole_or_not_masks_are_named(tmp_path):
    root = camvid(tmp_path)
    built = Camvid(root=root).build()
    image, mask = root / built.val.name(0), root / "valannot" / (built.val.name(1)[4:-4] + ".png")
    os.truncate(image, image.stat().st_size // 2)
    with pytest.raises(ValueError, match=str(image)):
        built.val.image(0)
    Image.new("RGB", (4, 4)).save(mask)
    with pytest.raises(ValueError, match=str(mask)):
        built.val.label(1)
    Image.fromarray(np.full((4, 4), 12, np.uint8)).save(mask)
    with pytest.raises(ValueError, match=f"{mask}.*12"):
        built.val.label(1)
    image.unlink()
    with pytest.raises(ValueError, match=str(image)):
        built.val.image(0)
