"""Losses: their formulas in plain numpy, values and slopes; finite, bounded, blind to what is not counted."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mtseg.data.source import IGNORE
from mtseg.losses import CrossEntropy, Dice, Entropy, Kl, Ohem, SoftCrossEntropy, Squared, Tau, average, one_hot

Array = NDArray[np.float64]
Formula = Callable[[Array, Array], Array]  # logits, target (B, K, *S) -> (B, *S)

SHAPES = [(5, ()), (2, (3, 4))]  # classification and segmentation: the same rule
CLASSES = [2, 10, 150]


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def squared_mean(logits: Array, target: Array) -> Array:
    return ((softmax(logits) - target) ** 2).sum(1) / logits.shape[1]


def squared_sum(logits: Array, target: Array) -> Array:
    return ((softmax(logits) - target) ** 2).sum(1)


def kl(logits: Array, target: Array) -> Array:
    return (target * (np.log(target) - np.log(softmax(logits)))).sum(1)


def tau(value: float) -> Formula:
    def distance(logits: Array, target: Array) -> Array:
        classes = logits.shape[1]
        p = value * target + (1 - value) / classes
        q = value * softmax(logits) + (1 - value) / classes
        return 2 / (classes**2 * value**2) * (p * np.log(p / q)).sum(1)

    return distance


def cross_entropy(logits: Array, target: Array) -> Array:
    return -(target * np.log(softmax(logits))).sum(1)


def entropy(logits: Array, target: Array) -> Array:
    return -(softmax(logits) * np.log(softmax(logits))).sum(1)


DISTANCES: list[Any] = [
    pytest.param(Squared(over_classes="mean"), squared_mean, id="squared-mean"),
    pytest.param(Squared(over_classes="sum"), squared_sum, id="squared-sum"),
    pytest.param(Kl(), kl, id="kl"),
    pytest.param(SoftCrossEntropy(), cross_entropy, id="cross_entropy"),
    pytest.param(Entropy(), entropy, id="entropy"),
    *(pytest.param(Tau(tau=t), tau(t), id=f"tau-{t}") for t in (0.01, 0.1, 0.5, 0.9, 1.0)),
]
ALL = [Squared(over_classes="mean"), Squared(over_classes="sum"), Kl(), *(Tau(tau=t) for t in (0, 1e-3, 0.5, 1))]
EVERY = [*ALL, SoftCrossEntropy(), Entropy()]  # also those that are not zero between equals


def draw(seed: int, batch: int, classes: int, size: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Logits and a target of probabilities, (B, K, *S) float32."""
    torch.manual_seed(seed)
    logits, other = 2 * torch.randn(2, batch, classes, *size)
    return logits, other.softmax(1)


def exact(logits: Tensor, target: Tensor) -> tuple[Array, Array]:
    """The same numbers as doubles; the target sums to 1 again, which singles meet to 1e-7 only."""
    p = target.double().numpy()
    return logits.detach().double().numpy(), p / p.sum(1, keepdims=True)


def slope(formula: Callable[[Array], float], at: Array) -> Array:
    """Central differences of a scalar formula, one entry after another."""
    result = np.empty_like(at)
    for place in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[place] = 1e-5
        result[place] = (formula(at + step) - formula(at - step)) / 2e-5
    return result


# --- the supervised loss


def literal_cross_entropy(logits: Array, label: NDArray[Any]) -> float:
    """Mean of -log softmax at the label, one labelled pixel after another."""
    values = []
    for place in np.ndindex(label.shape):
        if label[place] != IGNORE:
            pixel = logits[(place[0], slice(None), *place[1:])]
            values.append(np.log(np.exp(pixel).sum()) - pixel[label[place]])
    return float(np.mean(values))


def labels(batch: int, classes: int, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    label = torch.randint(classes, (batch, *size))
    label.view(-1)[::3] = IGNORE
    return label.to(dtype)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize(("batch", "size"), SHAPES)
def test_cross_entropy_is_the_mean_over_labelled_pixels(
    batch: int, size: tuple[int, ...], classes: int, dtype: torch.dtype
) -> None:
    logits, _ = draw(0, batch, classes, size)
    label = labels(batch, classes, size, dtype)
    ours = CrossEntropy()(logits, label)
    assert ours.item() == pytest.approx(literal_cross_entropy(logits.double().numpy(), label.numpy()), rel=1e-5)
    torch.testing.assert_close(ours, F.cross_entropy(logits, label.long(), ignore_index=IGNORE))
    counted = label != IGNORE  # and torch's own where nothing is ignored
    torch.testing.assert_close(ours, F.cross_entropy(logits.movedim(1, -1)[counted], label[counted].long()))


@pytest.mark.parametrize(("batch", "size"), SHAPES)
def test_cross_entropy_slope_is_that_of_the_formula(batch: int, size: tuple[int, ...]) -> None:
    logits, _ = draw(1, batch, 3, size)
    label = labels(batch, 3, size, torch.uint8)
    CrossEntropy()(logits.requires_grad_(), label).backward()
    expected = slope(lambda z: literal_cross_entropy(z, label.numpy()), logits.detach().double().numpy())
    np.testing.assert_allclose(logits.grad, expected, atol=1e-6)


def test_cross_entropy_without_labels_is_exactly_zero_with_zero_gradient() -> None:
    logits = (100 * torch.randn(2, 4, 3, 5)).requires_grad_()
    loss = CrossEntropy()(logits, torch.full((2, 3, 5), IGNORE, dtype=torch.uint8))
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_cross_entropy_does_not_see_logits_at_ignored_pixels() -> None:
    logits, _ = draw(2, 2, 5, (6, 7))
    label = labels(2, 5, (6, 7), torch.uint8)
    ignored = (label == IGNORE)[:, None]
    changed = torch.where(ignored, 50 * torch.randn_like(logits), logits)
    assert torch.equal(CrossEntropy()(logits, label), CrossEntropy()(changed, label))
    changed.requires_grad_()
    CrossEntropy()(changed, label).backward()
    assert changed.grad is not None
    assert changed.grad[ignored.expand_as(changed)].abs().max() == 0


# --- the hard pixels alone


def literal_ohem(rule: Ohem, logits: Array, label: NDArray[Any]) -> tuple[float, set[tuple[int, ...]]]:
    """The loss, and which pixels count: those under the threshold and the `keep` least probable, with what ties."""
    right = {
        place: softmax(logits)[(place[0], label[place], *place[1:])]
        for place in np.ndindex(label.shape)
        if label[place] != IGNORE
    }
    last = sorted(right.values())[: rule.keep][-1]
    counted = {place for place, p in right.items() if p < rule.threshold or p <= last}
    return float(np.mean([-np.log(right[place]) for place in counted])), counted


def counted_of(loss: Any, logits: Tensor, label: Tensor) -> set[tuple[int, ...]]:
    """The pixels that a loss passes gradient to."""
    logits = logits.clone().requires_grad_()
    loss(logits, label).backward()
    assert logits.grad is not None
    return {tuple(place) for place in logits.grad.abs().sum(1).nonzero().tolist()}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
@pytest.mark.parametrize("threshold", [0.002, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("keep", [1, 7, 20, 200_000])
@pytest.mark.parametrize(("batch", "size"), [(60, ()), (2, (5, 6))])
def test_ohem_counts_pixels_under_the_threshold_and_at_least_the_hardest(
    batch: int, size: tuple[int, ...], keep: int, threshold: float, dtype: torch.dtype
) -> None:
    logits, _ = draw(20, batch, 6, size)
    label = labels(batch, 6, size, dtype)
    rule = Ohem(threshold=threshold, keep=keep)
    expected, counted = literal_ohem(rule, logits.double().numpy(), label.long().numpy())
    assert rule(logits, label).item() == pytest.approx(expected, rel=1e-5)
    assert counted_of(rule, logits, label) == counted
    if keep == 7:  # the parameters above are of both kinds
        assert (len(counted) == 7) == (threshold == 0.002)


@pytest.mark.parametrize(("batch", "size"), SHAPES)
def test_ohem_of_fewer_labelled_pixels_than_it_keeps_is_cross_entropy(batch: int, size: tuple[int, ...]) -> None:
    logits, _ = draw(21, batch, 5, size)
    label = labels(batch, 5, size, torch.uint8)
    labelled = int((label != IGNORE).sum())
    for keep in (labelled, labelled + 1, 10 * labelled):
        torch.testing.assert_close(Ohem(threshold=1e-6, keep=keep)(logits, label), CrossEntropy()(logits, label))


def test_ohem_counts_all_pixels_that_tie_with_the_last_it_keeps() -> None:
    logits = torch.tensor([[0.0, 1], [0, 3], [0, 3], [0, 3], [0, 5], [0, 3]])
    label = torch.tensor([0, 1, 1, 1, 1, IGNORE])
    hard, tied = math.log1p(math.e), math.log1p(math.exp(-3))
    for keep in (2, 3, 4):
        assert Ohem(threshold=0.1, keep=keep)(logits, label).item() == pytest.approx((hard + 3 * tied) / 4)
    assert Ohem(threshold=0.1, keep=1)(logits, label).item() == pytest.approx(hard)


def test_ohem_never_counts_ignored_pixels_however_hard_they_are() -> None:
    logits, _ = draw(22, 2, 5, (6, 7))
    label = labels(2, 5, (6, 7), torch.uint8)
    ignored = (label == IGNORE)[:, None]
    for keep in (1, 10, 1000):
        rule = Ohem(threshold=0.3, keep=keep)
        for scale in (0.0, 50.0):
            changed = torch.where(ignored, scale * torch.randn_like(logits), logits)
            assert torch.equal(rule(changed, label), rule(logits, label))
            assert counted_of(rule, changed, label) == counted_of(rule, logits, label)


# --- Dice


def literal_dice(logits: Array, label: NDArray[Any]) -> float:
    """1 - Dice of each class that is labelled, one pixel after another, and their mean."""
    probabilities, values = softmax(logits), []
    for c in sorted(set(label.flatten().tolist()) - {IGNORE}):
        both = given = truth = 0.0
        for place in np.ndindex(label.shape):
            if label[place] != IGNORE:
                p = probabilities[(place[0], c, *place[1:])]
                both, given, truth = both + p * (label[place] == c), given + p, truth + (label[place] == c)
        values.append(1 - 2 * both / (given + truth))
    return float(np.mean(values))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
@pytest.mark.parametrize("share", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize(("batch", "size"), SHAPES)
def test_dice_is_its_formula_over_labelled_pixels_and_classes(
    batch: int, size: tuple[int, ...], classes: int, share: float, dtype: torch.dtype
) -> None:
    logits, _ = draw(23, batch, classes, size)
    label = labels(batch, classes, size, dtype)
    expected = literal_dice(logits.double().numpy(), label.numpy())
    expected += share * literal_cross_entropy(logits.double().numpy(), label.numpy())
    assert Dice(cross_entropy=share)(logits, label).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("batch", "size"), SHAPES)
def test_dice_slope_is_that_of_the_formula(batch: int, size: tuple[int, ...]) -> None:
    logits, _ = draw(24, batch, 3, size)
    label = labels(batch, 3, size, torch.uint8)
    Dice(cross_entropy=0)(logits.requires_grad_(), label).backward()
    expected = slope(lambda z: literal_dice(z, label.numpy()), logits.detach().double().numpy())
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(logits.grad, expected, atol=1e-6)


def test_dice_of_the_right_answer_is_zero_and_of_the_opposite_one() -> None:
    label = torch.tensor([[0, 1, 1], [2, 2, IGNORE]])
    right = 100 * F.one_hot(label.clamp(max=3), 4).movedim(-1, 1).float()
    assert Dice(cross_entropy=0)(right, label).item() == pytest.approx(0, abs=1e-6)
    assert Dice(cross_entropy=0)(right.roll(1, 1), label).item() == pytest.approx(1, abs=1e-6)


def test_dice_weighs_a_class_of_few_pixels_as_much_as_one_of_many() -> None:
    label = torch.cat([torch.zeros(999, dtype=torch.long), torch.ones(1, dtype=torch.long)])
    blind = torch.tensor([100.0, -100.0]).expand(1000, 2)  # says class 0 everywhere
    assert Dice(cross_entropy=0)(blind, label).item() == pytest.approx((1 - 1998 / 1999 + 1) / 2, rel=1e-5)


# --- all supervised losses

SUPERVISED = [CrossEntropy(), Ohem(keep=1), Ohem(keep=1000), Dice(cross_entropy=0), Dice()]


@pytest.mark.parametrize("loss", SUPERVISED, ids=str)
@pytest.mark.parametrize(("batch", "size"), SHAPES)
def test_without_labels_a_supervised_loss_is_exactly_zero_with_zero_gradient(
    loss: Any, batch: int, size: tuple[int, ...]
) -> None:
    logits = (100 * torch.randn(batch, 4, *size)).requires_grad_()
    value = loss(logits, torch.full((batch, *size), IGNORE, dtype=torch.uint8))
    value.backward()
    assert value.item() == 0.0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("loss", SUPERVISED, ids=str)
def test_a_supervised_loss_does_not_see_logits_at_ignored_pixels(loss: Any) -> None:
    logits, _ = draw(25, 2, 5, (6, 7))
    label = labels(2, 5, (6, 7), torch.uint8)
    ignored = (label == IGNORE)[:, None]
    changed = torch.where(ignored, 50 * torch.randn_like(logits), logits)
    assert torch.equal(loss(logits, label), loss(changed, label))
    assert not {place for place in counted_of(loss, changed, label) if label[place] == IGNORE}


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e30])
@pytest.mark.parametrize("loss", SUPERVISED, ids=str)
def test_a_supervised_loss_is_finite_for_extreme_logits(loss: Any, scale: float) -> None:
    logits, _ = draw(26, 2, 5, (6, 7))
    logits = (scale * logits.sign()).requires_grad_()
    value = loss(logits, labels(2, 5, (6, 7), torch.uint8))
    value.backward()
    assert value.isfinite()
    assert value > 0
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("loss", SUPERVISED, ids=str)
def test_a_supervised_loss_of_half_precision_logits_is_that_of_the_same_numbers_in_single(loss: Any) -> None:
    logits, _ = draw(27, 2, 5, (6, 7))
    label, half = labels(2, 5, (6, 7), torch.uint8), logits.bfloat16()
    assert torch.equal(loss(half, label), loss(half.float(), label))


@pytest.mark.parametrize("loss", [*SUPERVISED, *EVERY], ids=str)
def test_a_loss_never_waits_for_the_device(loss: Any) -> None:
    """A meta tensor has no values, so what would read one back, or shape a result by values, fails on it."""
    logits, target = draw(28, 2, 5, (6, 7))
    supervised = any(loss is one for one in SUPERVISED)
    second = labels(2, 5, (6, 7), torch.uint8) if supervised else target
    value = loss(logits.to("meta"), second.to("meta"))
    assert value.shape == (() if supervised else (2, 6, 7))


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        *((Ohem, {"threshold": threshold}) for threshold in (0, -0.5, 1.5)),
        *((Ohem, {"keep": keep}) for keep in (0, -1, 1.5)),
        (Dice, {"cross_entropy": -0.1}),
        (Squared, {"over_classes": "max"}),
    ],
)
def test_values_out_of_range_are_refused(part: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        part(**wrong)


# --- distances


@pytest.mark.parametrize(("distance", "formula"), DISTANCES)
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize(("batch", "size"), SHAPES)
def test_distance_equals_its_formula(
    distance: Any, formula: Formula, batch: int, size: tuple[int, ...], classes: int
) -> None:
    logits, target = draw(3, batch, classes, size)
    ours = distance(logits, target)
    assert ours.shape == (batch, *size)
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours, formula(*exact(logits, target)), rtol=1e-4, atol=2e-7)


@pytest.mark.parametrize(("distance", "formula"), DISTANCES)
@pytest.mark.parametrize(("batch", "size"), [(2, ()), (2, (2, 1))])
def test_distance_slope_is_that_of_its_formula(
    distance: Any, formula: Formula, batch: int, size: tuple[int, ...]
) -> None:
    logits, target = draw(4, batch, 4, size)
    distance(logits.requires_grad_(), target).sum().backward()
    at, p = exact(logits, target)
    expected = slope(lambda z: float(formula(z, p).sum()), at)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(logits.grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("classes", CLASSES)
def test_tau_tends_to_the_squared_difference_meaned_over_classes(classes: int) -> None:
    logits, target = draw(5, 2, classes, (3, 4))
    limit = Squared(over_classes="mean")(logits, target)
    assert torch.equal(Tau(tau=0)(logits, target), limit)
    for small in (1e-3, 1e-4, 1e-5):
        # The next term of the expansion in tau is of relative size tau K max(p, q).
        torch.testing.assert_close(Tau(tau=small)(logits, target), limit, rtol=small * classes, atol=2e-6)


@pytest.mark.parametrize("classes", CLASSES)
def test_tau_slope_tends_to_that_of_the_squared_difference(classes: int) -> None:
    slopes = []
    for distance in (Tau(tau=1e-5), Squared(over_classes="mean")):
        logits, target = draw(6, 2, classes, (3, 4))
        distance(logits.requires_grad_(), target).sum().backward()
        slopes.append(logits.grad)
    torch.testing.assert_close(slopes[0], slopes[1], rtol=3e-5 * classes, atol=1e-6)


@pytest.mark.parametrize("classes", CLASSES)
def test_tau_of_one_is_two_over_classes_squared_kl(classes: int) -> None:
    logits, target = draw(7, 2, classes, (3, 4))
    torch.testing.assert_close(Tau(tau=1)(logits, target), 2 / classes**2 * Kl()(logits, target), rtol=1e-4, atol=2e-7)


@pytest.mark.parametrize("distance", [*ALL, Tau(tau=1e-5)], ids=str)
def test_distance_is_zero_between_equals_and_positive_otherwise(distance: Any) -> None:
    logits, target = draw(8, 4, 6, (5, 5))
    torch.testing.assert_close(distance(logits, logits.softmax(1)), torch.zeros(4, 5, 5), rtol=0, atol=2e-6)
    assert distance(logits, target).min() > 0


@pytest.mark.parametrize("distance", EVERY, ids=str)
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("scale", [1e2, 1e4, 1e30])
def test_distance_is_finite_for_one_hot_targets_and_confident_logits(distance: Any, classes: int, scale: float) -> None:
    logits = torch.full((classes, classes), -scale).fill_diagonal_(scale).requires_grad_()
    for target in (torch.eye(classes), torch.eye(classes).roll(1, 0), torch.full((classes, classes), 1 / classes)):
        logits.grad = None
        values = distance(logits, target)
        values.sum().backward()
        assert values.isfinite().all()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()


def test_kl_of_a_confident_mistake_is_its_log_odds() -> None:
    """KL(e_1 || softmax(100, -100)) = log(1 + e^200) = 200."""
    assert Kl()(torch.tensor([[100.0, -100.0]]), torch.tensor([[0.0, 1.0]])).item() == pytest.approx(200)


@pytest.mark.parametrize("classes", [*CLASSES, 1000])
def test_squared_summed_over_classes_lies_in_0_to_2_whatever_their_number(classes: int) -> None:
    logits, target = draw(9, 8, classes, (4, 4))
    values = Squared(over_classes="sum")(20 * logits, target)
    assert 0 <= values.min() <= values.max() <= 2
    torch.testing.assert_close(values, classes * Squared(over_classes="mean")(20 * logits, target))
    opposed = F.one_hot(torch.tensor([0]), classes).float()
    at_most = Squared(over_classes="sum")(200 * opposed, opposed.roll(1, 1))
    assert at_most.item() == pytest.approx(2)  # reached, so the bound cannot be smaller


@pytest.mark.parametrize("distance", EVERY, ids=str)
def test_distance_of_half_precision_logits_is_that_of_the_same_numbers_in_single(distance: Any) -> None:
    logits, target = draw(10, 2, 5, (3, 3))
    half = logits.bfloat16()
    assert torch.equal(distance(half, target), distance(half.float(), target))


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize(("batch", "size"), SHAPES)
def test_soft_cross_entropy_is_that_of_torch_for_hard_and_for_soft_targets(
    batch: int, size: tuple[int, ...], classes: int
) -> None:
    logits, target = draw(30, batch, classes, size)
    torch.testing.assert_close(SoftCrossEntropy()(logits, target), F.cross_entropy(logits, target, reduction="none"))
    label = torch.randint(classes, (batch, *size))
    hard = F.one_hot(label, classes).movedim(-1, 1).float()
    torch.testing.assert_close(SoftCrossEntropy()(logits, hard), F.cross_entropy(logits, label, reduction="none"))
    torch.testing.assert_close(SoftCrossEntropy()(logits, hard).mean(), CrossEntropy()(logits, label))


def test_soft_cross_entropy_of_no_class_is_zero() -> None:
    """The target of a pixel without a label is zero for every class."""
    logits, target = draw(31, 2, 4, (3, 3))
    assert torch.equal(SoftCrossEntropy()(logits, torch.zeros_like(target)), torch.zeros(2, 3, 3))


@pytest.mark.parametrize("classes", CLASSES)
def test_soft_cross_entropy_is_kl_and_the_entropy_of_the_target(classes: int) -> None:
    logits, target = draw(32, 2, classes, (3, 4))
    rest = torch.special.entr(target).sum(1)
    torch.testing.assert_close(SoftCrossEntropy()(logits, target), Kl()(logits, target) + rest)


@pytest.mark.parametrize("classes", CLASSES)
def test_entropy_is_blind_to_the_target_and_lies_between_certainty_and_the_uniform(classes: int) -> None:
    logits, target = draw(33, 2, classes, (3, 4))
    values = Entropy()(logits, target)
    assert torch.equal(values, Entropy()(logits, target.roll(1, 1)))
    assert 0 < values.min() <= values.max() < math.log(classes)
    uniform = Entropy()(torch.full((1, classes), 3.0), target[:1, :, 0, 0])
    assert uniform.item() == pytest.approx(math.log(classes), rel=1e-6)
    certain = 200 * F.one_hot(torch.tensor([0]), classes).float()
    assert Entropy()(certain, target[:1, :, 0, 0]).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "distance",
    [Squared(over_classes="mean"), Squared(over_classes="sum"), Kl(), Tau(tau=0.5), Tau(tau=1), SoftCrossEntropy()],
    ids=str,
)
def test_where_a_teacher_has_said_nothing_no_gradient_is_spoilt(distance: Any) -> None:
    """Rows of zeros, as a memory's before its first answer, at pixels that do not count."""
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    target, counted = torch.randn(2, 3, 4, 5).softmax(1), torch.rand(2, 4, 5) < 0.5
    target = torch.where(counted[:, None], target, 0)
    average(distance(logits, target), counted).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad.abs().sum(1) > 0).equal(counted)


def test_entropy_falls_along_its_negative_gradient() -> None:
    logits, target = draw(34, 2, 4, (3, 4))
    before = Entropy()(logits.requires_grad_(), target)
    before.sum().backward()
    assert logits.grad is not None
    assert (Entropy()(logits.detach() - 0.1 * logits.grad, target) < before.detach()).all()


@pytest.mark.parametrize("wrong", [-0.1, 1.1])
def test_tau_outside_0_to_1_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="tau"):
        Tau(tau=wrong)


# --- the mean over counted pixels


@pytest.mark.parametrize("size", [(), (4, 5)])
def test_average_is_the_mean_of_counted_values(size: tuple[int, ...]) -> None:
    torch.manual_seed(11)
    values, counted = torch.randn(6, *size), torch.rand(6, *size) < 0.5
    kept = [v for v, c in zip(values.flatten().tolist(), counted.flatten().tolist(), strict=True) if c]
    assert 0 < len(kept) < values.numel()
    assert average(values, counted).item() == pytest.approx(sum(kept) / len(kept), rel=1e-5)


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_average_ignores_what_is_not_a_number_where_nothing_counts(poison: float) -> None:
    torch.manual_seed(12)
    clean, counted = torch.randn(3, 4), torch.rand(3, 4) < 0.5
    values = clean.masked_fill(~counted, poison).requires_grad_()
    mean = average(values, counted)
    mean.backward()
    assert torch.equal(mean, average(clean, counted))
    assert values.grad is not None
    torch.testing.assert_close(values.grad, counted / counted.sum())


def test_average_of_nothing_is_zero_with_zero_gradient() -> None:
    values = torch.full((2, 3), float("nan"), requires_grad=True)
    mean = average(values, torch.zeros(2, 3, dtype=torch.bool))
    mean.backward()
    assert mean.item() == 0
    assert values.grad is not None
    assert torch.equal(values.grad, torch.zeros(2, 3))


@pytest.mark.parametrize("classes", [2, 21])
@pytest.mark.parametrize("tau", [1e-300, 1e-12, 1e-7, 9e-6, 1.1e-5, 1e-4])
def test_tau_stays_at_its_limit_however_small_it_is(tau: float, classes: int) -> None:
    """The family differs from its limit by a share of about K tau; below, doubles cannot tell."""
    torch.manual_seed(0)
    logits, target = torch.randn(3, classes, 5), torch.randn(3, classes, 5).softmax(1)
    limit = (logits.softmax(1) - target).square().mean(1)
    torch.testing.assert_close(Tau(tau=tau)(logits, target), limit, rtol=2 * classes * tau + 1e-4, atol=0)


# --- labels as targets


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
@pytest.mark.parametrize(("batch", "size"), [(40, ()), (3, (5, 7))])
def test_one_hot_is_one_at_the_label_and_zero_without_one(
    batch: int, size: tuple[int, ...], dtype: torch.dtype
) -> None:
    rng, classes = np.random.default_rng(50), 6
    label = rng.choice([*range(classes), IGNORE], size=(batch, *size))
    assert IGNORE in label
    given = one_hot(torch.from_numpy(label).to(dtype), classes)
    assert given.dtype == torch.float32
    assert given.shape == (batch, classes, *size)
    for place in np.ndindex(label.shape):
        expected = [float(c == label[place]) for c in range(classes)]
        assert given[(place[0], slice(None), *place[1:])].tolist() == expected


def test_one_hot_of_nothing_but_ignored_is_zero() -> None:
    given = one_hot(torch.full((2, 3, 4), IGNORE, dtype=torch.uint8), 6)
    assert torch.equal(given, torch.zeros(2, 6, 3, 4))


def test_an_average_of_other_shapes_is_refused_and_not_broadcast():
    values = torch.rand(4, 3, 3)
    for counted in (torch.ones(4, 1, 3, 3, dtype=torch.bool), torch.ones(3, 3, dtype=torch.bool)):
        with pytest.raises(ValueError, match=r"known\[:, 0\]"):
            average(values, counted)
