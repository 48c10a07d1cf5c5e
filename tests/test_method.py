"""Methods: where the consistency gradient goes and where not, in which frame, over which pixels, and how it is weighed.

The pictures are a smooth function of the place in the image, so a view can be computed instead of drawn, and for
a network that looks at single pixels the consistency is an integral over the overlap of two views.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtseg.config import Config
from mtseg.data.scenes import Scenes
from mtseg.data.source import IGNORE
from mtseg.data.stream import Batch, Crops
from mtseg.geometry import View
from mtseg.losses import Kl, Squared, Tau
from mtseg.method import Branch, Method, Task
from mtseg.mix import CutMix
from mtseg.models import Smp
from mtseg.optim import Sgd
from mtseg.schedules import Constant, Rampup
from mtseg.state import State
from mtseg.teachers import Ema, EmaTeacher
from mtseg.trainer import train_step
from mtseg.views import Views

CLASSES = 4
SIZE = (48, 64)
VIEWS = Views(crop=SIZE)
IMAGE = (300, 400)  # height and width of the whole images, in pixels
DISTANCES = [Squared(over_classes="mean"), Squared(over_classes="sum"), Kl(), Tau(tau=0.5)]


# --- pictures, views and networks


def picture(x: NDArray[np.float64], y: NDArray[np.float64], phase: float) -> NDArray[np.float64]:
    """Colours in [0, 255], (..., 3), at normalised places of an image."""
    waves = [np.sin(2.5 * x + phase), np.cos(2 * y - phase), np.sin(2 * x - 2.5 * y + 2 * phase)]
    return 127.5 + 110 * np.stack(waves, axis=-1)


def warp(*, turn: float = 0.0, scale: float = 1.0, at: tuple[float, float] = (0.0, 0.0)) -> NDArray[np.float64]:
    """View -> image: turned by `turn` radians as seen on IMAGE, its half sides `scale` of the image's."""
    stretch = np.diag([1.0, IMAGE[1] / IMAGE[0]])
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    matrix = np.eye(3)
    matrix[:2, :2] = scale * stretch @ rotation @ np.linalg.inv(stretch)
    matrix[:2, 2] = at
    return matrix


def crops(*warps: NDArray[np.float64], label: Tensor | None = None) -> Crops:
    """The views through `warps` of as many different images."""
    h, w = SIZE
    x, y = np.meshgrid((2 * np.arange(w) + 1) / w - 1, (2 * np.arange(h) + 1) / h - 1)
    places = [np.einsum("ij,jhw->ihw", matrix, np.stack([x, y, np.ones_like(x)])) for matrix in warps]
    images = np.stack([picture(place[0], place[1], phase) for phase, place in enumerate(places)])
    return Crops(
        image=torch.from_numpy(images.round().astype(np.uint8)),
        warp=torch.from_numpy(np.stack(warps)),
        source=torch.tensor([IMAGE] * len(warps)),
        index=torch.arange(len(warps)),
        label=label,
    )


HERE = (warp(turn=0.4, scale=0.7, at=(0.1, 0.0)), warp(turn=-0.9, scale=0.7, at=(-0.2, 0.2)))
THERE = (warp(turn=-0.5, scale=0.7, at=(-0.1, 0.2)), warp(turn=0.6, scale=0.7, at=(0.2, 0.1)))
BEYOND = (warp(scale=1.3, at=(0.5, 0.0)), warp(scale=1.2, turn=0.3))  # views larger than the image
NOWHERE = (warp(at=(9.0, 0.0)), warp(at=(0.0, -9.0)))


def unlabelled(teacher: Crops, *students: Crops) -> Batch:
    """A batch whose labels say nothing, so that a step follows the consistency alone."""
    return Batch(crops(*HERE, label=torch.full((2, *SIZE), IGNORE, dtype=torch.uint8)), teacher, students)


def pointwise(seed: int = 0) -> nn.Module:
    """A network that looks at one pixel at a time, so that it commutes with every warp."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.Tanh(), nn.Conv2d(8, CLASSES, 1))


def convolutional(seed: int = 0) -> nn.Module:
    """Batch normalisation, neighbours, and no parameter that could do without a gradient."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, CLASSES, 1)
    )


class Says:
    """A teacher that gives a fixed answer."""

    def __init__(self, answer: Tensor) -> None:
        self.answer = answer

    def predict(self, images: Tensor) -> Tensor:
        assert images.shape[0] == self.answer.shape[0]
        return self.answer


def answers(batch: int = 2, seed: int = 0) -> Tensor:
    drawn = torch.randn(batch, CLASSES, *SIZE, generator=torch.Generator().manual_seed(seed))
    return (2 * drawn).softmax(1)


def plan(method: Method, teacher: Any, batch: Batch, seed: int = 0) -> list[Task]:
    return method.plan(teacher, batch, views=VIEWS, rng=np.random.default_rng(seed))


def consistency(method: Method, student: nn.Module, teacher: Any, batch: Batch) -> Tensor:
    tasks = plan(method, teacher, batch)
    return method.consistency(tuple(student(task.seen.data) for task in tasks), tasks)


# --- a step of the trainer


def run_of(method: Method) -> Config:
    return Config(
        data=Scenes(),
        views=VIEWS,
        model=Smp(weights=Path("none")),
        method=method,
        optimizer=Sgd(lr=0.5, momentum=0, weight_decay=0),
        schedule=Constant(),
        steps=100,
        out=Path("never written"),
    )


def start(config: Config, student: nn.Module, teacher: EmaTeacher | None = None) -> State:
    teacher = config.method.teacher.build(student) if teacher is None else teacher
    return State(student=student, teacher=teacher, optimizer=config.optimizer.build(student))


def copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def move(method: Method, batch: Batch, *, step: int = 0) -> Tensor:
    """How one step moves the student's parameters, in one vector; student and teacher begin apart."""
    config, student = run_of(method), convolutional(0)
    state = start(config, student, method.teacher.build(convolutional(1)))
    state.step = step
    before = nn.utils.parameters_to_vector(student.parameters()).detach().clone()
    train_step(config, state, batch)
    return nn.utils.parameters_to_vector(student.parameters()).detach() - before


# --- where the gradient goes


@pytest.mark.parametrize("frame", ["student", "source"])
@pytest.mark.parametrize("distance", DISTANCES, ids=str)
def test_consistency_has_a_gradient_on_every_student_parameter_and_none_on_the_teacher(
    distance: Any, frame: Any
) -> None:
    """A student whose logits are really the teacher's output has no gradient at all."""
    student, teacher = convolutional(0), Ema().build(convolutional(1))
    method = Method(distance=distance, frame=frame)
    consistency(method, student, teacher, unlabelled(crops(*HERE), crops(*THERE))).backward()
    for parameter in student.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 1e-5
        assert parameter.grad.isfinite().all()
    assert all(p.grad is None and not p.requires_grad for p in teacher.module.parameters())


def test_no_gradient_passes_to_a_teacher_that_would_take_one() -> None:
    class Open:
        def __init__(self) -> None:
            self.module = convolutional(1)

        def predict(self, images: Tensor) -> Tensor:
            return self.module(images).softmax(1)

    teacher, student = Open(), convolutional(0)
    for seen in (HERE, THERE):  # resampled or not
        consistency(Method(), student, teacher, unlabelled(crops(*HERE), crops(*seen))).backward()
    assert all(p.grad is None for p in teacher.module.parameters())
    assert all(p.grad is not None for p in student.parameters())


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_step_without_labels_moves_every_student_parameter_and_the_teacher_by_its_average_only(mode: Any) -> None:
    method = Method(teacher=Ema(decay=0.9, mode=mode), weight=10)
    config, student = run_of(method), convolutional(0)
    state = start(config, student, method.teacher.build(convolutional(1)))
    state.teacher.load_state_dict({"updates": 3})  # past the first update, which copies
    for step in range(4):
        before, taught = copied(student), copied(state.teacher.module)
        train_step(config, state, unlabelled(crops(*HERE), crops(*THERE)))
        assert state.step == step + 1
        assert all(not torch.equal(before[name], tensor) for name, tensor in student.state_dict().items())
        a = min(1 - 1 / (3 + step + 1), 0.9)
        followed = student.state_dict()
        for name, tensor in state.teacher.module.state_dict().items():
            expected = a * taught[name] + (1 - a) * followed[name] if tensor.is_floating_point() else followed[name]
            torch.testing.assert_close(tensor, expected)
        assert all(p.grad is None for p in state.teacher.module.parameters())


@pytest.mark.parametrize("frame", ["student", "source"])
def test_gradient_at_the_logits_is_the_slope_of_the_loss(frame: Any) -> None:
    """Also in the source frame, where it passes through the sampler: against central differences."""
    method = Method(frame=frame)
    (task,) = plan(method, Ema().build(pointwise(1)), unlabelled(crops(*HERE), crops(*THERE)))
    logits = pointwise(0)(task.seen.data).detach().requires_grad_()
    method.consistency((logits,), [task]).backward()
    assert logits.grad is not None
    direction = logits.grad / logits.grad.norm()
    ahead, behind = (method.consistency((logits.detach() + s * direction,), [task]).item() for s in (1.0, -1.0))
    assert (ahead - behind) / 2 == pytest.approx(logits.grad.norm().item(), rel=1e-2)
    reached = logits.grad.abs().sum(1) > 0  # of the student's pixels: those that the teacher saw too
    assert 0.3 < reached.float().mean() < 0.95


# --- what is compared


@pytest.mark.parametrize("distance", DISTANCES, ids=str)
def test_consistency_is_zero_when_teacher_and_student_and_their_views_are_equal(distance: Any) -> None:
    student = convolutional().eval()
    view = crops(*HERE)
    method = Method(distance=distance)
    loss = consistency(method, student, Ema(mode="eval").build(student), unlabelled(view, view))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert all(p.grad is not None and p.grad.abs().max() < 1e-5 for p in student.parameters())
    other = consistency(method, student, Ema().build(convolutional(1)), unlabelled(view, view))
    assert other.item() > 1e-3


@pytest.mark.parametrize("frame", ["student", "source"])
def test_a_network_of_single_pixels_agrees_with_itself_under_any_two_warps(frame: Any) -> None:
    network, method = pointwise(), Method(frame=frame)
    teacher = Ema().build(network)
    warped = consistency(method, network, teacher, unlabelled(crops(*HERE), crops(*THERE)))
    student_crops = crops(*THERE)
    forgotten = replace(student_crops, warp=crops(*HERE).warp)  # the same pixels, a wrong matrix
    unwarped = consistency(method, network, teacher, unlabelled(crops(*HERE), forgotten))
    assert warped.item() < unwarped.item() / 500


def overlap_mean(student: nn.Module, teacher: nn.Module) -> float:
    """The mean squared difference over the image points that both views show, by brute force over a fine grid."""
    side = np.linspace(-1, 1, 301)
    x, y = (grid.ravel() for grid in np.meshgrid(side, side))
    points = np.stack([x, y, np.ones_like(x)])
    values = []
    for phase, (here, there) in enumerate(zip(HERE, THERE, strict=True)):
        inside = np.ones(len(x), dtype=bool)
        for matrix in (here, there):
            inside &= (np.abs(np.linalg.inv(matrix) @ points)[:2] <= 1).all(0)
        colours = (picture(x[inside], y[inside], phase) / 255 - VIEWS.mean) / VIEWS.std
        pixels = torch.from_numpy(colours).float().T[None, :, :, None]
        with torch.no_grad():
            difference = student(pixels).softmax(1) - teacher(pixels).softmax(1)
        values.append(difference.square().sum(1).flatten())
    return torch.cat(values).mean().item()


@pytest.mark.parametrize("frame", ["student", "source"])
def test_consistency_in_either_frame_is_the_integral_over_what_both_views_show(frame: Any) -> None:
    student, teacher = pointwise(0), pointwise(1)
    ours = consistency(
        Method(frame=frame), student, Ema().build(teacher), unlabelled(crops(*HERE), crops(*THERE))
    ).item()
    assert ours == pytest.approx(overlap_mean(student, teacher), rel=0.03)


def test_shared_geometry_compares_pixel_by_pixel_without_resampling() -> None:
    teacher, view = Ema().build(convolutional(1)), crops(*HERE)
    (task,) = plan(Method(), teacher, unlabelled(view, replace(crops(*HERE), warp=view.warp)))
    assert torch.equal(task.target.data, teacher.predict(view.view(VIEWS).data))


# --- over which pixels


class Spotted(Crops):
    """Crops with holes: half of their blocks of 6 x 8 pixels are unknown."""

    def view(self, views: Views) -> View:
        view = super().view(views)
        blocks = torch.rand(2, 1, SIZE[0] // 6, SIZE[1] // 8, generator=torch.Generator().manual_seed(0)) < 0.5
        return replace(view, known=view.known & blocks.repeat_interleave(6, 2).repeat_interleave(8, 3))


@pytest.mark.parametrize("frame", ["student", "source"])
@pytest.mark.parametrize("seen", [HERE, THERE], ids=["shared", "own"])
def test_the_teachers_answer_where_it_is_unknown_changes_nothing(seen: Any, frame: Any) -> None:
    student, shown = convolutional().eval(), crops(*HERE)
    asked = Spotted(shown.image, shown.warp, shown.source, shown.index)
    known = asked.view(VIEWS).known
    one, other = answers(), torch.eye(CLASSES)[:1, :, None, None].expand(2, -1, *SIZE)
    mixed = torch.where(known, one, other)
    batch = unlabelled(asked, crops(*seen))
    of_one, of_other, of_mixed = (
        consistency(Method(frame=frame), student, Says(answer), batch).item() for answer in (one, other, mixed)
    )
    # A tap of the interpolation may be unknown where it weighs less than a thousandth.
    assert of_mixed == pytest.approx(of_one, rel=1e-4)
    assert of_other > 1.5 * of_one


def test_unknown_pixels_add_nothing_to_loss_or_gradient_to_the_bit() -> None:
    """In the frame of comparison: neither what the teacher says there, nor what the student does."""
    method = Method()
    (task,) = plan(method, Says(answers()), unlabelled(crops(*HERE), crops(*THERE)))
    known = task.target.known
    assert 0.1 < known.float().mean() < 0.9
    logits = convolutional()(task.seen.data).detach()
    losses, gradients = [], []
    for seed in (1, 2):
        drawn = answers(seed=seed)
        target = replace(task.target, data=torch.where(known, task.target.data, drawn))
        values = torch.where(known, logits, 100 * drawn).requires_grad_()
        loss = method.consistency((values,), [replace(task, target=target)])
        loss.backward()
        assert values.grad is not None
        losses.append(loss.item())
        gradients.append(values.grad)
    assert losses[0] == losses[1]
    assert torch.equal(*gradients)
    assert torch.equal(gradients[0].abs().sum(1, keepdim=True) > 0, known)


def test_consistency_is_the_plain_mean_over_known_pixels() -> None:
    method, batch = Method(), unlabelled(crops(*BEYOND), crops(*THERE))
    (task,) = plan(method, Says(answers()), batch)
    logits = torch.randn(2, CLASSES, *SIZE, generator=torch.Generator().manual_seed(2))
    values = [
        float(((logits[b, :, y, x].softmax(0) - task.target.data[b, :, y, x]) ** 2).sum())
        for b, y, x in np.ndindex(2, *SIZE)
        if task.target.known[b, 0, y, x]
    ]
    assert 0 < len(values) < 2 * SIZE[0] * SIZE[1]
    assert method.consistency((logits,), [task]).item() == pytest.approx(np.mean(values), rel=1e-5)


@pytest.mark.parametrize("frame", ["student", "source"])
@pytest.mark.parametrize("distance", DISTANCES, ids=str)
@pytest.mark.parametrize(("asked", "seen"), [(NOWHERE, HERE), (HERE, NOWHERE), (NOWHERE, NOWHERE)])
def test_nothing_known_gives_exactly_zero_and_zero_gradients(asked: Any, seen: Any, distance: Any, frame: Any) -> None:
    student = convolutional()
    method = Method(distance=distance, frame=frame)
    loss = consistency(method, student, Ema().build(student), unlabelled(crops(*asked), crops(*seen)))
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and (p.grad == 0).all() for p in student.parameters())


@pytest.mark.parametrize("frame", ["student", "source"])
@pytest.mark.parametrize("distance", DISTANCES, ids=str)
def test_confident_and_wrong_students_have_finite_loss_and_gradient(distance: Any, frame: Any) -> None:
    method = Method(distance=distance, frame=frame)
    hot = nn.functional.one_hot(answers().argmax(1), CLASSES).movedim(-1, 1).float()
    (task,) = plan(method, Says(hot), unlabelled(crops(*HERE), crops(*THERE)))
    logits = (200 * hot.roll(1, 1) - 100).requires_grad_()
    loss = method.consistency((logits,), [task])
    loss.backward()
    assert loss.isfinite()
    assert loss > 0
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


# --- mixing


@pytest.mark.parametrize("seen", [HERE, THERE, BEYOND], ids=["shared", "own", "larger"])
def test_image_and_target_and_known_are_mixed_alike(seen: Any) -> None:
    """Each image has one colour and the teacher says which: after mixing it still says so, at every known pixel."""
    batch = 2
    colours = torch.tensor([0, 200], dtype=torch.uint8)[:, None, None, None].expand(-1, *SIZE, 3)
    flat = [replace(crops(*warps), image=colours) for warps in (HERE, seen)]
    says = Says(torch.eye(CLASSES)[:batch, :, None, None].expand(-1, -1, *SIZE))
    method = Method(branches=(Branch(mix=CutMix(p=1)),))
    unmixed = plan(Method(), says, unlabelled(*flat))[0]
    (task,) = plan(method, says, unlabelled(*flat))
    shown = (task.seen.data[:, :1] > task.seen.data[:, :1].mean()).long()
    assert set(shown[0].unique().tolist()) == {0, 1}  # the images are mixed
    named = task.target.data.argmax(1, keepdim=True)
    assert torch.equal(shown[task.target.known], named[task.target.known])
    own = torch.arange(batch)[:, None, None, None]
    for image, y, x in np.ndindex(batch, *SIZE):  # what is known of a pixel comes from the image that it is of
        assert task.target.known[image, 0, y, x] == unmixed.target.known[shown[image, 0, y, x], 0, y, x]
    assert not torch.equal(shown, own.expand_as(shown))


def test_mixing_is_a_function_of_the_generator() -> None:
    method, batch = Method(branches=(Branch(mix=CutMix(p=1)),)), unlabelled(crops(*HERE), crops(*THERE))
    one, again, other = (plan(method, Says(answers()), batch, seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(one.seen.data, again.seen.data)
    assert torch.equal(one.target.data, again.target.data)
    assert not torch.equal(one.seen.data, other.seen.data)


def test_source_frame_with_mixed_images_is_refused() -> None:
    with pytest.raises(ValueError, match="frame: student"):
        Method(frame="source", branches=(Branch(), Branch(mix=CutMix())))


# --- weights


def test_branches_add_up_with_their_weights() -> None:
    here, there, beyond = crops(*HERE), crops(*THERE), crops(*BEYOND)
    student, teacher = convolutional(0).eval(), Ema().build(convolutional(1))
    single = [consistency(Method(), student, teacher, unlabelled(here, seen)).item() for seen in (there, beyond)]
    method = Method(branches=(Branch(weight=0.25), Branch(weight=3.0)))
    both = consistency(method, student, teacher, unlabelled(here, there, beyond)).item()
    assert both == pytest.approx(0.25 * single[0] + 3 * single[1], rel=1e-5)


@pytest.mark.parametrize(
    ("changed", "step", "factor"),
    [
        ({"weight": 6.0}, 0, 3.0),
        ({"branches": (Branch(weight=3.0),)}, 0, 3.0),
        ({"ramp": Rampup(steps=50)}, 20, math.exp(-5 * 0.6**2)),
        ({"ramp": Rampup(steps=50)}, 50, 1.0),
        ({"weight": 0.0}, 0, 0.0),
    ],
    ids=str,
)
def test_weight_branch_weight_and_ramp_scale_the_step_linearly(changed: Any, step: int, factor: float) -> None:
    """Plain SGD without labels moves by rate * weight * gradient."""
    batch = unlabelled(crops(*HERE), crops(*THERE))
    plain = move(Method(weight=2.0), batch, step=step)
    assert plain.norm() > 1e-3
    method = replace(Method(weight=2.0), **changed)
    torch.testing.assert_close(move(method, batch, step=step), factor * plain, rtol=1e-3, atol=1e-6)


def test_without_branches_there_are_no_tasks_and_a_step_is_supervised_only() -> None:
    label = torch.randint(CLASSES, (2, *SIZE), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    label[:, ::5] = IGNORE
    labelled = crops(*HERE, label=label)
    method = Method(branches=(), weight=100)
    student = convolutional(0)
    assert plan(method, Ema().build(student), Batch(labelled, None, ())) == []
    assert method.consistency((), []).item() == 0

    loss = nn.functional.cross_entropy(student(labelled.view(VIEWS).data), label.long(), ignore_index=IGNORE)
    loss.backward()
    expected = torch.cat([-0.5 * p.grad.flatten() for p in student.parameters() if p.grad is not None])
    moved = move(method, Batch(labelled, None, ()))
    assert moved.norm() > 1e-3
    torch.testing.assert_close(moved, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("wrong", [{"weight": -1.0}, {"frame": "teacher"}, {"branches": ({"weight": 0.0},)}], ids=str)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Method(**wrong)
