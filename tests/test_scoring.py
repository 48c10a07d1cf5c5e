"""Scores of a finished run: which checkpoint, which network, and all that they depend on beside them."""

import csv
import json
import re
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import trees
import yaml
from PIL import Image
from runs import TINY, tiny

from mtseg import cli
from mtseg.config import of_run
from mtseg.data.provenance import digest
from mtseg.data.source import IGNORE
from mtseg.inference.restored import found, load, restored
from mtseg.inference.score_table import print_table
from mtseg.inference.scoring import Wanted, score_run
from mtseg.metrics import Boundary, Confusion
from mtseg.results.gallery import predicted
from mtseg.run import checkpoint
from mtseg.run.logged import read
from mtseg.settings.strict_yaml import to_yaml
from mtseg.tally import Also, percent
from mtseg.trainer import fit


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run with checkpoints and evaluations of steps 2 and 4."""
    out = tmp_path_factory.mktemp("runs") / "run"
    fit(tiny(out, "data.val=3", "eval.every=2"), quiet=True)
    return out


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy to write to."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_a_run_that_begins_again_has_not_the_scores_of_the_one_before(run, capsys):
    assert cli.main(["eval", str(run), "eval.split=test"]) == 0
    former = {name: (run / name).read_bytes() for name in ("eval_test.json", "eval_test.csv")}
    shutil.rmtree(run / "checkpoints")
    assert cli.main(["train", str(run / "config.yaml"), f"out={run}"]) == 0
    assert "set aside: former-eval_test.csv, former-eval_test.json, former-evaluation.json" in capsys.readouterr().out
    assert {name: (run / f"former-{name}").read_bytes() for name in former} == former
    assert "eval_test" not in (run / "report.html").read_text()
    assert json.loads((run / "evaluation.json").read_text())  # its own


def test_in_a_narrow_terminal_names_are_broken_and_not_numbers(run, monkeypatch, capsys):
    scores = score_run(run, ["device=cpu"])
    long = {name: f"{name} of which a terminal of forty columns has no room" for name in scores["classes"]}
    for network in ("student", "teacher"):
        for kind in ("IoU", "accuracy"):
            scores[network][kind] = {long[name]: value for name, value in scores[network][kind].items()}
    monkeypatch.setenv("COLUMNS", "40")
    print_table(scores | {"classes": list(long.values())})
    shown = capsys.readouterr().out
    for network in ("student", "teacher"):
        for value in scores[network]["accuracy"].values():
            assert percent(value) in shown


def logged(run: Path, step: int) -> dict:
    return next(line for line in read(run) if line["step"] == step and "val_teacher" in line)


def make_best(run: Path, step: int) -> None:
    checkpoint.choose(run / "checkpoints", "best", step, score=0.9, split="val", asked="", keep=9)


@pytest.mark.parametrize(("at", "step"), [("last", 4), ("2", 2), ("4", 4), ("best", 2)])
def test_the_checkpoint_asked_for_gives_the_numbers_that_the_trainer_had_there_to_the_bit(at, step, run):
    scores = logged(run, step)
    make_best(run, 2)
    assert cli.main(["eval", str(run), "--at", at]) == 0
    name = "eval_val.json" if at == "last" else f"eval_val_{at}.json"
    said = json.loads((run / name).read_text())
    assert (said["step"], said["at"]) == (step, at)
    for network in ("student", "teacher"):
        assert said[network] == said[network] | scores[f"val_{network}"]  # all of them are among these
        assert scores[f"val_{network}"]["IoU"]


def test_the_best_is_not_another_one_where_it_is_gone(run, capsys):
    make_best(run, 2)
    shutil.rmtree(run / "checkpoints" / checkpoint.name_of(2))
    assert cli.main(["eval", str(run), "--at", "best"]) == 1
    assert "best.json names no checkpoint" in capsys.readouterr().err


def test_the_best_of_one_split_is_scored_on_another(run):
    make_best(run, 2)
    assert cli.main(["eval", str(run), "eval.split=test", "--at", "best"]) == 0
    assert json.loads((run / "eval_test_best.json").read_text())["step"] == 2


def test_images_that_are_not_those_of_the_run_though_no_word_asks_for_others_are_said(run, capsys):
    assert cli.main(["eval", str(run)]) == 0
    assert cli.main(["eval", str(run), "data.val=2"]) == 0
    assert "look: these" not in capsys.readouterr().out
    said = json.loads((run / "splits.json").read_text())
    said["val"]["sha256"] = "0" * 64  # as where masks came or went since, and a share was drawn anew
    (run / "splits.json").write_text(json.dumps(said))
    assert cli.main(["eval", str(run)]) == 0
    assert "look: these val images are not those that the run recorded (000000000000 -> " in capsys.readouterr().out


def test_a_run_is_scored_through_its_predictor_while_it_trains(tmp_path):
    centre = "eval.predictor={kind: centre, size: [32, 48]}"
    found = fit(tiny(tmp_path / "centre", "data.val=3", centre), quiet=True)
    assert cli.main(["eval", str(tmp_path / "centre")]) == 0
    said = json.loads((tmp_path / "centre" / "eval_val.json").read_text())
    assert said["teacher"] == said["teacher"] | found["teacher"]
    whole = fit(tiny(tmp_path / "whole", "data.val=3"), quiet=True)
    assert whole["teacher"]["pixel_accuracy"] != found["teacher"]["pixel_accuracy"]


def test_another_way_of_asking_and_one_network_alone_have_files_of_their_own(run):
    slide = "eval.predictor={kind: slide, window: [32, 32]}"
    ways = [
        [],
        [slide],
        ["eval.predictor.augment.flip=true"],
        ["--network", "student"],
        [slide, "--network", "student"],
    ]
    seen: list[set[Path]] = [set()]
    for words in [*ways, ["eval.batch=1", "device=cpu"], *ways]:
        assert cli.main(["eval", str(run), *words]) == 0
        seen.append(set(run.glob("eval_*.json")))
    names = [{path.stem for path in after - before} for before, after in pairwise(seen)]
    assert [len(new) for new in names] == [1] * len(ways) + [0] * (1 + len(ways))
    assert names[0] == {"eval_val"}
    assert names[1] == {"eval_val_windows-of-32x32-stride-2-3-softmax-averaged"}
    assert names[3] == {"eval_val_student"}
    protocols = [json.loads((run / f"{name}.json").read_text())["protocol"] for (name,) in names[: len(ways)]]
    assert len(set(protocols)) == 3
    assert protocols[3] == protocols[0]
    assert {path.stem for path in run.glob("eval_*.csv")} == set().union(*names)


@pytest.mark.parametrize(
    ("at", "says"),
    [("3", "there are: 2, 4"), ("first", "neither last, best, holdout nor a step"), ("\u00b2", "nor a step")],
)
def test_a_checkpoint_that_is_not_there_is_refused(at, says, trained, capsys):
    assert cli.main(["eval", str(trained), "--at", at]) == 1
    assert says in capsys.readouterr().err


def test_a_damaged_checkpoint_that_was_asked_for_is_named_and_not_passed_over(run):
    weights = run / "checkpoints" / checkpoint.name_of(2) / "teacher.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match="step-00000002 is damaged"):
        found(run, "2")


def test_a_score_stands_beside_all_that_it_depends_on(run, capsys):
    assert cli.main(["eval", str(run), "eval.predictor={kind: slide, window: [32, 48]}", "--network", "teacher"]) == 0
    name = "eval_val_windows-of-32x48-stride-2-3-softmax-averaged_teacher"
    shown, said = capsys.readouterr().out, json.loads((run / f"{name}.json").read_text())
    splits = of_run(run).data.build()
    names = [splits.val.name(i) for i in range(3)]
    facts = {
        "step": 4,
        "split": "val",
        "images": 3,
        "data": splits.name,
        "sha256": digest(names),
        "protocol": "windows of 32x48, stride 2/3, softmax averaged",
        "resolution": "64x64, their own size",
    }
    assert {key: said[key] for key in facts} == facts
    assert "student" not in said
    for fact in ("step 4", "3 val images", facts["data"], digest(names)[:12], facts["protocol"], facts["resolution"]):
        assert fact in shown
    with (run / f"{name}.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == [*splits.classes, "(all)"]
    assert {row["network"] for row in rows} == {"teacher"}
    assert all(row[key] == str(facts[key]) for row in rows for key in facts if key != "images")
    assert float(rows[-1]["IoU"]) == said["teacher"]["mIoU"]
    assert {row["class"]: row["IoU"] for row in rows[:-1]} == {
        name: "" if value is None else str(value) for name, value in said["teacher"]["IoU"].items()
    }


def test_boundaries_and_images_are_what_single_images_give(trained):
    """The oracle predicts image by image with `load`, and counts by itself."""
    said = score_run(trained, (), Wanted(networks=("teacher",), also=Also(boundary=0.05, images=True)))["teacher"]
    model, val = load(trained), restored(trained).splits.val
    boundary, alone = Boundary(len(model.classes), 0.05), {}
    for i in range(3):
        prediction, label = model.predict(val.image(i)).classes, val.label(i)
        boundary.update(torch.from_numpy(prediction), torch.from_numpy(label))
        ious = []
        for k in range(len(model.classes)):
            asked, there = (prediction == k) & (label != IGNORE), label == k
            if (asked | there).any():
                ious.append((asked & there).sum() / (asked | there).sum())
        alone[val.name(i)] = np.mean(ious)
    assert said["boundary_mIoU"] == boundary.mean_iou()
    assert said["images"] == pytest.approx(alone)
    assert list(said["worst"]) == sorted(alone, key=lambda name: alone[name])
    low, high = said["mIoU_interval"]
    assert 0 <= low <= high <= 1


def test_the_centre_scores_the_labels_centre(trained):
    splits, model = restored(trained).splits, load(trained, ["eval.predictor={kind: centre, size: [32, 48]}"])
    oracle = Confusion(len(splits.classes))
    for i in range(3):
        middle = np.ascontiguousarray(splits.val.image(i)[16:48, 8:56])
        classes = load(trained).predict(middle).classes
        assert (model.predict(splits.val.image(i)).classes[16:48, 8:56] == classes).all()
        oracle.update(torch.from_numpy(classes), torch.from_numpy(splits.val.label(i)[16:48, 8:56].copy()))
    said = score_run(trained, ["eval.predictor={kind: centre, size: [32, 48]}"])
    assert said["teacher"]["mIoU"] == oracle.mean_iou()
    assert said["protocol"] == "centre up to 32x48 only"


@pytest.mark.parametrize(
    "word",
    [
        "eval.predictor={kind: slide, window: [16, 16]}",
        "eval.predictor.augment.flip=true",
        "eval.predictor.augment.scales=[0.5, 1.5]",
    ],
)
def test_every_way_of_asking_changes_the_confidence(word, trained):
    image = restored(trained).splits.val.image(0)
    plain, other = (load(trained, words).predict(image).confidence for words in ([], [word]))
    assert np.abs(plain - other).max() > 1e-4


@pytest.mark.parametrize("ratio", ["0", "-1", "2"])
def test_a_boundary_that_cannot_be_is_refused(ratio, trained, capsys):
    assert cli.main(["eval", str(trained), "--boundary", ratio]) == 1
    assert "--boundary" in capsys.readouterr().err


def test_the_table_and_the_csv_show_boundaries_the_interval_and_the_images(run, capsys):
    assert cli.main(["eval", str(run), "--boundary", "--images", "eval.split=test"]) == 0
    shown = capsys.readouterr().out
    assert "mean boundary IoU" in shown
    assert "mean IoU, 95 % from" in shown
    said = json.loads((run / "eval_test.json").read_text())
    with (run / "eval_test_images.csv").open() as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert {name: float(row["teacher"]) for name, row in rows.items()} == said["teacher"]["images"]
    facts = {"step": "4", "at": "last", "split": "test", "sha256": said["sha256"], "protocol": said["protocol"]}
    assert all(facts.items() <= row.items() for row in rows.values())


# --- a run to predict with


@pytest.mark.parametrize("more", [[], ["--images"], ["--boundary", "0.05"]])
def test_what_was_asked_of_the_same_scores_before_is_kept(more, run):
    assert cli.main(["eval", str(run), "--boundary", "--images"]) == 0
    before = json.loads((run / "eval_val.json").read_text())
    assert cli.main(["eval", str(run), *more]) == 0
    after = json.loads((run / "eval_val.json").read_text())
    for network in ("student", "teacher"):
        assert after[network].keys() == before[network].keys()
        assert after[network]["images"] == before[network]["images"]
        assert after[network]["boundary_ratio"] == (0.05 if "0.05" in more else 0.02)
    assert "boundary_IoU" in (run / "eval_val.csv").read_text().splitlines()[0]
    assert (run / "eval_val_images.csv").is_file()


@pytest.mark.parametrize("unlike", [{"step": 3}, {"sha256": "0" * 64}, {"teacher": {"mIoU": 0.123}}])
def test_what_was_asked_of_other_scores_is_not_kept_beside_these(unlike, run):
    assert cli.main(["eval", str(run), "--boundary"]) == 0
    path = run / "eval_val.json"
    before = json.loads(path.read_text())
    teacher = before["teacher"] | unlike.pop("teacher", {})
    path.write_text(json.dumps(before | unlike | {"teacher": teacher}))
    assert cli.main(["eval", str(run)]) == 0
    assert "boundary_mIoU" not in json.loads(path.read_text())["teacher"]


def test_a_run_predicts_without_its_data_as_it_does_with_it(run, tmp_path):
    """Its data cannot even be listed: the folder of a run is all that is moved to another machine."""
    image = restored(run).splits.test.image(0)
    before = load(run).predict(image)
    config = run / "config.yaml"
    tree = yaml.safe_load(config.read_text())
    tree["data"] = {"kind": "camvid", "root": str(tmp_path / "gone")}
    config.write_text(yaml.safe_dump(tree))
    after = load(run)
    assert (after.predict(image).classes == before.classes).all()
    assert len(after.classes) == len(after.palette)


def test_teacher_and_student_are_different_networks_and_each_its_own(trained):
    image = restored(trained).splits.test.image(0)
    networks = restored(trained).networks
    for name in ("student", "teacher"):
        ours = load(trained, network=name).predict(image)
        classes, confidence = predicted(networks[name], image, of_run(trained).views)
        assert (ours.classes == classes).all()
        assert (ours.confidence == confidence).all()
    assert (load(trained, network="student").predict(image).confidence != ours.confidence).any()


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_what_is_no_rgb_image_is_refused(image, trained):
    with pytest.raises(ValueError, match="give RGB"):
        load(trained).predict(image)


@pytest.mark.parametrize("teacher", ["{kind: ensemble, every: 1}", "{kind: memory, size: [24, 32]}", "{kind: itself}"])
def test_runs_of_any_teacher_load(teacher, tmp_path):
    fit(tiny(tmp_path / "run", f"method.teacher={teacher}", "batch.unlabelled=4", "steps=2"), quiet=True)
    image = np.zeros((40, 50, 3), np.uint8)
    assert load(tmp_path / "run").predict(image).classes.shape == (40, 50)


@pytest.mark.parametrize(
    "words",
    [["data.val=5", "data.seed=3"], ["data.size=[64, 96]"], ["data.val=1"]],
)
def test_scores_of_other_images_lie_beside_the_runs_own_and_say_so(words, run, capsys):
    assert cli.main(["eval", str(run)]) == 0
    own = (run / "eval_val.json").read_bytes()
    before = set(run.glob("eval_*.json"))
    assert cli.main(["eval", str(run), *words]) == 0
    assert (run / "eval_val.json").read_bytes() == own
    (other,) = set(run.glob("eval_*.json")) - before
    said = capsys.readouterr().out
    keys = {word.partition("=")[0] for word in words}
    assert set(re.findall(r"data\.\w+", said.partition("with other ")[2].partition(" than the run")[0])) == keys
    assert json.loads(other.read_text())["images"] != json.loads(own)["images"] or "data.size" in words[0]


def test_files_of_the_same_names_elsewhere_are_the_runs_own_where_they_are_as_large_and_other_images_else(tmp_path):
    roots = [tmp_path / name for name in ("one", "moved", "other")]
    drawn = np.random.default_rng(0).integers(0, 3, (5, 64, 64)).astype(np.uint8)
    for root in roots:
        for pool, which in (("train", (0, 1)), ("more", (2,)), ("val", (3, 4))):
            for folder, values in (("images", 80 * drawn), ("masks", drawn)):
                (root / pool / folder).mkdir(parents=True)
                for index in which:
                    flat = root.name == "other" and pool == "val" and folder == "images"
                    pixels = np.zeros_like(values[index]) if flat else values[index]
                    Image.fromarray(pixels).save(root / pool / folder / f"{index}.png")
    pools = {pool: {"images": f"{pool}/images", "masks": f"{pool}/masks"} for pool in ("train", "val")}
    data = {"kind": "folder", "classes": ["a", "b", "c"], "labelled": pools["train"], "val": pools["val"]}
    data |= {"root": str(roots[0]), "unlabelled": {"images": "more/images"}}
    path, out = tmp_path / "config.yaml", tmp_path / "run"
    path.write_text(to_yaml({**TINY, "data": data, "steps": 1, "batch": {"labelled": 2, "unlabelled": 2}}))
    assert cli.main(["train", str(path), f"out={out}"]) == 0
    assert cli.main(["eval", str(out)]) == 0
    own = json.loads((out / "eval_val.json").read_text())
    assert cli.main(["eval", str(out), f"data.root={roots[1]}"]) == 0
    assert [file.name for file in out.glob("eval_*.json")] == ["eval_val.json"]
    assert cli.main(["eval", str(out), f"data.root={roots[2]}"]) == 0
    assert json.loads((out / "eval_val.json").read_text())["teacher"] == own["teacher"]
    (other,) = set(out.glob("eval_*.json")) - {out / "eval_val.json"}
    assert json.loads(other.read_text())["changed"][0].startswith("files: ")


def test_no_choice_flatters_on_images_that_chose_nothing(run, capsys):
    make_best(run, 2)
    assert cli.main(["eval", str(run), "--at", "last,best"]) == 0
    assert "which flatters it" in capsys.readouterr().out
    assert cli.main(["eval", str(run), "--at", "last,best", "data.seed=77"]) == 0
    assert "which flatters it" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("views.mean=[0.1, 0.1, 0.1]", "was trained with values in [0, 1], minus [0.485, 0.456, 0.406]"),
        ("views.standard={kind: image}", "leave the words out"),
    ],
)
def test_a_run_is_not_scored_by_another_normalisation(word, says, run, capsys):
    assert cli.main(["eval", str(run), word]) == 1
    assert says in capsys.readouterr().err


def test_a_run_is_not_scored_on_classes_of_another_order(tmp_path, capsys):
    root = trees.own(tmp_path / "own")
    both = {"images": "labelled/images", "masks": "labelled/masks"}
    data = {"kind": "folder", "root": str(root), "classes": ["a", "b", "c"], "labelled": both, "val": 0.25}
    fit(tiny(tmp_path / "run", f"data={json.dumps(data)}"), quiet=True)
    assert cli.main(["eval", str(tmp_path / "run"), "data.classes=[b, a, c]"]) == 1
    said = capsys.readouterr().err
    assert "data: its classes are b, a, c, and those that" in said
    assert "learnt are a, b, c" in said


def test_the_matrix_in_the_file_has_all_other_scores(run):
    assert cli.main(["eval", str(run)]) == 0
    found = json.loads((run / "eval_val.json").read_text())
    for network in ("student", "teacher"):
        said, counts = found[network], np.array(found[network]["confusion"], float)
        hits, labels, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
        with np.errstate(invalid="ignore"):
            each = {
                "IoU": hits / (labels + predicted - hits),
                "Dice": 2 * hits / (labels + predicted),
                "accuracy": hits / labels,
                "precision": hits / predicted,
            }
        for key, values in each.items():
            named = [said[key][name] for name in found["classes"]]
            np.testing.assert_allclose(np.array(named, float), values, rtol=1e-12)
        for key, of in (("mIoU", "IoU"), ("mDice", "Dice"), ("mean_class_accuracy", "accuracy")):
            assert said[key] == pytest.approx(np.nanmean(each[of]))
