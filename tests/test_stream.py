"""Batches are a function of (seed, step), no two samples share their draws, and labels follow their images."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from mtseg.colour import Colour
from mtseg.data.batch import Batch, BatchSizes, Crops
from mtseg.data.loading import loader
from mtseg.data.source import IGNORE, Source, Splits
from mtseg.data.stream import Stream
from mtseg.geometry import Geometry
from mtseg.views import Policy, StudentPolicy, Views

SIZES = ((40, 52), (48, 37), (33, 60))
Student = Literal["shared"] | Geometry
FREE = Geometry(scale=(0.7, 1.4), rotation=40, shear=10, flip=0.5, flip_vertical=0.5)
STILL = Geometry(scale=(1, 1), flip=0)
NOISE = (Colour(name="GaussNoise", params={"std_range": [0.1, 0.2]}),)


@dataclass(frozen=True)
class Rulers:
    """Images that measure themselves: 4 x column, 4 x row, 20 x index; the label is the column, or the row."""

    count: int
    labelled_by: str = "column"
    sizes: tuple[tuple[int, int], ...] = SIZES

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"ruler-{index}"

    def image(self, index: int) -> NDArray[np.uint8]:
        row, column = np.indices(self.sizes[index % len(self.sizes)])
        return np.stack([4 * column, 4 * row, np.full_like(row, 20 * index)], axis=2).astype(np.uint8)

    def label(self, index: int) -> NDArray[np.uint8]:
        return self.image(index)[..., ("column", "row").index(self.labelled_by)] // 4


class Unlabelled(Rulers):
    def label(self, index: int) -> NDArray[np.uint8]:
        raise AssertionError("the label of an unlabelled image was read")


class Unread(Unlabelled):
    def image(self, index: int) -> NDArray[np.uint8]:
        raise AssertionError("an image that nobody needs was read")


class Constant(Rulers):
    """The same image over and over, as large as the crops."""

    def image(self, index: int) -> NDArray[np.uint8]:
        return np.full((24, 32, 3), 128, np.uint8)


class Mislabelled(Rulers):
    """Its image 1 is labelled 3 rows short."""

    def label(self, index: int) -> NDArray[np.uint8]:
        return super().label(index)[3 * (index == 1) :]


class Negative(Rulers):
    """A column of its labels is -1."""

    def label(self, index: int) -> NDArray[Any]:
        label = super().label(index).astype(np.int16)
        return np.where(label == label.max(), -1, label)


FIVE, SEVEN = Rulers(5), Unlabelled(7)


def a_stream(
    labelled: Source = FIVE,
    unlabelled: Source = SEVEN,
    *,
    geometry: Geometry = FREE,
    student: Student = FREE,
    colour: tuple[Colour, ...] = NOISE,
    sizes: tuple[int, int] = (3, 4),
    students: int | None = 2,
    seed: int = 0,
) -> Stream:
    policy = Policy(geometry=geometry, colour=colour)
    views = Views(
        crop=(24, 32), labelled=policy, teacher=policy, student=StudentPolicy(geometry=student, colour=colour)
    )
    palette = np.zeros((2, 3), np.uint8)
    splits = Splits(tuple(map(str, range(255))), palette, labelled, unlabelled, val=Unread(1), test=Unread(1))
    batch = BatchSizes(labelled=sizes[0], unlabelled=sizes[1])
    return Stream(splits, views=views, sizes=batch, students=students, seed=seed)


def parts(batch: Batch) -> list[Crops]:
    assert batch.teacher is not None
    return [batch.labelled, batch.teacher, *batch.students]


def bits(batch: Batch) -> list[bytes]:
    """All tensors of a batch, to the bit."""
    tensors = [getattr(crops, f.name) for crops in parts(batch) for f in fields(crops)]
    return [
        str((t.dtype, t.shape)).encode() + t.numpy().tobytes() if isinstance(t, torch.Tensor) else repr(t).encode()
        for t in tensors
    ]


def served(stream: Stream, steps: Sequence[int], workers: int) -> list[Batch]:
    return list(loader(stream, steps, workers=workers, pin=False))  # type: ignore[arg-type]


def indices(stream: Stream, pool: str, steps: int) -> list[int]:
    return [i for step in range(steps) for i in getattr(stream[step], pool).index.tolist()]


# What is drawn --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pick", [None, (1, 2)])
def test_the_students_colours_may_be_those_of_labelled_images_and_of_the_teacher_too(
    pick: tuple[int, int] | None,
) -> None:
    colours = (Colour(name="InvertImg", p=0.5), Colour(name="ToGray", p=0.5))
    student = StudentPolicy(geometry=FREE, colour=colours, pick=pick)

    def drawn(colour: Any, pick: tuple[int, int] | None) -> list[list[bytes]]:
        policy = Policy(geometry=FREE, colour=colour, pick=pick)
        views = Views(crop=(24, 32), labelled=policy, teacher=policy, student=student)
        stream = Stream(a_stream().splits, views=views, sizes=BatchSizes(labelled=3, unlabelled=4), students=1, seed=0)
        return [bits(stream[step]) for step in range(4)]

    assert drawn("student", None) == drawn(colours, pick) != drawn((), None)


# A pure function of (seed, step) --------------------------------------------------------------------------------------


def test_a_batch_depends_on_neither_the_order_of_access_nor_the_stream() -> None:
    one, other = a_stream(), a_stream()
    forward = {step: bits(one[step]) for step in range(5)}
    for step in (4, 2, 2, 0, 1, 3):
        assert bits(other[step]) == forward[step]
    assert len({b"".join(batch) for batch in forward.values()}) == 5


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_workers_and_the_first_step_change_no_bit(workers: int) -> None:
    direct = [bits(a_stream()[step]) for step in range(9)]
    assert [bits(batch) for batch in served(a_stream(), range(9), workers)] == direct
    assert [bits(batch) for batch in served(a_stream(), range(6, 9), workers)] == direct[6:]


def test_another_seed_gives_other_orders_warps_and_colours() -> None:
    one, other = (a_stream(Constant(50), Constant(50), seed=seed)[0] for seed in (0, 1))
    for here, there in zip(parts(one), parts(other), strict=True):
        assert not torch.equal(here.index, there.index)
        assert not (here.warp == there.warp).all(dim=(1, 2)).any()
        assert not (here.image == there.image).all(dim=(1, 2, 3)).any()


def test_one_pool_or_student_view_does_not_move_another() -> None:
    whole = a_stream()[3]
    assert whole.teacher is not None
    fewer = a_stream(students=1)[3]
    assert bits(fewer) == bits(replace(whole, students=whole.students[:1]))
    assert bits(replace(a_stream(Rulers(2), sizes=(2, 4))[3], labelled=whole.labelled)) == bits(whole)
    assert bits(replace(whole, labelled=a_stream(unlabelled=Unlabelled(3), sizes=(3, 2))[3].labelled)) == bits(whole)


def test_labelled_and_unlabelled_images_come_in_orders_of_their_own() -> None:
    stream = a_stream(Rulers(12), Unlabelled(12), sizes=(12, 12))
    assert indices(stream, "labelled", 3) != indices(stream, "teacher", 3)


# No two samples share their draws -------------------------------------------------------------------------------------


def draws(batches: Sequence[Batch]) -> Iterator[tuple[bytes, bytes]]:
    """Warp and picture of every sample of every view."""
    for batch in batches:
        for crops in parts(batch):
            for warp, image in zip(crops.warp.numpy(), crops.image.numpy(), strict=True):
                yield warp.tobytes(), image.tobytes()


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_no_two_samples_of_any_step_slot_view_or_pass_share_geometry_or_noise(workers: int) -> None:
    steps, sizes = 9, (3, 4)
    count = steps * (3 + 3 * 4)
    pools = Constant(2), Constant(5)  # 13 and 7 passes
    warps, _ = zip(*draws(served(a_stream(*pools, sizes=sizes), range(steps), workers)), strict=True)
    assert len(set(warps)) == len(warps) == count
    still = served(a_stream(*pools, sizes=sizes, geometry=STILL, student=STILL), range(steps), workers)
    warps, pictures = zip(*draws(still), strict=True)
    assert len(set(warps)) == 1, "the pictures would differ by their geometry"
    assert len(set(pictures)) == len(pictures) == count


def test_teacher_and_students_see_the_same_images_under_other_geometry_and_noise() -> None:
    for step in range(4):
        batch = a_stream(unlabelled=Unlabelled(7), colour=())[step]
        assert batch.teacher is not None
        for student in batch.students:
            assert torch.equal(student.index, batch.teacher.index)
            assert torch.equal(student.source, batch.teacher.source)
            assert not (student.warp == batch.teacher.warp).all(dim=(1, 2)).any()


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_shared_geometry_is_the_very_same_warp_and_other_noise(workers: int) -> None:
    for plain, noisy in zip(
        served(a_stream(student="shared", colour=()), range(3), workers),
        served(a_stream(student="shared"), range(3), workers),
        strict=True,
    ):
        assert plain.teacher is not None
        assert noisy.teacher is not None
        for without, student in zip(plain.students, noisy.students, strict=True):
            assert student.warp is noisy.teacher.warp
            assert torch.equal(without.image, plain.teacher.image)
            assert not (student.image == noisy.teacher.image).all(dim=(1, 2, 3)).any()
        assert len(set(draws([noisy]))) == 3 + 3 * 4


def test_shared_geometry_stays_the_very_same_warp_on_the_way_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)  # which is what pinning is, on a GPU's host
    before = a_stream(student="shared")[0]
    after = before.pin_memory()
    assert bits(after) == bits(before)
    for batch in (after, after.to(torch.device("cpu"))):
        assert batch.teacher is not None
        assert all(student.warp is batch.teacher.warp for student in batch.students)


def test_pictures_and_labels_are_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: set[int] = set()

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        copy = tensor.clone()
        pinned.add(id(copy))
        return copy

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    batch = a_stream()[0].pin_memory()
    assert batch.labelled.label is not None
    assert {id(t) for t in (batch.labelled.label, *(crops.image for crops in parts(batch)))} <= pinned


# Passes over the pools ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["labelled", "teacher"])
@pytest.mark.parametrize(("count", "size"), [(10, 3), (12, 3), (9, 9), (9, 20), (10, 1)])
def test_every_pass_over_a_pool_visits_each_image_once_in_an_order_of_its_own(pool: str, count: int, size: int) -> None:
    stream = a_stream(Rulers(count), Unlabelled(count), sizes=(size, size), colour=(), students=1)
    visited = indices(stream, pool, steps=-(-5 * count // size))
    passes = [tuple(visited[at : at + count]) for at in range(0, 5 * count, count)]
    assert all(sorted(order) == list(range(count)) for order in passes)
    assert len(set(passes)) == 5


def test_a_pool_of_one_image_fills_any_batch() -> None:
    batch = a_stream(Rulers(1), Unlabelled(1))[0]
    assert [crops.index.tolist() for crops in parts(batch)] == [[0] * 3, [0] * 4, [0] * 4, [0] * 4]
    assert len(set(draws([batch]))) == 3 + 3 * 4


# Images, labels, warps ------------------------------------------------------------------------------------------------


def places(crops: Crops, slot: int) -> NDArray[np.float64]:  # (2, h, w): column, row in pixels of the image
    """Where the pixels of a crop lie in their image, by the recorded warp."""
    h, w = crops.image.shape[1:3]
    y, x = np.meshgrid((np.arange(h) + 0.5) * 2 / h - 1, (np.arange(w) + 0.5) * 2 / w - 1, indexing="ij")
    normalised = np.einsum("ij,jhw->ihw", crops.warp[slot, :2].numpy(), np.stack([x, y, np.ones((h, w))]))
    return (normalised + 1) * crops.source[slot].flip(0).numpy().reshape(2, 1, 1) / 2 - 0.5


@pytest.mark.parametrize("student", ["shared", FREE], ids=["shared", "own"])
def test_a_crop_shows_its_image_where_its_warp_says(student: Student) -> None:
    stream = a_stream(geometry=FREE, student=student, colour=())
    for crops in (crops for step in range(3) for crops in parts(stream[step])):
        known = crops.view(stream.views).known
        assert known.float().mean() > 0.3
        for slot, index in enumerate(crops.index.tolist()):
            assert tuple(crops.source[slot].tolist()) == SIZES[index % len(SIZES)]
            assert (crops.image[slot, ..., 2] == 20 * index).all()
            height, width = SIZES[index % len(SIZES)]
            column, row = places(crops, slot)
            # Where the view is shrunk (by 1.4 at most) the outermost pixels are averaged: half of one is lost.
            clear = (column > 1) & (row > 1) & (column < width - 2) & (row < height - 2)
            shown = crops.image[slot].numpy().astype(float)[..., :2].transpose(2, 0, 1) / 4
            assert np.abs(shown - [column, row])[:, clear].max() < 0.4
            assert known[slot, 0].numpy()[clear].all()


@pytest.mark.parametrize("by", ["column", "row"])
def test_a_label_is_drawn_through_the_warp_of_its_image_and_ignored_outside(by: str) -> None:
    stream = a_stream(Rulers(5, by))
    outside = 0
    for step in range(4):
        crops = stream[step].labelled
        assert crops.label is not None
        for slot in range(3):
            place, label = places(crops, slot), crops.label[slot].numpy()
            nearest, limit = np.rint(place), crops.source[slot].flip(0).numpy().reshape(2, 1, 1)
            tie = (np.abs(np.abs(place - nearest) - 0.5) < 0.005).any(axis=0)
            within = ((nearest >= 0) & (nearest < limit)).all(axis=0)
            expected = np.where(within, nearest[("column", "row").index(by)], IGNORE)
            assert np.array_equal(label[~tie], expected[~tie])
            outside += int((~within).sum())
    assert outside > 20


def test_only_labelled_images_have_labels_and_no_other_is_read() -> None:
    """`Unlabelled` raises when its label is read, `Unread` whatever is read."""
    batch = a_stream(unlabelled=Unlabelled(3))[0]
    assert batch.labelled.label is not None
    assert [crops.label for crops in parts(batch)[1:]] == [None] * 3


def test_without_unlabelled_images_none_is_read() -> None:
    batch = a_stream(unlabelled=Unread(3), students=None)[0]
    assert batch.teacher is None
    assert batch.students == ()


def test_without_student_views_the_teachers_is_the_same_and_alone() -> None:
    whole, alone = a_stream()[3], a_stream(students=0)[3]
    assert alone.teacher is not None
    assert alone.students == ()
    assert bits(alone) == bits(replace(whole, students=()))


def test_a_label_of_another_size_is_refused_by_name_with_both_sizes() -> None:
    stream = a_stream(Mislabelled(3), sizes=(3, 1))
    with pytest.raises(ValueError, match=r"^ruler-1: the image is \(48, 37\) and its label \(45, 37\)"):
        stream[0]


def test_network_input_is_pixels_less_mean_over_std_in_the_image_frame() -> None:
    stream = a_stream()
    views = replace(stream.views, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    crops = stream[0].labelled
    seen = crops.view(views)
    expected = (crops.image.double() / 255 - torch.tensor(views.mean)) / torch.tensor(views.std)
    assert seen.data.shape == (3, 3, 24, 32)
    assert seen.data.dtype == torch.float32
    assert torch.allclose(seen.data.double(), expected.permute(0, 3, 1, 2), atol=1e-5)
    assert seen.warp is crops.warp
    assert seen.known.shape == (3, 1, 24, 32)


def test_a_std_that_divides_by_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="std"):
        Views(crop=(24, 32), std=(0.2, 0.0, 0.2))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_label_that_is_no_class_is_refused_by_name_with_its_value_and_count(workers: int) -> None:
    stream = a_stream()
    stream.splits = replace(stream.splits, classes=("one", "two"))
    with pytest.raises(ValueError) as refusal:
        served(stream, range(1), workers)
    said = re.match(r"ruler-(\d+): label (\d+) on (\d+) pixels is no class of the 2 \(0 to 1\)", str(refusal.value))
    assert said
    index, value, count = map(int, said.groups())
    label = stream.splits.labelled.label(index)
    assert value in label
    assert 2 <= value < 255
    assert count == ((label >= 2) & (label != 255)).sum()


def test_a_negative_label_of_a_map_is_refused_where_it_is_learnt() -> None:
    with pytest.raises(ValueError, match=r"ruler-\d+: label -1 on \d+ pixels is no class of the"):
        a_stream(Negative(5))[0]


def test_a_loader_of_the_programs_own_may_have_any_number_of_workers() -> None:
    plain = [bits(a_stream()[step]) for step in range(4)]
    own = DataLoader(a_stream(), batch_size=None, sampler=range(4), num_workers=3)
    assert [bits(batch) for batch in own] == plain
