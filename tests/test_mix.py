"""Mixing: the rectangle's size, shape and place; that partners differ; that all maps are pasted alike."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from mtseg.geometry import View
from mtseg.mix import CutMix, NoMix, paste, paste_view

EXAMPLES = settings(max_examples=60, deadline=None)
SIZES = [(64, 96), (96, 64), (80, 80), (40, 160)]


def masks(mix: CutMix, count: int, size: tuple[int, int], seed: int = 0) -> NDArray[np.bool_]:
    mask = mix.mask(count, size, np.random.default_rng(seed))
    assert mask is not None
    assert mask.shape == (count, 1, *size)
    assert mask.dtype == torch.bool
    return mask[:, 0].numpy()


def rectangle(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """Height and width of the one full rectangle that `mask` is."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert np.array_equal(rows, np.arange(rows[0], rows[-1] + 1))
    assert mask[np.ix_(rows, columns)].all()
    assert mask.sum() == len(rows) * len(columns)
    return len(rows), len(columns)


def distinct(batch: int, channels: int, size: tuple[int, int]) -> Tensor:
    """Maps in which every pixel of every image has a value of its own."""
    return torch.arange(batch * channels * size[0] * size[1]).float().view(batch, channels, *size)


# --- the rectangle


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("area", [(0.02, 0.4), (0.3, 0.3), (0.7, 0.9)])
def test_pasted_area_is_within_its_range(size: tuple[int, int], area: tuple[float, float]) -> None:
    rounding = (sum(size) / 2 + 0.25) / (size[0] * size[1])  # half a pixel at each side
    for mask in masks(CutMix(p=1, area=area, aspect=3), 300, size):
        rectangle(mask)
        assert area[0] - rounding <= mask.mean() <= area[1] + rounding


@pytest.mark.parametrize("size", SIZES)
def test_pasted_area_is_uniform_in_its_range(size: tuple[int, int]) -> None:
    shares = np.sort([mask.mean() for mask in masks(CutMix(p=1, area=(0.02, 0.4), aspect=3), 2000, size)])
    uniform = 0.02 + 0.38 * (np.arange(2000) + 0.5) / 2000
    # Kolmogorov and Smirnov: 1.95 / sqrt(n) is exceeded once in a thousand; and half a pixel at each side.
    assert np.abs(shares - uniform).max() / 0.38 < 1.95 / math.sqrt(2000) + 0.02


def test_width_over_height_is_log_uniform_between_the_aspect_and_its_inverse() -> None:
    size = (200, 200)
    sides = [rectangle(mask) for mask in masks(CutMix(p=1, area=(0.05, 0.2), aspect=3), 1000, size)]
    logs = np.sort([math.log(width / height) / math.log(3) for height, width in sides])
    assert np.abs(logs).max() <= 1 + 0.03  # sides of 25 pixels and more, rounded
    assert np.abs(logs - np.linspace(-1, 1, 1000)).max() / 2 < 1.95 / math.sqrt(1000) + 0.02


def test_aspect_one_pastes_squares() -> None:
    for mask in masks(CutMix(p=1, area=(0.02, 0.4), aspect=1), 200, (64, 96)):
        height, width = rectangle(mask)
        assert height == width


def test_rectangle_is_placed_anywhere_it_fits() -> None:
    shown = masks(CutMix(p=1, area=(0.1, 0.1), aspect=1), 4000, (20, 30))
    assert shown.any(0).all()  # also the corners
    places = [(np.flatnonzero(mask.any(1))[0], np.flatnonzero(mask.any(0))[0]) for mask in shown]
    height, width = rectangle(shown[0])
    tops, lefts = (np.bincount(values) for values in zip(*places, strict=True))
    assert (len(tops), len(lefts)) == (20 - height + 1, 30 - width + 1)
    for counts in (tops, lefts):
        mean = 4000 / len(counts)
        assert np.abs(counts - mean).max() < 4.5 * math.sqrt(mean)


@EXAMPLES
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    low=st.floats(0.001, 0.999),
    high=st.floats(0.001, 0.999),
    aspect=st.floats(1, 50),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_rectangle_lies_inside_any_image(
    size: tuple[int, int], low: float, high: float, aspect: float, seed: int
) -> None:
    low, high = sorted((low, high))
    for mask in masks(CutMix(p=1, area=(low, high), aspect=aspect), 4, size, seed):
        height, width = rectangle(mask)
        assert 1 <= height <= size[0]
        assert 1 <= width <= size[1]


@pytest.mark.parametrize("p", [0.0, 0.25, 0.5, 1.0])
def test_share_of_mixed_images_is_the_probability(p: float) -> None:
    mixed = masks(CutMix(p=p), 4000, (16, 16)).any((1, 2)).mean()
    assert mixed == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 4000))


def test_mask_is_a_function_of_the_generator() -> None:
    mix = CutMix(p=0.5)
    assert np.array_equal(masks(mix, 16, (24, 32), seed=5), masks(mix, 16, (24, 32), seed=5))
    assert not np.array_equal(masks(mix, 16, (24, 32), seed=5), masks(mix, 16, (24, 32), seed=6))
    several = masks(CutMix(p=1), 16, (24, 32))
    assert len({mask.tobytes() for mask in several}) == 16  # and each image has its own


@pytest.mark.parametrize("area", [(0.0, 0.4), (0.5, 0.4), (0.2, 1.0), (-0.1, 0.3)])
def test_area_that_is_no_range_of_shares_is_refused(area: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="area"):
        CutMix(area=area)


@pytest.mark.parametrize("wrong", [{"p": 1.5}, {"p": -0.1}, {"aspect": 0.5}])
def test_probability_and_aspect_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CutMix(**wrong)


# --- pasting


@pytest.mark.parametrize("batch", range(2, 9))
def test_pasted_pixels_come_from_the_same_place_of_one_other_image(batch: int) -> None:
    size = (6, 7)
    maps = distinct(batch, 2, size)
    mask = torch.from_numpy(np.random.default_rng(batch).random((batch, 1, *size)) < 0.4)
    pasted = paste(maps, mask)
    for image in range(batch):
        partners = set()
        for channel, y, x in np.ndindex(2, *size):
            owner = [b for b in range(batch) if maps[b, channel, y, x] == pasted[image, channel, y, x]]
            assert len(owner) == 1  # the same place, the same channel, of some image
            assert (owner[0] != image) == bool(mask[image, 0, y, x])
            partners |= {owner[0]} - {image}
        assert len(partners) == 1


@pytest.mark.parametrize("batch", range(2, 9))
def test_every_image_is_a_partner_equally_often(batch: int) -> None:
    pasted = paste(distinct(batch, 1, (1, 1)), torch.ones(batch, 1, 1, 1, dtype=torch.bool))
    assert sorted(pasted.flatten().tolist()) == list(range(batch))


def test_a_single_image_stays_as_it_is() -> None:
    maps = distinct(1, 3, (8, 8))
    mask = CutMix(p=1).mask(1, (8, 8), np.random.default_rng(0))
    assert mask is not None
    assert mask.any()
    assert torch.equal(paste(maps, mask), maps)


def test_data_and_what_is_known_of_it_are_pasted_with_one_mask() -> None:
    batch, size = 4, (10, 12)
    known = torch.from_numpy(np.random.default_rng(0).random((batch, 1, *size)) < 0.7)
    # The data say of each pixel whether it is known, in every channel: pasted alike, they still do.
    view = View(known.float().expand(-1, 3, -1, -1).contiguous(), torch.eye(3).expand(batch, 3, 3), known)
    mask = CutMix(p=1).mask(batch, size, np.random.default_rng(1))
    assert mask is not None
    pasted = paste_view(view, mask)
    assert torch.equal(pasted.data > 0.5, pasted.known.expand(-1, 3, -1, -1))
    assert not torch.equal(pasted.known, view.known)
    assert pasted.warp is view.warp


def test_pasting_leaves_its_arguments_alone() -> None:
    maps, mask = distinct(3, 1, (4, 4)), torch.rand(3, 1, 4, 4) < 0.5
    kept, kept_mask = maps.clone(), mask.clone()
    paste(maps, mask)
    assert torch.equal(maps, kept)
    assert torch.equal(mask, kept_mask)


def test_probability_zero_and_no_mix_change_nothing() -> None:
    maps = distinct(3, 2, (8, 8))
    mask = CutMix(p=0).mask(3, (8, 8), np.random.default_rng(0))
    assert mask is not None
    assert torch.equal(paste(maps, mask), maps)
    generator = np.random.default_rng(0)
    assert NoMix().mask(3, (8, 8), generator) is None
    assert generator.random() == np.random.default_rng(0).random()  # nothing was drawn
