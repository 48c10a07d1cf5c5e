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

from mtseg import asking
from mtseg.config import Config
from mtseg.data.batch import Batch, Crops
from mtseg.data.scenes import Scenes
from mtseg.data.source import IGNORE
from mtseg.ema import Ema
from mtseg.ensemble import Ensemble
from mtseg.geometry import View
from mtseg.losses import Kl, SoftCrossEntropy, Squared, Tau, one_hot
from mtseg.memory import Memory as TeacherMemory
from mtseg.method import Branch, Method
from mtseg.mix import Bands, ClassMix, CutMix, MixUp, NoMix
from mtseg.models.smp import Smp
from mtseg.optim import Sgd
from mtseg.perturb import ChannelDropout, Vat
from mtseg.schedules import Constant, Rampup
from mtseg.state import State
from mtseg.step import train_step
from mtseg.targets import Adaptive, Hard, LowEntropy, Moment, Sharpen
from mtseg.task import Task
from mtseg.teachers import Itself
from mtseg.views import Views

CLASSES = 4
SIZE = (48, 64)
VIEWS = Views(crop=SIZE)
IMAGE = (300, 400)  # height and width of the whole images, in pixels
MOMENT = Moment(step=0, total=100, seed=0)
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

    def __init__(self, said: Tensor) -> None:
        self.said = said

    def answer(self, student: nn.Module, asked: View, index: Tensor) -> View:
        assert len(asked.data) == len(self.said)
        return View(self.said, asked.warp, asked.known)


def answers(batch: int = 2, seed: int = 0) -> Tensor:
    drawn = torch.randn(batch, CLASSES, *SIZE, generator=torch.Generator().manual_seed(seed))
    return (2 * drawn).softmax(1)


def built(rule: Any, student: nn.Module) -> Any:
    return rule.build(student, len(HERE), CLASSES)


def plan(
    method: Method, teacher: Any, batch: Batch, *, student: nn.Module | None = None, moment: Moment = MOMENT
) -> list[Task]:
    student = nn.Identity() if student is None else student
    return method.plan(batch, student=student, teacher=teacher, views=VIEWS, moment=moment, past={}).tasks


def consistency(method: Method, student: nn.Module, teacher: Any, batch: Batch) -> Tensor:
    tasks = plan(method, teacher, batch, student=student)
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


def start(config: Config, student: nn.Module, teacher: Any = None) -> State:
    teacher = built(config.method.teacher, student) if teacher is None else teacher
    return State(student=student, teacher=teacher, optimizer=config.optimizer.build(student))


def copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def move(method: Method, batch: Batch, *, step: int = 0) -> Tensor:
    """How one step moves the student's parameters, in one vector; student and teacher begin apart."""
    config, student = run_of(method), convolutional(0)
    state = start(config, student, built(method.teacher, convolutional(1)))
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
    student, teacher = convolutional(0), built(Ema(), convolutional(1))
    method = Method(distance=distance, frame=frame)
    consistency(method, student, teacher, unlabelled(crops(*HERE), crops(*THERE))).backward()
    for parameter in student.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 1e-5
        assert parameter.grad.isfinite().all()
    assert all(p.grad is None and not p.requires_grad for p in teacher.module.parameters())


@pytest.mark.parametrize("seen", [HERE, THERE], ids=["shared", "own"])
@pytest.mark.parametrize("gradient", ["student", "both"])
def test_gradient_passes_to_both_sides_of_the_squared_difference_where_asked_and_else_to_one(
    gradient: Any, seen: Any
) -> None:
    """The Pi-model's loss, transcribed: the mean over known pixels of |p(x) - W p(y)|^2, p the same network twice."""
    asked = crops(*HERE)
    shown = replace(crops(*seen), image=crops(*THERE).image)  # not what the teacher's side sees
    shown = replace(shown, warp=asked.warp) if seen is HERE else shown
    student, transcribed = convolutional(), convolutional()
    method = Method(teacher=Itself(gradient=gradient), distance=Squared(over_classes="mean"))
    loss = consistency(method, student, built(method.teacher, student), unlabelled(asked, shown))
    loss.backward()

    there, here = asked.view(VIEWS), shown.view(VIEWS)
    answer = transcribed(there.data).softmax(1)
    answer = View(answer if gradient == "both" else answer.detach(), there.warp, there.known).seen_from(here)
    difference = (transcribed(here.data).softmax(1) - answer.data).square().mean(1)
    expected = difference[answer.known[:, 0]].mean()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(student.parameters(), transcribed.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-7, rtol=1e-3)
        assert ours.grad is not None
        assert ours.grad.abs().max() > 1e-5


@pytest.mark.parametrize(
    "method",
    [
        Method(teacher=Itself()),
        Method(teacher=Itself(gradient="both")),
        Method(teacher=Itself(mode="eval")),
        Method(branches=(Branch(adversary=Vat(iterations=2)),)),
        Method(teacher=Ema(mode="train"), branches=(Branch(), Branch(sees="teacher"))),
        Method(teacher=TeacherMemory(size=(12, 16))),
    ],
    ids=str,
)
def test_running_statistics_of_the_student_come_of_its_one_forward_of_the_whole_batch(method: Method) -> None:
    """Whoever else asks it in between: their mean after a step is 0.9 old + 0.1 of the batch that it learns from."""
    student = convolutional()
    state = start(run_of(method), student)
    seen: list[Tensor] = []
    student[0].register_forward_hook(lambda _, images, maps: seen.append(maps.detach()))  # type: ignore[index, operator]
    train_step(run_of(method), state, unlabelled(crops(*HERE), crops(*THERE)))
    assert student[1].num_batches_tracked == 1  # type: ignore[index]
    assert len(seen[-1]) == 2 + 2 * len(method.branches)
    torch.testing.assert_close(student[1].running_mean, 0.1 * seen[-1].mean((0, 2, 3)))  # type: ignore[index]


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_step_without_labels_moves_every_student_parameter_and_the_teacher_by_its_average_only(mode: Any) -> None:
    method = Method(teacher=Ema(decay=0.9, mode=mode), weight=10)
    config, student = run_of(method), convolutional(0)
    state = start(config, student, built(method.teacher, convolutional(1)))
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
    (task,) = plan(method, built(Ema(), pointwise(1)), unlabelled(crops(*HERE), crops(*THERE)))
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
    loss = consistency(method, student, built(Ema(mode="eval"), student), unlabelled(view, view))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert all(p.grad is not None and p.grad.abs().max() < 1e-5 for p in student.parameters())
    other = consistency(method, student, built(Ema(), convolutional(1)), unlabelled(view, view))
    assert other.item() > 1e-3


@pytest.mark.parametrize("frame", ["student", "source"])
def test_a_network_of_single_pixels_agrees_with_itself_under_any_two_warps(frame: Any) -> None:
    network, method = pointwise(), Method(frame=frame)
    teacher = built(Ema(), network)
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
        Method(frame=frame), student, built(Ema(), teacher), unlabelled(crops(*HERE), crops(*THERE))
    ).item()
    assert ours == pytest.approx(overlap_mean(student, teacher), rel=0.03)


def test_shared_geometry_compares_pixel_by_pixel_without_resampling() -> None:
    teacher, view = built(Ema(), convolutional(1)), crops(*HERE)
    (task,) = plan(Method(), teacher, unlabelled(view, replace(crops(*HERE), warp=view.warp)))
    assert torch.equal(task.target.data, teacher.answer(nn.Identity(), view.view(VIEWS), view.index).data)


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
    loss = consistency(method, student, built(Ema(), student), unlabelled(crops(*asked), crops(*seen)))
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


def plain(image: Crops, *colours: int) -> Crops:
    """The same views of images of one colour each."""
    values = torch.tensor(colours, dtype=torch.uint8)[:, None, None, None]
    return replace(image, image=values.expand(-1, *SIZE, 3))


def which(view: View, *colours: int) -> Tensor:
    """(B, H, W): the place in `colours` of the colour that each pixel of a view has."""
    shades = VIEWS.normalise(torch.tensor(colours, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 1, 3))
    return (view.data[:, None, 0] - shades[None, :, 0]).abs().argmin(1)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize(
    "mix", [CutMix(p=1, partner="labelled"), ClassMix(partner="labelled"), Bands(partner="labelled")]
)
def test_pixels_of_a_labelled_partner_have_its_labels_as_target_and_ignored_ones_do_not_count(
    mix: Any, count: int
) -> None:
    draw = torch.Generator().manual_seed(0)
    label = torch.randint(CLASSES, (count, *SIZE), generator=draw).to(torch.uint8)
    label[torch.rand(label.shape, generator=draw) < 0.2] = IGNORE
    there = ((warp(scale=0.5), warp(turn=1), warp(at=(0.1, 0)))[:count], (120, 160, 200)[:count])
    labelled = plain(crops(*there[0], label=label), *there[1])
    asked, seen = plain(crops(*HERE), 0, 40), plain(crops(*BEYOND), 0, 40)
    batch = replace(unlabelled(asked, seen), labelled=labelled)
    (task,) = plan(Method(branches=(Branch(mix=mix),), target=Hard(threshold=0.5)), Says(answers()), batch)
    (whole,) = plan(Method(target=Hard(threshold=0.5)), Says(answers()), batch)
    shown = which(task.seen, 0, 40, *there[1])
    for image in range(2):
        partner = image % count
        pasted = shown[image] == 2 + partner
        assert torch.equal(shown[image] == image, ~pasted)  # its own image, or its partner's
        assert 0.05 < pasted.float().mean() < 0.95
        labels = label[partner].long()
        counted = pasted & (labels != IGNORE)
        assert torch.equal(
            task.target.known[image, 0], torch.where(pasted, labels != IGNORE, whole.target.known[image, 0])
        )
        assert torch.equal(task.target.data[image].argmax(0)[counted], labels[counted])
        assert (task.target.data[image].amax(0)[counted] == 1).all()
        assert (task.weight[image, 0][counted] == 1).all()
        assert torch.equal(task.target.data[image, :, ~pasted], whole.target.data[image, :, ~pasted])
        assert torch.equal(task.weight[image, 0][~pasted], whole.weight[image, 0][~pasted])


def test_ignored_pixels_of_a_labelled_partner_change_neither_loss_nor_gradient() -> None:
    label = torch.zeros(2, *SIZE, dtype=torch.uint8)
    label[:, ::2] = IGNORE
    method = Method(branches=(Branch(mix=MixUp(partner="labelled")),))
    batch = replace(unlabelled(crops(*HERE), crops(*HERE)), labelled=crops(*THERE, label=label))
    (task,) = plan(method, Says(answers()), batch)
    logits = (10 * answers(seed=3)).requires_grad_()
    loss = method.consistency((logits,), [task])
    loss.backward()
    assert loss > 0
    assert logits.grad is not None
    reached = logits.grad.abs().sum(1) > 0
    assert not reached[:, ::2].any()
    assert reached[:, 1::2].any()


def test_mixing_is_a_function_of_the_generator() -> None:
    method, batch = Method(branches=(Branch(mix=CutMix(p=1)),)), unlabelled(crops(*HERE), crops(*THERE))
    one, again, other = (plan(method, Says(answers()), batch, moment=Moment(0, 100, seed))[0] for seed in (0, 0, 1))
    assert torch.equal(one.seen.data, again.seen.data)
    assert torch.equal(one.target.data, again.target.data)
    assert not torch.equal(one.seen.data, other.seen.data)


def test_source_frame_with_mixed_images_is_refused() -> None:
    with pytest.raises(ValueError, match="frame: student"):
        Method(frame="source", branches=(Branch(), Branch(mix=CutMix())))


# --- branches


def test_a_branch_that_sees_the_teachers_view_sees_its_very_pixels_and_the_others_their_own() -> None:
    here, there, beyond = crops(*HERE), crops(*THERE), crops(*BEYOND)
    sees: Any = ("teacher", "student", "teacher", "student")
    method = Method(branches=tuple(Branch(sees=whose) for whose in sees))
    assert method.views_of_student == 2
    said = answers()
    tasks = plan(method, Says(said), unlabelled(here, there, beyond))
    for task, of in zip(tasks, (here, there, here, beyond), strict=True):
        assert torch.equal(task.seen.data, of.view(VIEWS).data)
        assert task.seen.warp is of.warp
        assert torch.equal(task.index, here.index)
    for task in (tasks[0], tasks[2]):
        assert torch.equal(task.target.data, said)  # not resampled
        assert torch.equal(task.target.known, here.view(VIEWS).known)


def test_each_branch_has_the_distance_of_its_own_or_else_the_methods() -> None:
    here, there, beyond = crops(*HERE), crops(*THERE), crops(*BEYOND)
    student, teacher = convolutional(0).eval(), built(Ema(), convolutional(1))
    one = consistency(Method(distance=Kl()), student, teacher, unlabelled(here, there)).item()
    other = consistency(Method(distance=SoftCrossEntropy()), student, teacher, unlabelled(here, beyond)).item()
    method = Method(distance=Kl(), branches=(Branch(weight=2), Branch(distance=SoftCrossEntropy())))
    both = consistency(method, student, teacher, unlabelled(here, there, beyond)).item()
    assert both == pytest.approx(2 * one + other, rel=1e-5)
    assert abs(one - other) > 0.1 * other


def test_an_adversary_changes_what_the_student_sees_and_not_the_target() -> None:
    student, batch = convolutional(), unlabelled(crops(*HERE), crops(*THERE))
    method = Method(branches=(Branch(adversary=Vat(size=0.3)),))
    (plain_task,) = plan(Method(), Says(answers()), batch, student=student)
    tasks = [plan(method, Says(answers()), batch, student=student, moment=Moment(step, 9))[0] for step in (0, 0, 1)]
    for task in tasks:
        moved = task.seen.data - plain_task.seen.data
        torch.testing.assert_close(moved.square().mean((1, 2, 3)).sqrt(), torch.full((2,), 0.3))
        assert torch.equal(task.target.data, plain_task.target.data)
        assert torch.equal(task.target.known, plain_task.target.known)
    assert torch.equal(tasks[0].seen.data, tasks[1].seen.data)
    assert not torch.equal(tasks[0].seen.data, tasks[2].seen.data)


class Fixed(nn.Module):
    """A student that says what its parameters are, whatever it sees."""

    def __init__(self, images: int) -> None:
        super().__init__()
        drawn = torch.randn(images, CLASSES, *SIZE, generator=torch.Generator().manual_seed(4))
        self.logits = nn.Parameter(2 * drawn)

    def forward(self, images: Tensor, disturb: Any = None) -> Tensor:
        assert len(images) == len(self.logits)
        return self.logits


class SaysOnly(Says):
    """A teacher that learns nothing, and has nothing to learn with."""

    module = nn.Identity()

    module = nn.Identity()

    def update(self, student: nn.Module, tasks: Any, logits: Any) -> None:
        pass


def test_unimatchs_loss_is_its_equation() -> None:
    """(L_x + 1/4 L_s1 + 1/4 L_s2 + 1/2 L_fp) / 2, each unsupervised term the cross-entropy with the teacher's class
    where it is sure and the image is known, divided by the known pixels (UniMatch, Yang et al. 2023, unimatch.py)."""
    strong = Branch(weight=0.25, mix=CutMix(p=1, area=(0.2, 0.4)))
    method = Method(
        supervised_weight=0.5,
        weight=0.5,
        target=Hard(threshold=0.6),
        distance=SoftCrossEntropy(),
        branches=(strong, strong, Branch(weight=0.5, sees="teacher", features=ChannelDropout())),
    )
    asked = plain(crops(*BEYOND), 0, 200)
    shown = [replace(plain(crops(*BEYOND), 0, 200), warp=asked.warp) for _ in range(2)]
    label = torch.randint(CLASSES, (2, *SIZE), generator=torch.Generator().manual_seed(5)).to(torch.uint8)
    label[:, :9] = IGNORE
    batch = Batch(crops(*HERE, label=label), asked, tuple(shown))
    config, student, said = run_of(method), Fixed(2 + 3 * 2), answers(seed=6)
    state = State(student=student, teacher=SaysOnly(said), optimizer=config.optimizer.build(student))  # type: ignore[arg-type]
    logits = student.logits.detach().clone().double().requires_grad_()
    terms = train_step(config, state, batch)

    def cross_entropy(values: Tensor, classes: Tensor) -> Tensor:
        return -values.log_softmax(1).gather(1, classes[:, None])[:, 0]

    known = asked.view(VIEWS).known[:, 0]
    confidence, classes = said.max(1)
    x, s1, s2, fp = logits.split(2)
    counted = label != IGNORE
    total = cross_entropy(x, label.long().clamp(max=CLASSES - 1))[counted].sum() / counted.sum()
    mixed = plan(method, Says(said), batch)
    shares = []
    for weight, values, task in ((0.25, s1, mixed[0]), (0.25, s2, mixed[1]), (0.5, fp, mixed[2])):
        own = which(task.seen, 0, 200)  # the image that each pixel is of
        valid, sure, aim = (of.gather(0, own) for of in (known, confidence >= 0.6, classes))
        total = total + weight * (cross_entropy(values, aim) * (sure & valid)).sum() / valid.sum()
        shares.append((own != torch.arange(2)[:, None, None]).float().mean().item())
    assert min(shares[:2]) > 0.1
    assert shares[2] == 0
    assert 0.3 < known.float().mean() < 0.95
    (total / 2).backward()
    assert float(terms["loss"]) == pytest.approx(total.item() / 2, rel=1e-5)
    assert logits.grad is not None
    moved = (logits - student.logits).detach() / 0.5  # by plain SGD of rate 0.5
    torch.testing.assert_close(moved, logits.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("step", [0, 3, 4])
def test_features_are_disturbed_in_the_step_as_the_method_says(step: int) -> None:
    """Complementary halves, on the branches' places of the batch alone, drawn anew at each step."""

    class Recording(Fixed):
        def forward(self, images: Tensor, disturb: Any = None) -> Tensor:
            self.factors = disturb([images, torch.ones(len(images), 50, 2, 2)])[1]
            return super().forward(images)

    branches = tuple(Branch(features=ChannelDropout(half=half)) for half in ("first", "second"))  # type: ignore[arg-type]
    method = Method(branches=branches)
    config, student = run_of(method), Recording(6)
    state = State(student=student, teacher=SaysOnly(answers()), optimizer=config.optimizer.build(student))  # type: ignore[arg-type]
    state.step = step
    train_step(config, state, unlabelled(crops(*HERE), crops(*THERE), crops(*THERE)))
    labelled, one, other = student.factors.split(2)
    assert (labelled == 1).all()
    assert torch.equal(one + other, torch.full_like(one, 2))
    expected = asking.disturbance(
        method,
        plan(method, Says(answers()), unlabelled(crops(*HERE), crops(*THERE), crops(*THERE))),
        after=2,
        moment=Moment(step, 100),
    )
    assert expected is not None
    assert torch.equal(expected([labelled, torch.ones(6, 50, 2, 2)])[1], student.factors)
    assert (one[0] != one[1]).any()


# --- what counts


@pytest.mark.parametrize("mean_over", ["known", "counted"])
@pytest.mark.parametrize("threshold", [0.0, 0.6, 0.9])
def test_the_mean_is_over_the_known_or_over_the_counted_pixels(threshold: float, mean_over: Any) -> None:
    method = Method(target=Hard(threshold=threshold), distance=SoftCrossEntropy(), mean_over=mean_over)
    said = answers()
    batch = unlabelled(crops(*BEYOND), replace(crops(*BEYOND), image=crops(*THERE).image))
    batch = replace(batch, students=(replace(batch.students[0], warp=batch.teacher.warp),))  # type: ignore[union-attr]
    (task,) = plan(method, Says(said), batch)
    logits = torch.randn(2, CLASSES, *SIZE, generator=torch.Generator().manual_seed(2))
    known = crops(*BEYOND).view(VIEWS).known[:, 0].numpy()
    p, z = said.numpy().astype(np.float64), logits.numpy().astype(np.float64)
    losses = np.log(np.exp(z).sum(1)) - np.take_along_axis(z, p.argmax(1)[:, None], 1)[:, 0]
    kept = known & (said.amax(1).numpy() >= threshold)
    assert 0 < kept.sum() <= known.sum() < known.size
    expected = losses[kept].sum() / (known.sum() if mean_over == "known" else kept.sum())
    assert method.consistency((logits,), [task]).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weight", [1.0, 1e-3])
def test_the_mean_over_the_counted_pixels_is_whole_however_few_they_are(weight: float) -> None:
    size = (1500, 1500)
    seen = View(torch.zeros(1, 3, *size), torch.eye(3, dtype=torch.float64)[None], torch.ones(1, 1, *size).bool())
    target = View(one_hot(torch.zeros(1, *size, dtype=torch.long), 2), seen.warp, seen.known)
    kept = torch.zeros(1, 1, *size)
    kept[..., 7, 9] = weight
    task = Task(seen, target, kept, torch.zeros(1, dtype=torch.long), torch.ones(1))
    method = Method(distance=SoftCrossEntropy(), mean_over="counted")
    assert method.consistency((torch.zeros(1, 2, *size),), [task]).item() == pytest.approx(np.log(2), rel=1e-5)


@pytest.mark.parametrize("mean_over", ["known", "counted"])
@pytest.mark.parametrize("distance", [*DISTANCES, SoftCrossEntropy()], ids=str)
@pytest.mark.parametrize("target", [Hard(threshold=1.0), Adaptive(start=1.0, momentum=1.0)], ids=str)
def test_a_batch_without_one_sure_pixel_gives_zero_and_zero_gradients(
    target: Any, distance: Any, mean_over: Any
) -> None:
    student = convolutional()
    method = Method(target=target, distance=distance, mean_over=mean_over)
    batch = unlabelled(crops(*HERE), crops(*THERE))
    (task,) = plan(method, Says(answers()), batch)
    assert task.target.known.any()
    loss = consistency(method, student, Says(answers()), batch)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and (p.grad == 0).all() for p in student.parameters())


@pytest.mark.parametrize("mean_over", ["known", "counted"])
@pytest.mark.parametrize("target", [Hard(), LowEntropy(), Adaptive(), Adaptive(per_class=True), Sharpen()], ids=str)
def test_a_step_of_which_nothing_is_known_changes_no_weight(target: Any, mean_over: Any) -> None:
    """No label, no overlap: every term is 0 / 0 unless it is meant."""
    method = Method(target=target, mean_over=mean_over, weight=10)
    moved = move(method, unlabelled(crops(*HERE), crops(*NOWHERE)))
    assert (moved == 0).all()


def test_what_targets_remember_is_handed_on_and_not_changed_in_place() -> None:
    method = Method(target=Adaptive(momentum=0.5), branches=(Branch(), Branch()))
    before = {"threshold": torch.full((CLASSES,), 0.5), "of another": torch.ones(1)}
    copies = {name: tensor.clone() for name, tensor in before.items()}
    batch = unlabelled(crops(*HERE), crops(*THERE), crops(*HERE))
    after = method.plan(
        batch, student=nn.Identity(), teacher=Says(answers()), views=VIEWS, moment=MOMENT, past=before
    ).past
    assert all(torch.equal(before[name], tensor) for name, tensor in copies.items())
    assert (after["threshold"] != 0.5).all()
    assert torch.equal(after["of another"], before["of another"])
    unasked = method.plan(
        replace(batch, teacher=None),
        student=nn.Identity(),
        teacher=Says(answers()),
        views=VIEWS,
        moment=MOMENT,
        past=before,
    )
    assert unasked.past is before


# --- weights


def test_supervised_weight_scales_the_labelled_term_and_no_other() -> None:
    label = torch.randint(CLASSES, (2, *SIZE), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    batch = replace(unlabelled(crops(*HERE), crops(*THERE)), labelled=crops(*HERE, label=label))
    by_labels = move(Method(weight=0), batch)
    torch.testing.assert_close(
        move(Method(weight=0, supervised_weight=0.25), batch), 0.25 * by_labels, rtol=1e-3, atol=1e-6
    )
    both, quarter = move(Method(weight=3), batch), move(Method(weight=3, supervised_weight=0.25), batch)
    torch.testing.assert_close(both - quarter, 0.75 * by_labels, rtol=1e-3, atol=1e-5)
    assert by_labels.norm() > 1e-3
    assert (both - by_labels).norm() > 1e-3


def test_branches_add_up_with_their_weights() -> None:
    here, there, beyond = crops(*HERE), crops(*THERE), crops(*BEYOND)
    student, teacher = convolutional(0).eval(), built(Ema(), convolutional(1))
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
    assert plan(method, built(Ema(), student), Batch(labelled, None, ())) == []
    assert method.consistency((), []).item() == 0

    loss = nn.functional.cross_entropy(student(labelled.view(VIEWS).data), label.long(), ignore_index=IGNORE)
    loss.backward()
    expected = torch.cat([-0.5 * p.grad.flatten() for p in student.parameters() if p.grad is not None])
    moved = move(method, Batch(labelled, None, ()))
    assert moved.norm() > 1e-3
    torch.testing.assert_close(moved, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight": -1.0},
        {"frame": "teacher"},
        {"branches": ({"weight": 0.0},)},
        {"branches": ({"sees": "labelled"},)},
        {"supervised_weight": 0.0},
        {"mean_over": "all"},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Method(**wrong)


OWN = Ema(mode="train", buffers="own")
BOTH = Itself(gradient="both")


@pytest.mark.parametrize(
    ("impossible", "remedy"),
    [
        ({"teacher": TeacherMemory(size=(4, 4)), "branches": (Branch(mix=CutMix()),)}, "mix another"),
        ({"teacher": TeacherMemory(size=(4, 4)), "branches": (Branch(mix=MixUp()), Branch())}, "mix another"),
        ({"teacher": BOTH, "distance": Kl()}, "gradient: student"),
        ({"teacher": BOTH, "branches": (Branch(), Branch(distance=Kl()))}, "gradient: student"),
        ({"teacher": BOTH, "target": Hard()}, "gradient: student"),
        ({"teacher": BOTH, "target": Sharpen()}, "gradient: student"),
        ({"teacher": OWN, "branches": ()}, "buffers=average"),
        ({"teacher": Ensemble(every=2, of=OWN), "branches": ()}, "buffers=average"),
    ],
    ids=str,
)
def test_impossible_combination_is_refused_with_its_remedy(impossible: dict[str, Any], remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        Method(**impossible)


@pytest.mark.parametrize(
    "possible",
    [
        {"teacher": TeacherMemory(size=(4, 4)), "branches": (Branch(), Branch(mix=CutMix()))},
        {"teacher": TeacherMemory(size=(4, 4)), "branches": ()},
        {"teacher": BOTH, "distance": Kl(), "branches": (Branch(distance=Squared(over_classes="sum")),)},
        {"teacher": OWN},
        {"teacher": Ensemble(every=2, of=OWN)},
        {"frame": "source", "branches": (Branch(mix=NoMix()),)},
    ],
    ids=str,
)
def test_combinations_next_to_the_impossible_are_taken(possible: dict[str, Any]) -> None:
    method = Method(**possible)
    assert {key: getattr(method, key) for key in possible} == possible


def test_unsure_images_are_mixed_by_the_teachers_confidence_also_where_targets_are_hard() -> None:
    """A hard target is sure of everything; what counts is how sure the teacher was."""
    mixed = {}
    for name, sharpness in (("unsure", 0.0), ("sure", 50.0)):
        said = torch.zeros(2, CLASSES, *SIZE)
        said[:, 0] = sharpness
        method = Method(target=Hard(threshold=0.0), branches=(Branch(mix=CutMix(unsure=True, area=(0.4, 0.5))),))
        batch = unlabelled(crops(*HERE), crops(*HERE))
        tasks = [
            plan(method, Says(said.softmax(1)), batch, moment=Moment(step, 100))[0].seen.data for step in range(40)
        ]
        plain = plan(Method(), Says(said.softmax(1)), batch)[0].seen.data
        mixed[name] = sum(not torch.equal(seen, plain) for seen in tasks)
    assert mixed["sure"] == 0
    assert mixed["unsure"] == 40  # a teacher that knows nothing


def test_a_step_is_remembered_once_as_the_first_branch_sees_it_whatever_the_number_of_branches() -> None:
    def threshold(*students: tuple[NDArray[np.float64], ...]) -> Tensor:
        batch = unlabelled(crops(*HERE), *(crops(*warps) for warps in students))
        method = Method(target=Adaptive(momentum=0.5), branches=(Branch(),) * len(students))
        made = method.plan(batch, student=nn.Identity(), teacher=Says(answers()), views=VIEWS, moment=MOMENT, past={})
        return made.past["threshold"]

    one, other = threshold(THERE), threshold(BEYOND)
    assert not torch.equal(one, other)
    assert torch.equal(threshold(THERE, BEYOND, BEYOND), one)
    assert torch.equal(threshold(BEYOND, BEYOND, THERE), other)


def test_two_plain_branches_drop_channels_of_their_own_and_a_pair_of_halves_the_same() -> None:
    def gains(*features: ChannelDropout) -> list[Tensor]:
        method = Method(branches=tuple(Branch(features=one) for one in features))
        batch = unlabelled(crops(*HERE), *[crops(*HERE)] * len(features))
        disturb = asking.disturbance(method, plan(method, Says(answers()), batch), after=1, moment=MOMENT)
        assert disturb is not None
        maps = torch.ones(1 + 2 * len(features), 64, 3, 3)
        return list(disturb([maps, maps])[1][1:, :, 0, 0].split(2))

    one, two = gains(ChannelDropout(), ChannelDropout())
    assert not torch.equal(one, two)
    first, second = gains(ChannelDropout(half="first"), ChannelDropout(half="second"))
    assert torch.equal(first + second, torch.full_like(first, 2.0))


def test_with_two_heads_labels_teach_the_first_the_teacher_the_second_and_their_distance_both() -> None:
    """Against a direct transcription, with two fixed tensors for the heads' logits."""
    torch.manual_seed(0)
    first, second = (torch.randn(4, CLASSES, *SIZE, requires_grad=True) for _ in range(2))

    class TwoHeads(nn.Module):
        def forward(self, images: Tensor, disturb: Any = None, *, both: bool = False) -> Any:
            return (first, second) if both else first

    method = Method(logit_distance=0.3)
    logits, agreeing = asking.answers(method, TwoHeads(), torch.zeros(4, 3, *SIZE), None)
    (task,) = plan(method, Says(answers()), unlabelled(crops(*HERE), crops(*THERE)))
    label = torch.randint(0, CLASSES, (2, *SIZE))
    loss = method.supervised(logits[:2], label) + method.consistency([agreeing[2:]], [task])
    loss = loss + method.head_cost(logits, agreeing)
    squared = (second[2:].softmax(1) - task.target.data).square().sum(1)
    expected = (
        nn.functional.cross_entropy(first[:2], label)
        + squared[task.target.known[:, 0]].mean()
        + 0.3 * (first - second).square().sum() / (4 * SIZE[0] * SIZE[1])
    )
    torch.testing.assert_close(loss, expected)
    one = Method()
    assert float(one.head_cost(*asking.answers(one, nn.Identity(), torch.ones(2, 3), None))) == 0
