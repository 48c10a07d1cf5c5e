"""Seeded splits: nested, as even as they can be, sequences kept whole; the lists that are written read back."""

import hashlib
import json
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest
import trees
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from mtseg import cli
from mtseg.atomic import write_whole
from mtseg.config import load
from mtseg.data.camvid import Camvid
from mtseg.data.divide import FOLDER, balanced, by_sequence, ladder, presence, write
from mtseg.data.kinds import training_data
from mtseg.data.provenance import digest, provenance
from mtseg.data.scenes import Scenes
from mtseg.part import part

PRESENT = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).random((40, 12)) < np.linspace(0.05, 0.6, 12)
)


@given(PRESENT, st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_balanced_choices_are_nested_and_each_serves_the_class_with_the_fewest_images_and_the_most_of_the_others(
    present, seed
):
    order = balanced(present, 40, seed)
    assert sorted(order) == list(range(40))
    for count in range(39):
        assert balanced(present, count, seed) == order[:count]
        have = present[order[:count]].sum(0)
        left = np.delete(present, order[:count], axis=0)
        on_offer = left.any(0)
        if on_offer.any():
            picked = present[order[count]]
            served = np.flatnonzero(on_offer & (have == have[on_offer].min()))[0]  # of several the first
            assert picked[served]
            # Of the images that have the class that is served, none has more of the other rare ones.
            worth = np.where(left, 1 / (have + 1), 0).sum(1)
            assert (picked / (have + 1)).sum() >= worth[left[:, served]].max() - 1e-9


def test_balanced_finds_the_rare_class_that_chance_misses():
    present = np.zeros((200, 3), bool)
    present[:, 0] = True
    present[5, 1] = present[11, 2] = True
    for seed in range(10):
        assert {5, 11} <= set(balanced(present, 3, seed))
        assert present[balanced(present, 20, seed)].sum(0).tolist() == [20, 1, 1]


def test_balanced_choices_differ_between_seeds_and_classes_end_even():
    present = np.eye(4, dtype=bool)[np.arange(80) % 4]
    choices = [balanced(present, 20, seed) for seed in range(10)]
    assert len({tuple(choice) for choice in choices}) == 10
    assert all(present[choice].sum(0).tolist() == [5, 5, 5, 5] for choice in choices)


def test_presence_is_what_the_masks_hold(tmp_path):
    source = Camvid(root=trees.camvid(tmp_path)).build().labelled
    seen = []
    found = presence(source, 11, seen=lambda: seen.append(1))
    assert len(seen) == len(source) == 34
    for i in range(34):
        assert set(np.flatnonzero(found[i]).tolist()) == set(np.unique(source.label(i)).tolist()) - {255}


def test_of_images_with_a_class_each_the_256th_is_a_class():
    class Wholes(Named):
        def label(self, index: int):
            return np.array((index % 300) - 1)  # -1: not known

    found = presence(Wholes([f"{n}" for n in range(300)]), 299)
    assert found.sum(1).tolist() == [0] + [1] * 299
    assert (found[np.arange(1, 300), np.arange(299)]).all()


def test_sequences_are_what_the_group_finds_and_the_seed_orders_them():
    names = [f"train/{city}/{city}_{i:03d}.png" for city in "abc" for i in range(4)]
    for pattern in (FOLDER, r"/(\w)_", r"(train/.)"):
        found = by_sequence(names, pattern, seed=0)
        assert sorted(map(tuple, found)) == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11)]
    assert len({tuple(by_sequence(names, FOLDER, seed)[0]) for seed in range(20)}) == 3
    with pytest.raises(ValueError, match=r"has no .group."):
        by_sequence(names, "train", seed=0)
    with pytest.raises(ValueError, match="is no regular expression"):
        by_sequence(names, "(", seed=0)
    with pytest.raises(ValueError, match=r"does not fit 'train/a/a_000\.png'"):
        by_sequence(names, "(val)", seed=0)
    with pytest.raises(ValueError, match=r"does not fit 'train/b/b_000\.png'"):
        by_sequence(names, "train/(a)?", seed=0)


class Named:
    """A source of names alone."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]


@pytest.mark.parametrize("seed", range(5))
def test_no_sequence_is_parted_and_smaller_rungs_lie_in_larger_ones(seed):
    lengths = {"a": 5, "b": 9, "c": 3, "d": 7, "e": 6}
    names = [f"{city}/{i}.png" for city, length in lengths.items() for i in range(length)]
    rungs = ladder(Named(names), [9, 15, 30], how="sequence", seed=seed, present=None, pattern=FOLDER)  # type: ignore[arg-type]
    for chosen, count in zip(rungs, [9, 15, 30], strict=True):
        cities = [names[i][0] for i in chosen]
        assert len(chosen) <= count
        assert all(cities.count(city) == lengths[city] for city in cities)
    assert all(set(small) <= set(large) for small, large in pairwise(rungs))
    assert len(rungs[-1]) == 30
    with pytest.raises(ValueError, match=r"--labels: 2 images are fewer than the first of 5 sequences has"):
        ladder(Named(names), [2], how="sequence", seed=seed, present=None, pattern=FOLDER)  # type: ignore[arg-type]


# The command ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["random", "balanced", "sequence"])
def test_the_lists_of_a_ladder_part_the_training_images_and_are_read_back(how, tmp_path, capsys):
    root, out = trees.cityscapes(tmp_path / "city"), tmp_path / "splits"
    words = ["data.kind=cityscapes", f"data.root={root}", "data.labels=1/16", "data.unlabelled=rest"]
    words += ["--labels", "1/2,20", "--how", how, "--seed", "3", "--out", str(out)]
    assert cli.main(["split", *words]) == 0
    shown = capsys.readouterr().out
    inner: set[str] = set()
    for rung, count in (("1_2", 17), ("20", 20)):
        lists = [(out / rung / f"{pool}.txt").read_text().splitlines() for pool in ("labelled", "unlabelled")]
        said = json.loads((out / rung / "split.json").read_text())
        assert len(lists[0]) <= count
        assert how == "sequence" or len(lists[0]) == count
        assert not set(lists[0]) & set(lists[1])
        assert len(lists[0]) + len(lists[1]) == 34
        assert inner <= set(lists[0])
        inner = set(lists[0])
        assert (said["how"], said["seed"], said["labelled"]["images"]) == (how, 3, len(lists[0]))
        plain = "".join(f"{name}\n" for name in sorted(lists[0])).encode()
        assert said["labelled"]["sha256"] == hashlib.sha256(plain).hexdigest()
        assert f": {len(lists[0])} images (SHA-256 {said['labelled']['sha256']})\n" in shown
        from mtseg.data.cityscapes import Cityscapes

        read = provenance(Cityscapes(root=root, split=out / rung, unlabelled="rest").build())
        assert (read.labelled.sha256, read.unlabelled.sha256) == (said["labelled"]["sha256"], digest(lists[1]))
    if how == "sequence":
        assert len({Path(name).parent for name in lists[0]} & {Path(name).parent for name in lists[1]}) == 0


def test_a_random_ladder_is_the_choice_that_a_reader_makes_from_the_same_seed(tmp_path):
    root = trees.camvid(tmp_path / "camvid")
    config = Path(__file__).parent.parent / "configs/data/camvid.yaml"
    words = [str(config), f"data.root={root}", "--labels", "1/4", "--seed", "5", "--out", str(tmp_path / "s")]
    assert cli.main(["split", *words]) == 0
    chosen = Camvid(root=root, labels="1/4", split_seed=5).build().labelled
    assert (tmp_path / "s/1_4/labelled.txt").read_text().split() == [chosen.name(i) for i in range(len(chosen))]


def test_the_words_that_split_prints_train_on_its_lists_laid_on_any_recipe(tmp_path, capsys):
    root, out = trees.camvid(tmp_path / "camvid"), tmp_path / "lists"
    config = Path(__file__).parent.parent / "configs/recipe/camvid_mt.yaml"  # which asks for 1/16
    assert cli.main(["split", str(config), f"data.root={root}", "--labels", "1/2", "--out", str(out)]) == 0
    words, _, count = capsys.readouterr().out.partition(": ")
    data = load([str(config), f"data.root={root}", *shlex.split(words)]).data.build()
    assert len(data.labelled) == 17
    assert "17" in count
    assert provenance(data).labelled.sha256 in count


def test_a_list_beside_a_share_is_refused_with_the_word_that_takes_the_list(tmp_path):
    root = trees.camvid(tmp_path / "camvid")
    (tmp_path / "list.txt").write_text("train/0001TP_006690.jpg\n")
    keys = {"root": root, "split": tmp_path / "list.txt"}
    with pytest.raises(ValueError, match=r"data\.labels: '1/16' and data\.split .*data\.labels=all .*data\.split=null"):
        Camvid(labels="1/16", **keys).build()
    assert len(Camvid(labels="all", **keys).build().labelled) == 1
    assert len(Camvid(labels="1/16", root=root, split=None).build().labelled) == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--labels", "1/400"], "data.labels: '1/400' is 0 of 34"),
        (["--labels", "35"], "data.labels: 35 is 35 of 34"),
        (["--labels", "half"], "'half' is not a number"),
        (["--labels", "3", "--how", "sequence"], "--labels: 3 images are fewer than the first of 1 sequences"),
        (["--labels", "3", "data.roott=x"], "data.roott: unknown key"),
        (
            ["--labels", "3", "data.kind=scenes"],
            "scenes has no files to list (no key data.split); set data.labels",
        ),
        (["--labels", "3", "data.kind=scene"], "'scene' is not one of 'scenes'"),
        (["--labels", "3", "data.kind=null"], "data.kind"),
    ],
)
def test_a_mistake_is_told_and_nothing_is_written(words, says, tmp_path, capsys):
    root = trees.camvid(tmp_path / "camvid")
    base = ["split", "data.kind=camvid", f"data.root={root}", "--out", str(tmp_path / "out")]
    assert cli.main([*base, *words]) == 1
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@part
class OwnLists:
    """A reader that takes lists, and nothing else of what the others take."""

    kind: Literal["own_lists"] = "own_lists"
    root: Path
    split: Path | None = None

    def build(self):
        return Camvid(root=self.root, split=self.split).build()


@part
class OwnShare:
    """One that takes a number, and no lists."""

    kind: Literal["own_share"] = "own_share"
    share: int = 1


@part
class Holder:
    data: Annotated[Camvid | Scenes | OwnLists | OwnShare, Field(discriminator="kind")]


def test_a_kind_of_ones_own_is_split_with_the_keys_that_it_has(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mtseg.data.kinds._Data", Holder)
    root = trees.camvid(tmp_path / "camvid")
    words = ["data.kind=own_lists", f"data.root={root}", f"data.split={root}/none.txt", "--labels", "1/2"]
    assert cli.main(["split", *words, "--out", str(tmp_path / "s")]) == 0
    assert len((tmp_path / "s/1_2/labelled.txt").read_text().splitlines()) == 17
    assert cli.main(["split", "data.kind=own_share", "--labels", "3", "--out", str(tmp_path / "t")]) == 1
    told = capsys.readouterr().err
    assert "data.kind: own_share has no files to list (no key data.split)" in told
    assert "data.labels" not in told  # it has none
    assert cli.main(["split", *words, "data.sharee=1", "--out", str(tmp_path / "t")]) == 1
    told = capsys.readouterr().err
    assert "data.sharee: unknown key" in told
    assert "expect" not in told


@pytest.mark.parametrize("word", ["data.labels=4", "data.per_class=1", "data.unlabelled=rest"])
def test_all_training_images_are_divided_whatever_share_the_words_ask_for(word, tmp_path):
    root = tmp_path / "own"
    for number, name in enumerate(["train/a/1", "train/a/2", "train/b/1", "train/b/2", "val/a/3", "val/b/3"]):
        trees.image(root / f"{name}.png", number)
    words = ["data.kind=image_folder", f"data.root={root}"]
    whole = training_data(words).build().labelled
    assert len(training_data([*words, word]).build().labelled) == len(whole)


def test_a_key_that_a_kind_of_the_words_misses_is_told_with_what_began_anew(capsys, tmp_path):
    demo = str(Path(__file__).parent.parent / "configs/demo.yaml")
    assert cli.main(["split", demo, "data.kind=camvid", "--labels", "3", "--out", str(tmp_path)]) == 1
    assert "data: missing key 'root': kind camvid in place of scenes begins anew" in capsys.readouterr().err


class Called:
    """Images that have names, and nothing else."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]


def test_a_name_that_is_no_line_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"'two\\nlines' has a line break in its name.*rename it"):
        write(tmp_path / "out", Called("one", "two\nlines", "three"), [0], {})
    assert not (tmp_path / "out").exists()


def test_a_disk_that_takes_no_more_leaves_no_list_of_labelled_images_or_the_one_before(tmp_path, monkeypatch):
    def full(path: Path, text: str) -> None:
        if path.name == "unlabelled.txt":
            raise OSError(28, "No space left on device", str(path))
        write_whole(path, text)

    images = Called("a", "b", "c")
    monkeypatch.setattr("mtseg.data.divide.write_whole", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "new", images, [0], {})
    assert not (tmp_path / "new/labelled.txt").exists()
    monkeypatch.undo()
    write(tmp_path / "old", images, [1, 2], {})
    monkeypatch.setattr("mtseg.data.divide.write_whole", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "old", images, [0], {})
    assert (tmp_path / "old/labelled.txt").read_text() == "b\nc\n"
