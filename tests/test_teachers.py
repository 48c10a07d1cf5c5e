"""Teachers: the EMA's trajectory in closed form and in torch's own, its buffers, and that no gradient reaches it."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mtseg.teachers import Ema, EmaTeacher


def network(seed: int = 0) -> nn.Sequential:
    """Convolution, batch normalisation (float and integer buffers), dropout, classifier."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 5, 1))


def images(seed: int = 0) -> Tensor:
    return torch.randn(4, 3, 6, 7, generator=torch.Generator().manual_seed(seed))


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
    teacher = rule.build(student)
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
    ],
    ids=str,
)
def test_teacher_is_the_weighted_sum_of_students_that_the_decays_make(rule: Ema) -> None:
    """theta'_T = sum over t of (1 - a_t) a_{t+1} ... a_T theta_t, with a_t = min(1 - 1 / (t + 1), limit at t)."""
    count = 150
    _, students, teachers = follow(rule, count)
    limits = [rule.early_decay if rule.early_decay and t < rule.early_steps else rule.decay for t in range(count)]
    decays = np.minimum(1 - 1 / np.arange(1, count + 1), limits)
    for last in (0, 1, 9, 36, 37, 38, 60, 149):
        weights = [(1 - decays[t]) * np.prod(decays[t + 1 : last + 1]) for t in range(last + 1)]
        assert sum(weights) == pytest.approx(1)  # decays[0] is 0: the first update copies
        np.testing.assert_allclose(teachers[last], np.array(weights) @ np.array(students[: last + 1]), atol=5e-5)


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
    teacher = Ema(decay=0.9, buffers=buffers).build(student)
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
    whole = rule.build(student)
    for update in range(5):
        shake(student, update)
        whole.update(student)
    resumed, fresh = rule.build(network(1)), rule.build(network(1))
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
    teacher = Ema(decay=0.0, buffers=buffers).build(student)
    for update in range(5):
        shake(student, update)
        teacher.update(student)
        assert same(state(teacher.module), state(student))


def test_update_leaves_the_student_as_it_is() -> None:
    student = network()
    teacher = Ema().build(student)
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
    teacher = Ema(decay=0.9, buffers="average").build(student)
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
    teacher = Ema(decay=0.9, buffers=buffers).build(student)
    for update in range(4):
        shake(student, update)
        teacher.update(student)
        assert teacher.module[1].num_batches_tracked == student[1].num_batches_tracked == 7 * (update + 1)


def test_copied_buffers_are_the_students_while_parameters_are_averaged() -> None:
    student = network()
    teacher = Ema(decay=0.9, buffers="copy").build(student)
    for update in range(4):
        shake(student, update)
        teacher.update(student)
    assert same(buffers(teacher.module), buffers(student))
    assert not torch.equal(teacher.module[0].weight, student[0].weight)


def test_own_buffers_change_by_the_teachers_forwards_and_never_by_updates() -> None:
    student = network()
    teacher = Ema(mode="train", buffers="own").build(student)
    before = buffers(teacher.module)
    for update in range(3):
        shake(student, update)
        teacher.update(student)
    assert same(before, buffers(teacher.module))
    assert not torch.equal(teacher.module[0].weight, network()[0].weight)  # but its parameters did follow
    teacher.predict(images())
    mean = teacher.module[0](images()).mean((0, 2, 3))
    torch.testing.assert_close(teacher.module[1].running_mean, 0.9 * before["1.running_mean"] + 0.1 * mean)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("buffers_", ["average", "copy"])
def test_giving_targets_leaves_followed_weights_and_buffers_alone(mode: Any, buffers_: Any) -> None:
    """Buffers that are said to be the average of the student's, or its copy, are that and nothing else."""
    student = network()
    asked, unasked = (Ema(decay=0.9, mode=mode, buffers=buffers_).build(student) for _ in range(2))
    for update in range(4):
        shake(student, update)
        asked.predict(images(update))
        for teacher in (asked, unasked):
            teacher.update(student)
        asked.predict(images(update))
        assert same(state(asked.module), state(unasked.module))


# --- predictions


@pytest.mark.parametrize("rule", [Ema(mode="train"), Ema(mode="train", buffers="own"), Ema(mode="eval")], ids=str)
def test_prediction_is_a_distribution_over_classes_without_gradient(rule: Ema) -> None:
    answer = rule.build(network()).predict(images().requires_grad_())
    assert answer.shape == (4, 5, 4, 5)
    assert answer.dtype == torch.float32
    assert not answer.requires_grad
    assert answer.min() > 0
    torch.testing.assert_close(answer.sum(1), torch.ones(4, 4, 5))


def test_mode_eval_predicts_with_running_statistics_and_without_dropout() -> None:
    student = network()
    shake(student, 0)
    teacher = Ema(mode="eval").build(student)
    student.eval()
    expected = student(images()).softmax(1)
    for _ in range(2):
        assert torch.equal(teacher.predict(images()), expected)
        teacher.module.train()  # whatever was done to it in between


@pytest.mark.parametrize("buffers", ["average", "copy", "own"])
def test_mode_train_predicts_with_statistics_of_the_batch_and_with_dropout(buffers: Any) -> None:
    student = network()
    shake(student, 0)
    teacher = Ema(mode="train", buffers=buffers).build(student)
    teacher.module.eval()  # as evaluation leaves it
    torch.manual_seed(3)
    ours = teacher.predict(images())
    torch.manual_seed(3)
    torch.testing.assert_close(ours, student.train()(images()).softmax(1))
    assert not torch.equal(ours, teacher.predict(images()))  # dropout draws anew


def test_teacher_never_requires_or_gets_a_gradient() -> None:
    student = network()
    teacher = Ema().build(student)
    for update in range(3):
        (student(images()) * teacher.predict(images())).sum().backward()
        shake(student, update)
        teacher.update(student)
        assert all(not p.requires_grad and p.grad is None for p in teacher.module.parameters())
    assert all(p.requires_grad and p.grad is not None for p in student.parameters())  # the student keeps its own


# --- precision


def test_teacher_is_float32_and_averages_in_float32_whatever_the_students_precision() -> None:
    """In bfloat16 a step of 1 / 1000 of the way is lost: 1 + 2^-8 is the next number after 1."""
    student = nn.Linear(2, 2, bias=False).bfloat16()
    nn.init.zeros_(student.weight)
    teacher = Ema(decay=0.999).build(student)
    teacher.load_state_dict({"updates": 10_000})
    nn.init.ones_(student.weight)
    for _ in range(1000):
        teacher.update(student)
    assert student.weight.dtype == torch.bfloat16
    assert {t.dtype for t in teacher.module.state_dict().values()} == {torch.float32}
    torch.testing.assert_close(teacher.module.weight, torch.full((2, 2), 1 - 0.999**1000), rtol=1e-4, atol=0)


def test_buffers_of_a_bfloat16_student_are_followed_in_float32() -> None:
    student = network().bfloat16()
    teacher = Ema(decay=0.5, buffers="average").build(student)
    for update in range(3):
        shake(student, update)
        teacher.update(student)
    kinds = {t.dtype for t in teacher.module.state_dict().values()}
    assert kinds == {torch.float32, torch.int64}
    assert teacher.predict(images()).dtype == torch.float32


# --- combinations that cannot be meant


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"mode": "eval", "buffers": "own"}, "mode 'train'"),
        ({"early_decay": 0.9}, "both or neither"),
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
