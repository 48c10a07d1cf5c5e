"""Batches made on the device: the same views as workers' matrices draw, and the batches of the paper."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from smalls import SIDE, small

from mtseg.data.held import Held
from mtseg.data.resident import Resident, moves
from mtseg.data.source import UNKNOWN
from mtseg.data.stream import Stream
from mtseg.geometry import Geometry
from mtseg.state import batches_of
from mtseg.warping import draw_image

CPU = torch.device("cpu")
TWO_STREAMS = ["batch={labelled: 3, unlabelled: 5, consistency: all}", "data.unlabelled=rest"]
MIXED = ["batch={labelled: 0, unlabelled: 10, consistency: all}"]


def stream(folder, *words):
    config = small(folder, *words)
    splits = config.data.build()
    return config, splits, batches_of(config, splits, CPU)


def names(pool, indices):
    return [pool.name(int(i)) for i in indices]


@pytest.mark.parametrize("geometry", [{"translate": 2, "flip": 0.5}, {"translate": 4, "flip_vertical": 0.5}])
def test_a_move_shows_what_opencv_draws_through_its_matrix(geometry):
    """Reflection at the border's pixels, mirrors, whole pixels: equal to the bit."""
    shape = Geometry(scale=(1, 1), **{"flip": 0.0, **geometry})
    warp, taps = moves(shape, 30, 12, np.random.default_rng(0))
    images = np.random.default_rng(1).integers(0, 256, (30, 12, 12, 3), dtype=np.uint8)
    for image, matrix, (rows, columns) in zip(images, warp.numpy(), taps.numpy(), strict=True):
        assert np.array_equal(image[rows][:, columns], draw_image(image, matrix, (12, 12)))
    assert len({matrix.tobytes() for matrix in warp.numpy()}) > 15


def test_moves_are_uniform_over_their_range():
    warp, _ = moves(Geometry(scale=(1, 1), flip=0.5, translate=2), 20000, 10, np.random.default_rng(0))
    for axis in (0, 1):
        shifts = (warp[:, axis, 2] * 5).round().long()
        assert (torch.bincount(shifts + 2, minlength=5) / 20000 - 0.2).abs().max() < 0.015
    assert abs(float((warp[:, 0, 0] < 0).float().mean()) - 0.5) < 0.015
    assert bool((warp[:, 1, 1] > 0).all())


def test_the_device_and_a_worker_give_the_same_input_for_the_same_move(tmp_path):
    """A crop moved by a matrix and then normalised, and the whole image normalised and then moved."""
    config, _, made = stream(tmp_path, "views.teacher.noise=0")
    crops = made[3].teacher
    pairs = zip(crops.image.numpy(), crops.warp.numpy(), strict=True)
    drawn = [draw_image(image, warp, (SIDE, SIDE)) for image, warp in pairs]
    ready = replace(crops, image=torch.from_numpy(np.stack(drawn)), taps=None)
    one, two = crops.view(config.views), ready.view(config.views)
    torch.testing.assert_close(one.data, two.data, atol=1e-6, rtol=0)
    assert torch.equal(one.known, two.known)


def test_noise_has_its_deviation_and_is_drawn_anew_for_each_view_and_step(tmp_path):
    config, _, made = stream(tmp_path, "views.student.noise=0.3")
    batch = made[0]

    def noise(crops):
        return crops.view(config.views).data - replace(crops, noise=0.0).view(config.views).data

    found = noise(batch.students[0])
    assert abs(float(found.std()) - 0.3) < 0.01
    assert abs(float(found.mean())) < 0.01
    assert torch.equal(found, noise(batch.students[0]))
    for other in (noise(batch.teacher) * 2, noise(made[1].students[0])):
        assert float((other - found).abs().mean()) > 0.1


def test_a_batch_is_a_function_of_its_step_and_every_pass_shows_every_image(tmp_path):
    _, splits, made = stream(tmp_path)
    _, _, again = stream(tmp_path)
    for step in (5, 0):
        one, two = made[step], again[step]
        assert torch.equal(one.students[0].warp, two.students[0].warp)
        assert torch.equal(one.labelled.image, two.labelled.image)
    passes = torch.cat([made[step].teacher.index for step in range(20)]).view(3, 40)
    assert all(sorted(one.tolist()) == list(range(40)) for one in passes)
    truth = {splits.labelled.name(i): int(splits.labelled.label(i)) for i in range(8)}
    batch = made[2]
    assert [truth[name] for name in names(splits.labelled, batch.labelled.index)] == batch.label.tolist()


def test_teacher_and_student_move_independently_unless_the_geometry_is_shared(tmp_path):
    _, _, made = stream(tmp_path)
    batch = made[0]
    assert torch.equal(batch.teacher.image, batch.students[0].image)
    assert not torch.equal(batch.teacher.warp, batch.students[0].warp)
    _, _, made = stream(tmp_path, "views.student.geometry=shared")
    batch = made[0]
    assert batch.students[0].warp is batch.teacher.warp
    assert torch.equal(batch.students[0].taps, batch.teacher.taps)


@pytest.mark.parametrize("made", ["device", "workers"])
def test_a_mixed_batch_has_the_labels_that_are_known_and_no_others(tmp_path, made):
    _, splits, batches = stream(tmp_path, *MIXED, f"views.made={made}")
    assert isinstance(batches, Resident if made == "device" else Stream)
    truth = {splits.labelled.name(i): int(splits.labelled.label(i)) for i in range(8)}
    shown = 0
    for step in range(4):  # one pass over the pool
        batch = batches[step]
        assert len(batch.labelled.image) == 0
        assert batch.images == 10
        expected = [truth.get(name, UNKNOWN) for name in names(splits.unlabelled, batch.teacher.index)]
        assert batch.label.tolist() == expected
        shown += sum(label != UNKNOWN for label in expected)
    assert shown == 8


@pytest.mark.parametrize("made", ["device", "workers"])
def test_two_streams_are_asked_of_together_one_pass_of_each_after_another(tmp_path, made):
    """Unlabelled images once a pass, labelled ones as often as their own passes come round; the first have labels."""
    _, splits, batches = stream(tmp_path, *TWO_STREAMS, f"views.made={made}")
    truth = {splits.labelled.name(i): int(splits.labelled.label(i)) for i in range(8)}
    own, others = [], []
    for step in range(8):
        batch = batches[step]
        assert batch.images == len(batch.students[0].image) == 8
        index = batch.teacher.index
        assert torch.equal(index, batch.students[0].index)
        labelled = names(splits.labelled, index[:3] - len(splits.unlabelled))
        assert batch.label.tolist() == [truth[name] for name in labelled] + [UNKNOWN] * 5
        own, others = own + labelled, others + names(splits.unlabelled, index[3:])
    assert sorted(own) == sorted(3 * list(truth))
    assert len(set(others[:32])) == 32
    assert not set(others) & set(truth)


def test_labels_of_unlabelled_images_are_on_no_path_into_a_batch(tmp_path):
    """Other labels of the unlabelled images, the same batches."""
    config, splits, made = stream(tmp_path, *MIXED)
    held = splits.unlabelled.source
    known = set(np.asarray(splits.labelled.indices).tolist())
    changed = np.array([label if i in known else 3 - label for i, label in enumerate(held.labels)])
    other = Held(held.images, changed, held.names)
    again = replace(
        splits,
        labelled=replace(splits.labelled, source=other),
        unlabelled=replace(splits.unlabelled, source=other),
    )
    for step in range(4):
        assert torch.equal(made[step].label, batches_of(config, again, CPU)[step].label)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["views.crop=[32, 32]"], "as large as these"),
        (["views.teacher.geometry.rotation=5"], "views.made=workers"),
        (["views.student.colour=[{name: ToGray}]"], "whole-pixel moves"),
        (["views.labelled.geometry.scale=[0.5, 1]"], "labelled: views are made"),
        (["batch.labelled=0"], "batch.consistency=all"),
        ([*MIXED, "method.branches=[]"], "labelled: 0"),
        ([*MIXED, "method.branches=[{mix: {kind: mixup}}]"], "must be whole"),
        ([*TWO_STREAMS, "method.teacher={kind: memory, size: []}"], "batch.labelled=0"),
        (["method.normalise=batch", "method.mean_over=counted"], "normalise: counted"),
    ],
)
def test_what_cannot_be_made_on_the_device_or_mixed_is_refused(tmp_path, words, says):
    with pytest.raises(ValueError, match=says):
        stream(tmp_path, *words)


def test_images_in_files_cannot_lie_on_the_device(tmp_path):
    from test_small import image_folder

    root = image_folder(tmp_path / "own")
    with pytest.raises(ValueError, match=r"views\.made"):
        stream(tmp_path, f"data={{kind: image_folder, root: {root}}}")
