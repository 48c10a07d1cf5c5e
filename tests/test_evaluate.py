"""Evaluation: single images in a loop with torchmetrics, mixed sizes, any batch; the network left as found."""

import json
import multiprocessing
import os
import signal
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassJaccardIndex

from mtseg.data.source import IGNORE, Splits
from mtseg.evaluate import Evaluation, ahead, evaluate, evaluate_all, source_of
from mtseg.metrics import Calibration, Confusion
from mtseg.tally import Also, Tally, scores
from mtseg.views import Views

CLASSES = 5
NAMES = tuple("abcde")
VIEWS = Views(crop=(16, 16))
MIXED = [(9, 13), (9, 13), (13, 9), (9, 13), (20, 7), (20, 7), (20, 7), (20, 7), (9, 13)]


@dataclass
class Memory:
    """A source of given images and labels."""

    images: list[NDArray[np.uint8]]
    labels: list[NDArray[np.uint8]]

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return f"image-{index}.png"

    def image(self, index: int) -> NDArray[np.uint8]:
        return self.images[index]

    def label(self, index: int) -> NDArray[np.uint8]:
        return self.labels[index]


def source(sizes: list[tuple[int, int]], seed: int = 0, classes: int = CLASSES) -> Memory:
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    labels = [rng.integers(0, classes, size, dtype=np.uint8) for size in sizes]
    for label in labels:
        label[rng.random(label.shape) < 0.2] = IGNORE
    return Memory(images, labels)


def network() -> nn.Module:
    """With batch statistics and dropout, so that train mode would show."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(8, CLASSES, 1)
    )


def evaluated(model: nn.Module, images: Any, batch: int = 2) -> Confusion:
    return tallied(model, images, batch).confusion


def tallied(model: nn.Module, images: Any, batch: int = 2) -> Tally:
    return evaluate(model, images, classes=CLASSES, views=VIEWS, batch=batch, device=torch.device("cpu"))


def predictions(model: nn.Module, images: Memory) -> list[torch.Tensor]:
    """One image at a time, normalised pixel by pixel as the README of ImageNet says."""
    model.eval()
    result = []
    for image in images.images:
        pixels = (image.astype(np.float64) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        with torch.no_grad():
            logits = model(torch.from_numpy(pixels).float().permute(2, 0, 1)[None])
        result.append(logits.argmax(1)[0])
    return result


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 100])
def test_evaluation_is_a_loop_over_single_images_whatever_the_batch(batch: int) -> None:
    images, model = source(MIXED), network()
    matrix = MulticlassConfusionMatrix(CLASSES, ignore_index=IGNORE)
    iou = MulticlassJaccardIndex(CLASSES, average="macro", ignore_index=IGNORE)
    accuracy = MulticlassAccuracy(CLASSES, average="micro", ignore_index=IGNORE)
    for prediction, label in zip(predictions(model, images), images.labels, strict=True):
        for metric in (matrix, iou, accuracy):
            metric.update(prediction.flatten(), torch.from_numpy(label).long().flatten())
    ours = evaluated(model, images, batch)
    assert torch.equal(ours.counts, matrix.compute())
    found = scores(Tally(ours, Calibration()), NAMES)
    assert found["mIoU"] == pytest.approx(iou.compute().item(), rel=1e-6)
    assert found["pixel_accuracy"] == pytest.approx(accuracy.compute().item(), rel=1e-6)


@pytest.mark.parametrize("batch", [1, 2, 3, 100])
def test_a_forward_holds_at_most_a_batch_of_images_of_one_size_each_once(batch: int) -> None:
    seen: list[torch.Size] = []

    class Watched(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images.shape)
            return images.new_zeros((len(images), CLASSES, *images.shape[2:]))

    evaluated(Watched(), source(MIXED), batch)
    assert max(shape[0] for shape in seen) <= batch
    assert [tuple(shape[2:]) for shape in seen for _ in range(shape[0])] == MIXED
    if batch == 2:
        assert [shape[0] for shape in seen] == [2, 1, 1, 2, 2, 1]


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_leaves_mode_weights_and_statistics_as_they_were(training: bool) -> None:
    model = network().train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluated(model, source(MIXED))
    assert {module.training for module in model.modules()} == {training}
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_evaluation_is_in_eval_mode_whatever_mode_it_finds() -> None:
    images = source(MIXED)
    assert torch.equal(evaluated(network().train(), images).counts, evaluated(network().eval(), images).counts)


def test_label_that_is_no_class_names_its_image() -> None:
    images = source(MIXED)
    images.labels[4][3, 3] = 17
    with pytest.raises(ValueError, match=r"image-4\.png: label 17"):
        evaluated(network(), images)


@pytest.mark.parametrize("size", [(13, 9), (9, 12), (1, 13)])
def test_label_of_another_size_than_its_image_names_its_image(size: tuple[int, int]) -> None:
    """Also where it is transposed, and so has as many pixels."""
    images = source(MIXED)
    images.labels[1] = np.zeros(size, dtype=np.uint8)
    with pytest.raises(ValueError, match=r"image-1\.png: .*as large as its image"):
        evaluated(network(), images)


def test_scores_have_null_for_absent_classes_and_are_plain_json() -> None:
    """Class d is in neither map, e only predicted, so that it has an IoU but no accuracy of its own."""
    confusion = Confusion(CLASSES)
    confusion.update(torch.tensor([0, 0, 1, 2, 4, 1]), torch.tensor([0, 1, 1, 2, 2, IGNORE]))
    found = scores(Tally(confusion, Calibration()), NAMES)
    assert found["IoU"] == {"a": 0.5, "b": 0.5, "c": 0.5, "d": None, "e": 0.0}
    assert found["accuracy"] == {"a": 1.0, "b": 0.5, "c": 0.5, "d": None, "e": None}
    assert found["mIoU"] == pytest.approx(1.5 / 4)
    assert found["pixel_accuracy"] == pytest.approx(3 / 5)
    assert found["classes_counted"] == 4
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_split_names_its_own_pool() -> None:
    pools = [source([(8, 8)], seed) for seed in range(4)]
    splits = Splits(NAMES, np.zeros((CLASSES, 3), dtype=np.uint8), *pools)
    assert source_of(splits, "val") is pools[2]
    assert source_of(splits, "test") is pools[3]


@pytest.mark.parametrize("wrong", [{"every": 0}, {"batch": 0}, {"split": "train"}])
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Evaluation(**wrong)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_answer_that_is_no_number_is_refused_with_the_image(value: float) -> None:
    class Broken(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.full((len(images), CLASSES, *images.shape[2:]), value)

    with pytest.raises(ValueError, match=r"image-0\.png: .* answer is not finite"):
        evaluated(Broken(), source(MIXED))


def test_scores_without_any_labelled_pixel_are_null_and_not_nan() -> None:
    found = scores(Tally(Confusion(2), Calibration()), ("a", "b"))
    assert found["mIoU"] is None
    assert found["pixel_accuracy"] is None
    json.loads(json.dumps(found, allow_nan=False))


@pytest.mark.parametrize("batch", [1, 3])
def test_calibration_of_an_evaluation_is_torchmetrics_over_all_labelled_pixels(batch: int) -> None:
    from torchmetrics.classification import MulticlassCalibrationError

    images, model = source(MIXED), network()
    oracle = MulticlassCalibrationError(CLASSES, n_bins=15, norm="l1", ignore_index=IGNORE)
    model.eval()
    for image, label in zip(images.images, images.labels, strict=True):
        pixels = (image.astype(np.float64) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        with torch.no_grad():
            logits = model(torch.from_numpy(pixels).float().permute(2, 0, 1)[None])
        oracle.update(logits.softmax(1), torch.from_numpy(label)[None].long())
    assert tallied(model, images, batch).calibration.error() == pytest.approx(float(oracle.compute()), abs=1e-5)


def test_the_mode_is_put_back_where_an_answer_is_not_finite():
    model = network().train()
    model[-1].eval()  # one that is frozen, say
    modes = [module.training for module in model.modules()]
    evaluated(model, source(MIXED))
    assert [module.training for module in model.modules()] == modes
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        evaluated(model, source(MIXED))
    assert [module.training for module in model.modules()] == modes


def counted(tally: Tally) -> list[Any]:
    assert tally.boundary is not None
    assert tally.images is not None
    sure, edge = tally.calibration, tally.boundary
    sums = [tally.confusion.counts, sure.counts, sure.hits, sure.confidence, edge.hits, edge.labelled, edge.predicted]
    return [value.tolist() for value in [*sums, *tally.images.values()]] + [
        list(tally.images),
        tally.alone,
        tally.sizes,
    ]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 1, 9])
def test_several_networks_are_counted_as_each_by_itself_from_images_that_are_read_once(workers, monkeypatch):
    images, one, other = source(MIXED), network(), network().eval()
    with torch.no_grad():
        other[0].weight.mul_(-1)
    read = multiprocessing.get_context("fork").Array("i", len(images))
    plain = Memory.image

    def watched(self: Memory, index: int) -> NDArray[np.uint8]:
        with read.get_lock():
            read[index] += 1
        return plain(self, index)

    how: dict[str, Any] = {"classes": CLASSES, "views": VIEWS, "batch": 2, "device": torch.device("cpu")}
    how["also"] = Also(boundary=0.1, images=True)
    alone = [counted(evaluate(model, images, **how)) for model in (one, other)]
    monkeypatch.setattr(Memory, "image", watched)
    found = evaluate_all({"one": one, "other": other}, images, **how, workers=workers)
    assert [counted(found[name]) for name in ("one", "other")] == alone
    assert list(read) == [1] * len(images)
    assert (one.training, other.training) == (True, False)
    assert multiprocessing.active_children() == []


def test_images_are_read_ahead_of_a_gpu_and_not_beside_a_cpu():
    assert [ahead(3, torch.device(name)) for name in ("cpu", "cuda", "meta")] == [0, 3, 3]


def test_an_evaluation_draws_nothing_from_the_programs_generator():
    model, before = network(), torch.get_rng_state()
    evaluated(model, source(MIXED))
    assert torch.equal(torch.get_rng_state(), before)


def dies(index: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def raises(index: int) -> None:
    raise OSError("the disk is gone")


def hangs(index: int) -> None:
    signal.pause()


@pytest.mark.parametrize(
    ("harm", "says"), [(dies, "SIGKILL"), (raises, "OSError: the disk is gone"), (hangs, "within 1 seconds")]
)
def test_what_befalls_an_image_that_is_read_ahead_names_it_and_leaves_no_process(harm, says, monkeypatch):
    images, plain = source(MIXED), Memory.label

    def harmed(self: Memory, index: int) -> NDArray[np.uint8]:
        if index == 5:
            harm(index)
        return plain(self, index)

    monkeypatch.setattr(Memory, "label", harmed)
    how: dict[str, Any] = {"classes": CLASSES, "views": VIEWS, "batch": 2, "device": torch.device("cpu")}
    with pytest.raises(ValueError, match=rf"image-5\.png.*{says}"):
        evaluate_all({"": network()}, images, **how, workers=2, timeout=1)
    for process in multiprocessing.active_children():
        process.join(5)
    assert multiprocessing.active_children() == []


def test_a_network_that_fails_leaves_no_process_that_reads():
    class Failing(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert multiprocessing.active_children()
            raise RuntimeError("of the network's own")

    how: dict[str, Any] = {"classes": CLASSES, "views": VIEWS, "batch": 2, "device": torch.device("cpu")}
    with pytest.raises(RuntimeError, match="own"):
        evaluate_all({"": Failing()}, source(MIXED), **how, workers=2)
    assert multiprocessing.active_children() == []
