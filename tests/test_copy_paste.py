"""Small things of one labelled view that are pasted onto another: which, from where, how often, and nowhere else."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import trees
from numpy.typing import NDArray
from runs import tiny
from smalls import small
from test_stream import bits, served

from mtseg.data.batch import BatchSizes
from mtseg.data.copy_paste import small_classes
from mtseg.data.files import Pool, files
from mtseg.data.masks import in_order
from mtseg.data.source import IGNORE, UNKNOWN, Label, Source, Splits
from mtseg.data.stream import Stream
from mtseg.geometry import Geometry
from mtseg.idle import idle
from mtseg.results.compare import supervised_only
from mtseg.views import Policy, Views

COUNT = 5
CROP = (24, 32)


@dataclass(frozen=True)
class Stripes:
    """Images of four classes, of which every crop shows all; red is the class, green the image."""

    count: int = COUNT
    whole: bool = False

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"stripes-{index}"

    def map(self, index: int) -> NDArray[np.uint8]:
        row = np.repeat(np.array([0, 1, 2, 3, IGNORE], np.uint8), [9, 2, 5, 1, 1])
        return np.roll(np.tile(row, (60, 6)), 3 * index, axis=1)

    def label(self, index: int) -> Label:
        return np.array(index % 2 if index else UNKNOWN) if self.whole else self.map(index)

    def image(self, index: int) -> NDArray[np.uint8]:
        classes = self.map(index)
        return np.stack(
            [classes, np.full_like(classes, index), np.arange(60, dtype=np.uint8)[:, None] + classes], axis=2
        )


def a_stream(p: float, *, labelled: Source = Stripes(), oversample: float = 0.0, share=(0, 1)) -> Stream:
    policy = Policy(geometry=Geometry(scale=(1, 1), flip=0.5))
    views = Views(crop=CROP, labelled=policy, teacher=policy, copy_paste=p, oversample=oversample)
    splits = Splits(tuple("abcd"), np.zeros((4, 3), np.uint8), labelled, Stripes(), Stripes(1), Stripes(1))
    return Stream(splits, views=views, sizes=BatchSizes(labelled=4, unlabelled=2), students=1, seed=0, share=share)


def test_the_small_classes_are_the_half_with_the_fewest_pixels():
    rng = np.random.default_rng(3)
    for _ in range(200):
        classes = rng.integers(0, 12, size=rng.integers(1, 7)).tolist() + [IGNORE] * int(rng.integers(2))
        label = rng.choice(classes, size=(7, 6)).astype(np.uint8)
        counts = Counter(label.ravel().tolist())
        counts.pop(IGNORE, None)
        few = sorted(counts, key=lambda value: (counts[value], value))[: len(counts) // 2]
        assert np.array_equal(small_classes(torch.from_numpy(label)), np.isin(label, few))


@pytest.mark.parametrize("p", [0.0, 0.4, 1.0])
def test_that_share_of_the_labelled_views_shows_the_small_classes_of_one_other_image(p):
    plain, pasted, donors, shown, elsewhere = a_stream(0.0), a_stream(p), Counter[int](), 0, 0
    for step in range(60):
        before, crops = plain[step].labelled, pasted[step].labelled
        images, labels = crops.image.numpy(), crops.label.numpy()  # type: ignore[union-attr]
        np.testing.assert_array_equal(images[..., 0], labels)
        assert torch.equal(before.index, crops.index)
        for own, image, label, was in zip(crops.index.tolist(), images, labels, before.image.numpy(), strict=True):
            foreign = image[..., 1] != own
            np.testing.assert_array_equal(image[~foreign], was[~foreign])
            if foreign.any():
                assert set(label[foreign]) == {1, 3}  # of 0 to 3 those with 2 and 1 of 18 columns
                (donor,) = set(image[..., 1][foreign].tolist())
                donors[(donor - own) % COUNT] += 1
                columns = foreign.all(axis=0)
                assert np.array_equal(foreign.any(axis=0), columns)  # whole stripes
                assert 3 <= columns.sum() <= 6 + 2
                shown += 1
                rows = image[..., 2] - label  # of the images that they come from
                elsewhere += (rows[foreign] != np.broadcast_to(rows[:, ~columns][:, :1], rows.shape)[foreign]).all()
    assert abs(shown - 240 * p) <= 5 * np.sqrt(240 * p * (1 - p))
    if p:
        assert set(donors) == {1, 2, 3, 4}
        assert elsewhere > 0.8 * shown  # placed by a draw of their own: of 37 places one is the same
        assert max(abs(count - shown / 4) for count in donors.values()) < 5 * np.sqrt(shown * 3 / 16)


def test_unlabelled_views_are_as_without():
    for step in range(5):
        without, pasted = a_stream(0.0)[step], a_stream(1.0)[step]
        for one, other in zip([without.teacher, *without.students], [pasted.teacher, *pasted.students], strict=True):
            assert torch.equal(one.image, other.image)  # type: ignore[union-attr]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_and_the_first_step_change_no_bit(workers):
    alone = [bits(a_stream(0.7)[step]) for step in range(2, 6)]
    assert [bits(batch) for batch in served(a_stream(0.7), range(2, 6), workers)] == alone


def test_processes_have_parts_of_the_same_batch():
    for step in range(4):
        whole = a_stream(0.7, oversample=0.5)[step].labelled
        parts = [a_stream(0.7, oversample=0.5, share=(process, 2))[step].labelled for process in range(2)]
        assert torch.equal(torch.cat([part.image for part in parts]), whole.image)
        assert torch.equal(torch.cat([part.label for part in parts]), whole.label)  # type: ignore[misc]


@pytest.mark.parametrize("labelled", [Stripes(1), Stripes(whole=True)], ids=["one image", "whole images"])
def test_where_nothing_can_be_pasted_views_are_as_without(labelled):
    for step in range(4):
        assert bits(a_stream(1.0, labelled=labelled)[step]) == bits(a_stream(0.0, labelled=labelled)[step])


def test_where_nothing_can_be_pasted_it_is_refused_or_said(tmp_path):
    with pytest.raises(ValueError, match=r"copy_paste: 0\.5 .*views\.made=workers"):
        small(tmp_path, "views.copy_paste=0.5")
    stream = ["batch={labelled: 0, unlabelled: 6, consistency: all}", "method.branches=[{}]"]
    both = ["batch={labelled: 2, unlabelled: 2, consistency: all}", "method.branches=[{}]"]
    for words, says in (([], False), (stream, True), (both, True), ([both[0], "method.branches=[]"], False)):
        found = idle(tiny(tmp_path, "views.copy_paste=0.5", *words))
        assert any("views.copy_paste" in sentence for sentence in found) is says


def test_supervised_only_is_compared_with_what_the_method_has_had(tmp_path):
    words = ["views.copy_paste=0.5", "views.oversample=0.3", "method.branches=[{}]"]
    both = "batch={labelled: 2, unlabelled: 2, consistency: all}"
    for batch, given in (([], (0.5, 0.3)), ([both], (0.0, 0.0))):
        views = supervised_only(tiny(tmp_path, *words, *batch)).views
        assert (views.copy_paste, views.oversample) == given


def test_no_image_is_pasted_onto_itself_where_it_stands_in_for_one_that_cannot_be_read(tmp_path):
    root = trees.own(tmp_path)
    (root / "labelled/images/photo_3.jpg").write_bytes(b"broken")
    pool = Pool(
        *([f"labelled/{kind}/photo_{n}.{end}" for n in (3, 5)] for kind, end in (("images", "jpg"), ("masks", "png")))
    )
    readable = files(root, pool, in_order(4), "skip")
    for step in range(6):
        assert bits(a_stream(1.0, labelled=readable)[step]) == bits(a_stream(0.0, labelled=readable)[step])
