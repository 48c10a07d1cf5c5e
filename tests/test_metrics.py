"""Metrics: those of torchmetrics on random maps, streamed or at once; absent classes, ignored pixels, huge counts."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassJaccardIndex

from mtseg.data.source import IGNORE
from mtseg.metrics import Calibration, Confusion


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
