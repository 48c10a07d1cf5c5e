"""The embedded scenes: reproducible, pools disjoint, every class in few labels, and not told by colour."""

import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import FrozenInstanceError
from multiprocessing import get_context

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mtseg.data.drawing import SCENE_CLASSES, draw_scene
from mtseg.data.scenes import PALETTE, Scenes, SceneSource
from mtseg.data.source import IGNORE, Source

CLASSES = len(SCENE_CLASSES)
SIZE = (64, 96)


def content(source: Source, index: int) -> bytes:
    return source.image(index).tobytes() + source.label(index).tobytes()


def test_scene_does_not_depend_on_count_order_or_earlier_reads() -> None:
    forward, backward = SceneSource(3, 40, SIZE), SceneSource(3, 10, SIZE)
    there = [content(forward, i) for i in range(10)]
    back = [content(backward, i) for i in reversed(range(10))]
    assert there == back[::-1]
    assert there[4] == content(forward, 4)


def test_scene_is_the_same_in_a_fresh_process() -> None:
    source = SceneSource(5, 8, SIZE)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(content, source, 6).result() == content(source, 6)


def test_pickled_source_leaves_its_drawn_scenes_behind() -> None:
    source = SceneSource(0, 8, SIZE)
    fresh = len(pickle.dumps(source))
    before = [content(source, i) for i in range(8)]
    assert len(pickle.dumps(source)) == fresh < 1000
    copy = pickle.loads(pickle.dumps(source))
    assert copy == source
    assert [content(copy, i) for i in range(8)] == before


def test_what_a_reader_does_to_its_arrays_does_not_reach_the_source() -> None:
    source = SceneSource(0, 1, SIZE)
    before = content(source, 0)
    source.image(0)[:] = 0
    source.label(0)[:] = 0
    assert content(source, 0) == before


def test_no_scene_or_name_occurs_twice_over_all_pools_and_seeds() -> None:
    sources: list[Source] = []
    for seed in (0, 1, 2):
        splits = Scenes(seed=seed, images=30, labels=4, val=30, test=30).build()
        sources += [splits.unlabelled, splits.val, splits.test]
    reads = [(source, i) for source in sources for i in range(30)]
    assert len({source.image(i).tobytes() for source, i in reads}) == len(reads)
    assert len({source.label(i).tobytes() for source, i in reads}) == len(reads)
    assert len({source.name(i) for source, i in reads}) == len(reads)


@pytest.mark.parametrize(("labels", "count"), [(7, 7), ("1/8", 5), ("3/4", 30), ("all", 40)])
def test_labels_are_a_number_a_share_rounded_down_or_all(labels: int | str, count: int) -> None:
    splits = Scenes(images=40, labels=labels).build()
    assert (len(splits.labelled), len(splits.unlabelled)) == (count, 40)


def test_fewer_labels_are_a_part_of_more_labels() -> None:
    few, many = (Scenes(labels=n).build().labelled for n in (8, 16))
    assert (len(few), len(many)) == (8, 16)
    assert [few.name(i) for i in range(8)] == [many.name(i) for i in range(8)]
    assert [content(few, i) for i in range(8)] == [content(many, i) for i in range(8)]


def test_unlabelled_pool_holds_all_training_scenes_or_the_rest() -> None:
    pools = {}
    for choice in ("all", "rest"):
        splits = Scenes(images=20, labels=6, unlabelled=choice).build()  # type: ignore[arg-type]
        pools[choice] = [splits.unlabelled.name(i) for i in range(len(splits.unlabelled))]
    labelled = [splits.labelled.name(i) for i in range(6)]
    assert len(pools["all"]) == 20
    assert pools["all"] == labelled + pools["rest"]


def test_pools_have_the_lengths_asked_for() -> None:
    splits = Scenes(images=9, labels=2, val=3, test=5).build()
    pools = (splits.labelled, splits.unlabelled, splits.val, splits.test)
    assert [len(pool) for pool in pools] == [2, 9, 3, 5]
    for pool in pools:
        with pytest.raises(IndexError):
            pool.image(len(pool))


def test_building_draws_no_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr("mtseg.data.scenes.draw_scene", lambda *given: (drawn.append(given), draw_scene(*given))[1])
    splits = Scenes().build()
    assert not drawn
    splits.val.image(0), splits.val.label(0)
    assert len(drawn) == 1


@pytest.mark.parametrize("seed", range(6))
def test_every_class_is_in_any_eight_scenes(seed: int) -> None:
    source = SceneSource(seed, 24, SIZE)
    areas = np.stack([np.bincount(source.label(i).ravel(), minlength=256)[:CLASSES] for i in range(24)])
    for start in range(24 - 8 + 1):
        assert areas[start : start + 8].max(axis=0).min() >= 40  # seen well, not as a sliver


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (97, 130), (130, 64), (256, 160)])
def test_any_size_gives_right_shapes_and_labels(size: tuple[int, int]) -> None:
    source = SceneSource(0, 6, size)
    for i in range(6):
        image, label = source.image(i), source.label(i)
        assert (image.shape, image.dtype) == ((*size, 3), np.uint8)
        assert (label.shape, label.dtype) == (size, np.uint8)
        assert image.std() > 5
        assert set(np.unique(label)) <= {*range(CLASSES), IGNORE}
        assert 0.2 < (label == 0).mean() < 0.95


def near(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """The pixels within `reach` of a true one, by the exact distance transform."""
    return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= reach


def test_ignored_pixels_lie_along_borders_and_cover_them() -> None:
    source = SceneSource(1, 20, SIZE)
    along_border: list[NDArray[np.bool_]] = []
    for label in (source.label(i) for i in range(20)):
        ignored = label == IGNORE
        assert 0.03 < ignored.mean() < 0.35
        kinds_nearby = sum(near(label == kind, 3).astype(int) for kind in np.unique(label[~ignored]))
        along_border.append(kinds_nearby[ignored] >= 2)
        for ahead, behind in ((label[1:], label[:-1]), (label[:, 1:], label[:, :-1])):
            assert not ((ahead != behind) & (ahead != IGNORE) & (behind != IGNORE)).any()
    # Not all: a sliver thinner than the border is ignored whole, and may have one label alone near it.
    assert np.concatenate(along_border).mean() > 0.95


def test_border_is_no_wider_than_two_pixels_along_a_straight_edge() -> None:
    source = SceneSource(0, 60, SIZE)
    depth = [cv2.distanceTransform((source.label(i) == IGNORE).astype(np.uint8), cv2.DIST_L2, 3) for i in range(60)]
    ridges = np.concatenate([d[d > 0] for d in depth])
    assert (ridges <= 1.5).mean() > 0.9


def colours_and_labels(source: SceneSource) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images = np.concatenate([source.image(i).reshape(-1, 3) for i in range(source.count)])
    labels = np.concatenate([source.label(i).ravel() for i in range(source.count)])
    return images[labels != IGNORE], labels[labels != IGNORE]


def mean_iou(label: NDArray[np.uint8], guess: NDArray[np.int64]) -> float:
    ious = [((label == k) & (guess == k)).sum() / ((label == k) | (guess == k)).sum() for k in range(CLASSES)]
    return float(np.mean(ious))


@pytest.mark.parametrize("balanced", [False, True])
def test_colour_alone_does_not_tell_the_classes_apart(balanced: bool) -> None:
    # The best guess from a pixel's colour: per colour bin the most frequent class, or the most
    # over-represented one. 60 % and more is what a small network reaches on these scenes.
    colours, labels = colours_and_labels(SceneSource(0, 300, SIZE))
    bins = (colours // 32).astype(np.int64) @ (64, 8, 1)
    counts = np.bincount(bins * CLASSES + labels, minlength=512 * CLASSES).reshape(512, CLASSES) + 1.0
    best = (counts / counts.sum(axis=0) if balanced else counts).argmax(axis=1)
    colours, labels = colours_and_labels(SceneSource(0, 60, SIZE, "test"))
    guess = best[(colours // 32).astype(np.int64) @ (64, 8, 1)]
    assert mean_iou(labels, guess) < 0.2


def test_mean_colour_of_an_object_does_not_tell_its_class() -> None:
    # Fisher's ratio, by hand: the spread of class means against the spread inside the classes.
    source = SceneSource(0, 300, SIZE)
    means: list[list[NDArray[np.float64]]] = [[] for _ in SCENE_CLASSES]
    for i in range(300):
        image, label = source.image(i), source.label(i)
        for kind in set(np.unique(label)) - {0, IGNORE}:
            means[kind].append(image[label == kind].mean(axis=0))
    centres = np.stack([np.mean(rows, axis=0) for rows in means[1:]])
    spread = np.mean([np.std(rows, axis=0) for rows in means[1:]])
    assert centres.std(axis=0).max() < 0.25 * spread


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("size", {"size": (63, 96)}),
        ("size", {"size": (96, 32)}),
        ("images", {"images": 0}),
        ("labels", {"labels": 0}),
        ("labels", {"images": 10, "labels": 11}),
        ("val", {"val": 0}),
        ("test", {"test": -1}),
        ("seed", {"seed": -1}),
        ("unlabelled", {"images": 10, "labels": 10, "unlabelled": "rest"}),
        ("unlabelled", {"unlabelled": "some"}),
        ("colour", {"colour": 1}),
    ],
)
def test_bad_value_is_a_value_error_that_names_the_key(key: str, values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=key):
        Scenes(**values)  # type: ignore[arg-type]


def test_configuration_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Scenes().seed = 1  # type: ignore[misc]


def test_palette_has_one_distinct_colour_a_class() -> None:
    assert (PALETTE.shape, PALETTE.dtype) == ((CLASSES, 3), np.uint8)
    gaps = np.linalg.norm(PALETTE[:, None].astype(float) - PALETTE[None], axis=-1)
    assert gaps[~np.eye(CLASSES, dtype=bool)].min() > 50
