"""Anybody's own images: what the YAML names is what is read, and every mistake in it is told."""

import re
import shutil
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trees
from PIL import Image
from pydantic import TypeAdapter

from mtseg import cli
from mtseg.data.apart import refuse_learnt_and_scored
from mtseg.data.folder import Folder
from mtseg.data.kinds import data_of
from mtseg.data.match import Labelled
from mtseg.data.source import IGNORE, Source, Splits
from mtseg.settings.checked import validate
from mtseg.settings.words import gather

CONFIGS = Path(__file__).parent.parent / "configs"
LABELLED = {"images": "labelled/images", "masks": "labelled/masks"}


def a_folder(root: Path, **keys: Any) -> Folder:
    tree = {"root": str(root), "classes": ["ground", "road", "car"], "labelled": LABELLED, "val": 0.25, **keys}
    return validate(Folder, {key: value for key, value in tree.items() if value is not None})


def names(source: Source) -> list[str]:
    return [source.name(i) for i in range(len(source))]


def counts(splits: Splits) -> tuple[int, ...]:
    return tuple(map(len, (splits.labelled, splits.unlabelled, splits.val, splits.test)))


def photos(*numbers: int) -> list[str]:
    return [f"labelled/images/photo_{i}.jpg" for i in numbers]


def also_scored(root: Path) -> dict[str, str]:
    """The labelled images and their masks under other names, and what names them."""
    shutil.copytree(root / "labelled", root / "scored")
    return {"images": "scored/images", "masks": "scored/masks"}


def test_the_worked_example_trains_and_is_evaluated(tmp_path, capsys):
    root = trees.own(tmp_path / "own")
    words = [str(CONFIGS / "demo.yaml"), str(CONFIGS / "data/own.yaml"), f"data.root={root}", "steps=2", "workers=0"]
    words += ["batch={labelled: 2, unlabelled: 2}", "device=cpu"]
    assert cli.main(["train", *words, f"out={tmp_path / 'run'}", "--dry-run"]) == 0
    assert "own all: 6 labelled" in capsys.readouterr().out
    assert cli.main(["train", *words, f"out={tmp_path / 'run'}", "eval.split=test", "--dry-run"]) == 1
    assert "eval.split: this data set has no test images" in capsys.readouterr().err
    assert cli.main(["train", *words, f"out={tmp_path / 'run'}"]) == 0
    assert cli.main(["eval", str(tmp_path / "run")]) == 0


def test_every_commented_line_of_the_example_is_accepted(tmp_path):
    text = (CONFIGS / "data/own.yaml").read_text()
    for line in re.findall(
        r"^ +# +(palette: \[.*?\]|mask_map: .*|ignore: \d+|labels: \S+|test: \{.*\})", text, re.MULTILINE
    ):
        word = line.split("  #")[0].replace(": ", "=", 1)
        tree = TypeAdapter(dict).validate_python({"root": str(tmp_path), "val": 0.2, "labelled": LABELLED})
        from mtseg.settings.words import parse_word

        (key,), value = parse_word(word)
        validate(Folder, tree | {"classes": ["background", "road", "car"], key: value})
    assert text.count("mask_map: {") == 2
    assert text.count("#   ignore: ") == 1


def test_masks_follow_their_images_by_name(tmp_path):
    splits = a_folder(trees.own(tmp_path)).build()
    for pool in (splits.labelled, splits.val):
        for i, name in enumerate(names(pool)):
            mask = tmp_path / name.replace("images", "masks").replace(".jpg", ".png")
            assert np.array_equal(pool.label(i), np.asarray(Image.open(mask)))


def test_val_may_be_a_share_or_folders_and_test_may_be_named(tmp_path):
    root = trees.own(tmp_path)
    splits = a_folder(root).build()
    assert counts(splits) == (6, 6, 2, 0)
    assert sorted(names(splits.labelled) + names(splits.val)) == photos(*range(8))
    again = a_folder(root, split_seed=1).build()
    assert names(a_folder(root).build().val) == names(splits.val)
    assert len({tuple(names(a_folder(root, split_seed=s).build().val)) for s in range(8)}) > 1
    assert counts(again) == counts(splits)
    scored = also_scored(root)
    splits = a_folder(root, val=scored, test=scored).build()
    assert counts(splits) == (8, 8, 8, 8)
    with pytest.raises(ValueError, match=r"data\.val: 0\.95 of 8 labelled images leaves none"):
        a_folder(root, val=0.95).build()


def test_masks_that_are_added_move_few_images_between_training_and_val(tmp_path):
    """None into val where one leaves it: val is of a rank's images, and only the rank changes."""
    root, kept = trees.own(tmp_path), 0
    lines = [f"{name} {name.replace('images', 'masks').replace('.jpg', '.png')}\n" for name in photos(*range(8))]
    (root / "before.txt").write_text("".join(lines[1:6:2]))
    (root / "after.txt").write_text("".join(lines))
    for seed in range(40):
        before, after = (
            a_folder(root, labelled={"pairs": f"{when}.txt"}, val=0.4, split_seed=seed).build()
            for when in ("before", "after")
        )
        came = set(names(before.labelled)) & set(names(after.val))
        left = set(names(before.val)) & set(names(after.labelled))
        assert not (came and left)
        kept += len(set(names(before.val)) & set(names(after.val)))
    assert kept > 30  # of 40; drawn anew it were 15


def test_each_image_comes_into_val_as_often_as_its_share_says(tmp_path):
    root = trees.own(tmp_path)
    often = Counter(name for seed in range(300) for name in names(a_folder(root, split_seed=seed).build().val))
    assert sum(often.values()) == 300 * 2
    for name in photos(*range(8)):
        assert abs(often[name] - 75) < 5 * (300 * 0.25 * 0.75) ** 0.5


def test_unlabelled_images_are_those_without_masks_and_the_labelled_ones_that_are_not_chosen(tmp_path):
    root = trees.own(tmp_path)
    snaps = [f"unlabelled/snap_{i}.png" for i in range(8)]
    splits = a_folder(root, unlabelled={"images": "unlabelled"}).build()
    assert names(splits.unlabelled) == snaps
    splits = a_folder(root, unlabelled={"images": "unlabelled"}, labels="1/3").build()
    rest = sorted(set(photos(*range(8))) - set(names(splits.labelled)) - set(names(splits.val)))
    assert names(splits.unlabelled) == rest + snaps
    assert counts(splits) == (2, 4 + 8, 2, 0)
    assert len(a_folder(root, labels=2).build().unlabelled) == 4


@pytest.mark.parametrize(
    ("images", "wanted"),
    [
        ("unlabelled", range(8)),
        ("unlabelled/snap_[0-2].png", range(3)),
        ("**/snap_*.png", range(8)),
        ("some.txt", [5, 1]),
        (["unlabelled/snap_7.png", "some.txt", "unlabelled/snap_[1-2].png"], [7, 5, 1, 2]),
    ],
)
def test_unlabelled_images_may_be_folders_globs_lists_and_several(images, wanted, tmp_path):
    root = trees.own(tmp_path)
    (root / "some.txt").write_text("unlabelled/snap_5.png\nunlabelled/snap_1.png None\n")
    splits = a_folder(root, unlabelled={"images": images}).build()
    assert names(splits.unlabelled) == [f"unlabelled/snap_{i}.png" for i in wanted]


@pytest.mark.parametrize("without", [[], ["val"], ["test"], ["val", "test"]])
@pytest.mark.parametrize(
    "images", [["labelled/images", "scored/images", "unlabelled"], "**/*[0-9].[jp][pn]g", "all.txt"]
)
def test_images_of_val_and_test_are_left_out_of_the_unlabelled_ones_where_that_is_asked(images, without, tmp_path):
    root = trees.own(tmp_path)
    scored = also_scored(root)
    snaps = [f"unlabelled/snap_{i}.png" for i in range(8)]
    tests = [name.replace("labelled", "scored") for name in photos(*range(8))]
    (root / "all.txt").write_text("\n".join([*photos(*range(8)), *tests, *snaps]))
    masks = {"ending": "_m"}  # by which a glob of all files is without them
    for mask in root.glob("*/masks/*.png"):
        mask.rename(mask.with_name(f"{mask.stem}_m.png"))
    words = {"labelled": {**LABELLED, **masks}, "test": {**scored, **masks}}
    splits = a_folder(root, **words, unlabelled={"images": images, "without": without}).build()
    wanted = {*photos(*range(8)), *tests, *snaps}
    wanted -= set(names(splits.val)) if "val" in without else set()
    wanted -= set(tests) if "test" in without else set()
    assert sorted(names(splits.unlabelled)) == sorted(wanted)
    assert (len(splits.val), len(splits.test)) == (2, 8)


def test_what_is_left_out_is_no_unlabelled_image_by_whatever_way_it_comes(tmp_path):
    root = trees.own(tmp_path)
    listed = {"images": ["labelled/images/photo_0.jpg", "labelled/images/photo_1.jpg"], "masks": "labelled/masks"}
    for seed in range(20):  # of which those that label an image of val are refused where a run begins
        words = {"val": listed, "labels": 3, "split_seed": seed, "unlabelled": {"images": "unlabelled"}}
        apart = {**words, "unlabelled": {"images": "unlabelled", "without": ["val"]}}
        with_them, without = (names(a_folder(root, **some).build().unlabelled) for some in (words, apart))
        assert without == [name for name in with_them if name not in photos(0, 1)]
    (root / "lists").mkdir()
    (root / "lists/labelled.txt").write_text("labelled/images/photo_5.jpg labelled/masks/photo_5.png\n")
    (root / "lists/unlabelled.txt").write_text("".join(f"{name}\n" for name in photos(0, 1, 2, 3)))
    words = {"val": listed, "split": "lists", "unlabelled": {"images": "unlabelled", "without": ["val"]}}
    found = names(a_folder(root, **words).build().unlabelled)
    assert [name for name in found if name in photos(*range(8))] == photos(2, 3)


@pytest.mark.parametrize("labels", ["all", "1/1", 8])
def test_all_labels_are_all_however_they_are_written(labels, tmp_path):
    root = trees.own(tmp_path)
    splits = a_folder(root, val=also_scored(root), labels=labels).build()
    assert sorted(names(splits.unlabelled)) == sorted(names(splits.labelled)) == photos(*range(8))


def test_unlabelled_images_that_are_all_left_out_are_refused(tmp_path):
    root = trees.own(tmp_path)
    scored = also_scored(root)
    with pytest.raises(ValueError, match=r"^data\.unlabelled: all of its 8 images are those of test, which it is"):
        a_folder(root, test=scored, unlabelled={"images": "scored/images", "without": ["test"]}).build()


def test_a_list_of_pairs_needs_no_names_alike(tmp_path):
    root = trees.own(tmp_path)
    scored = also_scored(root)
    (root / "labelled/masks/photo_3.png").rename(root / "labelled/masks/other.png")
    (root / "pairs.txt").write_text(
        "labelled/images/photo_3.jpg labelled/masks/other.png\n"
        "/labelled/images/photo_1.jpg\t/labelled/masks/photo_1.png"
    )
    splits = a_folder(root, labelled={"pairs": "pairs.txt"}, val=scored).build()
    assert names(splits.labelled) == photos(3, 1)
    assert np.array_equal(splits.labelled.label(0), np.asarray(Image.open(root / "labelled/masks/other.png")))
    for line in ("labelled/images/photo_1.jpg", "labelled/images/photo_1.jpg ../x.png", "labelled/images/x.jpg x.png"):
        (root / "bad.txt").write_text(f"\n{line}\n")
        with pytest.raises(ValueError, match=r"bad\.txt, line 2: "):
            a_folder(root, labelled={"pairs": "bad.txt"}).build()


def test_lists_may_lie_elsewhere_and_what_they_name_may_not(tmp_path):
    """Of a data set that is shared, and not one's own to write into."""
    root, lists = trees.own(tmp_path / "shared"), tmp_path / "lists"
    lists.mkdir()
    (lists / "some.txt").write_text("unlabelled/snap_5.png\n")
    (lists / "pairs.txt").write_text("labelled/images/photo_3.jpg labelled/masks/photo_3.png\n")
    (lists / "val.txt").write_text("labelled/images/photo_1.jpg labelled/masks/photo_1.png\n")
    pools = {"labelled": "pairs", "val": "val"}
    named = {pool: {"pairs": str(lists / f"{name}.txt")} for pool, name in pools.items()}
    splits = a_folder(root, unlabelled={"images": str(lists / "some.txt")}, **named).build()
    assert names(splits.unlabelled) == ["unlabelled/snap_5.png"]
    assert (names(splits.labelled), names(splits.val)) == (photos(3), photos(1))
    (lists / "some.txt").write_text("../elsewhere.png\n")
    with pytest.raises(ValueError, match=r"some\.txt, line 1: "):
        a_folder(root, unlabelled={"images": str(lists / "some.txt")}, **named).build()
    with pytest.raises(ValueError, match=r"relative to data.root.*; a list of names \(\.txt, .* whole path"):
        a_folder(root, unlabelled={"images": str(lists)}, **named).build()


def test_masks_with_an_ending_may_lie_beside_their_images_and_in_folders(tmp_path):
    root = trees.own(tmp_path)
    for i in range(4):
        place = root / "mixed" / f"day{i % 2}"
        place.mkdir(parents=True, exist_ok=True)
        (root / f"labelled/images/photo_{i}.jpg").rename(place / f"{i // 2}.jpg")
        (root / f"labelled/masks/photo_{i}.png").rename(place / f"{i // 2}_mask.png")
    splits = a_folder(root, labelled={"images": "mixed", "masks": "mixed", "ending": "_mask"}).build()
    both = sorted(names(splits.labelled) + names(splits.val))
    assert both == [f"mixed/day{d}/{n}.jpg" for d in (0, 1) for n in (0, 1)]
    for i, name in enumerate(names(splits.labelled)):
        mask = np.asarray(Image.open(root / name.replace(".jpg", "_mask.png")))
        assert np.array_equal(splits.labelled.label(i), mask)


def in_one_folder(root: Path) -> Path:
    """Photographs p0 to p7 with masks p0_mask to p7_mask beside them, the first four in first.txt, and s0 to s7."""
    trees.own(root / "drawn")
    for i in range(8):
        (root / "drawn" / f"labelled/images/photo_{i}.jpg").rename(root / f"p{i}.png")
        (root / "drawn" / f"labelled/masks/photo_{i}.png").rename(root / f"p{i}_mask.png")
        (root / "drawn" / f"unlabelled/snap_{i}.png").rename(root / f"s{i}.png")
    shutil.rmtree(root / "drawn")
    (root / "first.txt").write_text("".join(f"p{i}.png\n" for i in range(4)))
    return root


@pytest.mark.parametrize("unlabelled", [".", "*.png", [".", "s1.png"]])
def test_masks_beside_their_images_are_no_unlabelled_images(unlabelled, tmp_path):
    root = in_one_folder(tmp_path / "one")
    labelled = {"images": "first.txt", "masks": ".", "ending": "_mask"}
    splits = a_folder(root, labelled=labelled, unlabelled={"images": unlabelled}).build()
    # Those of p4 to p7 are no photographs either, although nothing names these images.
    assert set(names(splits.unlabelled)) == {f"{kind}{i}.png" for kind in "ps" for i in range(8)}
    (root / "a list.txt").write_text("s1.png\np5_mask.png\n")
    with pytest.raises(ValueError, match=r"data\.unlabelled\.images: 1 of 2 are masks of this data set: p5_mask\.png;"):
        a_folder(root, labelled=labelled, unlabelled={"images": "a list.txt"}).build()


def test_an_ending_outside_of_the_folder_of_masks_is_that_of_a_photograph(tmp_path):
    root = trees.own(tmp_path)
    for path in (root / "labelled/masks").iterdir():
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    (root / "unlabelled/snap_0.png").rename(root / "unlabelled/person_with_mask.png")
    labelled = LABELLED | {"ending": "_mask"}
    splits = a_folder(root, labelled=labelled, unlabelled={"images": ["unlabelled"]}).build()
    assert "unlabelled/person_with_mask.png" in names(splits.unlabelled)
    splits = a_folder(root, labelled=labelled, unlabelled={"images": "."}).build()
    assert names(splits.unlabelled) == sorted(photos(*range(8)) + [f"unlabelled/{p.name}" for p in root.glob("u*/*")])


@pytest.mark.parametrize(
    ("pool", "unlabelled", "count"),
    [
        ("labelled", ["unlabelled", "labelled/masks/*_[23].png"], "2 of 10"),
        ("pairs", ["unlabelled", "labelled/masks/*_[23].png"], "2 of 10"),
        ("val", ["unlabelled", "scored"], "8 of 24"),
        ("test", "scored/masks", "8 of 8"),
    ],
)
def test_masks_without_an_ending_among_the_unlabelled_images_are_refused(pool, unlabelled, count, tmp_path):
    root = trees.own(tmp_path)
    keys: dict[str, Any] = {"unlabelled": {"images": unlabelled}}
    if pool == "pairs":
        lines = [f"labelled/images/photo_{i}.jpg labelled/masks/photo_{i}.png\n" for i in (3, 2)]
        (root / "pairs.txt").write_text("".join(lines))
        keys["labelled"] = {"pairs": "pairs.txt"}
    elif pool != "labelled":
        keys[pool] = also_scored(root)
    says = rf"data\.unlabelled\.images: {count} are masks of this data set: \S+/masks/photo_\d\.png.* a glob such as"
    with pytest.raises(ValueError, match=says):
        a_folder(root, **keys).build()
    assert counts(a_folder(root, **keys | {"unlabelled": {"images": "unlabelled"}}).build())[1] == 8


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_that_differ_in_their_unicode_form_alone_are_the_same(form, tmp_path):
    root, other = trees.own(tmp_path), "NFC" if form == "NFD" else "NFD"
    for i in range(8):
        new = unicodedata.normalize(form, f"Straße é{i}")
        (root / f"labelled/images/photo_{i}.jpg").rename(root / f"labelled/images/{new}.jpg")
        mask = root / f"labelled/masks/photo_{i}.png"
        mask.rename(mask.with_name(f"{unicodedata.normalize(other, new)}.png"))
    (root / "list.txt").write_text(f"labelled/images/{unicodedata.normalize(other, new)}.jpg\n", encoding="utf-8")
    images = [unicodedata.normalize(form, f"labelled/images/Straße é{i}.jpg") for i in range(8)]
    globbed = {"images": "labelled/images/*", "masks": "labelled/masks"}
    for labelled in (LABELLED, globbed):
        splits = a_folder(root, labelled=labelled).build()
        assert sorted(names(splits.labelled) + names(splits.val)) == images
        for i, name in enumerate(names(splits.labelled)):
            mask = root / unicodedata.normalize(other, name.replace("images", "masks").replace(".jpg", ".png"))
            assert np.array_equal(splits.labelled.label(i), np.asarray(Image.open(mask)))
    assert names(a_folder(root, split="list.txt", val=1e-9).build().labelled) == images[-1:]
    both = root / "labelled/masks" / f"{new}.png"
    both.write_bytes(b"")
    with pytest.raises(ValueError, match=r"are both the mask of Straße é7; take one away"):
        a_folder(root).build()


def test_a_list_may_have_a_suffix_in_capitals(tmp_path):
    root = trees.own(tmp_path)
    (root / "UP.TXT").write_text("unlabelled/snap_5.png\n")
    (root / "Pairs.Tsv").write_text("unlabelled/snap_5.png\n")
    for name in ("UP.TXT", "Pairs.Tsv"):
        assert names(a_folder(root, unlabelled={"images": name}).build().unlabelled) == ["unlabelled/snap_5.png"]


def test_pairs_in_the_place_of_the_folders_of_a_file_are_told_how(tmp_path):
    root = trees.own(tmp_path)
    words = [str(CONFIGS / "data/own.yaml"), f"data.root={root}", "data.labelled.pairs=x.txt"]
    with pytest.raises(
        ValueError, match=r"^data\.labelled: name either .* null takes away what a file has named"
    ) as told:
        data_of(gather(words)["data"])
    more = str(told.value).rpartition("as in ")[2].split()
    assert data_of(gather(words + more)["data"]).labelled == Labelled(pairs="x.txt")


@pytest.mark.parametrize(
    ("called", "says", "remedy"),
    [
        (
            "photo_{}_L",
            r"if labelled/masks/photo_0_L\.png is that of .*photo_0\.jpg, say data\.labelled\.ending=_L$",
            "_L",
        ),
        (
            "day/photo_{}",
            r"labelled/masks/day/photo_0\.png has the name of .*, in another folder: .*pairs: FILE\}$",
            None,
        ),
        ("PHOTO_{}", r"labelled/masks/PHOTO_0\.png differs from labelled/images/photo_0\.jpg in case; give both", None),
        (
            "mask_{}",
            r"belong to data\.unlabelled, and labelled/masks/mask_0\.png, .* have no image; give each pair",
            None,
        ),
    ],
)
def test_masks_that_are_called_otherwise_than_their_images_are_shown_and_what_tells_them(
    called, says, remedy, tmp_path
):
    root = trees.own(tmp_path)
    for i in range(8):
        (moved := root / f"labelled/masks/{called.format(i)}.png").parent.mkdir(exist_ok=True)
        (root / f"labelled/masks/photo_{i}.png").rename(moved)
    words = [str(CONFIGS / "data/own.yaml"), f"data.root={root}"]
    with pytest.raises(ValueError, match=says):
        data_of(gather(words)["data"]).build()
    if remedy:
        assert len(data_of(gather([*words, f"data.labelled.ending={remedy}"])["data"]).build().labelled) > 5


def test_images_without_masks_and_masks_without_images_are_counted_and_named(tmp_path):
    root = trees.own(tmp_path)
    for i in range(7):
        (root / f"labelled/masks/photo_{i}.png").unlink()
    with pytest.raises(
        ValueError, match=r"data\.labelled: 7 of 8 images have no mask .*photo_0.*photo_4\.jpg and 2 more"
    ):
        a_folder(root).build()
    trees.own(tmp_path)
    for i in range(2):
        (root / f"labelled/images/photo_{i}.jpg").unlink()
    with pytest.raises(ValueError, match=r"data\.labelled: 2 of 8 masks have no image .*photo_0\.png, .*photo_1\.png;"):
        a_folder(root).build()


def test_a_glob_or_a_list_may_name_a_part_of_a_folder_of_masks(tmp_path):
    root = trees.own(tmp_path)
    for kind, suffix in (("images", "jpg"), ("masks", "png")):
        (root / f"labelled/{kind}/day").mkdir()
        (root / f"labelled/{kind}/photo_0.{suffix}").rename(root / f"labelled/{kind}/day/photo_1.{suffix}")
    (root / "train.txt").write_text("labelled/images/day/photo_1.jpg\n")
    listed = {"images": "train.txt", "masks": "labelled/masks"}
    globbed = {"images": "labelled/images/photo_[12].jpg", "masks": "labelled/masks"}
    splits = a_folder(root, labelled=listed, val=globbed).build()
    assert names(splits.labelled) == ["labelled/images/day/photo_1.jpg"]
    assert names(splits.val) == photos(1, 2)
    for pool in (splits.labelled, splits.val):
        for i, name in enumerate(names(pool)):
            mask = root / name.replace("images", "masks").replace(".jpg", ".png")
            assert np.array_equal(pool.label(i), np.asarray(Image.open(mask)))


@pytest.mark.parametrize("images", ["labelled/images", "labelled/images/*"])
def test_two_images_of_one_mask_are_refused(images, tmp_path):
    root = trees.own(tmp_path)
    (root / "labelled/images/photo_1.png").write_bytes((root / "unlabelled/snap_1.png").read_bytes())
    with pytest.raises(ValueError, match=r"one mask for several images: .*photo_1\.jpg, .*photo_1\.png;"):
        a_folder(root, labelled={**LABELLED, "images": images}).build()


def test_two_masks_of_one_image_are_refused(tmp_path):
    root = trees.own(tmp_path)
    (root / "labelled/masks/photo_1.tif").write_bytes(b"")
    with pytest.raises(ValueError, match=r"photo_1\.png and .*photo_1\.tif are both the mask of photo_1"):
        a_folder(root).build()


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"unlabelled": {"images": "nowhere"}}, r"data\.unlabelled\.images: 'nowhere' names no image under"),
        ({"unlabelled": {"images": "/unlabelled"}}, r"data\.unlabelled\.images: '/unlabelled' is refused"),
        ({"unlabelled": {"images": "../own"}}, r"data\.unlabelled\.images: '\.\./own' is refused"),
        ({"labelled": {"images": "labelled/images", "masks": "masks"}}, "masks: no such folder"),
        (
            {"labelled": {"pairs": "nowhere.txt"}},
            r"nowhere\.txt: no such list; .* leave data\.root= out of the words",
        ),
        ({"expect": {"labelled": 7}}, r"data\.expect\.labelled: .* has 6 labelled images, and 7 are expected"),
    ],
)
def test_what_is_not_there_is_told_by_key(keys, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        a_folder(trees.own(tmp_path), **keys).build()


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"classes": ["a", "a"]}, "names one twice"),
        ({"classes": []}, "classes"),
        ({"classes": [str(i) for i in range(256)]}, "classes"),
        ({"ignore": 2}, "ignore: 2 is the value of class 'car' too"),
        ({"mask_map": {"7": "bus"}}, "'bus', which is no class"),
        ({"palette": ["#000000"]}, "1 colours for 3 classes"),
        ({"palette": ["#000000", "#ffffff", "red"]}, "'red' is no colour"),
        ({"labelled": {"images": "x"}}, "`images` and `masks`, or `pairs`"),
        ({"labelled": {"images": "x", "masks": "y", "pairs": "z"}}, "`images` and `masks`, or `pairs`"),
        ({"labelled": {}}, "`images` and `masks`, or `pairs`"),
        ({"val": 1.5}, "val"),
        ({"other": "drop"}, "'drop' is not one of 'error', 'ignore'"),
        ({"mask": {}}, "mask: unknown key"),
    ],
)
def test_keys_that_make_no_sense_are_refused_before_any_file_is_read(keys, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        a_folder(tmp_path / "nowhere", **keys)


def test_masks_of_colours_values_and_void_become_classes(tmp_path):
    root = trees.own(tmp_path)
    inks = np.array([(0, 0, 0), (128, 64, 128), (0, 0, 142), (255, 255, 255)], np.uint8)
    wanted = {}
    for i in range(8):
        path = root / f"labelled/masks/photo_{i}.png"
        value = np.minimum(np.asarray(Image.open(path)), 3)
        wanted[f"labelled/images/photo_{i}.jpg"] = np.where(value == 3, IGNORE, value)
        Image.fromarray(inks[value]).save(path)
    words = {"#000000": "ground", "128,64,128": 1, "#00008E": "car", "#ffffff": "ignore"}
    splits = a_folder(root, mask_map=words).build()
    for i, name in enumerate(names(splits.labelled)):
        assert np.array_equal(splits.labelled.label(i), wanted[name])
    words.pop("#ffffff")
    source = a_folder(root, mask_map=words).build().labelled
    with pytest.raises(ValueError, match=r"photo_\d\.png: colour #ffffff on \d+ pixels is not in mask_map"):
        [source.label(i) for i in range(len(source))]
    source = a_folder(root, mask_map=words, other="ignore").build().labelled
    for i, name in enumerate(names(source)):
        assert np.array_equal(source.label(i), wanted[name])


def test_masks_of_16_bits_are_mapped_by_their_raw_values(tmp_path):
    root = trees.own(tmp_path)
    for i in range(8):
        path = root / f"labelled/masks/photo_{i}.png"
        Image.fromarray(np.full(trees.SIZE, 300 * (i % 2) + 24_000, np.uint16)).save(path)
    source = a_folder(root, mask_map={"24000": "road", "24300": "car"}).build().labelled
    for i, name in enumerate(names(source)):
        assert (source.label(i) == 1 + int(name[-5]) % 2).all()


def test_binary_masks_are_answered_with_the_hint_through_the_command_too(tmp_path, capsys):
    root = trees.own(tmp_path / "own")
    for path in (root / "labelled/masks").iterdir():
        Image.fromarray(np.kron([[0, 255], [255, 0]], np.ones((33, 48))).astype(np.uint8)).save(path)
    words = [str(CONFIGS / "demo.yaml"), str(CONFIGS / "data/own.yaml"), f"data.root={root}", "data.ignore=null"]
    words += ["data.classes=[ground, cell]", "steps=1", "workers=0", "device=cpu"]
    assert cli.main(["train", *words, f"out={tmp_path / 'run'}"]) == 1
    message = capsys.readouterr().err
    hint = re.search(r"data\.mask_map=(\{.*\})", message)
    assert hint
    assert cli.main(["train", *words, f"out={tmp_path / 'run'}", f"data.mask_map={hint[1]}"]) == 0


@pytest.mark.parametrize("method", [[], ["method.branches=[]"]])
def test_a_run_says_at_once_that_its_unlabelled_images_are_scored_too(method, tmp_path, capsys):
    """As where the test images are meant to be seen; without branches nobody looks at them."""
    root = trees.own(tmp_path)
    scored = also_scored(root)
    words = [str(CONFIGS / "demo.yaml"), str(CONFIGS / "data/own.yaml"), f"data.root={root}", "steps=1", "workers=0"]
    words += [f"data.val={{images: {scored['images']}, masks: {scored['masks']}}}", "data.expect=null", *method]
    for images, told in ((f"[unlabelled, {scored['images']}]", not method), ("unlabelled", False)):
        out = tmp_path / f"run_{told}_{images[0]}"
        assert cli.main(["train", *words, f"data.unlabelled.images={images}", f"out={out}", "device=cpu"]) == 0
        said = capsys.readouterr().out
        assert ("8 of 8 val images are among the unlabelled ones" in said) == told


def test_a_split_list_chooses_the_labelled_ones_of_a_folder(tmp_path):
    root = trees.own(tmp_path)
    (tmp_path / "list.txt").write_text("labelled/images/photo_6.jpg\nphoto_2\n")
    keys = {"val": also_scored(root), "unlabelled": {"images": "unlabelled"}}
    splits = a_folder(root, split=str(tmp_path / "list.txt"), **keys).build()
    assert names(splits.labelled) == photos(6, 2)
    assert names(splits.unlabelled) == photos(0, 1, 3, 4, 5, 7) + [f"unlabelled/snap_{i}.png" for i in range(8)]


def test_an_image_of_a_list_that_is_scored_is_refused_as_such_and_not_as_one_without_a_mask(tmp_path):
    root = trees.own(tmp_path)
    keys = {"split": str(tmp_path / "list.txt"), "test": also_scored(root)}
    apart = names(a_folder(root).build().val)[0]
    for image, pool in ((apart, "val"), ("scored/images/photo_0.jpg", "test")):
        (tmp_path / "list.txt").write_text(f"{image}\n")
        with pytest.raises(ValueError, match=rf"list\.txt, line 1: '{image}' is a {pool} image .*take it off the list"):
            a_folder(root, **keys).build()
    (tmp_path / "list.txt").write_text("unlabelled/snap_0.png\n")
    with pytest.raises(ValueError, match=r"line 1: 'unlabelled/snap_0\.png' has no mask"):
        a_folder(root, **keys).build()


@pytest.mark.parametrize("pool", ["val", "test"])
def test_images_that_are_labelled_and_scored_are_refused_with_their_count_and_names(pool, tmp_path):
    root = trees.own(tmp_path)
    (root / "some.txt").write_text("".join(f"{name}\n" for name in photos(5, 3)))
    keys = {"val": also_scored(root)} | {pool: {"images": "some.txt", "masks": "labelled/masks"}}
    says = rf"data\.{pool}: 2 of 2 images are labelled too: {photos(5)[0]}, {photos(3)[0]}; .* take them out of one"
    both = a_folder(root, **keys).build()  # for whoever only scores
    with pytest.raises(ValueError, match=says):
        refuse_learnt_and_scored(both)
    splits = a_folder(root, labels=1, split_seed=3, **keys, unlabelled={"images": "unlabelled"}).build()
    refuse_learnt_and_scored(splits)
    assert set(photos(3, 5)) < set(names(splits.unlabelled))  # without their masks, as unlabelled ones, they may be


def test_a_part_of_val_in_test_is_refused_and_the_whole_of_it_is_not(tmp_path):
    root = trees.own(tmp_path)
    scored = also_scored(root)
    (root / "some.txt").write_text("scored/images/photo_5.jpg\n")
    part = {"images": "some.txt", "masks": "scored/masks"}
    for val, test, count in ((scored, part, "1 of 1"), (part, scored, "1 of 8")):
        with pytest.raises(ValueError, match=rf"data\.test: {count} images are in val too: scored/.*photo_5\.jpg;"):
            refuse_learnt_and_scored(a_folder(root, val=val, test=test).build())
    same = a_folder(root, val=part, test=part).build()
    refuse_learnt_and_scored(same)
    assert counts(same) == (8, 8, 1, 1)


def test_images_that_are_learnt_and_scored_end_a_run_before_it_begins_and_not_a_scoring(tmp_path, capsys):
    root = trees.own(tmp_path / "own")
    words = [str(CONFIGS / "demo.yaml"), str(CONFIGS / "data/own.yaml"), f"data.root={root}", "steps=2", "workers=0"]
    words += ["batch={labelled: 2, unlabelled: 2}", "device=cpu", f"out={tmp_path / 'run'}"]
    assert cli.main(["train", *words]) == 0
    alike = "data.val={images: labelled/images, masks: labelled/masks}"
    assert cli.main(["eval", str(tmp_path / "run"), alike]) == 0
    capsys.readouterr()
    for more in ([], ["--dry-run"]):
        assert cli.main(["train", *words, alike, f"out={tmp_path / 'other'}", *more]) == 1
        assert "data.val: 8 of 8 images are labelled too" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_an_id_that_two_images_have_is_refused_and_their_paths_are_not(tmp_path):
    root = trees.own(tmp_path)
    for kind, suffix in (("images", "jpg"), ("masks", "png")):
        (root / f"labelled/{kind}/more").mkdir()
        old = root / f"labelled/{kind}/photo_2.{suffix}"
        (root / f"labelled/{kind}/more/photo_2.{suffix}").write_bytes(old.read_bytes())
    (tmp_path / "list.txt").write_text("photo_1\nphoto_2\n")
    keys = {"split": str(tmp_path / "list.txt"), "val": also_scored(root)}
    with pytest.raises(ValueError, match=r"list\.txt, line 2: 'photo_2' may be .*more/photo_2\.jpg or .*photo_2\.jpg;"):
        a_folder(root, **keys).build()
    (tmp_path / "list.txt").write_text("photo_1\nlabelled/images/photo_2.jpg\n")
    assert names(a_folder(root, **keys).build().labelled) == photos(1, 2)


def test_a_palette_of_ones_own_is_used(tmp_path):
    splits = a_folder(trees.own(tmp_path), palette=["#000000", "804080", "#00008e"]).build()
    assert splits.palette.tolist() == [[0, 0, 0], [128, 64, 128], [0, 0, 142]]


@pytest.mark.parametrize(
    ("mask_map", "palette"),
    [
        ({"#804080": "car", "#00008e": 0, "1, 2, 3": "road", "#ffffff": "ignore"}, [0x00008E, 0x010203, 0x804080]),
        ({"#804080": "car", "#00008e": "ground", "#00008f": "ground", "1, 2, 3": "road"}, None),
        ({"#804080": "car", "#00008e": "ground"}, None),
        ({"7": "car", "8": "ground", "9": "road"}, None),
        ({"#804080": "car", "#000000": "ground", "#ffffff": "road"}, None),
    ],
    ids=["one each", "two of a class", "none of a class", "values", "white"],
)
def test_the_colours_of_masks_are_those_of_pictures_where_each_class_has_one(mask_map, palette, tmp_path):
    from mtseg.data.palette import distinct

    folder = a_folder(trees.own(tmp_path), mask_map={**mask_map, "0": "ignore", "1": "ignore", "2": "ignore"})
    wanted = distinct(3).tolist() if palette is None else [list(code.to_bytes(3, "big")) for code in palette]
    assert folder.build().palette.tolist() == wanted
    own = a_folder(tmp_path, mask_map=mask_map, palette=["#000001", "#000002", "#000003"])
    assert own.build().palette.tolist() == [[0, 0, 1], [0, 0, 2], [0, 0, 3]]


def test_images_of_val_and_test_that_lie_among_the_labelled_ones_are_left_out(tmp_path):
    root = trees.own(tmp_path)
    for name, numbers in (("val", (1, 5)), ("test", (2,))):
        lines = [f"labelled/images/photo_{i}.jpg labelled/masks/photo_{i}.png\n" for i in numbers]
        (root / f"{name}.txt").write_text("".join(lines))
    keys = {"val": {"pairs": "val.txt"}, "test": {"pairs": "test.txt"}}
    with pytest.raises(ValueError, match=r"data\.val: 2 of 2 .*data\.labelled\.without=\[val\]"):
        refuse_learnt_and_scored(a_folder(root, **keys).build())
    splits = a_folder(root, **keys, labelled={**LABELLED, "without": ["val", "test"]}).build()
    assert names(splits.labelled) == photos(0, 3, 4, 6, 7)
    assert (names(splits.val), names(splits.test)) == (photos(1, 5), photos(2))
    alone = a_folder(root).build().labelled
    by_name = {alone.name(i): alone.label(i) for i in range(len(alone))}
    same = [i for i in range(5) if splits.labelled.name(i) in by_name]
    assert same
    assert all((splits.labelled.label(i) == by_name[splits.labelled.name(i)]).all() for i in same)
    with pytest.raises(ValueError, match=r"without: it leaves none of 2"):
        a_folder(root, **keys, labelled={"pairs": "val.txt", "without": ["val"]}).build()
