"""Raw mask values become classes by the table that was given, and by nothing else."""

import cv2
import numpy as np
import pytest

from mtseg.data.cityscapes import CLASSES as CITY
from mtseg.data.cityscapes import LABEL_IDS, PALETTE, TRAIN_ID
from mtseg.data.masks import NO_CLASS, by_value, by_words, in_order, spans
from mtseg.data.palette import distinct, inks, voc_colours
from mtseg.data.source import IGNORE

# The official table of Cityscapes (labels.py of its scripts): labelId, name, trainId; ids that are not here are void.
OFFICIAL = """7 road 0|8 sidewalk 1|11 building 2|12 wall 3|13 fence 4|17 pole 5|19 traffic light 6|20 traffic sign 7
21 vegetation 8|22 terrain 9|23 sky 10|24 person 11|25 rider 12|26 car 13|27 truck 14|28 bus 15|31 train 16
32 motorcycle 17|33 bicycle 18"""


def official() -> list[tuple[int, str, int]]:
    rows = [row.split(" ", 1) for row in OFFICIAL.replace("\n", "|").split("|")]
    return [(int(raw), rest.rpartition(" ")[0], int(rest.rpartition(" ")[2])) for raw, rest in rows]


def test_cityscapes_label_ids_are_mapped_by_the_official_table():
    rows = official()
    wanted = {raw: IGNORE for raw in range(34)} | {raw: train for raw, _, train in rows}
    mask = np.arange(34, dtype=np.uint8).reshape(2, 17)
    assert by_value(TRAIN_ID)(mask, "x").tolist() == [[wanted[raw] for raw in row] for row in mask.tolist()]
    assert [name for _, name, _ in rows] == list(CITY)
    assert [raw for raw, _, _ in rows] == list(LABEL_IDS)
    assert PALETTE.shape == (19, 3)
    assert PALETTE[0].tolist() == [128, 64, 128]
    assert PALETTE[-1].tolist() == [119, 11, 32]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_a_table_agrees_with_a_dictionary_on_every_value(dtype):
    table = {0: 2, 7: 0, 200: 1, 255: IGNORE} | ({40_000: 3} if dtype != np.uint8 else {})
    mask = np.array(list(table), dtype).reshape(1, -1)
    label = by_value(table)(mask, "x")
    assert label.dtype == np.uint8
    assert label.tolist() == [list(table.values())]
    unknown = sorted(set(range(min(np.iinfo(dtype).max, 50_000) + 1)) - set(table))[::97]
    for value in unknown + ([-1, -2, 70_000] if dtype == np.int32 else []):
        with pytest.raises(ValueError, match=f"x: value {value} on 1 pixels is no class"):
            by_value(table)(np.array([[0, value]], dtype), "x")


def test_a_value_that_is_no_class_is_named_with_its_pixels_and_what_is_allowed():
    mask = np.array([[0, 1, 2], [9, 9, 255]], np.uint8)
    with pytest.raises(ValueError, match=r"^a\.png: value 9 on 2 pixels is no class; a mask holds 0 to 2, 255; "):
        in_order(3)(mask, "a.png")
    with pytest.raises(ValueError, match=r"value 255 on 1 pixels .*; a mask holds 0 to 2, 9; "):
        in_order(3, void=9)(mask, "a.png")


@pytest.mark.parametrize("values", [[0, 255], [255]])
def test_masks_of_0_and_255_get_the_hint_and_the_hint_works(values):
    mask = np.array([values], np.uint8)
    with pytest.raises(ValueError, match=r'data.mask_map=\{"0": 0, "255": 1\}$'):
        in_order(2, void=None)(mask, "x")
    mapped = by_words(["ground", "cell"], {"0": 0, "255": 1}, void=255, other=NO_CLASS)
    assert mapped(mask, "x").tolist() == [[value // 255 for value in values]]


def test_a_value_that_is_no_class_is_answered_with_every_way_out_and_each_of_them_works():
    mask, classes = np.array([[0, 1, 11]], np.uint8), ["road", "car"]
    with pytest.raises(ValueError) as refusal:
        by_words(classes, {}, void=255, other=NO_CLASS)(mask, "a.png")
    said = str(refusal.value)
    for way in ("data.ignore=11", "every value in data.mask_map", "data.other=ignore", "tools/doctor.py"):
        assert way in said
    ways = [({}, 11, NO_CLASS), ({"0": "road", "1": "car", "11": "ignore"}, 255, NO_CLASS), ({}, 255, IGNORE)]
    for words, void, other in ways:
        assert by_words(classes, words, void=void, other=other)(mask, "a.png").tolist() == [[0, 1, IGNORE]]


def test_a_void_value_beside_a_mask_map_is_answered_with_a_word_for_the_map():
    with pytest.raises(ValueError, match=r'^x: value 11 .*data\.mask_map, as in "11": ignore') as refusal:
        by_words(["road"], {"7": 0}, void=255, other=NO_CLASS)(np.array([[7, 11]], np.uint8), "x")
    assert "data.ignore" not in str(refusal.value)


def test_the_hint_is_for_masks_of_0_and_255_alone():
    with pytest.raises(ValueError) as refusal:
        in_order(2, void=None)(np.array([[0, 1, 255]], np.uint8), "x")
    assert "mask_map" not in str(refusal.value)


def test_words_map_values_and_names_and_void_stays_unless_a_word_says_otherwise():
    classes = ["road", "car"]
    mask = np.array([[7, 8, 255, 3]], np.uint8)
    wanted = by_words(classes, {"7": "road", "8": 1, "3": "ignore"}, void=255, other=NO_CLASS)(mask, "x")
    assert wanted.tolist() == [[0, 1, IGNORE, IGNORE]]
    with pytest.raises(ValueError, match="value 3 on 1 pixels"):
        by_words(classes, {"7": "road", "8": 1}, void=255, other=NO_CLASS)(mask, "x")
    assert by_words(classes, {"7": 0, "8": 1}, void=None, other=IGNORE)(mask, "x").tolist() == [[0, 1, 255, 255]]
    assert by_words(classes, {}, void=7, other=IGNORE)(mask % 8, "x").tolist() == [[255, 0, 255, 255]]


def test_colours_agree_with_a_dictionary_pixel_by_pixel():
    rng = np.random.default_rng(0)
    colours = {(128, 64, 128): 0, (0, 0, 142): 1, (0, 0, 0): 2, (255, 255, 255): IGNORE}
    words = {"#804080": "road", "0, 0,142": "car", "0,0,0": 2, "#FFFFFF": "ignore"}
    mask = np.array(list(colours), np.uint8)[rng.integers(4, size=(5, 7))]
    wanted = [[colours[tuple(pixel)] for pixel in row] for row in mask.tolist()]
    read = by_words(["road", "car", "void"], words, void=255, other=NO_CLASS)
    assert read(mask, "x").tolist() == wanted
    mask[2, 3] = mask[0, 0] = (1, 2, 3)
    with pytest.raises(ValueError, match="x: colour #010203 on 2 pixels is not in mask_map"):
        read(mask, "x")
    ignoring = by_words(["road", "car", "void"], words, void=255, other=IGNORE)(mask, "x")
    assert ignoring[2, 3] == ignoring[0, 0] == IGNORE


def test_one_channel_and_three_are_told_apart_with_a_remedy():
    grey = np.repeat(np.arange(4, dtype=np.uint8).reshape(2, 2, 1), 3, axis=2)
    with pytest.raises(ValueError, match=r"this has three .RGB.: save it with one channel"):
        in_order(4)(grey, "x")
    grey[0, 0] = (1, 2, 3)
    with pytest.raises(ValueError, match="say its colours in mask_map"):
        in_order(4)(grey, "x")
    with pytest.raises(ValueError, match="has one channel, and mask_map has colours alone"):
        by_words(["a"], {"#000000": 0}, void=None, other=NO_CLASS)(grey[..., 0], "x")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"7": "raod"}, "'raod', which is no class; they are road, car"),
        ({"7": 2}, "2, which is no class"),
        ({"7": -1}, "-1, which is no class"),
        ({"seven": 0}, "'seven' is neither a raw value"),
        ({"70000": 0}, "'70000' is neither"),
        ({"#80408": 0}, "'#80408' is neither"),
        ({"1,2,300": 0}, "'1,2,300' is neither"),
        ({"": 0}, "'' is neither"),
        ({"7": 0, "07": 1}, "'7' and '07' are the same; leave one out"),
        ({"#804080": 0, "128, 64, 128": 0}, "'#804080' and '128, 64, 128' are the same"),
    ],
)
def test_words_that_mean_nothing_are_refused(words, says):
    with pytest.raises(ValueError, match=f"mask_map: .*{says}"):
        by_words(["road", "car"], words, void=255, other=NO_CLASS)


def test_spans_name_every_value_once():
    assert spans([0, 1, 2, 255]) == "0 to 2, 255"
    assert spans([3]) == "3"
    assert spans([]) == ""


def test_the_voc_palette_is_the_development_kits():
    first = "000000 800000 008000 808000 000080 800080 008080 808080 400000 c00000 408000 c08000 400080 c00080 408080"
    rest = "c08080 004000 804000 00c000 80c000 004080"
    assert np.array_equal(voc_colours(21), inks(f"{first} {rest}"))
    assert len({tuple(colour) for colour in voc_colours(256).tolist()}) == 256


def apart(colours: np.ndarray) -> float:
    """The least CIE 1976 difference of any two colours, white among them, by OpenCV's conversion."""
    whole = np.concatenate([colours, [[255, 255, 255]]]).astype(np.float32) / 255
    lab = cv2.cvtColor(whole[None], cv2.COLOR_RGB2Lab)[0]
    each = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    return float(each[~np.eye(len(each), dtype=bool)].min())


@pytest.mark.parametrize("count", range(2, 22))
def test_colours_of_ones_own_classes_are_well_apart_and_further_than_vocs(count):
    times = 1.1 if count <= 8 else 0.95 if count <= 10 else 1.9
    assert apart(distinct(count)) > times * apart(voc_colours(count))
    assert apart(distinct(count)) > (40 if count <= 6 else 25 if count <= 16 else 15)


def test_colours_of_ones_own_classes_begin_with_black_differ_for_255_and_do_not_depend_on_how_many():
    whole = distinct(255)
    assert whole[0].tolist() == [0, 0, 0]
    assert len({tuple(colour) for colour in [*whole.tolist(), [255, 255, 255]]}) == 256
    assert all(np.array_equal(distinct(count), whole[:count]) for count in (1, 20, 21, 22, 100))


def test_a_mask_of_numbers_among_masks_of_colours_is_answered_with_what_is_missing():
    mapped = by_words(["sky", "road"], {"#808080": "sky", "#804080": "road"}, void=255, other=NO_CLASS)
    with pytest.raises(ValueError, match=r'this mask holds numbers.*names colours.*"1": CLASS') as refused:
        mapped(np.array([[1, 1, 255]], np.uint8), "teachers.png")
    assert "ignore" not in str(refused.value)
    both = by_words(["sky", "road"], {"#808080": "sky", "#804080": "road", "1": "road"}, void=255, other=NO_CLASS)
    assert both(np.array([[1, 1, 255]], np.uint8), "x").tolist() == [[1, 1, 255]]
