"""Mixing: every map against loops, pixel by pixel; who is mixed with whom; sizes and places of what is pasted."""

import copy
import itertools
import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import entropy
from torch import Tensor

from mtseg.geometry import View
from mtseg.losses import average
from mtseg.mix import Bands, ClassMix, CutMix, CutOut, MixUp, NoMix
from mtseg.task import Task, paste, sureness

EXAMPLES = settings(max_examples=60, deadline=None)
SIZES = [(64, 96), (96, 64), (80, 80), (40, 160)]
CLASSES = 5

Mask = NDArray[np.bool_]

PASTING = [CutMix(p=1), ClassMix(), Bands()]
ALL = [NoMix(), CutOut(), MixUp(), CutMix(p=0.5), CutMix(unsure=True), *PASTING]


# --- tasks


def draw(seed: int, batch: int, size: tuple[int, int] = (9, 12)) -> Task:
    """A task whose every number is random, and so differs from all others; a fifth of it is unknown."""
    rng = np.random.default_rng(seed)

    def view(data: NDArray[np.float64]) -> View:
        known = torch.from_numpy(rng.random((batch, 1, *size)) < 0.8)
        return View(torch.from_numpy(data).float(), torch.from_numpy(rng.standard_normal((batch, 3, 3))), known)

    powers = np.exp(2 * rng.standard_normal((batch, CLASSES, *size)))
    seen, target = view(rng.standard_normal((batch, 3, *size))), view(powers / powers.sum(1, keepdims=True))
    weight = torch.from_numpy(rng.random((batch, 1, *size))).float()
    return Task(seen, target, weight, torch.from_numpy(rng.permutation(batch) + 100 * seed), sureness(target))


def flat(value: float, batch: int, size: tuple[int, int]) -> Task:
    """Everything is known, and the input is `value`."""
    known = torch.ones((batch, 1, *size), dtype=torch.bool)
    seen = View(torch.full((batch, 1, *size), float(value)), torch.eye(3).expand(batch, 3, 3), known)
    target = View(torch.full((batch, 2, *size), 0.5), seen.warp, known)
    return Task(seen, target, torch.ones(batch, 1, *size), torch.arange(batch), sureness(target))


def maps(task: Task) -> dict[str, Tensor]:
    """All of a task that is mixed, by name."""
    return {
        "seen": task.seen.data,
        "seen known": task.seen.known,
        "target": task.target.data,
        "target known": task.target.known,
        "weight": task.weight,
    }


def assert_same(one: Task, two: Task) -> None:
    for name, values in maps(one).items():
        assert torch.equal(values, maps(two)[name]), name
    for a, b in ((one.seen.warp, two.seen.warp), (one.target.warp, two.target.warp), (one.index, two.index)):
        assert torch.equal(a, b)


def pasted(mix: Any, task: Task, other: Task, seed: int = 0) -> Mask:
    """Where `mix` shows the other's input in place of the task's own, (B, H, W)."""
    mixed = mix(task, other, np.random.default_rng(seed)).seen.data
    from_other, own = (mixed == other.seen.data).all(1).numpy(), (mixed == task.seen.data).all(1).numpy()
    assert (from_other ^ own).all()  # each pixel is one's or the other's, whole
    return np.asarray(from_other)


def masks(mix: Any, count: int, size: tuple[int, int], seed: int = 0) -> Mask:
    return pasted(mix, flat(0, count, size), flat(1, count, size), seed)


def rectangle(mask: Mask) -> tuple[int, int]:
    """Height and width of the one full rectangle that `mask` is."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert np.array_equal(rows, np.arange(rows[0], rows[-1] + 1))
    assert mask[np.ix_(rows, columns)].all()
    assert mask.sum() == len(rows) * len(columns)
    return len(rows), len(columns)


def chance(p: float, count: int) -> Any:
    """Within 4.5 standard deviations of the share `p` of `count` draws."""
    return pytest.approx(p, abs=4.5 * math.sqrt(p * (1 - p) / count))


def distance_of_uniform(values: Any) -> float:
    """Of Kolmogorov and Smirnov, from the uniform on [0, 1], times sqrt(n): over 1.95 once in a thousand."""
    values = np.sort(values)
    n = len(values)
    return float(np.abs(values - (np.arange(n) + 0.5) / n).max() * math.sqrt(n))


# --- partners


@pytest.mark.parametrize("batch", range(2, 9))
def test_every_image_has_one_other_as_partner_and_is_the_partner_of_one(batch: int) -> None:
    task = draw(1, batch)
    partners = task.partners()
    owners = [task.index.tolist().index(number) for number in partners.index.tolist()]
    assert sorted(owners) == list(range(batch))
    assert all(owner != image for image, owner in enumerate(owners))
    for image, owner in enumerate(owners):  # and all of a partner is of one image
        for name, values in maps(partners).items():
            assert torch.equal(values[image], maps(task)[name][owner])
        assert torch.equal(partners.seen.warp[image], task.seen.warp[owner])
        assert torch.equal(partners.target.warp[image], task.target.warp[owner])


@pytest.mark.parametrize("mix", PASTING, ids=str)
@pytest.mark.parametrize("batch", range(2, 6))
def test_what_is_pasted_is_of_one_other_image_at_the_same_place(mix: Any, batch: int) -> None:
    task = draw(2, batch)
    mixed = mix(task, task.partners(), np.random.default_rng(batch)).seen.data
    for image in range(batch):
        owners = Counter[int]()
        for y, x in np.ndindex(*task.seen.size):
            owner = [b for b in range(batch) if torch.equal(mixed[image, :, y, x], task.seen.data[b, :, y, x])]
            assert len(owner) == 1
            owners[owner[0]] += 1
        assert len(owners) == 2
        assert image in owners


@pytest.mark.parametrize("batch", range(2, 6))
def test_mixup_is_with_one_other_image(batch: int) -> None:
    task = draw(3, batch)
    mixed = MixUp(alpha=4)(task, task.partners(), np.random.default_rng(batch)).seen.data.double()
    for image in range(batch):
        own = task.seen.data[image].double()
        fits = []
        for other in range(batch):
            step = task.seen.data[other].double() - own
            share = ((mixed[image] - own) * step).sum() / step.square().sum().clamp_min(1e-9)
            fits.append(bool(torch.allclose(mixed[image], own + share * step, atol=1e-5)))
        assert sum(fits) == 1
        assert not fits[image]


@pytest.mark.parametrize("mix", [mix for mix in ALL if not isinstance(mix, CutOut)], ids=str)
def test_a_single_image_stays_whole(mix: Any) -> None:
    task = draw(4, 1)
    assert_same(mix(task, task.partners(), np.random.default_rng(0)), task)


# --- what is pasted, whatever the mask


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("mix", [*PASTING, CutMix(p=0.5), CutMix(unsure=True)], ids=str)
def test_all_maps_are_pasted_with_one_mask(mix: Any, labelled: bool) -> None:
    task = draw(5, 6)
    other = draw(6, 6) if labelled else task.partners()
    mask = pasted(mix, task, other)
    mixed = mix(task, other, np.random.default_rng(0))
    assert mask.any()
    assert not mask.all()
    for name, values in maps(mixed).items():
        own, others = maps(task)[name].numpy(), maps(other)[name].numpy()
        expected = np.empty_like(own)
        for image, channel, y, x in np.ndindex(*own.shape):
            expected[image, channel, y, x] = (others if mask[image, y, x] else own)[image, channel, y, x]
        assert np.array_equal(values.numpy(), expected), name
        assert values.dtype == maps(task)[name].dtype
    assert torch.equal(mixed.seen.warp, task.seen.warp)  # warps and numbers stay the task's own
    assert torch.equal(mixed.target.warp, task.target.warp)
    assert torch.equal(mixed.index, task.index)


def test_paste_takes_the_other_where_the_mask_holds_and_nowhere_else() -> None:
    task, other = draw(7, 3), draw(8, 3)
    mask = torch.from_numpy(np.random.default_rng(0).random((3, 1, 9, 12)) < 0.4)
    assert_same(paste(task, other, torch.zeros_like(mask)), task)
    for name, values in maps(paste(task, other, mask)).items():
        for image, channel, y, x in np.ndindex(*values.shape):
            source = other if mask[image, 0, y, x] else task
            assert values[image, channel, y, x] == maps(source)[name][image, channel, y, x]


@pytest.mark.parametrize("p", [0, 1, 0.5])
def test_of_whole_images_what_is_known_is_what_both_know_where_they_were_mixed(p: float) -> None:
    batch = 12
    maps = draw(3, batch)
    whole = View(torch.rand(batch, 4), maps.target.warp, torch.arange(batch)[:, None] % 3 > 0)
    task = replace(maps, target=whole, weight=torch.ones(batch, 1))
    other = task.partners()
    mixed = CutMix(p=p, area=(0.3, 0.5))(task, other, np.random.default_rng(1))
    touched = [bool((mixed.seen.data[i] != task.seen.data[i]).any()) for i in range(batch)]
    assert any(touched) == (p > 0)
    assert all(touched) == (p == 1)
    for i, was in enumerate(touched):
        both = bool(task.target.known[i] & other.target.known[i])
        assert bool(mixed.target.known[i]) == (both if was else bool(task.target.known[i]))


def test_of_a_whole_image_replaced_by_its_partner_the_partners_knowledge_counts() -> None:
    maps = draw(3, 2)
    whole = View(torch.rand(2, 4), maps.target.warp, torch.tensor([[False], [True]]))
    task = replace(maps, target=whole, weight=torch.ones(2, 1))
    pasted = paste(task, task.partners(), torch.ones_like(maps.seen.known))
    assert pasted.target.known.tolist() == [[True], [False]]


@pytest.mark.parametrize("mix", ALL, ids=str)
def test_mixing_leaves_its_arguments_alone(mix: Any) -> None:
    task, other = draw(9, 4), draw(10, 4)
    before = copy.deepcopy((task, other))
    mix(task, other, np.random.default_rng(0))
    assert_same(task, before[0])
    assert_same(other, before[1])


@pytest.mark.parametrize("mix", [mix for mix in ALL if not isinstance(mix, NoMix)], ids=str)
def test_mixing_is_random_by_its_generator_alone(mix: Any) -> None:
    task, other = draw(11, 8), draw(12, 8)

    def mixed(seed: int) -> Task:
        torch.manual_seed(seed + 1)  # neither of the global generators has a say
        np.random.seed(seed + 1)  # noqa: NPY002
        result: Task = mix(task, other, np.random.default_rng(seed % 2))
        return result

    assert_same(mixed(0), mixed(2))
    assert not torch.equal(mixed(0).seen.data, mixed(1).seen.data)


@pytest.mark.parametrize("mix", [CutMix(p=1), CutOut(), Bands(bands=(2, 6)), ClassMix(), MixUp()], ids=str)
def test_each_image_is_mixed_in_its_own_way(mix: Any) -> None:
    """Sixteen times the same two images: the same draw for all would mix them alike."""
    task, other = draw(13, 1, (40, 40)), draw(14, 1, (40, 40))

    def sixteen(one: Task) -> Task:
        seen, target = (
            View(view.data.repeat(16, 1, 1, 1), view.warp.repeat(16, 1, 1), view.known.repeat(16, 1, 1, 1))
            for view in (one.seen, one.target)
        )
        return Task(seen, target, one.weight.repeat(16, 1, 1, 1), one.index.repeat(16), one.sure.repeat(16))

    mixed = mix(sixteen(task), sixteen(other), np.random.default_rng(0)).seen.data.numpy()
    assert len({image.tobytes() for image in mixed}) > (
        4 if isinstance(mix, ClassMix) else 14
    )  # of ten ways, or any number


@pytest.mark.parametrize("mix", ALL, ids=str)
def test_mixing_never_waits_for_the_device(mix: Any) -> None:
    """A meta tensor has no values, so what would read one back, or shape a result by values, fails on it."""

    def shape(task: Task) -> Task:
        seen, target = (View(v.data.to("meta"), v.warp, v.known.to("meta")) for v in (task.seen, task.target))
        return Task(seen, target, task.weight.to("meta"), task.index, task.sure.to("meta"))

    mixed = mix(shape(draw(15, 3)), shape(draw(16, 3)), np.random.default_rng(0))
    for name, values in maps(mixed).items():
        assert values.shape == maps(draw(15, 3))[name].shape


def test_no_mix_changes_and_draws_nothing() -> None:
    rng, task = np.random.default_rng(0), draw(17, 3)
    assert_same(NoMix()(task, task.partners(), rng), task)
    assert rng.random() == np.random.default_rng(0).random()


@pytest.mark.parametrize("mix", [CutMix(p=0), CutOut(p=0), ClassMix(p=0)], ids=str)
def test_probability_zero_changes_nothing(mix: Any) -> None:
    task = draw(18, 5)
    assert_same(mix(task, task.partners(), np.random.default_rng(0)), task)


@pytest.mark.parametrize("p", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("part", [CutMix, CutOut, ClassMix])
def test_share_of_mixed_images_is_the_probability(part: Any, p: float) -> None:
    task, other = flat(2, 4000, (8, 8)), flat(1, 4000, (8, 8))
    mixed = part(p=p)(task, other, np.random.default_rng(0)).seen.data
    assert (mixed != 2).flatten(1).any(1).double().mean().item() == chance(p, 4000)


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        *(
            (part, {"area": area})
            for part in (CutMix, CutOut)
            for area in ((0.0, 0.4), (0.5, 0.4), (0.2, 1), (-1, 0.3))
        ),
        *((part, {"p": p}) for part in (CutMix, CutOut, ClassMix) for p in (-0.1, 1.5)),
        *((part, {"aspect": 0.5}) for part in (CutMix, CutOut)),
        *((Bands, {"bands": bands}) for bands in ((6, 3), (1, 3), (0, 0))),
        *((MixUp, {"alpha": alpha}) for alpha in (0, -1, math.inf, math.nan)),
        *((part, {"partner": "labelled"}) for part in (NoMix, CutOut)),  # which have none
        *((part, {"partner": "itself"}) for part in (CutMix, ClassMix, Bands, MixUp)),
        *((part, {"misspelt": 1}) for part in (NoMix, CutMix, CutOut, ClassMix, Bands, MixUp)),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(part: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        part(**wrong)


# --- CutMix: the rectangle, and when


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("area", [(0.02, 0.4), (0.3, 0.3), (0.7, 0.9)])
def test_pasted_area_is_within_its_range(size: tuple[int, int], area: tuple[float, float]) -> None:
    rounding = (sum(size) / 2 + 0.25) / (size[0] * size[1])  # half a pixel at each side
    for mask in masks(CutMix(p=1, area=area, aspect=3), 300, size):
        rectangle(mask)
        assert area[0] - rounding <= mask.mean() <= area[1] + rounding


@pytest.mark.parametrize("size", SIZES)
def test_pasted_area_is_uniform_in_its_range(size: tuple[int, int]) -> None:
    shares = masks(CutMix(p=1, area=(0.02, 0.4), aspect=3), 1000, size).mean((1, 2))
    assert distance_of_uniform((shares - 0.02) / 0.38) < 1.95 + 0.02 * math.sqrt(1000)  # and half a pixel at each side


def test_width_over_height_is_log_uniform_between_the_aspect_and_its_inverse() -> None:
    sides = [rectangle(mask) for mask in masks(CutMix(p=1, area=(0.05, 0.2), aspect=3), 300, (200, 200))]
    logs = np.array([math.log(width / height) / math.log(3) for height, width in sides])
    assert np.abs(logs).max() <= 1 + 0.03  # sides of 25 pixels and more, rounded
    assert distance_of_uniform((logs + 1) / 2) < 1.95 + 0.02 * math.sqrt(300)


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


def confident(values: list[float], size: tuple[int, int]) -> Task:
    """Images whose highest probabilities spread evenly around `values`; everything is known."""
    task = flat(0, len(values), size)
    spread = torch.linspace(-1, 1, size[0] * size[1]).view(1, *size)
    mean = torch.tensor(values)[:, None, None]
    highest = mean + spread * torch.minimum(mean - 0.5, 1 - mean)
    data = torch.stack([1 - highest, highest], dim=1)
    target = replace(task.target, data=data)
    return replace(task, target=target, sure=sureness(target))


@pytest.mark.parametrize("p", [0.0, 1.0])  # which has no say
def test_unsure_images_are_mixed_as_often_as_they_are_unsure(p: float) -> None:
    """Against the rule of AugSeg's paper, pixel by pixel."""
    highest = [0.55, 0.7, 0.9, 1.0]
    task = confident(highest * 2000, (4, 4))
    pixels = task.target.data[:4].double().numpy()  # (4, 2, 4, 4)
    sure = (pixels.max(1) * (1 - entropy(pixels, base=2, axis=1))).mean((1, 2))
    other = flat(1, 8000, (4, 4))  # nor has the partner
    mixed: Mask = np.asarray(pasted(CutMix(p=p, unsure=True), task, other).any((1, 2)))
    for which, confidence in enumerate(sure):
        assert mixed[which::4].mean() == chance(1 - confidence, 2000)


def test_what_is_unknown_of_an_image_does_not_make_it_unsure() -> None:
    task = flat(0, 4000, (4, 4))
    known = task.target.known.clone()
    known[:, :, 2:] = False
    for beyond in (0.0, 0.5, 1.0):
        data = torch.where(known, torch.tensor([0.4, 0.6])[:, None, None], beyond)
        half = replace(task, sure=sureness(View(data, task.target.warp, known)))
        unsure = 1 - 0.6 * (1 - float(entropy([0.4, 0.6], base=2)))
        assert pasted(CutMix(unsure=True), half, flat(1, 4000, (4, 4))).any((1, 2)).mean() == chance(unsure, 4000)


def test_an_image_of_which_nothing_is_known_is_wholly_unsure() -> None:
    task = confident([1.0] * 50, (4, 4))
    nothing = replace(task, sure=sureness(replace(task.target, known=torch.zeros_like(task.target.known))))
    assert pasted(CutMix(unsure=True), nothing, flat(1, 50, (4, 4))).any((1, 2)).all()


# --- CutOut


@pytest.mark.parametrize("size", [(30, 50), (50, 30)])
def test_what_is_cut_out_is_blank_and_counts_nowhere(size: tuple[int, int]) -> None:
    task = draw(20, 12, size)
    cut = CutOut(p=0.7)(task, task.partners(), np.random.default_rng(0))
    blank = (cut.seen.data == 0).all(1).numpy()
    assert 0 < blank.any((1, 2)).sum() < 12
    for image in range(12):
        if blank[image].any():
            rectangle(blank[image])
        for y, x in np.ndindex(*size):
            here = (image, slice(None), y, x)
            for view, before in ((cut.seen, task.seen), (cut.target, task.target)):
                assert view.known[here] == (before.known[here] and not blank[image, y, x])
            assert blank[image, y, x] or torch.equal(cut.seen.data[here], task.seen.data[here])
    assert torch.equal(cut.target.data, task.target.data)
    assert torch.equal(cut.weight, task.weight)
    values = torch.where(torch.from_numpy(blank), torch.nan, 1.0)  # of which the mean over the known sees none
    assert average(values, cut.target.known[:, 0]).item() == 1


def test_area_cut_out_is_uniform_in_its_range() -> None:
    task = flat(1, 1000, (64, 96))
    cut = CutOut(area=(0.1, 0.5))(task, task, np.random.default_rng(0)).seen.data == 0
    shares = cut.double().mean((1, 2, 3)).numpy()
    assert distance_of_uniform((shares - 0.1) / 0.4) < 1.95 + 0.02 * math.sqrt(1000)


# --- ClassMix


def classes_of(task: Task, image: int) -> NDArray[np.int64]:
    """The class that the target sees at each pixel, -1 where it is unknown."""
    target, known = task.target.data[image].numpy(), task.target.known[image, 0].numpy()
    seen = np.full(known.shape, -1, dtype=np.int64)
    for y, x in np.ndindex(*known.shape):
        if known[y, x]:
            seen[y, x] = max(range(CLASSES), key=lambda c: target[c, y, x])
    return seen


def of_classes(labels: NDArray[np.int64]) -> Task:
    """A target that is sure of `labels` (B, H, W); -1 is unknown. The input is 1 everywhere."""
    task = flat(1, len(labels), labels.shape[1:])
    index = torch.from_numpy(labels)[:, None]
    data = torch.zeros((len(labels), CLASSES, *labels.shape[1:])).scatter_(1, index.clamp(min=0), 1)
    return replace(task, target=View(data, task.target.warp, index >= 0))


def chosen(labels: NDArray[np.int64], seed: int = 0) -> list[frozenset[int]]:
    """Which classes of each image are pasted, all of each and nothing besides."""
    other = of_classes(labels)
    task = replace(other, seen=replace(other.seen, data=torch.zeros_like(other.seen.data)))
    shown = pasted(ClassMix(), task, other, seed)
    result = []
    for mask, label in zip(shown, labels, strict=True):
        classes = frozenset(label[mask].tolist())
        assert np.array_equal(mask, np.isin(label, list(classes)))
        result.append(classes)
    return result


@pytest.mark.parametrize("labelled", [False, True])
def test_pasted_are_all_known_pixels_of_half_of_the_classes_rounded_up(labelled: bool) -> None:
    counts = set()
    for seed in range(12):
        task = draw(30 + seed, 6, (1 + seed // 3, 2))  # few pixels: one to five classes occur
        other = draw(60 + seed, 6, (1 + seed // 3, 2)) if labelled else task.partners()
        for image, mask in enumerate(pasted(ClassMix(), task, other, seed)):
            labels = classes_of(other, image)
            occurring = set(labels.flatten().tolist()) - {-1}
            classes = set(labels[mask].tolist())
            assert -1 not in classes
            assert np.array_equal(mask, np.isin(labels, list(classes)))
            assert len(classes) == math.ceil(len(occurring) / 2)
            counts.add(len(occurring))
    assert counts >= {1, 2, 3, 4, 5}


@pytest.mark.parametrize("occurring", [(0, 1, 2, 3, 4), (0, 2, 4), (1, 4), (1, 2, 3, 4)])
def test_every_half_of_the_occurring_classes_is_pasted_equally_often(occurring: tuple[int, ...]) -> None:
    rows = np.tile(np.array([*occurring, -1, occurring[0]]), (3000, 1))  # of which one has more pixels
    halves = list(itertools.combinations(occurring, math.ceil(len(occurring) / 2)))
    counts = Counter(chosen(rows[:, None, :]))
    assert counts.keys() == {frozenset(half) for half in halves}
    for half in halves:
        assert counts[frozenset(half)] / 3000 == chance(1 / len(halves), 3000)


def test_an_unknown_partner_gives_nothing() -> None:
    task, other = draw(31, 4), draw(32, 4)
    nothing = replace(other, target=replace(other.target, known=torch.zeros_like(other.target.known)))
    assert_same(ClassMix()(task, nothing, np.random.default_rng(0)), task)


# --- Bands


def runs(column: Mask) -> list[int]:
    """Lengths of the runs of equal values."""
    return [len(list(run)) for _, run in itertools.groupby(column.tolist())]


@pytest.mark.parametrize("bands", [(2, 2), (3, 3), (3, 6), (5, 9)])
@pytest.mark.parametrize("size", [(120, 7), (33, 80), (9, 9)])
def test_bands_are_whole_rows_of_equal_height_in_turn(size: tuple[int, int], bands: tuple[int, int]) -> None:
    found = Counter[int]()
    for mask in masks(Bands(bands=bands), 400, size):
        assert (mask == mask[:, :1]).all()
        heights = runs(mask[:, 0])
        found[len(heights)] += 1
        assert max(heights[1:-1], default=0) - min(heights[1:-1], default=0) <= 1
        assert max(heights[0], heights[-1]) <= min(heights[1:-1], default=size[0]) + 1  # cut by the image's edge
    assert set(found) == set(range(bands[0], bands[1] + 1))
    for count in found.values():
        assert count / 400 == chance(1 / len(found), 400)


def test_every_row_is_pasted_half_of_the_time() -> None:
    shares = masks(Bands(), 4000, (25, 1)).mean((0, 2))
    for share in shares:
        assert share == chance(0.5, 4000)


def test_the_edge_between_two_bands_is_anywhere_alike() -> None:
    edges = np.bincount([runs(mask[:, 0])[0] for mask in masks(Bands(bands=(2, 2)), 4000, (11, 1))], minlength=11)
    assert edges[0] == 0
    for count in edges[1:]:
        assert count / 4000 == chance(1 / 10, 4000)


@pytest.mark.parametrize("size", [(1, 5), (2, 3), (4, 1)])
def test_images_of_fewer_rows_than_bands_are_mixed_by_rows(size: tuple[int, int]) -> None:
    mask = masks(Bands(bands=(7, 9)), 100, size)
    assert (mask == mask[:, :, :1]).all()
    assert mask.any()
    assert not mask.all()


# --- MixUp


@pytest.mark.parametrize("labelled", [False, True])
def test_mixup_interpolates_input_target_and_weight_by_one_share_an_image(labelled: bool) -> None:
    task = draw(40, 5)
    other = draw(41, 5) if labelled else task.partners()
    mixed = MixUp()(task, other, np.random.default_rng(0))
    shares = []
    for image in range(5):
        own, others = task.weight[image, 0, 0, 0].item(), other.weight[image, 0, 0, 0].item()
        share = (mixed.weight[image, 0, 0, 0].item() - own) / (others - own)
        shares.append(share)
        for name in ("seen", "target", "weight"):
            values, one, two = (maps(t)[name][image].double().numpy() for t in (mixed, task, other))
            for place in np.ndindex(*values.shape):
                assert values[place] == pytest.approx((1 - share) * one[place] + share * two[place], abs=2e-5)
        for name in ("seen known", "target known"):
            for y, x in np.ndindex(*task.seen.size):
                here = (image, 0, y, x)
                both = bool(maps(task)[name][here]) and bool(maps(other)[name][here])
                assert bool(maps(mixed)[name][here]) == both
    assert len({round(share, 4) for share in shares}) == 5
    assert mixed.weight.dtype == mixed.seen.data.dtype == torch.float32
    assert torch.equal(mixed.seen.warp, task.seen.warp)
    assert torch.equal(mixed.target.warp, task.target.warp)
    assert torch.equal(mixed.index, task.index)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0, 4.0])
def test_shares_are_beta_distributed(alpha: float) -> None:
    count = 4000
    mixed = MixUp(alpha=alpha)(flat(0, count, (1, 1)), flat(1, count, (1, 1)), np.random.default_rng(0))
    share = mixed.seen.data.flatten().double().numpy()
    assert ((share >= 0) & (share <= 1)).all()
    variance = 1 / (4 * (2 * alpha + 1))
    assert share.mean() == pytest.approx(0.5, abs=4.5 * math.sqrt(variance / count))
    fourth = 3 / (16 * (2 * alpha + 1) * (2 * alpha + 3))  # central moment of Beta(alpha, alpha)
    assert share.var() == pytest.approx(variance, abs=4.5 * math.sqrt((fourth - variance**2) / count))
    if alpha == 0.5:  # the arcsine law
        assert distance_of_uniform(2 / math.pi * np.arcsin(np.sqrt(share))) < 1.95
    if alpha == 1:
        assert distance_of_uniform(share) < 1.95


@pytest.mark.parametrize(
    ("index", "partners"),
    [
        ([5, 6, 7], [1, 2, 0]),
        (
            [5, 5, 7],
            [2, 2, 0],
        ),  # the same image twice in a batch, where one pass over the pool ends and the next begins
        ([5, 7, 5], [1, 2, 1]),
        ([5, 5], [0, 1]),
        ([5], [0]),
    ],
)
def test_the_partner_is_the_next_image_of_the_batch_that_is_another_one(index: list[int], partners: list[int]) -> None:
    task = replace(draw(3, len(index), (4, 5)), index=torch.tensor(index))
    other = task.partners()
    for name, values in maps(other).items():
        assert torch.equal(values, maps(task)[name][torch.tensor(partners)]), name
    assert other.index.tolist() == [index[i] for i in partners]
    assert torch.equal(other.sure, task.sure[torch.tensor(partners)])
