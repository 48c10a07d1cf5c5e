"""Balanced classes: what a labelled pixel counts, against counting by hand and torch's own weighted cross-entropy."""

from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from runs import tiny

from mtseg.balance import FEWEST, MOST, class_weights, pixels_of, told, weights_for
from mtseg.config import Config
from mtseg.data.source import IGNORE, UNKNOWN, Splits
from mtseg.inference.restored import restored
from mtseg.losses import CrossEntropy, Dice, Ohem
from mtseg.state import build
from mtseg.trainer import fit


@dataclass
class Labels:
    found: list[NDArray[Any]]

    def __len__(self) -> int:
        return len(self.found)

    def label(self, index: int) -> NDArray[Any]:
        return self.found[index]


def maps(classes: int, seed: int = 0) -> list[NDArray[Any]]:
    rng = np.random.default_rng(seed)
    drawn = [rng.choice([*range(classes), IGNORE], (5, 7)).astype(np.uint8) for _ in range(3)]
    return [*drawn, np.full((4, 4), IGNORE, np.uint8)]


def test_pixels_are_those_of_each_class_and_ignored_ones_are_none() -> None:
    found = maps(4)
    counts = [sum(int((label == c).sum()) for label in found) for c in range(6)]
    assert pixels_of(Labels(found), 6, range(4)).tolist() == counts  # type: ignore[arg-type]
    assert counts[4:] == [0, 0]


def test_whole_images_count_once_and_one_without_a_class_not_at_all() -> None:
    found = [np.asarray(value, np.int64) for value in (2, 0, 2, UNKNOWN, 300)]
    counts = pixels_of(Labels(found), 400, range(5))  # type: ignore[arg-type]
    assert {c: int(n) for c, n in enumerate(counts) if n} == {0: 1, 2: 2, 300: 1}


@pytest.mark.parametrize("balance", [0.0, 0.3, 0.5, 1.0])
def test_weights_are_powers_of_the_shares_whose_mean_over_the_pixels_is_one(balance: float) -> None:
    pixels = torch.tensor([1000, 10, 250, 1])
    weights = class_weights(pixels, balance).double()
    shares = pixels / pixels.sum()
    assert float((weights * shares).sum()) == pytest.approx(1, rel=1e-6)
    ratios = [(1000 / n) ** balance for n in pixels.tolist()]
    np.testing.assert_allclose(weights / weights[0], ratios, rtol=1e-5)


def test_fully_balanced_every_class_has_the_same_part_of_the_loss() -> None:
    label = torch.from_numpy(np.repeat([0, 1, 2], [70, 5, 25])).view(1, 10, 10)
    logits = torch.randn(1, 3, 10, 10)
    weights = class_weights(pixels_of(Labels([label.numpy()]), 3, [0]), 1.0)  # type: ignore[arg-type]
    values = F.cross_entropy(logits, label, reduction="none")
    of_classes = torch.stack([values[label == c].mean() for c in range(3)])
    torch.testing.assert_close(CrossEntropy()(logits, label, weights=weights), of_classes.mean())


def test_a_class_of_hardly_any_pixels_weighs_no_more_than_one_of_the_fewest() -> None:
    pixels = torch.tensor([10**7, round(FEWEST * 10**7), 3, 0])
    weights = class_weights(pixels, 1.0)
    assert float(weights[1] / weights[0]) == pytest.approx(1 / FEWEST, rel=1e-2)
    torch.testing.assert_close(weights[2:], weights[1].expand(2), rtol=1e-2, atol=0)


@pytest.mark.parametrize("size", [(), (6, 7)])
def test_weighted_cross_entropy_is_torchs_sum_over_the_number_of_pixels(size: tuple[int, ...]) -> None:
    logits, weights = torch.randn(5, 4, *size), torch.tensor([0.2, 3.0, 1.0, 0.7])
    label = torch.randint(4, (5, *size))
    label.view(-1)[1] = IGNORE
    sums = F.cross_entropy(logits, label, weight=weights, ignore_index=IGNORE, reduction="sum")
    torch.testing.assert_close(CrossEntropy()(logits, label, weights=weights), sums / (label != IGNORE).sum())


@pytest.mark.parametrize("loss", [CrossEntropy(), Ohem(keep=5), Dice()], ids=str)
def test_equal_weights_are_no_weights(loss: Any) -> None:
    logits, label = torch.randn(2, 4, 6, 7), torch.randint(4, (2, 6, 7))
    torch.testing.assert_close(loss(logits, label, weights=torch.ones(4)), loss(logits, label))


def test_which_pixels_are_hard_is_not_a_matter_of_weights() -> None:
    logits, label = torch.randn(2, 4, 6, 7), torch.randint(4, (2, 6, 7))
    weights = torch.tensor([0.1, 10.0, 1.0, 1.0])
    values = F.cross_entropy(logits, label, reduction="none")
    hard = values >= values.flatten().topk(5).values[-1]
    hard |= values > -np.log(0.1)
    expected = (values * weights[label])[hard].mean()
    torch.testing.assert_close(Ohem(keep=5, threshold=0.1)(logits, label, weights=weights), expected)


def test_weights_reach_dices_cross_entropy_and_not_its_dice() -> None:
    logits, label = torch.randn(2, 4, 6, 7), torch.randint(4, (2, 6, 7))
    weights = torch.tensor([0.1, 10.0, 1.0, 1.0])
    alone, both = Dice(cross_entropy=0), Dice(cross_entropy=2)
    torch.testing.assert_close(alone(logits, label, weights=weights), alone(logits, label))
    expected = alone(logits, label) + 2 * CrossEntropy()(logits, label, weights=weights)
    torch.testing.assert_close(both(logits, label, weights=weights), expected)


def test_a_run_weighs_the_classes_of_its_labelled_images_and_says_so(tmp_path, capsys) -> None:
    config = tiny(tmp_path / "run", "balance=1", "steps=1")
    splits = config.data.build()
    state = build(config, splits, torch.device("cpu"))
    labels = np.concatenate([splits.labelled.label(i).ravel() for i in range(len(splits.labelled))])
    shares = np.bincount(labels[labels != IGNORE], minlength=len(splits.classes)) / (labels != IGNORE).sum()
    weights = state.class_weights
    assert weights is not None
    present = shares > FEWEST
    np.testing.assert_allclose((weights.numpy() * shares)[present], 1 / len(shares), rtol=0.2 / len(shares))
    fit(config)
    assert told(weights, splits.classes) in capsys.readouterr().out
    assert f"({splits.classes[int(shares.argmax())]}) to " in told(weights, splits.classes)


def test_without_balance_nothing_is_weighed_and_no_label_is_read(tmp_path) -> None:
    config = tiny(tmp_path / "run")
    assert isinstance(config, Config)
    assert weights_for(None, 0.0) is None  # type: ignore[arg-type]
    assert build(config, config.data.build(), torch.device("cpu")).class_weights is None


def test_a_trained_run_is_read_back_without_its_labels(tmp_path, monkeypatch) -> None:
    config = tiny(tmp_path / "run", "balance=1", "steps=1")
    fit(config, quiet=True)

    def read(*_: object) -> None:
        raise AssertionError("labels were read")

    monkeypatch.setattr("mtseg.balance.pixels_of", read)
    assert restored(config.out).step == 1


def test_of_many_labels_some_are_counted_spread_over_all(tmp_path, monkeypatch) -> None:
    splits = tiny(tmp_path).data.build()
    read: list[int] = []

    class Watched(Labels):
        def label(self, index: int) -> NDArray[Any]:
            read.append(index)
            return self.found[index]

    label = np.array([[0, 1]], np.uint8)
    weights_for(replace(splits, labelled=Watched([label] * 5000)), 0.5)
    assert len(read) == len(set(read)) == MOST
    assert (min(read), max(read)) == (0, 4999)
    assert max(np.diff(sorted(read))) <= 11
    read.clear()
    weights_for(replace(splits, labelled=Watched([label] * 7)), 0.5)
    assert read == list(range(7))


@pytest.mark.parametrize("wrong", [-0.1, 1.1])
def test_balance_outside_0_to_1_is_refused(wrong: float, tmp_path) -> None:
    with pytest.raises(ValueError, match="balance"):
        tiny(tmp_path, f"balance={wrong}")


def test_labels_that_none_of_the_counted_images_has_are_found_in_the_others() -> None:
    few = np.linspace(0, 2 * MOST, MOST).round().astype(int)
    apart = [i for i in range(2 * MOST + 1) if i not in set(few.tolist())][:6]
    found = [np.full((2, 2), IGNORE, np.uint8) for _ in range(2 * MOST + 1)]
    for place, value in zip(apart, [0, 0, 0, 0, 1, 2], strict=True):
        found[place] = np.full((2, 2), value, np.uint8)
    names, inks = ("a", "b", "c"), np.zeros((3, 3), np.uint8)
    weights = weights_for(Splits(names, inks, *[cast(Any, Labels(found))] * 4), 0.5)
    assert weights is not None
    assert torch.equal(weights, class_weights(torch.tensor([16, 4, 4]), 0.5))


def test_what_counts_more_is_told_of_images_where_these_have_a_class_as_wholes():
    weights = torch.tensor([0.5, 2.0])
    assert told(weights, ("a", "b")) == "a labelled pixel counts 0.5 (a) to 2 (b)"
    assert told(weights, ("a", "b"), dense=False) == "a labelled image counts 0.5 (a) to 2 (b)"
