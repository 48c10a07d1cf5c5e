"""Labelled crops that are placed on pixels of classes: where they lie, and how often."""

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from runs import tiny
from smalls import small
from test_stream import bits, served

from mtseg.data.batch import BatchSizes
from mtseg.data.oversample import pixel_of_a_class
from mtseg.data.source import IGNORE, Splits
from mtseg.data.stream import Stream
from mtseg.geometry import Geometry
from mtseg.idle import idle
from mtseg.views import Policy, Views

GEOMETRIES = {
    "still": Geometry(scale=(1, 1), flip=0),
    "scaled and flipped": Geometry(scale=(0.5, 2.0), flip=0.5, flip_vertical=0.5),
    "turned": Geometry(scale=(0.7, 1.4), rotation=180, shear=10),
    "an area": Geometry(area=(0.02, 0.3), aspect=2.0),
    "moved": Geometry(scale=(1, 1), translate=100),
}
CORNERS = [(0, 0), (0, 159), (119, 0), (119, 159), (0, 80), (60, 159)]


def placed(geometry: Geometry, onto: tuple[int, int] | None, seed: int, crop=(24, 32), image=(120, 160)):
    return geometry.sample(np.random.default_rng(seed), crop=crop, image=image, onto=onto)


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize(("crop", "image"), [((24, 32), (120, 160)), ((40, 40), (30, 200)), ((64, 64), (30, 40))])
def test_the_pixel_is_in_the_crop_which_is_turned_and_scaled_as_without(geometry, crop, image):
    draw = np.random.default_rng(7)
    pixels = [(0, 0), (image[0] - 1, image[1] - 1), *(tuple(draw.integers(image)) for _ in range(60))]
    for seed, (row, column) in enumerate(pixels):
        there = placed(geometry, (row, column), seed, crop, image)
        anywhere = placed(geometry, None, seed, crop, image)
        np.testing.assert_array_equal(there[:2, :2], anywhere[:2, :2])
        at = np.array([(2 * column + 1) / image[1] - 1, (2 * row + 1) / image[0] - 1, 1])
        assert np.abs(np.linalg.inv(there) @ at).max() <= 1 + 1e-9


@pytest.mark.parametrize("name", ["still", "scaled and flipped", "an area"])
def test_a_crop_leaves_the_image_no_more_than_without(name):
    for seed, onto in enumerate([*CORNERS, (50, 50), (100, 30)] * 8):
        for warp in (placed(GEOMETRIES[name], pixel, seed) for pixel in (onto, None)):
            corners = warp @ np.array([[-1, -1, 1, 1], [-1, 1, -1, 1], [1, 1, 1, 1]])
            assert np.abs(corners[:2]).max() <= 1 + 1e-9


def test_a_turned_crop_leaves_the_image_no_more_than_without_but_for_what_no_crop_in_it_shows():
    size, stayed = np.array([160, 120]), 0  # width, height
    for seed in range(400):
        row, column = (int(place) for place in np.random.default_rng(seed).integers((120, 160)))
        warp = placed(GEOMETRIES["turned"], (row, column), seed)
        box = np.abs(warp[:2, :2]).sum(1) * size / 2
        room, at = size / 2 - box, np.array([column, row]) + 0.5 - size / 2
        middle = np.clip(at, -room, room)  # the crop inside the image whose middle is nearest to the pixel
        shows = np.abs(np.linalg.inv(warp[:2, :2]) @ ((at - middle) * 2 / size)).max() <= 1
        assert not shows or (np.abs(warp[:2, 2]) * size / 2 <= room + 1e-9).all()
        stayed += shows
    assert 300 < stayed < 400


def test_the_pixel_lies_anywhere_in_the_crop():
    onto = (60, 80)
    at = np.array([161 / 160 - 1, 121 / 120 - 1, 1])
    seen = np.array([(np.linalg.inv(placed(GEOMETRIES["turned"], onto, seed)) @ at)[:2] for seed in range(2000)])
    counts = np.histogram2d(*seen.T, bins=2, range=[[-1, 1]] * 2)[0]  # of 2000 in quarters; 5 deviations of 500
    assert np.abs(counts - 500).max() < 5 * np.sqrt(2000 * 0.25 * 0.75)


def test_the_pixel_is_drawn_alike_from_classes_and_then_from_their_pixels():
    label = np.full((30, 40), 3, np.uint8)
    label[:, :5] = IGNORE
    label[4, 7] = 1
    label[10:12, 20:22] = 6
    rng = np.random.default_rng(0)
    found = np.array([pixel_of_a_class(label, rng) for _ in range(3000)])
    classes = label[found[:, 0], found[:, 1]]
    counts = {value: int((classes == value).sum()) for value in np.unique(classes)}
    assert counts.keys() == {1, 3, 6}
    assert max(abs(count - 1000) for count in counts.values()) < 5 * np.sqrt(3000 * 2 / 9)
    of_six = found[classes == 6] @ [40, 1]
    assert max(abs(np.bincount(of_six)[np.unique(of_six)] - len(of_six) / 4)) < 5 * np.sqrt(len(of_six) * 3 / 16)
    assert len(np.unique(of_six)) == 4


@pytest.mark.parametrize("label", [np.full((8, 8), IGNORE, np.uint8), np.array(3)], ids=["nothing", "a whole image"])
def test_where_no_pixel_has_a_class_there_is_none(label):
    assert pixel_of_a_class(label, np.random.default_rng(0)) is None


@dataclass(frozen=True)
class Speck:
    """Large images of class 0 with one pixel of class 1, whose red is their class."""

    count: int = 6
    none: bool = False

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"speck-{index}"

    def label(self, index: int) -> NDArray[np.uint8]:
        label = np.zeros((300, 400), np.uint8)
        label[37 * index + 11, 60 * index + 5] = 1
        return label if not self.none else np.full_like(label, IGNORE)

    def image(self, index: int) -> NDArray[np.uint8]:
        return np.repeat(self.label(index)[..., None], 3, axis=2)


def a_stream(oversample: float, *, labelled: Speck = Speck(), scale: float = 1.0) -> Stream:
    policy = Policy(geometry=Geometry(scale=(1, scale), flip=0.5))
    views = Views(crop=(24, 32), labelled=policy, teacher=policy, oversample=oversample)
    splits = Splits(("a", "b"), np.zeros((2, 3), np.uint8), labelled, Speck(), Speck(1), Speck(1))
    return Stream(splits, views=views, sizes=BatchSizes(labelled=4, unlabelled=2), students=1, seed=0)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_that_share_of_the_labelled_views_is_placed_on_a_class_drawn_alike(share):
    stream = a_stream(share)
    crops = [stream[step].labelled for step in range(100)]
    labels = np.concatenate([crop.label.numpy() for crop in crops])  # type: ignore[union-attr]
    np.testing.assert_array_equal(labels, np.concatenate([crop.image.numpy() for crop in crops])[..., 0])
    expected, chance = share / 2, 24 * 32 / (300 * 400)  # of a crop anywhere to show the pixel
    shown = (labels == 1).any((1, 2)).mean()
    spread = np.sqrt(max(expected * (1 - expected), chance) / len(labels))
    assert abs(shown - expected - (1 - expected) * chance) < 5 * spread


def test_unlabelled_views_and_those_that_are_not_placed_are_as_without():
    without, half = a_stream(0.0, scale=2), a_stream(0.5, scale=2)
    same, scales = 0, []
    for step in range(20):
        one, other = without[step], half[step]
        np.testing.assert_array_equal(one.teacher.warp, other.teacher.warp)  # type: ignore[union-attr]
        np.testing.assert_array_equal(one.labelled.index, other.labelled.index)
        as_without = (one.labelled.warp == other.labelled.warp).all(2).all(1)
        same += int(as_without.sum())
        scales += (32 / (400 * other.labelled.warp[~as_without, 0, 0].abs())).tolist()
    assert 20 <= same <= 60  # of 80, half
    assert min(scales) < 1.2 < 1.8 < max(scales)  # which are placed has nothing to do with how they are scaled


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_and_the_first_step_change_no_bit(workers):
    alone = [bits(a_stream(0.7)[step]) for step in range(2, 6)]
    assert [bits(batch) for batch in served(a_stream(0.7), range(2, 6), workers)] == alone


def test_an_image_without_labelled_pixels_is_seen_anywhere():
    batch = a_stream(1.0, labelled=Speck(none=True))[0]
    np.testing.assert_array_equal(batch.labelled.warp, a_stream(0.0, labelled=Speck(none=True))[0].labelled.warp)


def test_where_there_is_nothing_to_place_it_is_refused_or_said(tmp_path):
    with pytest.raises(ValueError, match=r"oversample: 0\.5 .*views\.made=workers"):
        small(tmp_path, "views.oversample=0.5")
    stream = ["batch={labelled: 0, unlabelled: 6, consistency: all}", "method.branches=[{}]"]
    for words, says in (([], False), (stream, True)):
        found = [sentence for sentence in idle(tiny(tmp_path, "views.oversample=0.5", *words))]
        assert any("views.oversample" in sentence for sentence in found) is says
    assert idle(tiny(tmp_path, *stream)) == []
