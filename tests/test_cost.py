"""What a step costs, in counts that no noise moves: forwards, resamplings, waits for the device, large buffers."""

from collections import Counter
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from runs import tiny
from test_trainer import METHODS
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mtseg import geometry
from mtseg.bench.networks import forwards
from mtseg.data import scenes
from mtseg.data.batch import Crops
from mtseg.data.stream import Stream
from mtseg.ema import Ema
from mtseg.geometry import View
from mtseg.losses import CrossEntropy, Kl, SoftCrossEntropy, Squared
from mtseg.state import build
from mtseg.step import train_step
from mtseg.views import Views

CPU = torch.device("cpu")
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "is_nonzero")  # of aten, on a GPU


class Counted(TorchDispatchMode):
    """Counts operations by name, and notes the elements of each floating-point tensor that is newly allocated."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.made: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {tensor.untyped_storage().data_ptr() for tensor in _tensors((args, kwargs or {}))}
        result = func(*args, **(kwargs or {}))
        self.calls[func._schema.name.removeprefix("aten::")] += 1
        for tensor in _tensors(result):
            if tensor.is_floating_point() and tensor.untyped_storage().data_ptr() not in given:
                self.made.append(tensor.numel())
        return result

    def large(self, elements: int) -> int:
        """How many tensors of at least so many elements were allocated."""
        return sum(made >= elements for made in self.made)


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return [tensor for part in inner for tensor in _tensors(part)]


def ready(tmp_path, *words):
    """A run's config, its state and its first batch."""
    config = tiny(tmp_path / "run", *words)
    splits = config.data.build()
    stream = Stream(
        splits,
        views=config.views,
        sizes=config.batch,
        students=config.method.views_of_student if config.method.branches else None,
        seed=0,
    )
    return config, build(config, splits, CPU), stream[0]


# --- forwards


@pytest.mark.parametrize(
    ("method", "student", "teacher"),
    [
        ("mean teacher", 1, 1),
        ("paper's teacher", 1, 1),
        ("cutmix, shared geometry", 1, 1),
        ("supervised", 1, 0),
        ("fixmatch", 2, 0),  # its answer, and all branches at once
        ("unimatch", 2, 0),
        ("temporal ensembling", 1, 0),
        ("ensemble", 1, 2),
        ("peer", 2, 2),  # the teacher is a student, and either learns and answers
    ],
)
def test_a_step_asks_each_network_no_more_often_than_its_method_must(method, student, teacher, tmp_path):
    config, state, batch = ready(tmp_path, *METHODS[method])
    made = forwards(state, lambda: train_step(config, state, batch))
    asked = Counter("student" if forward.network is state.student else "teacher" for forward in made)
    assert (asked["student"], asked["teacher"]) == (student, teacher)
    assert sum(forward.gradient for forward in made) == len(state.learners)


# --- resamplings


@pytest.mark.parametrize(
    ("words", "times"),
    [
        (METHODS["mean teacher"], 1),
        (["method.branches=[{}, {}]"], 2),
        (METHODS["cutmix, shared geometry"], 0),
        (METHODS["unimatch"], 0),
        (METHODS["supervised"], 0),
        (METHODS["source frame, KL"], 3),  # both sides, and before the student answers where it is known, to be counted
    ],
)
def test_an_answer_is_resampled_once_for_each_view_of_another_geometry(words, times, tmp_path, monkeypatch):
    config, state, batch = ready(tmp_path, *words)
    resampled, resample = [], geometry.resample
    monkeypatch.setattr(geometry, "resample", lambda *given: resampled.append(given[0].shape) or resample(*given))
    train_step(config, state, batch)
    assert len(resampled) == times


def test_an_image_is_read_once_and_each_of_its_views_is_drawn_once(tmp_path, monkeypatch):
    config = tiny(tmp_path / "run", "method.branches=[{}, {}]", "views.student.colour=[]")
    splits, drawn, read = config.data.build(), [], []
    stream = Stream(splits, views=config.views, sizes=config.batch, students=2, seed=0)
    warp, image = cv2.warpAffine, type(splits.unlabelled).image
    monkeypatch.setattr(cv2, "warpAffine", lambda *given, **named: drawn.append(1) or warp(*given, **named))
    monkeypatch.setattr(type(splits.unlabelled), "image", lambda self, index: read.append(1) or image(self, index))
    black = np.zeros((64, 64, 3), np.uint8)
    monkeypatch.setattr(scenes, "draw_scene", lambda *_: (black, black[..., 0]))
    stream[0]
    labelled, unlabelled = config.batch.labelled, config.batch.unlabelled
    assert len(read) == labelled + unlabelled
    assert len(drawn) == 2 * labelled + 3 * unlabelled  # a labelled view and its label; a teacher's view and two more


# --- waits for the device


@contextmanager
def only_bookkeeping(monkeypatch):
    """Within, no values of the networks' tensors may go to Python: only warps and images' numbers, ever on the CPU."""

    def refused(self: Tensor, *_: Any, **__: Any) -> Any:
        raise AssertionError(f"a step waits for {tuple(self.shape)} of {self.dtype}")

    def looked(name: str) -> Any:
        real = getattr(Tensor, name)
        return lambda self: real(self) if self.dtype in (torch.float64, torch.int64) else refused(self)

    with monkeypatch.context() as patched:
        for name in ("item", "cpu", "__int__", "__float__"):
            patched.setattr(Tensor, name, refused)
        for name in ("tolist", "numpy"):
            patched.setattr(Tensor, name, looked(name))
        yield


@pytest.mark.parametrize("method", [method for method in METHODS if method != "vat"])
def test_a_step_waits_for_the_device_once_to_see_that_all_is_finite(method, tmp_path, monkeypatch):
    config, state, batch = ready(tmp_path, *METHODS[method])
    train_step(config, state, batch)  # the optimizer makes its state in the first
    on_a_cpu, one_hot = [], F.one_hot  # which looks there, and nowhere else, at the least and the greatest class
    monkeypatch.setattr(F, "one_hot", lambda *given: on_a_cpu.extend("<>") or one_hot(*given))
    with only_bookkeeping(monkeypatch), Counted() as counted:
        train_step(config, state, batch, watch=True)
    waits = {name: counted.calls[name] for name in WAITS if counted.calls[name]}
    assert waits == {"_local_scalar_dense": 1 + len(on_a_cpu)}


class Copies(TorchDispatchMode):
    """Notes, of each copy from the CPU to a GPU, whether it waits for all that the GPU was given before."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[bool] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        there = torch.device(kwargs.get("device") or "cpu").type
        if there == "cuda" and any(tensor.device.type == "cpu" for tensor in _tensors(args)):
            self.waits.append(not kwargs.get("non_blocking"))
        return func(*args, **kwargs)


def _fake_gpus() -> bool:
    """Whether fake tensors may be on a GPU that is not there: older torch asks its driver."""
    with FakeTensorMode():
        try:
            return torch.zeros(2, 3, device="cuda").T.contiguous().is_contiguous()
        except RuntimeError:
            return False


def test_views_copy_what_they_are_made_of_to_a_gpu_without_waiting_for_it():
    """On a GPU that is not there: fake tensors say where they would be."""
    if not _fake_gpus():
        pytest.skip("of a later torch, or a GPU")
    turned = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    turned[:, 0, 1] = 0.2
    with FakeTensorMode(allow_non_fake_inputs=True), Copies() as copies:
        pixels = torch.zeros(2, 24, 32, 3, dtype=torch.uint8, device="cuda")
        crops = Crops(pixels, turned, torch.tensor([[48, 64], [24, 32]]), torch.arange(2))
        crops.view(Views(crop=(24, 32)))
    assert len(copies.waits) >= 4
    assert not any(copies.waits)


# --- buffers


@pytest.mark.parametrize("buffers", ["average", "copy", "own"])
def test_an_average_is_updated_in_two_launches_and_allocates_nothing(buffers, tmp_path):
    student = tiny(tmp_path / "run").model.build(7)
    teacher = Ema(mode="train", buffers=buffers).build(student, 0, 7)
    teacher.update(student)
    with Counted() as counted:
        teacher.update(student)
    assert sum(counted.calls.values()) == (1 if buffers == "own" else 2)
    assert not counted.made


def test_warping_an_answer_makes_one_map_of_all_classes():
    turned = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
    turned[:, 0, 1] = 0.2
    known = torch.ones((2, 1, 24, 32), dtype=torch.bool)
    answer = View(torch.randn(2, 9, 24, 32), torch.eye(3, dtype=torch.float64).repeat(2, 1, 1), known)
    with Counted() as counted:
        answer.seen_from(View(torch.randn(2, 3, 24, 32), turned, known))
    assert counted.large(2 * 9 * 24 * 32) == 1


@pytest.mark.parametrize(
    ("distance", "most"),
    [(Squared(over_classes="sum"), 7), (Squared(over_classes="mean"), 8), (Kl(), 7), (SoftCrossEntropy(), 4)],
)
def test_a_distance_and_its_gradient_make_few_maps_of_all_classes(distance, most):
    logits = torch.randn(2, 9, 24, 32).requires_grad_()
    target = torch.randn(2, 9, 24, 32).softmax(1)
    with Counted() as counted:
        torch.autograd.grad(distance(logits, target).sum(), logits)
    assert 1 <= counted.large(logits.numel()) <= most


def test_the_supervised_loss_makes_three_maps_of_all_classes():
    logits = torch.randn(2, 9, 24, 32).requires_grad_()
    label = torch.zeros((2, 24, 32), dtype=torch.uint8)
    with Counted() as counted:  # the log-probabilities, their gradient and that of the logits
        torch.autograd.grad(CrossEntropy()(logits, label), logits)
    assert counted.large(logits.numel()) == 3
