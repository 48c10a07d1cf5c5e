"""Images held out: in no other pool, read by no step, and the checkpoint that they choose is kept, named and scored."""

import csv
import json
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trees
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from runs import tiny
from smalls import small

from mtseg import cli, trainer
from mtseg.config import splits_of
from mtseg.data.folder import Folder
from mtseg.data.held import held_by
from mtseg.data.holdout import held_out
from mtseg.data.match import Images, Labelled
from mtseg.data.provenance import digest
from mtseg.data.source import Nothing, Source, Splits, Subset
from mtseg.inference.restored import load
from mtseg.results.run_page import page
from mtseg.results.standings import standings
from mtseg.results.tables import of_methods
from mtseg.run import checkpoint
from mtseg.run.logged import read
from mtseg.trainer import fit

APART = ("eval.select=holdout", "data.labels=4")  # of 6 scenes: one is held out, three are labelled


class Numbered:
    """A source that has names alone."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"{index}.png"


def names_of(source: Source) -> list[str]:
    return [source.name(index) for index in range(len(source))]


def of(labelled: Any, unlabelled: Any) -> Splits:
    return Splits(("a",), np.zeros((1, 3), np.uint8), labelled, unlabelled, Nothing(), Nothing())


@given(st.integers(2, 60), st.one_of(st.integers(1, 80), st.tuples(st.integers(1, 9), st.integers(1, 9))), st.data())
def test_the_images_held_out_are_so_many_and_in_no_other_pool_and_the_others_stay_in_theirs(count, share, data):
    """Labelled images are any of a whole, and some of them are unlabelled ones too."""
    labelled = data.draw(st.permutations(range(count)))[: data.draw(st.integers(1, count))]
    unlabelled = [index for index in range(count) if index % 3 or index not in labelled]
    splits = of(Subset(Numbered(count), labelled), Subset(Numbered(count), unlabelled))
    said = share if isinstance(share, int) else f"{share[0]}/{share[1]}"
    wanted = share if isinstance(share, int) else max(1, int(len(labelled) * Fraction(*share)))
    if isinstance(share, tuple) and share[0] > share[1]:
        with pytest.raises(ValueError, match=r"eval\.holdout: .* is not a number of images"):
            held_out(splits, said, 0)
        return
    if wanted >= len(labelled):
        with pytest.raises(ValueError, match=r"eval\.holdout: .*leaves none to learn from"):
            held_out(splits, said, 0)
        return
    before = [set(names_of(pool)) for pool in (splits.labelled, splits.unlabelled)]
    if not before[1] - before[0] and len(before[1]) <= wanted:
        return
    found = held_out(splits, said, 0)
    apart = set(names_of(found.holdout))
    assert len(apart) == len(found.holdout) == wanted
    assert apart <= before[0]
    assert [set(names_of(pool)) for pool in (found.labelled, found.unlabelled)] == [names - apart for names in before]
    assert names_of(held_out(splits, said, 0).holdout) == names_of(found.holdout)


def test_images_are_held_out_of_data_without_unlabelled_ones_too():
    """Supervised training asks for none."""
    found = held_out(of(Numbered(10), Nothing()), "1/5", 0)
    assert [len(pool) for pool in (found.labelled, found.unlabelled, found.holdout)] == [8, 0, 2]


def test_images_held_out_are_read_as_those_that_are_scored():
    splits = tiny(Path("run")).data.build()
    to_score = Subset(splits.val, range(len(splits.labelled)))
    found = held_out(replace(splits, labelled_to_score=to_score), "1/2", seed=0)
    names = [splits.val.name(i) for i in range(len(splits.val))]
    assert len(found.holdout) == 1
    assert found.holdout.name(0) in names


def test_another_seed_holds_out_others():
    splits = of(Numbered(40), Numbered(40))
    assert len({tuple(names_of(held_out(splits, "1/5", seed).holdout)) for seed in range(5)}) == 5


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["eval.holdout=3"], "eval.select=holdout"),
        (["eval.select=holdout", "eval.holdout=3/2"], "share such as"),
        (["eval.select=holdout", "eval.holdout=0"], "eval.holdout"),
        (["eval.select=held"], "eval.select"),
    ],
)
def test_a_choice_that_cannot_be_or_would_do_nothing_is_refused(words, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        tiny(tmp_path, *words)


def test_a_bad_file_is_never_replaced_by_an_image_held_out(tmp_path):
    """`on_bad_image: skip` reads on to the next image: of those that are trained on."""
    trees.own(tmp_path)
    both = Labelled(images="labelled/images", masks="labelled/masks")
    data = Folder(
        root=tmp_path,
        classes=("a", "b", "c"),
        labelled=both,
        val=0.25,
        unlabelled=Images(images="unlabelled"),
        on_bad_image="skip",
    )
    splits = held_out(data.build(), "1/2", 0)
    for bad in range(len(splits.labelled)):
        path = tmp_path / splits.labelled.name(bad)
        whole = path.read_bytes()
        path.write_bytes(whole[:50])
        again = held_out(data.build(), "1/2", 0)
        shown = again.labelled.image(bad)
        path.write_bytes(whole)
        held = [np.array(Image.open(tmp_path / name)) for name in names_of(splits.holdout)]
        assert not any(np.array_equal(shown, image) for image in held)


class Watched:
    """A source that notes which of its images are read."""

    def __init__(self, source: Source, seen: set[str]) -> None:
        self.source, self.seen = source, seen

    def __len__(self) -> int:
        return len(self.source)

    def name(self, index: int) -> str:
        return self.source.name(index)

    def image(self, index: int) -> Any:
        self.seen.add(self.name(index))
        return self.source.image(index)

    def label(self, index: int) -> Any:
        self.seen.add(self.name(index))
        return self.source.label(index)


@pytest.mark.parametrize("pool", ["all", "rest"])
def test_no_step_reads_an_image_held_out(pool, tmp_path, monkeypatch):
    config = tiny(tmp_path / "run", *APART, f"data.unlabelled={pool}", "eval.every=100", "steps=8")
    seen: set[str] = set()
    whole = config.data.build()
    watched = replace(
        whole, labelled=Watched(whole.labelled, seen), unlabelled=Watched(whole.unlabelled, seen), val=whole.val
    )
    apart = set(names_of(splits_of(config).holdout))
    trained: set[str] = set()

    def evaluated(*args: Any, **options: Any) -> Any:
        trained.update(seen)
        return kept(*args, **options)

    kept = trainer._evaluated
    monkeypatch.setattr(trainer, "_evaluated", evaluated)
    fit(config, splits=watched, quiet=True)
    every = set(names_of(whole.labelled)) | set(names_of(whole.unlabelled))
    assert len(apart) == 1
    assert trained == every - apart
    assert apart <= seen  # by the evaluation


def test_the_checkpoint_that_was_best_on_the_images_held_out_is_kept_beside_the_last_and_the_best(
    tmp_path, monkeypatch
):
    on_val = {2: 0.3, 4: 0.6, 6: 0.5, 8: 0.6, 10: 0.1}
    apart = {2: 0.1, 4: 0.2, 6: 0.7, 8: 0.3, 10: 0.7}

    def scored(config: Any, splits: Any, state: Any, log: Any, stop: object) -> dict[str, Any]:
        found = {}
        for pool, values in (("val", on_val), ("holdout", apart)):
            found[pool] = {name: {"mIoU": values[state.step]} for name in ("student", "teacher")}
            log.evaluated(state.step, pool, found[pool])
        return found

    monkeypatch.setattr(trainer, "_evaluated", scored)
    config = tiny(tmp_path, *APART, "eval.every=2", "steps=10", "keep=1", "checkpoint_every=5")
    fit(config, quiet=True)
    folder = tmp_path / "checkpoints"
    assert [place.name[-2:] for place in checkpoint.steps(folder)] == ["04", "06", "10"]
    assert checkpoint.chosen(folder, "best") == (folder / "step-00000004", 0.6, "val", "whole images")
    assert checkpoint.chosen(folder, "holdout") == (folder / "step-00000006", 0.7, "holdout", "whole images")
    (folder / "holdout.json").unlink()  # as if killed between checkpoint and pointer
    fit(config, quiet=True)
    assert checkpoint.chosen(folder, "holdout") == (folder / "step-00000010", 0.7, "holdout", "whole images")


def test_images_that_choose_a_checkpoint_are_none_that_it_is_scored_on(tmp_path):
    """Whatever the seed draws: to be learnt from, or to be held out."""
    root = trees.own(tmp_path / "own")
    both = {"images": "labelled/images", "masks": "labelled/masks"}
    data = {"kind": "folder", "root": str(root), "classes": ["a", "b", "c"], "labelled": both}
    data |= {"val": {"images": "labelled/images/photo_0.jpg", "masks": "labelled/masks"}}
    said = set()
    for seed in range(12):
        config = tiny(tmp_path / "run", *APART[:1], "eval.holdout=1/2", f"seed={seed}", f"data={json.dumps(data)}")
        with pytest.raises(ValueError, match=r"^data\.val: 1 of 1 images are (labelled|held out) too") as refused:
            fit(config, quiet=True)
        said.add("held out too" in str(refused.value))
    assert said == {True, False}


def test_a_bad_file_among_the_images_held_out_is_an_error_though_others_are_passed_over(tmp_path):
    trees.own(tmp_path)
    both = Labelled(images="labelled/images", masks="labelled/masks")
    data = Folder(root=tmp_path, classes=("a", "b", "c"), labelled=both, val=0.25, on_bad_image="skip")
    apart = held_out(data.build(), "1/2", 0).holdout
    (tmp_path / apart.name(1)).write_bytes(b"")
    assert apart.image(0).shape
    with pytest.raises(ValueError, match=re.escape(apart.name(1))):
        apart.image(1)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run whose three checkpoints are of three steps, with evaluations of steps 2, 4, 6 and 8."""
    out = tmp_path_factory.mktemp("runs") / "run"
    fit(tiny(out, *APART, "eval.every=2", "steps=8", "checkpoint_every=2", "keep=9", "data.val=3"), quiet=True)
    checkpoint.choose(out / "checkpoints", "best", 2, score=0.5, split="val", asked="", keep=9)
    checkpoint.choose(out / "checkpoints", "holdout", 6, score=0.25, split="holdout", asked="", keep=9)
    return out


def logged(run: Path, step: int, pool: str) -> dict[str, Any]:
    return next(line for line in read(run) if line["step"] == step and f"{pool}_teacher" in line)


@pytest.mark.parametrize("network", ["both", "teacher"])
def test_eval_puts_last_best_and_held_out_side_by_side_as_the_trainer_scored_them(network, run, capsys):
    assert cli.main(["eval", str(run), "--network", network]) == 0
    shown = capsys.readouterr().out
    alone = "" if network == "both" else f"_{network}"
    said = json.loads((run / f"eval_val_checkpoints{alone}.json").read_text())
    assert {at: found["step"] for at, found in said.items()} == {"last": 8, "best": 2, "holdout": 6}
    names = ["student", "teacher"] if network == "both" else ["teacher"]
    for found in said.values():
        line = logged(run, found["step"], "val")
        assert all(found[name] == found[name] | line[f"val_{name}"] for name in names)
        assert all(f"{100 * found[name]['mIoU']:.2f}" in shown for name in names)
    assert json.loads((run / f"eval_val{alone}.json").read_text()) == said["last"]
    with (run / f"eval_val_checkpoints{alone}.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["checkpoint"], row["step"], row["network"]) for row in rows] == [
        (at, str(found["step"]), name) for at, found in said.items() for name in names
    ]
    assert [float(row["mIoU"]) for row in rows] == [found[name]["mIoU"] for found in said.values() for name in names]
    assert "teacher 25.00 on holdout" in shown
    assert "best was chosen on the images that are scored here" in shown


def test_on_other_images_no_choice_flatters(run, capsys):
    assert cli.main(["eval", str(run), "eval.split=test", "--at", "best,holdout"]) == 0
    assert "flatters" not in capsys.readouterr().out
    assert json.loads((run / "eval_test_best.json").read_text())["step"] == 2
    assert list(json.loads((run / "eval_test_checkpoints_best-holdout.json").read_text())) == ["best", "holdout"]


def test_checkpoints_side_by_side_that_were_asked_in_another_way_are_in_files_of_another_name(run):
    assert cli.main(["eval", str(run)]) == 0
    plain = (run / "eval_val_checkpoints.json").read_bytes()
    assert cli.main(["eval", str(run), "eval.predictor.augment.flip=true"]) == 0
    assert (run / "eval_val_checkpoints.json").read_bytes() == plain
    (other,) = run.glob("eval_val_checkpoints_*mirrored*.json")
    assert other.with_suffix(".csv").is_file()
    assert json.loads(other.read_text())["best"]["protocol"] != json.loads(plain)["best"]["protocol"]


def test_other_checkpoints_side_by_side_are_in_files_of_another_name(run):
    assert cli.main(["eval", str(run)]) == 0
    usual = (run / "eval_val_checkpoints.json").read_bytes()
    for ats in ("last,2", "best,2"):
        assert cli.main(["eval", str(run), "--at", ats]) == 0
    assert (run / "eval_val_checkpoints.json").read_bytes() == usual
    for ats in ("last,2", "best,2"):
        name = f"eval_val_checkpoints_{ats.replace(',', '-')}"
        assert list(json.loads((run / f"{name}.json").read_text())) == ats.split(",")
        assert (run / f"{name}.csv").is_file()


def test_the_checkpoint_held_out_chose_predicts_where_it_is_asked_for(run):
    assert load(run, at="holdout").step == 6


def test_a_run_that_holds_nothing_out_scores_the_last_alone_and_has_no_such_checkpoint(tmp_path, capsys):
    fit(tiny(tmp_path, "steps=2"), quiet=True)
    assert cli.main(["eval", str(tmp_path)]) == 0
    assert not (tmp_path / "eval_val_checkpoints.json").exists()
    assert cli.main(["eval", str(tmp_path), "--at", "holdout"]) == 1
    assert "only a run with eval.select=holdout has one" in capsys.readouterr().err
    assert "holdout" not in json.loads((tmp_path / "splits.json").read_text())


def test_the_run_records_which_images_it_held_out_and_is_not_continued_with_others(run, tmp_path):
    config = tiny(tmp_path, *APART, "steps=2")
    splits = splits_of(config)
    fit(config, splits=splits, quiet=True)
    said = json.loads((tmp_path / "splits.json").read_text())
    only = digest(names_of(splits.holdout))  # of one image, sorted or as it lies
    assert said["holdout"] == {"images": 1, "sha256": only, "order": only}
    assert (said["labelled"]["images"], said["unlabelled"]["images"]) == (3, 5)
    others = [index for index in range(3) if splits.labelled.name(index) != splits.holdout.name(0)]
    with pytest.raises(ValueError, match="other images"):
        fit(config, splits=replace(splits, holdout=Subset(splits.labelled, others[:1])), quiet=True)


def test_the_page_and_the_table_have_the_score_of_the_step_that_the_images_held_out_chose(tmp_path):
    for seed in (0, 1):
        fit(tiny(tmp_path / f"supervised/{seed}", *APART, f"seed={seed}", "steps=6"), quiet=True)
    shown = []
    for seed in (0, 1):
        lines = read(tmp_path / f"supervised/{seed}")
        known = [(line["holdout_teacher/mIoU"], -line["step"]) for line in lines if "holdout_teacher/mIoU" in line]
        step = -max(known)[1]
        shown.append(100 * logged(tmp_path / f"supervised/{seed}", step, "val")["val_teacher/mIoU"])
        assert f"{shown[-1]:.2f} % at step {step}" in page(tmp_path / f"supervised/{seed}")
    runs = [("supervised", tmp_path / f"supervised/{seed}") for seed in (0, 1)]
    row = of_methods(standings(runs)).splitlines()[-1].split("|")
    assert float(row[5].split("+-")[0]) == pytest.approx(np.mean(shown), abs=0.051)


@pytest.mark.parametrize("batch", ["{labelled: 4, unlabelled: 8}", "{labelled: 0, unlabelled: 8, consistency: all}"])
@pytest.mark.parametrize("made", ["device", "workers"])
def test_whole_images_are_held_out_alike(batch, made, tmp_path):
    config = small(tmp_path, f"batch={batch}", "eval.select=holdout", "eval.holdout=3", f"views.made={made}")
    found = fit(config, quiet=True)
    splits, folder = splits_of(config), config.out / "checkpoints"
    apart = set(names_of(splits.holdout))
    assert len(apart) == 3
    assert not apart & (set(names_of(splits.labelled)) | set(names_of(splits.unlabelled)))
    assert held_by(splits.labelled, "labelled")[0] is held_by(splits.holdout, "holdout")[0]
    values = {line["step"]: line["holdout_teacher/top1"] for line in read(config.out) if "holdout_teacher/top1" in line}
    chosen = checkpoint.chosen(folder, "holdout")
    assert chosen is not None
    assert chosen[1] == max(values.values()) == values[int(chosen[0].name[-8:])]
    assert "top1" in found["teacher"]
    assert cli.main(["eval", str(config.out)]) == 0
    assert "holdout" in json.loads((config.out / f"eval_{config.eval.split}_checkpoints.json").read_text())
