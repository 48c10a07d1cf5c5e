"""Metrics: those of torchmetrics on random maps, streamed or at once; absent classes, ignored pixels, huge counts."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassJaccardIndex,
    MulticlassPrecision,
)

from mtseg.data.source import IGNORE
from mtseg.metrics import Boundary, Calibration, Confusion, interval
from mtseg.predictors import Band
from mtseg.run.log import summary
from mtseg.tally import Tally, scores


def maps(
    seed: int, classes: int, *, ignored: float = 0.2, size: tuple[int, ...] = (3, 17, 23)
) -> tuple[Tensor, Tensor]:
    """A prediction that is right on about half of the pixels, and labels of which a share is ignored."""
    draw = torch.Generator().manual_seed(seed)
    label = torch.randint(classes, size, generator=draw)
    prediction = torch.where(
        torch.rand(size, generator=draw) < 0.5, label, torch.randint(classes, size, generator=draw)
    )
    label[torch.rand(size, generator=draw) < ignored] = IGNORE
    return prediction, label


def confusion(classes: int, prediction: Tensor, label: Tensor) -> Confusion:
    result = Confusion(classes)
    result.update(prediction, label)
    return result


# --- against torchmetrics


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
@pytest.mark.parametrize("classes", [2, 11, 150])
def test_counts_are_torchmetrics_confusion_matrix(classes: int, dtype: torch.dtype) -> None:
    prediction, label = maps(0, classes)
    ours = confusion(classes, prediction, label.to(dtype))
    theirs = MulticlassConfusionMatrix(classes, ignore_index=IGNORE)
    assert torch.equal(ours.counts, theirs(prediction, label))
    assert ours.counts.dtype == torch.int64


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("classes", [2, 11, 19])
def test_iou_is_torchmetrics_jaccard_index_when_every_class_occurs(classes: int, seed: int) -> None:
    prediction, label = maps(seed, classes)
    ours = confusion(classes, prediction, label)
    by_class = MulticlassJaccardIndex(classes, average="none", ignore_index=IGNORE)(prediction, label)
    macro = MulticlassJaccardIndex(classes, average="macro", ignore_index=IGNORE)(prediction, label)
    np.testing.assert_allclose(ours.iou(), by_class, rtol=1e-6)
    assert ours.mean_iou() == pytest.approx(macro.item(), rel=1e-6)


def test_absent_class_is_nan_and_left_out_of_the_mean_as_torchmetrics_leaves_it() -> None:
    """torchmetrics gives a class that is in neither map an IoU of 0 by class (its zero_division), and no weight
    in the macro mean. Ours is NaN by class, so that 0 always means: occurred, and all wrong."""
    classes, prediction, label = 9, *maps(1, 6)  # classes 6, 7, 8 occur nowhere
    prediction[0, :3] = 7  # predicted, never labelled: IoU 0, and it counts
    label[1, :3] = 8  # labelled, never predicted: likewise
    ours = confusion(classes, prediction, label)
    by_class = MulticlassJaccardIndex(classes, average="none", ignore_index=IGNORE)(prediction, label).numpy()
    macro = MulticlassJaccardIndex(classes, average="macro", ignore_index=IGNORE)(prediction, label)
    assert np.flatnonzero(np.isnan(ours.iou())).tolist() == [6]
    np.testing.assert_allclose(np.nan_to_num(ours.iou(), nan=0.0), by_class, rtol=1e-6)
    assert ours.iou()[7] == ours.iou()[8] == 0
    assert ours.mean_iou() == pytest.approx(macro.item(), rel=1e-6)
    assert ours.mean_iou() == pytest.approx(by_class.sum() / 8)


@pytest.mark.parametrize("seed", range(5))
def test_accuracies_are_torchmetrics(seed: int) -> None:
    classes = 11
    prediction, label = maps(seed, classes)
    ours = confusion(classes, prediction, label)
    recall = MulticlassAccuracy(classes, average="none", ignore_index=IGNORE)(prediction, label)
    pixels = MulticlassAccuracy(classes, average="micro", ignore_index=IGNORE)(prediction, label)
    np.testing.assert_allclose(ours.class_accuracy(), recall, rtol=1e-6)
    assert ours.pixel_accuracy() == pytest.approx(pixels.item(), rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_dice_precision_and_means_over_classes_are_torchmetrics(seed: int) -> None:
    prediction, label = maps(seed, 7)
    ours = confusion(7, prediction, label)
    f1, precision = MulticlassF1Score, MulticlassPrecision
    for found, oracle in (
        (ours.dice(), f1(7, average="none", ignore_index=IGNORE)),
        (ours.mean_dice(), f1(7, average="macro", ignore_index=IGNORE)),
        (ours.precision(), precision(7, average="none", ignore_index=IGNORE)),
        (ours.mean_class_accuracy(), MulticlassAccuracy(7, average="macro", ignore_index=IGNORE)),
    ):
        np.testing.assert_allclose(found, oracle(prediction, label), rtol=1e-6)


def test_dice_is_a_function_of_iou_and_leaves_out_what_occurs_nowhere() -> None:
    label, prediction = torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 2, 1, 1]])  # class 3 is nowhere, 2 predicted
    ours = confusion(4, prediction, label)
    iou = ours.iou()
    np.testing.assert_allclose(ours.dice(), 2 * iou / (1 + iou))
    assert np.isnan(ours.dice()).tolist() == [False, False, False, True]
    assert ours.mean_dice() == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert ours.precision().tolist()[:3] == [1, 1, 0]
    assert np.isnan(ours.precision()[3])
    assert ours.mean_class_accuracy() == pytest.approx((1 / 2 + 1) / 2)


def test_class_accuracy_of_a_class_without_labels_is_nan_also_where_it_is_predicted() -> None:
    ours = confusion(3, torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 0, IGNORE]))
    np.testing.assert_array_equal(ours.class_accuracy(), [0.5, 1.0, np.nan])
    predicted = confusion(2, torch.tensor([1, 0]), torch.tensor([0, 0]))
    np.testing.assert_array_equal(predicted.class_accuracy(), [0.5, np.nan])


# --- counting


@pytest.mark.parametrize("pieces", [1, 2, 3, 7])
def test_streaming_in_pieces_counts_as_at_once(pieces: int) -> None:
    prediction, label = maps(2, 11, size=(21, 8, 9))
    streamed = Confusion(11)
    for some, of_them in zip(prediction.chunk(pieces), label.chunk(pieces), strict=True):
        streamed.update(some, of_them)
    assert torch.equal(streamed.counts, confusion(11, prediction, label).counts)


def test_pixels_are_counted_by_label_then_prediction() -> None:
    prediction, label = maps(3, 5)
    expected = np.zeros((5, 5), dtype=np.int64)
    for p, t in zip(prediction.flatten().tolist(), label.flatten().tolist(), strict=True):
        if t != IGNORE:
            expected[t, p] += 1
    np.testing.assert_array_equal(confusion(5, prediction, label).counts, expected)


def test_ignored_pixels_count_nowhere_whatever_is_predicted_there() -> None:
    prediction, label = maps(4, 5)
    ignored = label == IGNORE
    assert ignored.any()
    one = confusion(5, prediction, label)
    other = confusion(5, torch.where(ignored, (prediction + 1) % 5, prediction), label)
    assert torch.equal(one.counts, other.counts)
    assert one.counts.sum() == (~ignored).sum()


def test_nothing_counted_gives_nan_everywhere_and_no_warning() -> None:
    for ours in (Confusion(3), confusion(3, torch.zeros(2, 2).long(), torch.full((2, 2), IGNORE))):
        assert np.isnan(ours.iou()).all()
        assert np.isnan(ours.class_accuracy()).all()
        assert np.isnan(ours.mean_iou())
        assert np.isnan(ours.pixel_accuracy())


@pytest.mark.parametrize("wrong", [3, 4, 200, 254, -1, -300, 1000, 2**32 + 1])
def test_label_that_is_no_class_is_refused_with_its_value_and_count(wrong: int) -> None:
    label = torch.tensor([[0, wrong, 1], [IGNORE, wrong, 2]])
    with pytest.raises(ValueError, match=rf"label {wrong} on 2 pixels.*0 to 2.*255"):
        confusion(3, torch.zeros(2, 3).long(), label)


@pytest.mark.parametrize("kind", [torch.int64, torch.int16])
@pytest.mark.parametrize("wrong", [3, 9, 300, -1])
def test_a_prediction_that_is_no_class_is_refused_and_counts_nowhere(wrong: int, kind: torch.dtype) -> None:
    ours = Confusion(3)
    with pytest.raises(ValueError, match=rf"a prediction of {wrong} is no class of the 3 \(0 to 2\)"):
        ours.update(torch.tensor([0, wrong, 1], dtype=kind), torch.tensor([0, 1, 2], dtype=torch.uint8))
    assert not ours.counts.any()


def test_refused_labels_leave_the_counts_as_they_were() -> None:
    ours = confusion(3, torch.tensor([0, 1]), torch.tensor([0, 2]))
    before = ours.counts.clone()
    with pytest.raises(ValueError, match="label 7"):
        ours.update(torch.tensor([0, 1]), torch.tensor([0, 7]))
    assert torch.equal(ours.counts, before)


@pytest.mark.parametrize("shape", [(4, 6), (1, 6), (6,), (6, 5)])
def test_maps_of_different_shapes_are_refused(shape: tuple[int, ...]) -> None:
    """Also where they hold as many pixels: a transposed label must not be compared in reading order."""
    with pytest.raises(ValueError, match=r"\(6, 4\)"):
        confusion(3, torch.zeros(6, 4).long(), torch.zeros(shape).long())


def test_counts_beyond_single_and_int32_precision_are_exact() -> None:
    """Cityscapes has 2^30 labelled pixels; float32 stops counting at 2^24."""
    ours = Confusion(2)
    ours.counts = torch.tensor([[2**33 + 1, 2**31], [3, 2**24]])
    for _ in range(5):
        ours.update(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]))
    assert ours.counts.tolist() == [[2**33 + 6, 2**31 + 5], [3, 2**24 + 5]]
    a, b, c, d = (Fraction(n) for n in ours.counts.flatten().tolist())
    exact = [a / (a + b + c), d / (d + b + c)]
    np.testing.assert_allclose(ours.iou(), [float(share) for share in exact], rtol=1e-15)
    assert ours.mean_iou() == pytest.approx(float(sum(exact) / 2), rel=1e-15)
    assert ours.pixel_accuracy() == pytest.approx(float((a + d) / (a + b + c + d)), rel=1e-15)


def test_perfect_and_utterly_wrong_predictions_score_one_and_zero() -> None:
    label = torch.randint(4, (9, 9), generator=torch.Generator().manual_seed(0))
    assert confusion(4, label, label).mean_iou() == 1
    assert confusion(4, (label + 1) % 4, label).mean_iou() == 0
    assert confusion(4, label, label).pixel_accuracy() == 1


def test_a_prediction_as_sure_as_it_is_often_right_is_calibrated_and_one_always_sure_and_wrong_is_not() -> None:
    label = torch.zeros(1000, dtype=torch.uint8)
    prediction = (torch.arange(1000) % 10 == 0).long()  # wrong for one in ten
    calibrated, sure = Calibration(), Calibration()
    calibrated.update(torch.full((1000,), 0.9), prediction, label)
    sure.update(torch.ones(1000), torch.ones(1000, dtype=torch.long), label)
    assert calibrated.error() == pytest.approx(0, abs=1e-6)
    assert sure.error() == 1


def test_ignored_pixels_do_not_count_in_the_calibration_and_none_is_nan() -> None:
    found = Calibration()
    assert np.isnan(found.error())
    found.update(torch.tensor([0.9, 1.0]), torch.tensor([1, 1]), torch.tensor([1, IGNORE], dtype=torch.uint8))
    assert found.error() == pytest.approx(0.1)


def test_calibration_bins_are_open_below_and_closed_above_as_guos() -> None:
    """Half of the confidences, multiples of an eighth, are the very edges of four bins."""
    rng = np.random.default_rng(0)
    confidence, right = rng.integers(1, 9, 500) / 8, rng.random(500) < 0.6
    oracle = 0.0
    for low in (0, 0.25, 0.5, 0.75):
        inside = (confidence > low) & (confidence <= low + 0.25)
        oracle += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    found = Calibration(bins=4)
    found.update(torch.tensor(confidence), torch.tensor(right).long(), torch.ones(500, dtype=torch.uint8))
    assert found.error() == pytest.approx(oracle, rel=1e-12)


@pytest.mark.parametrize("classes", [2, 11])
def test_frequency_weighted_iou_is_torchmetrics_weighted_by_the_labels(classes: int) -> None:
    prediction, label = maps(3, classes)
    oracle = MulticlassJaccardIndex(classes, average="weighted", ignore_index=IGNORE)
    ours = confusion(classes, prediction, label).frequency_weighted_iou()
    assert ours == pytest.approx(oracle(prediction.flatten(), label.flatten()).item(), rel=1e-5)


def test_frequency_weighted_iou_passes_over_classes_without_labels() -> None:
    ours = confusion(4, torch.tensor([0, 0, 1, 3]), torch.tensor([0, 0, 1, 1]))
    assert ours.frequency_weighted_iou() == pytest.approx(0.5 * 1 + 0.5 * 0.5)
    assert np.isnan(Confusion(3).frequency_weighted_iou())


# --- boundaries


def regions(seed: int, classes: int, size: tuple[int, int], *, ignored: float = 0.0) -> Tensor:
    """A label of blocks of 9 pixels, some of them void."""
    draw = torch.Generator().manual_seed(seed)
    blocks = torch.randint(classes, (size[0] // 9 + 1, size[1] // 9 + 1), generator=draw)
    blocks[torch.rand(blocks.shape, generator=draw) < ignored] = IGNORE
    return blocks.repeat_interleave(9, 0).repeat_interleave(9, 1)[: size[0], : size[1]]


def by_erosion(mask: np.ndarray, ratio: float) -> np.ndarray:
    """A mask's boundary as the paper's authors take it: framed with zeros, eroded by 3x3, once for each pixel."""
    import cv2

    h, w = mask.shape
    times = max(1, round(ratio * np.sqrt(h**2 + w**2)))
    framed = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=times)[1:-1, 1:-1]
    return mask & (eroded == 0)


@pytest.mark.parametrize("ratio", [0.001, 0.02, 0.1, 0.5])
@pytest.mark.parametrize("ignored", [0.0, 0.2])
def test_boundary_iou_is_the_papers_class_by_class_summed_over_images(ratio: float, ignored: float) -> None:
    classes, ours = 5, Boundary(5, ratio)
    hits, unions = np.zeros(classes), np.zeros(classes)
    for seed, size in enumerate([(61, 83), (40, 120), (7, 9)]):
        label = regions(seed, classes - 1, size, ignored=ignored)
        prediction = regions(seed, classes - 1, size).roll((2, 3), (0, 1))
        ours.update(prediction, label)
        for k in range(classes):
            truth = by_erosion((label == k).numpy(), ratio)
            said = by_erosion(((prediction == k) & (label != IGNORE)).numpy(), ratio)
            hits[k] += (truth & said).sum()
            unions[k] += (truth | said).sum()
    with np.errstate(invalid="ignore"):
        oracle = np.where(unions > 0, hits / unions, np.nan)
    assert ours.iou() == pytest.approx(oracle, nan_ok=True)
    assert np.isnan(ours.iou()[-1])
    assert ours.mean_iou() == pytest.approx(np.nanmean(oracle))


def test_a_perfect_prediction_has_boundary_iou_1_and_a_wider_distance_is_the_plain_iou() -> None:
    label, other = regions(0, 4, (50, 70), ignored=0.2), regions(1, 4, (50, 70))
    perfect, wide = Boundary(4), Boundary(4, ratio=1.0)
    perfect.update(label.where(label != IGNORE, 2), label)
    wide.update(other, label)
    assert perfect.mean_iou() == 1
    assert wide.iou() == pytest.approx(confusion(4, other, label).iou())


def test_a_shifted_boundary_costs_more_boundary_iou_than_iou() -> None:
    label = torch.zeros((100, 100), dtype=torch.long)
    label[:, 50:] = 1
    ours = Boundary(2)
    ours.update(label.roll(1, 1), label)
    assert ours.mean_iou() < confusion(2, label.roll(1, 1), label).mean_iou() - 0.05


# --- the interval


def test_an_interval_is_that_of_images_drawn_again_and_again_one_by_one() -> None:
    import random

    matrices = [confusion(3, *maps(seed, 3, size=(9, 9))).counts * (1 + seed % 5) for seed in range(12)]
    draw, means = random.Random(1), []
    for _ in range(4000):
        chosen = Confusion(3)
        for _ in matrices:
            chosen.counts += draw.choice(matrices)
        means.append(chosen.mean_iou())
    low, high = interval(matrices, resamples=4000)
    spread = np.std(means)
    assert low == pytest.approx(np.quantile(means, 0.025), abs=0.2 * spread)
    assert high == pytest.approx(np.quantile(means, 0.975), abs=0.2 * spread)


def test_an_interval_is_the_seeds_and_closes_where_all_images_are_alike() -> None:
    matrices = [confusion(3, *maps(seed, 3, size=(9, 9))).counts for seed in range(6)]
    assert interval(matrices, seed=1) == interval(matrices, seed=1) != interval(matrices, seed=2)
    low, high = interval([matrices[0]] * 5)
    assert low == high == pytest.approx(confusion(3, *maps(0, 3, size=(9, 9))).mean_iou())
    assert np.isnan(interval([])).all()
    assert np.isnan(interval([torch.zeros((2, 2), dtype=torch.int64)])).all()


@pytest.mark.parametrize("kind", [torch.int16, torch.int64])
def test_more_classes_than_a_byte_holds_are_counted_and_nothing_given_is_changed(kind):
    rng = np.random.default_rng(0)
    label, said = (torch.from_numpy(rng.integers(0, 300, 5000)).to(kind) for _ in range(2))
    before = label.clone(), said.clone()
    confusion = Confusion(300)
    confusion.update(said, label)
    oracle = np.zeros((300, 300), np.int64)
    np.add.at(oracle, (label.numpy(), said.numpy()), 1)
    assert np.array_equal(confusion.counts.numpy(), oracle)
    assert torch.equal(label, before[0])
    assert torch.equal(said, before[1])


def seen(*images: tuple[list[int], list[int]]) -> dict[str, Any]:
    """The scores, of classes sky, sea and sand, of (prediction, label) of images of one row."""
    tally = Tally(Confusion(3), Calibration())
    for number, (said, true) in enumerate(images):
        row, truth = (torch.tensor([values]) for values in (said, true))
        tally.add(number, str(number), row, torch.ones(row.shape), truth)
    return scores(tally, ("sky", "sea", "sand"))


def test_the_line_of_an_evaluation_says_of_how_many_classes_a_mean_is_where_it_is_not_of_all():
    all_of, two, one = seen(([0, 1, 2], [0, 1, 2])), seen(([0, 1], [0, 1])), seen(([0, 0], [0, IGNORE]))
    assert summary("val", {"student": all_of, "teacher": all_of}) == "val mIoU: student 100.00, teacher 100.00"
    assert summary("val", {"student": one, "teacher": one}) == (
        "val mIoU (1 of 3 classes): student 100.00, teacher 100.00"
    )
    assert summary("val", {"student": one, "teacher": two}) == (
        "val mIoU: student 100.00 (1 of 3 classes), teacher 100.00 (2 of 3 classes)"
    )
    assert summary("val", {"student": two, "teacher": all_of}) == (
        "val mIoU: student 100.00 (2 of 3 classes), teacher 100.00"
    )


def test_an_accuracy_is_of_images_and_says_nothing_of_classes_that_were_not_among_them():
    tally = Tally(Confusion(3), Calibration())
    right = torch.tensor([0, 0])
    ranked = torch.tensor([[0, 1, 2], [0, 2, 1]])
    tally.add_whole([(0, "a"), (1, "b")], Band(0, 0, right, torch.ones(2), ranked), right)
    found = scores(tally, ("sky", "sea", "sand"))
    assert summary("test", {"student": found, "teacher": found}) == "test accuracy: student 100.00, teacher 100.00"
