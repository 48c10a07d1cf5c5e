"""Teachers: the EMA's trajectory in closed form and in torch's own, its buffers, and that no gradient reaches it; what
the student says for itself, what is remembered of each image, and who of an ensemble follows when."""

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torchvision.transforms.functional import resize

from mtseg.ema import Ema, EmaTeacher
from mtseg.ensemble import Ensemble, Panel
from mtseg.geometry import View
from mtseg.losses import Squared
from mtseg.memory import Memory, MemoryTeacher
from mtseg.task import Task
from mtseg.teachers import Itself, Peer
from mtseg.tta import Augment


def network(seed: int = 0) -> nn.Sequential:
    """Convolution, batch normalisation (float and integer buffers), dropout, classifier."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 5, 1))


def images(seed: int = 0) -> Tensor:
    return torch.randn(4, 3, 6, 7, generator=torch.Generator().manual_seed(seed))


def as_view(data: Tensor, warp: Tensor | None = None, known: Tensor | None = None) -> View:
    """`data` as a view of whole images, unless a `warp` is given; known everywhere, unless `known` is."""
    b, _, h, w = data.shape
    warp = torch.eye(3, dtype=torch.float64).repeat(b, 1, 1) if warp is None else warp
    return View(data, warp, torch.ones(b, 1, h, w, dtype=torch.bool) if known is None else known)


def built(rule: Any, student: nn.Module, images: int = 4, classes: int = 5) -> Any:
    return rule.build(student, images, classes)


def predict(teacher: Any, data: Tensor, student: nn.Module | None = None, index: Any = (0, 1, 2, 3)) -> Tensor:
    """A teacher's answer for whole images, as probabilities alone."""
    return teacher.answer(nn.Identity() if student is None else student, as_view(data), torch.tensor(index)).data


@torch.no_grad()
def shake(student: nn.Module, seed: int) -> None:
    """What an optimizer step and a forward would do: every parameter and every buffer changes."""
    draw = torch.Generator().manual_seed(seed)
    for parameter in student.parameters():
        parameter += torch.randn(parameter.shape, generator=draw)
    for buffer in student.buffers():
        if buffer.is_floating_point():
            buffer += torch.rand(buffer.shape, generator=draw)
        else:
            buffer += 7


def vector(tensors: Any) -> NDArray[np.float64]:
    return torch.cat([t.detach().double().flatten() for t in tensors]).numpy()


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def buffers(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.named_buffers()}


def follow(rule: Ema, updates: int) -> tuple[EmaTeacher, list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """A teacher after `updates`, and the student's and the teacher's parameters after each."""
    student = network()
    teacher = built(rule, student)
    students, teachers = [], []
    for update in range(updates):
        shake(student, update)
        teacher.update(student)
        students.append(vector(student.parameters()))
        teachers.append(vector(teacher.module.parameters()))
    return teacher, students, teachers


# --- the trajectory


def test_teacher_is_the_plain_mean_of_all_students_while_the_warmup_lasts() -> None:
    """With a = 1 - 1 / (t + 1) the average telescopes: no trace is left of how the teacher began."""
    _, students, teachers = follow(Ema(decay=0.99), 90)  # 1 - 1 / 90 < 0.99
    for count in (1, 2, 10, 90):
        np.testing.assert_allclose(teachers[count - 1], np.mean(students[:count], axis=0), atol=2e-5)


@pytest.mark.parametrize(
    "rule",
    [
        Ema(decay=0.9),
        Ema(decay=0.99),
        Ema(decay=0.99, early_decay=0.8, early_steps=37),
        Ema(decay=0.8, early_decay=0.95, early_steps=60),
        Ema(decay=1.0),
        Ema(decay=0.9, span=0.1),
        Ema(decay=0.99, early_decay=0.8, early_steps=37, span=0.3),
    ],
    ids=str,
)
def test_teacher_is_the_weighted_sum_of_students_that_the_decays_make(rule: Ema) -> None:
    """theta'_T = sum over t of (1 - a_t) a_{t+1} ... a_T theta_t, with a_t = min(1 - 1 / (span t + 1), limit at t)."""
    count = 150
    _, students, teachers = follow(rule, count)
    limits = [rule.early_decay if rule.early_decay and t < rule.early_steps else rule.decay for t in range(count)]
    decays = np.minimum(1 - 1 / (rule.span * np.arange(count) + 1), limits)
    for last in (0, 1, 9, 36, 37, 38, 60, 149):
        weights = [(1 - decays[t]) * np.prod(decays[t + 1 : last + 1]) for t in range(last + 1)]
        assert sum(weights) == pytest.approx(1)  # decays[0] is 0: the first update copies
        np.testing.assert_allclose(teachers[last], np.array(weights) @ np.array(students[: last + 1]), atol=5e-5)


@pytest.mark.parametrize("span", [0.02, 0.1, 0.5, 1.0])
def test_an_average_with_a_span_lags_behind_by_that_share_of_the_updates_so_far(span: float) -> None:
    """With a = 1 - 1 / (s t + 1) the mean age of the weights tends to s / (1 + s) of t: the half of it for s = 1."""
    rule, age = Ema(decay=1.0, span=span), 0.0
    for update in range(20_000):
        age = rule.decay_at(update) * (age + 1)
    assert age / 20_000 == pytest.approx(span / (1 + span), rel=0.01)


def test_what_is_averaged_without_a_say_in_the_answers_is_averaged_alike() -> None:
    """As supervised-only's weights are, when it is compared with a method."""
    rule = Ema(decay=0.95, early_decay=0.5, early_steps=37, span=0.1, mode="train", buffers="own")
    assert {rule.decay_at(t) for t in range(20, 37)} == {0.5}
    assert [rule.averaging().decay_at(t) for t in range(300)] == [rule.decay_at(t) for t in range(300)]
    assert (rule.averaging().mode, rule.averaging().buffers) == ("eval", "average")


def test_early_decay_holds_for_exactly_its_number_of_updates() -> None:
    rule = Ema(decay=0.999, early_decay=0.5, early_steps=1000)
    assert rule.decay_at(999) == 0.5
    assert rule.decay_at(1000) == 0.999


@pytest.mark.parametrize("buffers", ["average", "copy"])
def test_teacher_is_torchs_averaged_model(buffers: Any) -> None:
    def average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        decay = min(1 - 1 / (int(count) + 1), 0.9)
        return decay * averaged + (1 - decay) * current

    student = network()
    teacher = built(Ema(decay=0.9, buffers=buffers), student)
    # Without use_buffers torch copies them.
    theirs = AveragedModel(student, avg_fn=average, use_buffers=buffers == "average")
    for update in range(40):
        shake(student, update)
        teacher.update(student)
        theirs.update_parameters(student)
        for ours, expected in zip(teacher.module.parameters(), theirs.module.parameters(), strict=True):
            torch.testing.assert_close(ours, expected)
        for ours, expected in zip(teacher.module.buffers(), theirs.module.buffers(), strict=True):
            if ours.is_floating_point():  # torch averages integers and truncates; ours are copied
                torch.testing.assert_close(ours, expected)


def test_state_dict_keeps_the_place_in_the_warmup_and_in_the_early_decay() -> None:
    rule = Ema(decay=0.999, early_decay=0.9, early_steps=8)
    student = network()
    whole = built(rule, student)
    for update in range(5):
        shake(student, update)
        whole.update(student)
    resumed, fresh = built(rule, network(1)), built(rule, network(1))
    for other in (resumed, fresh):
        other.module.load_state_dict(whole.module.state_dict())
    resumed.load_state_dict(whole.state_dict())
    for update in range(5, 15):
        shake(student, update)
        for teacher in (whole, resumed, fresh):
            teacher.update(student)
    assert same(state(whole.module), state(resumed.module))
    assert not same(state(whole.module), state(fresh.module))  # so the saved count mattered


@pytest.mark.parametrize("buffers", ["average", "copy"])
def test_decay_zero_makes_the_teacher_the_student_to_the_bit(buffers: Any) -> None:
    student = network()
    teacher = built(Ema(decay=0.0, buffers=buffers), student)
    for update in range(5):
        shake(student, update)
        teacher.update(student)
        assert same(state(teacher.module), state(student))


def test_update_leaves_the_student_as_it_is() -> None:
    student = network()
    teacher = built(Ema(), student)
    for update in range(3):
        shake(student, update)
        before = state(student)
        teacher.update(student)
        assert same(before, state(student))
        shaken = state(teacher.module)
        shake(student, 100 + update)  # the first update copies: into the teacher's own memory
        assert same(shaken, state(teacher.module))


# --- buffers


def test_averaged_buffers_are_averaged_like_parameters() -> None:
    student = network()
    teacher = built(Ema(decay=0.9, buffers="average"), student)
    expected = vector([student[1].running_mean, student[1].running_var])
    for update in range(30):
        shake(student, update)
        teacher.update(student)
        a = min(1 - 1 / (update + 1), 0.9)
        expected = a * expected + (1 - a) * vector([student[1].running_mean, student[1].running_var])
    np.testing.assert_allclose(vector([teacher.module[1].running_mean, teacher.module[1].running_var]), expected)


@pytest.mark.parametrize("buffers", ["average", "copy"])
def test_integer_buffers_are_copied(buffers: Any) -> None:
    student = network()
    teacher = built(Ema(decay=0.9, buffers=buffers), student)
    for update in range(4):
        shake(student, update)
        teacher.update(student)
        assert teacher.module[1].num_batches_tracked == student[1].num_batches_tracked == 7 * (update + 1)


def test_copied_buffers_are_the_students_while_parameters_are_averaged() -> None:
    student = network()
    teacher = built(Ema(decay=0.9, buffers="copy"), student)
    for update in range(4):
        shake(student, update)
        teacher.update(student)
    assert same(buffers(teacher.module), buffers(student))
    assert not torch.equal(teacher.module[0].weight, student[0].weight)


def test_own_buffers_change_by_the_teachers_forwards_and_never_by_updates() -> None:
    student = network()
    teacher = built(Ema(mode="train", buffers="own"), student)
    before = buffers(teacher.module)
    for update in range(3):
        shake(student, update)
        teacher.update(student)
    assert same(before, buffers(teacher.module))
    assert not torch.equal(teacher.module[0].weight, network()[0].weight)  # but its parameters did follow
    predict(teacher, images())
    mean = teacher.module[0](images()).mean((0, 2, 3))
    torch.testing.assert_close(teacher.module[1].running_mean, 0.9 * before["1.running_mean"] + 0.1 * mean)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("buffers_", ["average", "copy"])
def test_giving_targets_leaves_followed_weights_and_buffers_alone(mode: Any, buffers_: Any) -> None:
    """Buffers that are said to be the average of the student's, or its copy, are that and nothing else."""
    student = network()
    asked, unasked = (built(Ema(decay=0.9, mode=mode, buffers=buffers_), student) for _ in range(2))
    for update in range(4):
        shake(student, update)
        predict(asked, images(update))
        for teacher in (asked, unasked):
            teacher.update(student)
        predict(asked, images(update))
        assert same(state(asked.module), state(unasked.module))


# --- predictions


@pytest.mark.parametrize("rule", [Ema(mode="train"), Ema(mode="train", buffers="own"), Ema(mode="eval")], ids=str)
def test_prediction_is_a_distribution_over_classes_without_gradient(rule: Ema) -> None:
    answer = predict(built(rule, network()), images().requires_grad_())
    assert answer.shape == (4, 5, 4, 5)
    assert answer.dtype == torch.float32
    assert not answer.requires_grad
    assert answer.min() > 0
    torch.testing.assert_close(answer.sum(1), torch.ones(4, 4, 5))


def test_mode_eval_predicts_with_running_statistics_and_without_dropout() -> None:
    student = network()
    shake(student, 0)
    teacher = built(Ema(mode="eval"), student)
    student.eval()
    expected = student(images()).softmax(1)
    for _ in range(2):
        assert torch.equal(predict(teacher, images()), expected)
        teacher.module.train()  # whatever was done to it in between


@pytest.mark.parametrize("buffers", ["average", "copy", "own"])
def test_mode_train_predicts_with_statistics_of_the_batch_and_with_dropout(buffers: Any) -> None:
    student = network()
    shake(student, 0)
    teacher = built(Ema(mode="train", buffers=buffers), student)
    teacher.module.eval()  # as evaluation leaves it
    torch.manual_seed(3)
    ours = predict(teacher, images())
    torch.manual_seed(3)
    torch.testing.assert_close(ours, student.train()(images()).softmax(1))
    assert not torch.equal(ours, predict(teacher, images()))  # dropout draws anew


class Sides(nn.Module):
    """Two classes: a kernel's answer, which mirroring changes, and the width that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Conv2d(3, 1, 3, padding=1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        width = torch.full((len(images), 1, *images.shape[2:]), images.shape[3] / 10)
        return torch.cat([self.kernel(images), width], 1)


@pytest.mark.parametrize("of", [Ema, Itself, lambda **settings: Ensemble(every=1, of=Ema(**settings))])
def test_augmented_targets_are_the_mean_of_the_answers_to_each_scale_and_its_mirror_image(of: Any) -> None:
    """The oracle asks one by one, resizes by torchvision, and turns rows around in numpy."""
    torch.manual_seed(0)
    student, data = Sides(), images()
    found = predict(built(of(augment=Augment(scales=(1.0, 0.5, 2.0), flip=True)), student), data, student)
    answers = []
    for size in ((6, 7), (3, 4), (12, 14)):
        scaled = resize(data, list(size), antialias=True)
        for step in (1, -1):
            turned = torch.from_numpy(scaled.numpy()[..., ::step].copy())
            logits = torch.from_numpy(student(turned).detach().numpy()[..., ::step].copy())
            answers.append(resize(logits, [6, 7], antialias=False).softmax(1))
    torch.testing.assert_close(found, torch.stack(answers).mean(0))
    assert all(not torch.allclose(found, answer, atol=1e-3) for answer in answers)


def test_an_augmented_answer_for_images_as_wholes_is_the_mean_of_both_sides() -> None:
    torch.manual_seed(0)
    student = nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 7, 5))
    found = predict(built(Ema(augment=Augment(flip=True)), student), images())
    both = [student(images()).softmax(1), student(images().flip(-1)).softmax(1)]
    torch.testing.assert_close(found, sum(both) / 2)
    assert not torch.allclose(*both)


def test_the_gradient_to_both_sides_passes_through_each_augmented_answer() -> None:
    """By finite differences: the distance's slope along the gradient."""
    torch.manual_seed(0)
    student = Sides()
    rule, data = Itself(gradient="both", augment=Augment(scales=(1.0, 2.0), flip=True)), images()
    drawn = torch.rand(4, 2, 6, 7, generator=torch.Generator().manual_seed(1))

    def cost() -> Tensor:
        return (predict(built(rule, student), data, student) * drawn).sum()

    cost().backward()
    weight = student.kernel.weight
    slope = weight.grad.clone()
    values = []
    for step in (1e-2, -1e-2):
        with torch.no_grad():
            weight += step * slope
            values.append(float(cost()))
            weight -= step * slope
    assert (values[0] - values[1]) / 2e-2 == pytest.approx(float((slope**2).sum()), rel=1e-3)


def test_cost_is_the_number_of_pixels_that_networks_see() -> None:
    seen: list[int] = []
    student = network()
    student.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[-2:].numel()))
    asked = images()
    many = Augment(scales=(1.0, 2.0), flip=True)
    for rule in (
        *(Ema(), Ema(augment=many), Itself(), Itself(augment=many), Memory(size=(6, 7))),
        *(Ensemble(every=1, answer=answer, of=Ema(augment=many)) for answer in ("mean", "current")),
    ):
        seen.clear()
        predict(built(rule, student), asked, student)
        assert rule.cost == sum(seen) / asked.shape[-2:].numel()


def test_teacher_never_requires_or_gets_a_gradient() -> None:
    student = network()
    teacher = built(Ema(), student)
    for update in range(3):
        (student(images()) * predict(teacher, images())).sum().backward()
        shake(student, update)
        teacher.update(student)
        assert all(not p.requires_grad and p.grad is None for p in teacher.module.parameters())
    assert all(p.requires_grad and p.grad is not None for p in student.parameters())  # the student keeps its own


# --- precision


def test_teacher_is_float32_and_averages_in_float32_whatever_the_students_precision() -> None:
    """In bfloat16 a step of 1 / 1000 of the way is lost: 1 + 2^-8 is the next number after 1."""
    student = nn.Linear(2, 2, bias=False).bfloat16()
    nn.init.zeros_(student.weight)
    teacher = built(Ema(decay=0.999), student)
    teacher.load_state_dict({"updates": 10_000})
    nn.init.ones_(student.weight)
    for _ in range(1000):
        teacher.update(student)
    assert student.weight.dtype == torch.bfloat16
    assert {t.dtype for t in teacher.module.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(teacher.module.weight, torch.full((2, 2), 1 - 0.999**1000), rtol=1e-4, atol=0)


def test_buffers_of_a_bfloat16_student_are_followed_in_float32() -> None:
    student = network().bfloat16()
    teacher = built(Ema(decay=0.5, buffers="average"), student)
    for update in range(3):
        shake(student, update)
        teacher.update(student)
    kinds = {t.dtype for t in teacher.module.state_dict().values()}
    assert kinds == {torch.float32, torch.int64}
    assert predict(teacher, images()).dtype == torch.float32


# --- combinations that cannot be meant


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"mode": "eval", "buffers": "own"}, "mode 'train'"),
        ({"early_decay": 0.9}, "both or neither"),
        ({"span": 0.0}, "span"),
        ({"span": 1.5}, "span"),
        ({"early_steps": 10}, "both or neither"),
        ({"decay": 1.5}, "decay"),
        ({"decay": -0.1}, "decay"),
        ({"early_decay": 2.0, "early_steps": 1}, "early_decay"),
        ({"early_steps": -1, "early_decay": 0.5}, "early_steps"),
    ],
    ids=str,
)
def test_impossible_combination_is_refused_with_its_remedy(settings: Any, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        Ema(**settings)


def test_answer_lies_in_the_view_that_was_asked() -> None:
    asked = as_view(images(), known=torch.rand(4, 1, 6, 7) < 0.5)
    student = network()
    for rule in (Ema(), Itself(), Ensemble(every=1)):
        answer = built(rule, student).answer(student, asked, torch.arange(4))
        assert answer.warp is asked.warp  # the very same: nothing is resampled where the student shares it
        assert torch.equal(answer.known, asked.known)


# --- the student itself


def without_dropout(seed: int = 0) -> nn.Sequential:
    return nn.Sequential(*(layer for layer in network(seed) if not isinstance(layer, nn.Dropout)))


def test_the_student_answers_for_itself_with_statistics_of_the_batch_and_with_dropout() -> None:
    student = network()
    shake(student, 0)
    teacher = built(Itself(), student)
    student.eval()
    torch.manual_seed(3)
    ours = predict(teacher, images(), student)
    torch.manual_seed(3)
    torch.testing.assert_close(ours, copy.deepcopy(student).train()(images()).softmax(1))
    assert not torch.equal(ours, predict(teacher, images(), student))
    assert ours.dtype == torch.float32


@pytest.mark.parametrize("gradient", ["student", "both"])
def test_answering_for_itself_leaves_the_students_running_statistics_alone(gradient: Any) -> None:
    student = network()
    before = state(student)
    teacher = built(Itself(gradient=gradient), student)
    predict(teacher, 5 + images(), student)
    assert same(before, state(student))
    student.train()(5 + images())  # which is what would change them
    assert not same(before, state(student))


def test_mode_eval_answers_for_itself_with_running_statistics_and_without_dropout() -> None:
    student = network()
    shake(student, 0)
    expected = copy.deepcopy(student).eval()(images()).softmax(1)
    teacher = built(Itself(mode="eval"), student.train())
    assert torch.equal(predict(teacher, images(), student), expected)


def test_the_student_answers_as_it_is_now_and_not_as_it_was() -> None:
    student = without_dropout()
    teacher = built(Itself(), student)
    before = predict(teacher, images(), student)
    shake(student, 1)
    after = predict(teacher, images(), student)
    torch.testing.assert_close(after, copy.deepcopy(student)(images()).softmax(1))
    assert not torch.allclose(before, after, atol=0.01)


@pytest.mark.parametrize("gradient", ["student", "both"])
def test_gradient_of_the_squared_difference_to_the_students_side_or_to_both(gradient: Any) -> None:
    """Of |p(x) - p(y)|^2, whose two sides are the same network; with `student`, p(y) is a constant."""
    student, transcribed = without_dropout(), without_dropout()
    answer = predict(built(Itself(gradient=gradient), student), images(1), student)
    Squared(over_classes="sum")(student(images(2)), answer).mean().backward()
    other = transcribed(images(1)).softmax(1)
    difference = transcribed(images(2)).softmax(1) - (other if gradient == "both" else other.detach())
    (difference**2).sum(1).mean().backward()
    for ours, expected in zip(student.parameters(), transcribed.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad)
    assert student[0].weight.grad.abs().max() > 1e-3
    assert answer.requires_grad == (gradient == "both")


@pytest.mark.parametrize(
    "rule", [Itself(average=Ema(decay=0.7)), Memory(size=(2, 3), average=Ema(decay=0.7))], ids=lambda rule: rule.kind
)
def test_weights_that_are_evaluated_are_the_average(rule: Any) -> None:
    student = network()
    teacher, average = built(rule, student), built(Ema(decay=0.7), student)
    for update in range(12):
        shake(student, update)
        teacher.update(student, [], [])
        average.update(student)
        assert same(state(teacher.module), state(average.module))
    resumed = built(rule, network(1))
    resumed.module.load_state_dict(teacher.module.state_dict())
    resumed.load_state_dict(teacher.state_dict())
    shake(student, 12)
    for each in (teacher, resumed):
        each.update(student, [], [])
    assert same(state(teacher.module), state(resumed.module))  # so the count was restored


@pytest.mark.parametrize(
    "rule", [Itself(average=Ema(buffers="copy")), Memory(size=(2, 3), average=Ema(buffers="copy"))]
)
def test_buffers_of_the_evaluated_average_are_what_it_says(rule: Any) -> None:
    student = network()
    teacher = built(rule, student)
    for update in range(3):
        shake(student, update)
        teacher.update(student, [], [])
    assert same(buffers(teacher.module), buffers(student))
    assert not torch.equal(teacher.module[0].weight, student[0].weight)


# --- a memory of each image


def said(seed: int, batch: int = 2, size: tuple[int, int] = (6, 7)) -> Tensor:
    """Logits of five classes, from unsure to sure."""
    return 3 * torch.randn(batch, 5, *size, generator=torch.Generator().manual_seed(seed))


def remember(teacher: MemoryTeacher, logits: Tensor, index: Any, seen: View | None = None) -> None:
    seen = as_view(torch.zeros(len(logits), 3, *logits.shape[2:])) if seen is None else seen
    task = Task(
        seen,
        replace(seen, data=torch.zeros_like(logits)),
        torch.ones_like(logits[:, :1]),
        torch.tensor(index),
        torch.ones(len(index)),
    )
    teacher.update(nn.Linear(1, 1), [task], [logits])


def a_memory(images: int = 6, **settings: Any) -> MemoryTeacher:
    teacher: MemoryTeacher = Memory(**{"size": (6, 7), **settings}).build(nn.Linear(1, 1), images, 5)
    return teacher


def recalled(teacher: MemoryTeacher, index: Any, size: tuple[int, int] = (6, 7)) -> View:
    return teacher.answer(nn.Identity(), as_view(torch.zeros(len(index), 3, *size)), torch.tensor(index))


@pytest.mark.parametrize("decay", [0.0, 0.6, 0.9, 0.95])
def test_memory_is_temporal_ensembling_to_half_precision(decay: float) -> None:
    """Z_t / (1 - alpha^t), Z_t = sum over k of (1 - alpha) alpha^(t - k) z_k, of an image seen t times, whole.

    Each of the last 1 / (1 - alpha) roundings leaves an error of 2^-11 of a number below 1, in Z and in its weight.
    """
    teacher = a_memory(decay=decay)
    predictions: dict[int, list[Tensor]] = {1: [], 3: [], 4: []}
    for step, (one, two) in enumerate([(1, 3), (4, 1), (3, 1), (1, 4)] * 12):
        logits = said(step)
        remember(teacher, logits, [one, two])
        for image, z in zip((one, two), logits.double().softmax(1), strict=True):
            predictions[image].append(z)
        for image, zs in predictions.items():
            t = len(zs)
            if t:
                z = sum((1 - decay) * decay ** (t - 1 - k) * z for k, z in enumerate(zs))
                answer = recalled(teacher, [image])
                error = (answer.data[0] - z / (1 - decay**t)).abs().max().item()
                assert error <= 1.02 * 2**-10 * min(t, 1 / (1 - decay))
                assert answer.known.all()
    assert min(map(len, predictions.values())) >= 24
    assert teacher.said.dtype == teacher.weight.dtype == torch.float16


def test_memory_of_an_image_that_was_never_seen_is_unknown() -> None:
    teacher = a_memory()
    assert not recalled(teacher, [0, 5]).known.any()
    remember(teacher, said(0), [5, 2])
    known = recalled(teacher, [0, 5, 1, 2]).known
    assert known.flatten(1).all(1).tolist() == [False, True, False, True]
    assert not known[[0, 2]].any()
    assert recalled(teacher, [0]).data.isfinite().all()


def test_memory_corrects_its_bias_pixel_by_pixel() -> None:
    """Left is seen twice, right once, the lowest row never; each time with another prediction."""
    alpha, teacher = 0.6, a_memory(decay=0.6)
    first, second = said(1, 1), said(2, 1)
    known = torch.ones(1, 1, 6, 7, dtype=torch.bool)
    known[..., 5, :] = False
    remember(teacher, first, [0], as_view(torch.zeros(1, 3, 6, 7), known=known))
    left = known & (torch.arange(7) < 4)
    remember(teacher, second, [0], as_view(torch.zeros(1, 3, 6, 7), known=left))
    answer = recalled(teacher, [0])
    z1, z2 = first.softmax(1), second.softmax(1)
    twice = (alpha * (1 - alpha) * z1 + (1 - alpha) * z2) / (1 - alpha**2)
    expected = torch.where(left, twice, z1)
    assert torch.equal(answer.known, known)
    torch.testing.assert_close(answer.data[..., :5, :], expected[..., :5, :], atol=2e-3, rtol=0)


def field(x: NDArray[np.float64], y: NDArray[np.float64], phase: float) -> NDArray[np.float64]:
    """Five logits, (5, ...), at normalised places of an image: nowhere alike, and smooth."""
    return np.stack([np.sin(2 * x + phase), np.cos(2 * y - phase), x + y, np.sin(x - 2 * y), 0 * x])


def through(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Random turned, stretched, mirrored and moved warps, (count, 3, 3)."""
    warps = np.tile(np.eye(3), (count, 1, 1))
    for matrix in warps:
        turn, mirror = rng.uniform(-3, 3), np.diag([rng.choice([-1, 1]), 1])
        rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        matrix[:2, :2] = rotation @ mirror @ np.diag(rng.uniform(0.4, 0.8, 2))
        matrix[:2, 2] = rng.uniform(-0.3, 0.3, 2)
    return warps


def centres(warps: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """Where the pixels of views lie in their images, (B, 3, h, w): x, y, 1."""
    h, w = size
    x, y = np.meshgrid((2 * np.arange(w) + 1) / w - 1, (2 * np.arange(h) + 1) / h - 1)
    return np.einsum("bij,jhw->bihw", warps, np.stack([x, y, np.ones_like(x)]))


@pytest.mark.parametrize("seed", range(4))
def test_what_is_remembered_through_one_warp_is_found_at_its_place_through_another(seed: int) -> None:
    rng, count = np.random.default_rng(seed), 3
    written, asked = through(rng, count), through(rng, count)
    size, kept, other = (40, 52), (48, 36), (44, 44)  # of the view written, of the memory, of the view asked
    teacher = a_memory(size=kept)
    places = centres(written, size)
    logits = torch.from_numpy(np.stack([field(x, y, b) for b, (x, y, _) in enumerate(places)])).float()
    remember(teacher, logits, [4, 0, 2], as_view(torch.zeros(count, 3, *size), torch.from_numpy(written)))
    view = as_view(torch.zeros(count, 3, *other), torch.from_numpy(asked))
    answer = teacher.answer(nn.Identity(), view, torch.tensor([4, 0, 2])).seen_from(view)

    places = centres(asked, other)
    expected = torch.from_numpy(np.stack([field(x, y, b) for b, (x, y, _) in enumerate(places)])).float().softmax(1)
    known = answer.known[:, 0].numpy()
    error = (answer.data - expected).abs().amax(1).numpy()[known]
    assert error.max() < 0.01
    # Known is what lies in the written view and in the image, but for a rim of about a pixel of either map.
    back = np.abs(np.einsum("bij,bjhw->bihw", np.linalg.inv(written), places)[:, :2])
    here = np.abs(places[:, :2])
    assert not known[(back > 1).any(1)].any()
    assert known[(back < 0.75).all(1) & (here < 0.9).all(1)].all()
    assert known.mean() > 0.15


def test_memory_is_written_only_where_the_view_covers_it() -> None:
    teacher = a_memory(size=(8, 8))
    remember(teacher, said(0, 1, (8, 8)), [0])
    before = recalled(teacher, [0], (8, 8))
    quarter = torch.tensor([[[0.5, 0, -0.5], [0, 0.5, -0.5], [0, 0, 1]]], dtype=torch.float64)  # top left
    remember(teacher, said(1, 1, (8, 8)), [0], as_view(torch.zeros(1, 3, 8, 8), quarter))
    changed = (recalled(teacher, [0], (8, 8)).data != before.data).any(1)[0]
    assert changed[:4, :4].all()
    assert not changed[4:].any()
    assert not changed[:, 4:].any()


def test_an_image_that_is_twice_in_a_batch_is_remembered_as_it_was_seen_last() -> None:
    """Of one view both: what it said, and where it said anything."""
    teacher, known = a_memory(), torch.zeros(3, 1, 6, 7, dtype=torch.bool)
    known[0], known[1], known[2, ..., 3:] = True, True, True
    logits = said(0, 3)
    remember(teacher, logits, [2, 1, 2], as_view(torch.zeros(3, 3, 6, 7), known=known))
    answer = recalled(teacher, [2, 1])
    assert torch.equal(answer.known, known[[2, 1]])
    expected = logits.softmax(1)
    torch.testing.assert_close(answer.data[0, ..., 3:], expected[2, ..., 3:], atol=2e-3, rtol=0)
    torch.testing.assert_close(answer.data[1], expected[1], atol=2e-3, rtol=0)


def test_memory_is_of_the_first_branch_alone_and_of_its_own_images() -> None:
    teacher = a_memory()
    seen = as_view(torch.zeros(2, 3, 6, 7))
    target = replace(seen, data=torch.zeros(2, 5, 6, 7))
    one, other = (
        Task(
            seen,
            target,
            torch.ones(2, 1, 6, 7),
            torch.tensor(index),
            torch.ones(2),
        )
        for index in ([0, 1], [2, 3])
    )
    teacher.update(nn.Linear(1, 1), [one, other], [said(0), said(1)])
    torch.testing.assert_close(recalled(teacher, [0, 1]).data, said(0).softmax(1), atol=2e-3, rtol=0)
    assert not recalled(teacher, [2, 3, 4, 5]).known.any()


def test_state_dict_keeps_the_memory() -> None:
    whole, resumed = a_memory(), a_memory()
    remember(whole, said(0), [0, 3])
    remember(whole, said(1), [3, 1])
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    for teacher in (whole, resumed):
        remember(teacher, said(2), [1, 0])
    everything = list(range(6))
    one, other = recalled(whole, everything), recalled(resumed, everything)
    assert torch.equal(one.data, other.data)
    assert torch.equal(one.known, other.known)
    assert one.known.flatten(1).all(1).tolist() == [True, True, False, True, False, False]


@pytest.mark.parametrize("images", [1, 5])
def test_memory_of_another_number_of_images_is_refused(images: int) -> None:
    """One image's would spread to all without a word."""
    with pytest.raises(ValueError, match=rf"\({images}, 5, 6, 7\) .* \(6, 5, 6, 7\)"):
        a_memory(6).load_state_dict(a_memory(images).state_dict())


# --- several averages


@pytest.mark.parametrize(("count", "every"), [(2, 1), (2, 3), (3, 2)])
def test_one_of_the_ensemble_follows_at_a_time_in_turns_of_every_steps(count: int, every: int) -> None:
    """Each is the average of the students of its own turns, and of them alone; until its first, it is the student."""
    student = network()
    teacher = built(Ensemble(count=count, every=every, of=Ema(decay=0.7)), student)
    expected = [vector(student.parameters())] * count
    turns = [0] * count
    for update in range(4 * count * every):
        shake(student, update)
        teacher.update(student, [], [])
        turn = (update // every) % count
        assert teacher.rule.own_update(update) == turns[turn]
        a = min(1 - 1 / (turns[turn] + 1), 0.7)
        expected[turn] = a * expected[turn] + (1 - a) * vector(student.parameters())
        turns[turn] += 1
        expected = [mine if n else vector(student.parameters()) for mine, n in zip(expected, turns, strict=True)]
        for member, weights in zip(teacher.module.members, expected, strict=True):
            np.testing.assert_allclose(vector(member.parameters()), weights, atol=1e-4)
    assert len({weights.tobytes() for weights in expected}) == count


def test_answer_is_the_mean_of_all_or_the_one_whose_turn_it_is() -> None:
    student = network()
    mean, current = (built(Ensemble(every=2, answer=answer), student) for answer in ("mean", "current"))
    for update in range(6):
        each = [copy.deepcopy(member).eval()(images()).softmax(1) for member in mean.module.members]
        turn = (update // 2) % 2
        torch.testing.assert_close(predict(mean, images(), student), (each[0] + each[1]) / 2)
        torch.testing.assert_close(predict(current, images(), student), each[turn])
        if update > 2:  # both have had a turn
            assert not torch.allclose(each[0], each[1], atol=0.01)
        shake(student, update)
        for teacher in (mean, current):
            teacher.update(student, [], [])


def test_panel_is_the_mean_of_its_members_probabilities() -> None:
    members = [network(seed).eval() for seed in range(3)]
    expected = torch.stack([member(images()).softmax(1) for member in members]).mean(0)
    torch.testing.assert_close(Panel(members)(images()).softmax(1), expected)


def test_panel_of_sure_members_is_finite() -> None:
    class Sure(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.tensor([1000.0, 0, -1000]).view(1, 3, 1, 1).expand(len(images), 3, 6, 7)

    logits = Panel([Sure(), Sure()])(images())
    assert logits.isfinite().all()
    torch.testing.assert_close(logits.softmax(1)[0, :, 0, 0], torch.tensor([1.0, 0, 0]))


@pytest.mark.parametrize("answer", ["mean", "current"])
def test_no_gradient_comes_to_an_ensemble_and_it_leaves_the_student_alone(answer: Any) -> None:
    student = network()
    teacher = built(Ensemble(every=1, answer=answer), student)
    before = state(student)
    for _ in range(3):
        assert not predict(teacher, images().requires_grad_(), student).requires_grad
        teacher.update(student, [], [])
    assert same(before, state(student))
    assert all(not p.requires_grad and p.grad is None for p in teacher.module.parameters())


@pytest.mark.parametrize("stop", [1, 2, 5])
def test_state_dict_keeps_the_turn_of_an_ensemble_and_the_warmup_of_each(stop: int) -> None:
    rule, student = Ensemble(every=2, of=Ema(decay=0.99)), network()
    whole = built(rule, student)
    for update in range(stop):
        shake(student, update)
        whole.update(student, [], [])
    resumed, fresh = built(rule, network(1)), built(rule, network(1))
    for other in (resumed, fresh):
        other.module.load_state_dict(whole.module.state_dict())
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    for update in range(stop, stop + 5):
        shake(student, update)
        for teacher in (whole, resumed, fresh):
            teacher.update(student, [], [])
    assert same(state(whole.module), state(resumed.module))
    assert not same(state(whole.module), state(fresh.module))


@pytest.mark.parametrize(
    ("rule", "settings", "wrong"),
    [
        (Itself, {"mode": "own"}, "mode"),
        (Itself, {"gradient": "teacher"}, "gradient"),
        (Itself, {"average": Ema(mode="train")}, r"average.*mode"),
        (Itself, {"average": Ema(augment=Augment(flip=True))}, r"average.*augment"),
        (Memory, {"size": (4, 4), "augment": {"flip": True}}, "augment"),
        (Memory, {}, "size"),
        (Memory, {"size": (0, 4)}, "size"),
        (Memory, {"size": (4, 4), "decay": 1.0}, "decay"),
        (Memory, {"size": (4, 4), "decay": 0.999}, "decay"),  # half precision would lose what is new
        (Memory, {"size": (4, 4), "average": Ema(mode="train", buffers="own")}, r"average.*mode"),
        (Ensemble, {}, "every"),
        (Ensemble, {"every": 0}, "every"),
        (Ensemble, {"every": 1, "count": 1}, "count"),
    ],
    ids=str,
)
def test_settings_that_would_not_act_are_refused(rule: Any, settings: Any, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        rule(**settings)


def test_a_member_whose_turn_is_yet_to_come_is_the_student_and_not_its_initial_weights() -> None:
    student = network()
    teacher = built(Ensemble(count=3, every=2), student)
    for update in range(3):
        shake(student, 50 + update)
        teacher.update(student, [], [])
    first, second, third = (member.module.state_dict() for member in teacher.teachers)
    now = student.state_dict()
    assert all(torch.equal(second[name], now[name]) for name in now)  # in its first turn since this update
    assert all(torch.equal(third[name], now[name]) for name in now)
    assert not all(torch.equal(first[name], now[name]) for name in now)


def test_a_member_that_nobody_has_asked_yet_has_the_students_statistics_and_from_its_turn_on_its_own() -> None:
    student = network()
    teacher = built(Ensemble(count=2, every=2, answer="current", of=Ema(mode="train", buffers="own")), student)
    for update in range(2):  # the first one's turn
        predict(teacher, images(update), student)
        shake(student, update)
        teacher.update(student, [], [])
        first, second = (member.module for member in teacher.teachers)
        assert same(buffers(second), buffers(student))
        assert not same(buffers(first), buffers(student))
    gathered, before, mean = buffers(first), buffers(second), second[0](images(2)).mean((0, 2, 3))
    predict(teacher, images(2), student)
    shake(student, 2)
    teacher.update(student, [], [])
    assert same(buffers(first), gathered)
    torch.testing.assert_close(second[1].running_mean, 0.9 * before["1.running_mean"] + 0.1 * mean)


def test_members_that_are_all_asked_gather_their_own_statistics_before_their_turn_too() -> None:
    student = network()
    teacher = built(Ensemble(count=2, every=9, of=Ema(mode="train", buffers="own")), student)
    waiting = teacher.teachers[1].module
    before, weights = buffers(waiting), waiting[0]
    mean = weights(images()).mean((0, 2, 3))
    predict(teacher, images(), student)
    shake(student, 0)
    teacher.update(student, [], [])
    torch.testing.assert_close(waiting[1].running_mean, 0.9 * before["1.running_mean"] + 0.1 * mean)


def test_an_ensemble_of_networks_without_statistics_follows_too() -> None:
    student = nn.Sequential(nn.Conv2d(3, 5, 1))
    teacher = built(Ensemble(every=2, answer="current", of=Ema(mode="train", buffers="own")), student)
    shake(student, 0)
    teacher.update(student, [], [])
    assert all(same(state(member.module), state(student)) for member in teacher.teachers)


@pytest.mark.parametrize("cast", [lambda module: module.double().float(), lambda module: module.to("cpu")])
def test_an_average_follows_the_buffers_of_a_module_that_was_moved_or_cast(cast):
    student = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4))
    teacher = EmaTeacher(Ema(decay=0.5), student)
    teacher.update(student)
    for module in (student, teacher.module):
        cast(module)
    with torch.no_grad():
        for value in [*student.parameters(), student[1].running_mean]:
            value.fill_(7.0)
    for _ in range(60):
        teacher.update(student)
    assert all(torch.equal(value, torch.full_like(value, 7.0)) for value in teacher.module.parameters())
    assert torch.equal(teacher.module[1].running_mean, torch.full((4,), 7.0))


@pytest.mark.parametrize(
    "rule", [Ema(), Itself(), Ensemble(every=1), Peer(), Memory(size=())], ids=lambda rule: rule.kind
)
def test_every_teacher_follows_a_student_alone(rule):
    """As a loop of one's own has it; what a memory remembers it must be told."""
    student = network()
    teacher = rule.build(student, 3, 2)
    teacher.update(student)
    followed = teacher.module.members[0] if isinstance(rule, Ensemble) else teacher.module
    assert all(torch.equal(a, b) for a, b in zip(followed.parameters(), student.parameters(), strict=True))
