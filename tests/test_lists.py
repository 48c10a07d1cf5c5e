"""Every published format of split lists, each from a file as its authors write it; and what is refused, by line."""

import json
from pathlib import Path

import pytest

from mtseg.data.lists import read_list
from mtseg.data.match import pairs
from mtseg.data.tree import Tree


def a_list(folder: Path, content: str | bytes, name: str = "list.txt") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(folder: Path, content: str | bytes, name: str = "list.txt") -> list[tuple[str, str | None]]:
    return [(entry.image, entry.mask) for entry in read_list(a_list(folder, content, name))]


UNIMATCH_VOC = "JPEGImages/2008_002880.jpg SegmentationClass/2008_002880.png\n" + (
    "JPEGImages/2007_007028.jpg SegmentationClass/2007_007028.png"
)
UNIMATCH_CITY = (
    "leftImg8bit/train/ulm/ulm_000009_000019_leftImg8bit.png "
    "gtFine/train/ulm/ulm_000009_000019_gtFine_labelTrainIds.png\n"
)
U2PL_VOC = "2007_000733\n2007_001458\n"
U2PL_CITY = "leftImg8bit/train/hamburg/hamburg_000000_080169_leftImg8bit.png\n"
CPS_CITY = (
    "/images/train/jena_000078_000019.png\t/segmentation/train/jena_000078_000019_gtFine.png\n"
    "/images/train/ulm_000001_000019.png\t/segmentation/train/ulm_000001_000019_gtFine.png\n"
)
CCT_VOC = "/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png\n"
V2_EXTRA = "leftImg8bit/train_extra/bayreuth/bayreuth_000000_000007_leftImg8bit.png None\n"
COCO = "train2017/000000283213.jpg masks/000000283213.png\n"
ADE = "images/training/ADE_train_00001401.jpg annotations/training/ADE_train_00001401.png\n"
CCT_JSON = '{"2007_000032": [0.0, 1.0, 0.0], "2007_000033": [0.0, 0.0, 1.0]}'


@pytest.mark.parametrize(
    ("content", "name", "wanted"),
    [
        (
            UNIMATCH_VOC,
            "labeled.txt",
            [
                ("JPEGImages/2008_002880.jpg", "SegmentationClass/2008_002880.png"),
                ("JPEGImages/2007_007028.jpg", "SegmentationClass/2007_007028.png"),
            ],
        ),
        (
            UNIMATCH_CITY,
            "labeled.txt",
            [
                (
                    "leftImg8bit/train/ulm/ulm_000009_000019_leftImg8bit.png",
                    "gtFine/train/ulm/ulm_000009_000019_gtFine_labelTrainIds.png",
                )
            ],
        ),
        (U2PL_VOC, "labeled.txt", [("2007_000733", None), ("2007_001458", None)]),
        (U2PL_CITY, "labeled.txt", [("leftImg8bit/train/hamburg/hamburg_000000_080169_leftImg8bit.png", None)]),
        (
            CPS_CITY,
            "train_aug_labeled_1-16.txt",
            [
                ("/images/train/jena_000078_000019.png", "/segmentation/train/jena_000078_000019_gtFine.png"),
                ("/images/train/ulm_000001_000019.png", "/segmentation/train/ulm_000001_000019_gtFine.png"),
            ],
        ),
        (
            CCT_VOC,
            "60_train_supervised.txt",
            [("/JPEGImages/2007_000032.jpg", "/SegmentationClassAug/2007_000032.png")],
        ),
        (
            V2_EXTRA,
            "unlabeled.txt",
            [("leftImg8bit/train_extra/bayreuth/bayreuth_000000_000007_leftImg8bit.png", None)],
        ),
        (COCO, "labeled.txt", [("train2017/000000283213.jpg", "masks/000000283213.png")]),
        (
            ADE,
            "labeled.txt",
            [("images/training/ADE_train_00001401.jpg", "annotations/training/ADE_train_00001401.png")],
        ),
        (CCT_JSON, "classes.json", [("2007_000032", None), ("2007_000033", None)]),
        (
            '["a.jpg", ["b.jpg", "b.png"], ["c.jpg", null]]',
            "x.json",
            [("a.jpg", None), ("b.jpg", "b.png"), ("c.jpg", None)],
        ),
        ('{"a.jpg": "a.png", "b.jpg": null}', "x.json", [("a.jpg", "a.png"), ("b.jpg", None)]),
    ],
)
def test_published_lists_are_read_as_they_are(content, name, wanted, tmp_path):
    assert read(tmp_path, content, name) == wanted


@pytest.mark.parametrize("encode", [str.encode, lambda text: b"\xef\xbb\xbf" + text.encode()])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_byte_order_marks_line_ends_and_blank_lines_change_nothing(encode, end, tmp_path):
    text = end.join(["", "a.jpg a.png", "  ", "ü/b.jpg ü/b.png"])
    assert read(tmp_path, encode(text)) == [("a.jpg", "a.png"), ("ü/b.jpg", "ü/b.png")]
    assert read(tmp_path, encode(text + end)) == [("a.jpg", "a.png"), ("ü/b.jpg", "ü/b.png")]


def test_names_may_contain_blanks_where_the_border_is_plain(tmp_path):
    text = "my pictures/a 1.jpg my masks/a 1.png\nmy pictures/b 2.JPG None\nmy pictures/c 3.jpeg\nd 4\td 5"
    assert read(tmp_path, text) == [
        ("my pictures/a 1.jpg", "my masks/a 1.png"),
        ("my pictures/b 2.JPG", None),
        ("my pictures/c 3.jpeg", None),
        ("d 4", "d 5"),
    ]


@pytest.mark.parametrize("line", ["a b c", "a.jpg b.png c.png", "a.jpg\tb.png\tc.png", "a.jpg\t", "two words"])
def test_a_line_of_no_format_is_refused_with_its_number(line, tmp_path):
    path = a_list(tmp_path, f"x.jpg x.png\n\n{line}\n")
    with pytest.raises(ValueError, match=r"list\.txt, line 3: .* is not `image mask`, an image, or an id"):
        read_list(path)


def test_an_image_named_twice_is_refused_with_both_lines(tmp_path):
    with pytest.raises(ValueError, match=r"list\.txt, line 4: 'a\.jpg' is there already, at line 1"):
        read(tmp_path, "a.jpg a.png\nb.jpg b.png\n\na.jpg c.png\n")
    with pytest.raises(ValueError, match=r"x\.json, entry 2: 'a' is there already, at entry 1"):
        read(tmp_path, '["a", "a"]', "x.json")
    with pytest.raises(ValueError, match=r"x\.json, entry 2: 'a' is there already, at entry 1"):
        read(tmp_path, '{"a": [0.0], "a": [1.0]}', "x.json")


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        (b"a.jpg\n\xe4.jpg\n", "list.txt", "byte 6 is not UTF-8"),
        (b"\x80\x04\x95\x10", "splits.pkl", "not UTF-8"),
        ("\n \n", "list.txt", "names no image"),
        ("[]", "x.json", "names no image"),
        ("[1]", "x.json", "entry 1: 1 is not an image"),
        ('["a", ["b", 3]]', "x.json", "entry 2: .* is not an image"),
        ("{", "x.json", "line 1: .*not JSON"),
    ],
)
def test_what_is_no_list_is_refused_in_one_line(content, name, says, tmp_path):
    path = a_list(tmp_path, content, name)
    with pytest.raises(ValueError, match=f"{name}.*{says}") as refusal:
        read_list(path)
    assert "\n" not in str(refusal.value)


def test_a_list_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.txt: no such list; name one that is there"):
        read_list(tmp_path / "nowhere.txt")


def test_a_list_of_100_000_names_keeps_them_all_in_order(tmp_path):
    names = [f"folder/{i:06d}.jpg" for i in range(100_000)]
    assert [image for image, _ in read(tmp_path, json.dumps(names), "x.json")] == names


# Names against the tree -----------------------------------------------------------------------------------------------


def test_names_that_lead_out_of_the_root_are_refused_and_links_inside_are_not(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "inner", outside):
        folder.mkdir(parents=True)
        (folder / "a.png").touch()
    (root / "file.png").symlink_to(outside / "a.png")
    (root / "folder").symlink_to(outside)
    (root / "near.png").symlink_to(root / "inner" / "a.png")
    tree = Tree(root)
    assert tree.admit("/inner/a.png", "x") == "inner/a.png"
    assert tree.admit("near.png", "x") == "near.png"
    assert tree.has("near.png")
    for name in ("../outside/a.png", "inner/../../outside/a.png", "", "/", "a\0b"):
        with pytest.raises(ValueError, match=r"list, line 7: .* is refused: a name is relative to"):
            tree.admit(name, "list, line 7")
    for name in ("file.png", "folder/a.png"):
        with pytest.raises(ValueError, match=rf"list, line 7: '{name}' is a link to .*outside"):
            tree.admit(name, "list, line 7")


def test_an_image_in_two_spellings_is_there_twice(tmp_path):
    path = tmp_path / "list.txt"
    for other in ("./images//a.png", "/images/a.png", "images/./a.png"):
        path.write_text(f"images/a.png\n{other}\n")
        with pytest.raises(ValueError, match=r"line 2: '/?images/a\.png' is there already, at line 1"):
            read_list(path)
    path.write_text("/images/./a.png masks//a.png\n../b.png\n")
    assert [(entry.image, entry.mask) for entry in read_list(path)] == [
        ("/images/a.png", "masks/a.png"),
        ("../b.png", None),
    ]


@pytest.mark.parametrize(
    ("line", "says"), [("a.png", r"`image mask`$"), ("a.png,m.png", r"`image mask`, .*not a comma$")]
)
def test_a_line_of_pairs_without_a_mask_is_told_and_so_is_a_comma_in_its_place(line, says, tmp_path):
    (tmp_path / "pairs.txt").write_text(f"{line}\n")
    with pytest.raises(ValueError, match=rf"pairs.txt, line 1: '{line}' has no mask beside it; a line is {says}"):
        pairs(Tree(tmp_path), tmp_path / "pairs.txt")
