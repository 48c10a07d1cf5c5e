"""Targets: each against loops in numpy; what is unknown has no say; what is remembered is never changed in place."""

import copy
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtseg.geometry import View
from mtseg.targets import Adaptive, Hard, LowEntropy, Moment, Past, Sharpen, Soft, Target, aimed

Array = NDArray[np.float64]

SHAPES = [(40, ()), (3, (5, 7))]  # classification and segmentation: the same rule
CLASSES = 6
START = Moment(0, 100)
ALL = [Soft(), Sharpen(), Hard(threshold=0.4), LowEntropy(), Adaptive(start=0.4), Adaptive(start=0.4, per_class=True)]


def answer(seed: int, batch: int, size: tuple[int, ...], *, among: tuple[int, ...] = (), sure: float = 2.0) -> View:
    """A teacher's answer with two thirds of the pixels known, whose most probable classes are `among` those."""
    rng = np.random.default_rng(seed)
    logits = sure * rng.standard_normal((batch, CLASSES, *size))
    others = [c for c in range(CLASSES) if among and c not in among]
    logits[:, others] -= 50
    powers = np.exp(logits)
    known = torch.from_numpy(rng.random((batch, 1, *size)) < 2 / 3)
    assert known.any()
    assert not known.all()
    data = torch.from_numpy(powers / powers.sum(1, keepdims=True)).float()
    return View(data, torch.eye(3, dtype=torch.float64).expand(batch, 3, 3), known)


def only_where_known(view: View, other: Tensor) -> View:
    """`view` with the probabilities of `other` where it is unknown."""
    return View(torch.where(view.known, view.data, other), view.warp, view.known)


def extreme(view: View) -> Tensor:
    """Probabilities of one class alone: as sure, as high and of as little entropy as can be."""
    only = torch.zeros_like(view.data)
    only[:, CLASSES - 1] = 1
    return only


def pixels(maps: Tensor) -> Array:
    """(B, C, *S) -> (pixels, C) doubles."""
    return maps.double().movedim(1, -1).reshape(-1, maps.shape[1]).numpy()


def assert_one_hot_of_the_most_probable(target: Tensor, view: View) -> None:
    assert target.dtype == torch.float32
    assert target.shape == view.data.shape
    for pixel, given in zip(pixels(target), pixels(view.data), strict=True):
        assert np.array_equal(pixel, np.arange(CLASSES) == max(range(CLASSES), key=lambda c: given[c]))


# --- soft, sharpened


@pytest.mark.parametrize(("batch", "size"), SHAPES)
def test_soft_target_is_the_answer_and_counts_in_full(batch: int, size: tuple[int, ...]) -> None:
    view = answer(0, batch, size)
    target, weight, _ = Soft()(view, START, {})
    assert torch.equal(target, view.data)
    assert torch.equal(weight, torch.ones(batch, 1, *size))


@pytest.mark.parametrize("temperature", [0.05, 0.5, 0.8, 1.0])
@pytest.mark.parametrize(("batch", "size"), SHAPES)
def test_sharpened_target_is_the_normalised_power(batch: int, size: tuple[int, ...], temperature: float) -> None:
    view = answer(1, batch, size)
    view.data[:2] = 0  # and probabilities that are exactly 0 and 1
    view.data[:2, 1] = 1
    target, weight, _ = Sharpen(temperature=temperature)(view, START, {})
    for pixel, given in zip(pixels(target), pixels(view.data), strict=True):
        power = given ** (1 / temperature)
        np.testing.assert_allclose(pixel, power / power.sum(), rtol=1e-4, atol=1e-7)
    assert torch.equal(weight, torch.ones(batch, 1, *size))


def test_temperature_of_one_changes_nothing() -> None:
    view = answer(2, 3, (5, 7))
    torch.testing.assert_close(Sharpen(temperature=1)(view, START, {})[0], view.data, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("temperature", [1e-3])
@pytest.mark.parametrize(("batch", "size"), SHAPES)
def test_temperature_near_zero_gives_the_most_probable_class(
    batch: int, size: tuple[int, ...], temperature: float
) -> None:
    view = answer(3, batch, size)
    best = torch.zeros_like(view.data).scatter_(1, view.data.argmax(1, keepdim=True), 1)
    view.data.mul_(1 + 0.05 * best)  # 1.05^-1000 is nothing
    target, _, _ = Sharpen(temperature=temperature)(view, START, {})
    torch.testing.assert_close(target, best, rtol=0, atol=1e-6)


def test_sharpening_lowers_entropy_the_more_the_lower_the_temperature() -> None:
    view = answer(4, 3, (5, 7), sure=1)
    targets = [Sharpen(temperature=t)(view, START, {})[0].double() for t in (1.0, 0.7, 0.4, 0.1)]
    entropies = [-torch.xlogy(target, target).sum(1) for target in targets]
    for warmer, cooler in itertools.pairwise(entropies):
        assert (cooler < warmer).all()


# --- hard


@pytest.mark.parametrize("threshold", [0.0, 0.45, 0.7, 0.9])
@pytest.mark.parametrize(("batch", "size"), SHAPES)
def test_hard_target_is_the_most_probable_class_over_the_threshold(
    batch: int, size: tuple[int, ...], threshold: float
) -> None:
    view = answer(5, batch, size)
    target, weight, _ = Hard(threshold=threshold)(view, START, {})
    assert_one_hot_of_the_most_probable(target, view)
    expected = [float(given.max() >= threshold) for given in pixels(view.data)]
    assert 0 in expected or threshold == 0
    assert 1 in expected
    assert pixels(weight)[:, 0].tolist() == expected
    assert weight.shape == (batch, 1, *size)


def test_a_pixel_exactly_at_the_threshold_is_kept() -> None:
    below = 0.75 - 2**-20
    data = torch.tensor([[0.75, 0.25], [below, 1 - below], [0.25, 0.75], [1.0, 0.0]])
    view = View(data, torch.eye(3).expand(4, 3, 3), torch.ones(4, 1, dtype=torch.bool))
    assert Hard(threshold=0.75)(view, START, {})[1].flatten().tolist() == [1, 0, 1, 1]
    assert Hard(threshold=1)(view, START, {})[1].flatten().tolist() == [0, 0, 0, 1]


# --- low entropy


def kept_of(rule: LowEntropy, view: View, moment: Moment) -> NDArray[np.bool_]:
    target, weight, _ = rule(view, moment, {})
    assert_one_hot_of_the_most_probable(target, view)
    assert weight.shape == view.known.shape
    assert set(weight.unique().tolist()) <= {0.0, 1.0}
    return pixels(weight)[:, 0].astype(bool)


def entropies(view: View) -> Array:
    """Of each pixel, in doubles; infinite where unknown, which sorts behind all others."""
    values = []
    for given, known in zip(pixels(view.data), pixels(view.known), strict=True):
        values.append(-sum(p * math.log(p) for p in given if p > 0) if known[0] else math.inf)
    return np.array(values)


@pytest.mark.parametrize("step", [0, 25, 50, 99])
@pytest.mark.parametrize("drop", [0.0, 0.2, 0.9])
@pytest.mark.parametrize(("batch", "size"), SHAPES)
def test_kept_are_the_known_pixels_of_lowest_entropy(batch: int, size: tuple[int, ...], drop: float, step: int) -> None:
    view = answer(6, batch, size)
    values, known = entropies(view), int(view.known.sum())
    kept = kept_of(LowEntropy(drop=drop), view, Moment(step, 100))
    assert abs(kept.sum() - (1 - drop * (1 - step / 100)) * known) < 1 + 1e-4
    assert set(np.flatnonzero(kept)) == set(np.argsort(values)[: kept.sum()])


def test_share_that_is_left_out_falls_linearly_to_nothing() -> None:
    view = answer(7, 8, (16, 16))
    known = int(view.known.sum())
    for step in range(0, 65, 8):  # at the step behind the last one it is nothing
        left_out = 1 - kept_of(LowEntropy(drop=0.5), view, Moment(step, 64)).sum() / known
        assert left_out == pytest.approx(0.5 * (1 - step / 64), abs=1.01 / known)


def test_entropy_is_ranked_over_the_batch_and_not_image_by_image() -> None:
    sure, unsure = answer(8, 1, (6, 6), sure=20), answer(9, 1, (6, 6), sure=0.01)
    known = torch.ones(2, 1, 6, 6, dtype=torch.bool)
    view = View(torch.cat([sure.data, unsure.data]), torch.eye(3).expand(2, 3, 3), known)
    kept = kept_of(LowEntropy(drop=0.5), view, START).reshape(2, 36)
    assert kept.mean(1).tolist() == [1, 0]


@pytest.mark.parametrize(("batch", "size"), SHAPES)
def test_unknown_pixels_neither_count_nor_change_which_of_the_others_do(batch: int, size: tuple[int, ...]) -> None:
    view = answer(10, batch, size)
    known = pixels(view.known)[:, 0].astype(bool)
    kept = kept_of(LowEntropy(drop=0.3), view, START)
    assert not kept[~known].any()
    for poison in (extreme(view), torch.full_like(view.data, 1 / CLASSES)):
        target, weight, _ = LowEntropy(drop=0.3)(only_where_known(view, poison), START, {})
        assert np.array_equal(pixels(weight)[:, 0].astype(bool), kept)
        assert torch.isfinite(target).all()


def test_of_probabilities_of_zero_and_one_the_entropy_is_zero() -> None:
    data = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.9, 0.1, 0.0], [0.4, 0.3, 0.3]])
    view = View(data, torch.eye(3).expand(4, 3, 3), torch.ones(4, 1, dtype=torch.bool))
    for drop, expected in ((0.75, [0, 1, 0, 0]), (0.5, [0, 1, 1, 0]), (0.25, [1, 1, 1, 0])):
        assert LowEntropy(drop=drop)(view, START, {})[1].flatten().tolist() == expected


# --- adaptive


def transcribed(rule: Adaptive, view: View, before: Array) -> tuple[Array, Array, Array]:
    """One step in numpy, of the docstring: the averages (K,), the thresholds (K,) and the weights (pixels,)."""
    confidences: dict[int, list[float]] = {}
    for given, known in zip(pixels(view.data), pixels(view.known), strict=True):
        if known[0]:
            confidences.setdefault(int(given.argmax()), []).append(given.max())
    after = before.copy()
    if rule.per_class:
        for c, values in confidences.items():
            after[c] = rule.momentum * before[c] + (1 - rule.momentum) * np.mean(values)
    elif confidences:
        now = np.mean([max(values) for values in confidences.values()])
        after = rule.momentum * before + (1 - rule.momentum) * now
    thresholds = after * (after / after.max()) if rule.per_class else after
    weights = [float(given.max() >= thresholds[given.argmax()]) for given in pixels(view.data)]
    margin = min(abs(given.max() - thresholds[given.argmax()]) for given in pixels(view.data))
    assert margin > 1e-6  # so that singles and doubles agree on every pixel
    return after, thresholds, np.array(weights)


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("momentum", [0.25, 0.5, 0.9])
@pytest.mark.parametrize(("batch", "size"), SHAPES)
def test_threshold_follows_its_definition_step_by_step(
    batch: int, size: tuple[int, ...], momentum: float, per_class: bool
) -> None:
    rule = Adaptive(start=0.85, momentum=momentum, per_class=per_class)
    past: Past = {}
    expected = np.full(CLASSES, 0.85)
    for step, among in enumerate([(0, 1, 2, 3, 4), (1, 4), (2,), (0, 3, 4), (5,), ()]):
        view = answer(20 + step, batch, size, among=among, sure=1.5 if step % 2 else 0.5)
        view = only_where_known(view, extreme(view)) if step == 3 else view  # the unknown are very sure of another
        target, weight, past = rule(view, Moment(step, 10), past)
        expected, _, weights = transcribed(rule, view, expected)
        assert_one_hot_of_the_most_probable(target, view)
        np.testing.assert_allclose(past["threshold"], expected, rtol=1e-5)
        assert weight.shape == (batch, 1, *size)
        assert np.array_equal(pixels(weight)[:, 0], weights)


@pytest.mark.parametrize(("among", "highest"), [((2,), [0.6]), ((0, 3), [0.9, 0.5])])
def test_threshold_is_the_mean_of_the_occurring_classes_highest_confidences(
    among: tuple[int, ...], highest: list[float]
) -> None:
    data = torch.full((8, CLASSES), 0.01)
    for pixel in range(8):
        which = pixel % len(among)
        data[pixel, among[which]] = highest[which] - 0.02 * pixel  # the first of each is the highest
    data[1 % len(among), among[-1]] = highest[-1]
    view = View(data, torch.eye(3).expand(8, 3, 3), torch.ones(8, 1, dtype=torch.bool))
    _, _, past = Adaptive(start=0, momentum=0)(view, START, {})
    np.testing.assert_allclose(past["threshold"], np.full(CLASSES, np.mean(highest)), rtol=1e-6)


@pytest.mark.parametrize("per_class", [False, True])
def test_threshold_stays_where_nothing_is_known(per_class: bool) -> None:
    view = answer(30, 3, (5, 7))
    nothing = View(extreme(view), view.warp, torch.zeros_like(view.known))
    rule = Adaptive(start=0.6, momentum=0.5, per_class=per_class)
    _, _, past = rule(view, START, {})
    _, weight, after = rule(nothing, START, past)
    assert torch.equal(after["threshold"], past["threshold"])
    assert weight.isfinite().all()
    _, _, first = rule(nothing, START, {})  # nor does it begin elsewhere
    torch.testing.assert_close(first["threshold"], torch.full((CLASSES,), 0.6))


@pytest.mark.parametrize("per_class", [False, True])
def test_unknown_pixels_do_not_move_the_threshold(per_class: bool) -> None:
    view = answer(31, 3, (5, 7), among=(0, 1, 2))
    rule = Adaptive(start=0.6, momentum=0.5, per_class=per_class)
    _, weight, past = rule(view, START, {})
    for poison in (extreme(view), torch.full_like(view.data, 1 / CLASSES)):
        _, poisoned, again = rule(only_where_known(view, poison), START, {})
        assert torch.equal(again["threshold"], past["threshold"])
        assert torch.equal(poisoned[view.known], weight[view.known])


def test_a_class_that_does_not_occur_keeps_its_own_threshold() -> None:
    rule = Adaptive(start=0.6, momentum=0.5, per_class=True)
    past = {"threshold": torch.linspace(0.3, 0.8, CLASSES)}
    _, _, after = rule(answer(32, 3, (5, 7), among=(1, 4)), START, past)
    same = (after["threshold"] == past["threshold"]).tolist()
    assert same == [True, False, True, True, False, True]


def test_the_surest_class_has_its_average_as_threshold_and_the_others_less() -> None:
    averages = torch.tensor([0.9, 0.6, 0.3])
    rule = Adaptive(momentum=1, per_class=True)
    for confidence, expected in ((0.91, [1, 1, 1]), (0.89, [0, 1, 1]), (0.41, [0, 1, 1]), (0.39, [0, 0, 1])):
        data = torch.full((3, 3), (1 - confidence) / 2).fill_diagonal_(confidence)
        view = View(data, torch.eye(3).expand(3, 3, 3), torch.ones(3, 1, dtype=torch.bool))
        assert rule(view, START, {"threshold": averages})[1].flatten().tolist() == expected


@pytest.mark.parametrize("per_class", [False, True])
def test_threshold_zero_keeps_every_pixel(per_class: bool) -> None:
    view = answer(33, 3, (5, 7))
    _, weight, past = Adaptive(start=0, momentum=1, per_class=per_class)(view, START, {})
    assert torch.equal(past["threshold"], torch.zeros(CLASSES))
    assert torch.equal(weight, torch.ones_like(weight))


def test_mean_confidence_of_a_class_is_exact_however_many_pixels_it_has() -> None:
    """Singles that are added one after another are 5 % off at five million."""
    data = torch.tensor([0.9, 0.1])[None, :, None].expand(1, 2, 5_000_000)
    view = View(data, torch.eye(3)[None], torch.ones(1, 1, 5_000_000, dtype=torch.bool))
    _, _, past = Adaptive(momentum=0, per_class=True)(view, START, {})
    assert past["threshold"].tolist() == pytest.approx([0.9, 0.85], rel=1e-5)


# --- all of them


@pytest.mark.parametrize("target", ALL, ids=str)
@pytest.mark.parametrize(("batch", "size"), SHAPES)
def test_arguments_are_left_alone_and_the_rest_of_the_memory_is_kept(
    target: Any, batch: int, size: tuple[int, ...]
) -> None:
    view = answer(40, batch, size)
    past = {"threshold": torch.linspace(0.3, 0.8, CLASSES), "another": torch.arange(3.0)}
    saved = copy.deepcopy((view.data, view.known, past))
    _, _, after = target(view, START, past)
    assert torch.equal(view.data, saved[0])
    assert torch.equal(view.known, saved[1])
    assert past.keys() == saved[2].keys() == after.keys()
    assert all(torch.equal(past[name], saved[2][name]) for name in past)
    assert torch.equal(after["another"], past["another"])
    moves = not torch.equal(after["threshold"], past["threshold"])
    assert moves == isinstance(target, Adaptive)


@pytest.mark.parametrize("target", ALL, ids=str)
@pytest.mark.parametrize(("batch", "size"), SHAPES)
def test_a_target_is_a_distribution_and_a_weight_between_zero_and_one(
    target: Any, batch: int, size: tuple[int, ...]
) -> None:
    view = answer(41, batch, size)
    probabilities, weight, _ = target(view, START, {})
    torch.testing.assert_close(probabilities.sum(1), torch.ones(batch, *size))
    assert probabilities.dtype == weight.dtype == torch.float32
    assert 0 <= weight.min() <= weight.max() <= 1


@pytest.mark.parametrize("target", ALL, ids=str)
def test_a_target_never_waits_for_the_device(target: Any) -> None:
    """A meta tensor has no values, so what would read one back, or shape a result by values, fails on it."""
    view = answer(42, 2, (4, 4))
    shape = View(view.data.to("meta"), view.warp, view.known.to("meta"))
    probabilities, weight, _ = target(shape, START, {})
    assert (probabilities.shape, weight.shape) == (view.data.shape, view.known.shape)


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        (Sharpen, {"temperature": 1e-38}),
        (Sharpen, {"temperature": 1.5}),
        (Hard, {"threshold": 1.5}),
        (Hard, {"threshold": -0.1}),
        (LowEntropy, {"drop": 1.0}),
        (LowEntropy, {"drop": -0.1}),
        (Adaptive, {"start": 1.1}),
        (Adaptive, {"momentum": -0.5}),
    ],
)
def test_values_out_of_range_are_refused(part: type[Target], wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        part(**wrong)


ODD = {
    "weights without their dimension": (
        lambda p, w, m: (p, w[:, 0], m),
        r"its weight are torch.float32 of shape \(3, 5, 7\)",
    ),
    "weights that are truths": (lambda p, w, m: (p, w > 0, m), r"its weight are torch.bool .* floating-point"),
    "classes": (lambda p, w, m: (p.argmax(1, keepdim=True), w, m), r"its probabilities are torch.int64"),
    "a number": (lambda p, w, m: (p, w, {**m, "seen": 3}), r"it remembers 'seen' as int; give tensors alone"),
}


@pytest.mark.parametrize(("change", "says"), ODD.values(), ids=ODD)
def test_what_is_no_target_is_refused_by_name_where_it_is_made(change: Any, says: str, monkeypatch: Any) -> None:
    view = answer(0, 3, (5, 7))
    kept = Soft.__call__
    monkeypatch.setattr(Soft, "__call__", lambda *given: change(*kept(*given)))
    with pytest.raises(ValueError, match=rf"^target soft: {says}"):
        aimed(Soft(), view, START, {})


@pytest.mark.parametrize("target", ALL, ids=str)
@pytest.mark.parametrize(("batch", "size"), SHAPES)
def test_every_target_is_what_it_must_be(target: Target, batch: int, size: tuple[int, ...]) -> None:
    view = answer(1, batch, size)
    for one, other in zip(aimed(target, view, START, {})[:2], target(view, START, {})[:2], strict=True):
        assert torch.equal(one, other)
