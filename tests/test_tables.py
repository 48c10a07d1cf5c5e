"""Tables over finished runs, as a user asks for them, against means and deviations by NumPy."""

import itertools
import json
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from runs import TINY, comparison, tiny

from mtseg import cli
from mtseg.config import written
from mtseg.inference.scored import FACTS
from mtseg.results.dots import dots
from mtseg.results.runs_page import page
from mtseg.run.logged import read
from mtseg.tally import percent
from mtseg.trainer import fit


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return str(path)


def test_a_table_has_the_mean_and_the_sample_deviation_over_seeds(tmp_path, capsys):

    supervised, teacher = [0.30, 0.33, 0.41], [0.45, 0.42, 0.52]
    folders = [
        str(comparison(tmp_path / str(seed), seed, *pair))
        for seed, pair in enumerate(zip(supervised, teacher, strict=True))
    ]
    assert cli.main(["table", *folders]) == 0
    rows = {cells[1].strip(): cells for cells in (line.split("|") for line in capsys.readouterr().out.splitlines()[2:])}
    ahead = 100 * (np.array(teacher) - np.array(supervised))
    for name, values in (
        ("supervised-only", 100 * np.array(supervised)),
        ("teacher", 100 * np.array(teacher)),
        ("teacher over supervised-only", ahead),
    ):
        assert rows[name][3].strip() == f"{values.mean():.1f} +- {values.std(ddof=1):.1f}"
    assert rows["teacher"][4].strip().startswith(f"{np.mean(teacher) * 100 + 10:.1f}")


def a_run(folder: Path, seed: int, student: float, teacher: Sequence[float | None], *words: str) -> str:
    """A finished run of 2 steps a score, with these scores of the teacher."""
    folder.mkdir(parents=True)
    steps = 2 * len(teacher)
    config = tiny(folder, f"seed={seed}", f"data.seed={seed}", f"steps={steps}", *words)
    (folder / "config.yaml").write_text(written(config))
    lines = [
        {"step": 2 * n, "val_student/mIoU": student, "val_teacher/mIoU": value} for n, value in enumerate(teacher, 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(folder)


def test_a_table_of_methods_has_the_gain_over_the_baseline_and_the_share_of_the_gap_that_is_closed(tmp_path, capsys):

    base, full, good = [0.40, 0.44], [0.80, 0.84], [0.61, 0.67]
    runs = []
    for seed in (0, 1):
        runs += [
            a_run(tmp_path / "supervised" / str(seed), seed, base[seed], [0.1, 0.41], "method.branches=[]"),
            a_run(tmp_path / "supervised_all" / str(seed), seed, full[seed], [0.1, 0.8], "data.labels=all"),
            a_run(tmp_path / "good" / str(seed), seed, 0.6, [0.7, good[seed]], "method.weight=3.0"),
        ]
    assert cli.main(["table", *runs]) == 0
    rows = [[cell.strip() for cell in line.split("|")] for line in capsys.readouterr().out.splitlines()[5:]]
    assert [row[1] for row in rows] == ["supervised_all", "good", "supervised"]  # the best teacher first
    ahead = 100 * (np.array(good) - np.array(base))
    row = rows[1]
    assert row[3] == f"{100 * np.mean(good):.1f} +- {100 * np.std(good, ddof=1):.1f}"
    assert row[4] == "70.0 +- 0.0"
    assert row[5] == ", ".join(f"{value:+.1f}" for value in ahead)
    assert row[6] == f"{100 * ahead.mean() / 40:.0f} %"


def test_a_table_over_steps_has_every_seed_at_each_evaluation_and_the_smallest_lead_of_all(tmp_path, capsys):
    courses = {
        "supervised": ([0.30, 0.40, 0.45], [0.35, 0.38, 0.44]),
        "method": ([0.36, 0.39, 0.55], [0.34, 0.45, 0.50]),  # ahead by 6, -1, 10 and -1, 7, 6
        "other": ([0.37, 0.42, 0.46], [0.38, 0.41, 0.46]),  # 7, 2, 1 and 3, 3, 2
    }
    runs = [
        a_run(tmp_path / name / str(seed), seed, 0.9, scores)
        for name, seeds in courses.items()
        for seed, scores in enumerate(seeds)
    ]
    assert cli.main(["table", *runs, "--steps"]) == 0
    table = capsys.readouterr().out.partition("\n\n| method | 2 | 4 | 6 | smallest lead |\n")[2].splitlines()
    rows = {cells[0]: cells[1:] for cells in (line.strip("| ").split(" | ") for line in table[1:])}
    assert list(rows) == ["method", "other", "supervised"]
    for name, seeds in courses.items():
        assert rows[name][:3] == [f"{100 * one:.1f}, {100 * two:.1f}" for one, two in zip(*seeds, strict=True)]
    assert [rows[name][3] for name in rows] == ["-1.0", "+1.0", "-"]


def scoring(run: str, images: str, split: str = "val") -> None:
    """Say in a run's folder which images it scored."""
    pool = {"sha256": images, "images": 4}
    (Path(run) / "splits.json").write_text(json.dumps({"name": "own", split: pool}))


@pytest.mark.parametrize(
    ("words", "pool", "says"),
    [
        ([], "val", "scored on other images (images of val: aaaaaaaaaaaa -> bbbbbbbbbbbb)"),
        (
            ["data.seed=9"],
            "val",
            "of seed 0 both, and have other val images (aaaaaaaaaaaa -> bbbbbbbbbbbb; data: seed: 0",
        ),
        (["data.seed=9"], "labelled", "have other labelled images (aaaaaaaaaaaa -> bbbbbbbbbbbb; data: seed: 0 -> 9)"),
        ([], "labelled", "have other labelled images (aaaaaaaaaaaa -> bbbbbbbbbbbb; data: their lists are other ones)"),
    ],
)
def test_runs_of_one_seed_on_other_images_are_no_table(words, pool, says, tmp_path, capsys):
    runs = [
        a_run(tmp_path / "supervised" / "0", 0, 0.3, [0.3], "method.branches=[]"),
        a_run(tmp_path / "method" / "0", 0, 0.3, [0.4], *words),
    ]
    for run in runs:
        scoring(run, "a" * 64, pool)
    assert cli.main(["table", *runs]) == 0
    scoring(runs[1], "b" * 64, pool)
    assert cli.main(["table", *runs]) == 1
    assert says in capsys.readouterr().err
    compared = cli.main(["table", *runs, "--vary", "data"]) == 0
    assert compared == (pool == "labelled" or words != [])


def test_runs_of_one_seed_on_files_of_other_sizes_are_no_table(tmp_path, capsys):
    runs = [a_run(tmp_path / name / "0", 0, 0.3, [0.4]) for name in ("supervised", "method")]
    for run, files in zip(runs, "ab", strict=True):
        of_files(run, files)
    assert cli.main(["table", *runs]) == 1
    assert "other images (files of the val images: aaaaaaaaaaaa -> bbbbbbbbbbbb)" in capsys.readouterr().err


def of_files(run: str, files: str) -> None:
    pool = {"sha256": "e" * 64, "images": 4, "files": 64 * files}
    (Path(run) / "splits.json").write_text(json.dumps({"name": "own", "val": pool}))


@pytest.mark.parametrize("other", ["one", "two"])
def test_seeds_on_other_files_of_the_same_names_are_neither_a_mean_nor_the_same_on_a_page(other, tmp_path, capsys):
    """Wherever the data lie: `data.root` says nothing of what they are."""
    own = {"kind": "folder", "classes": ["a", "b"], "labelled": {"images": "i", "masks": "m"}, "val": 0.25}
    runs = []
    for seed, root, files in ((0, "one", "a"), (1, other, "b")):
        for name in ("supervised", "method"):
            runs.append(a_run(tmp_path / name / str(seed), seed, 0.3, [0.4]))
            path = Path(runs[-1]) / "config.yaml"
            path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"data": own | {"root": root}}))
            of_files(runs[-1], files)
    assert cli.main(["table", *runs]) == 1
    assert "other images (files of the val images: aaaaaaaaaaaa -> bbbbbbbbbbbb)" in capsys.readouterr().err
    assert cli.main(["report", *runs, "--out", str(tmp_path / "page.html")]) == 0
    assert "files of the val images: aaaaaaaaaaaa" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("eval.split=test", "eval.split: {one} was scored by val, and {two} by test"),
        ("eval.predictor={kind: slide, window: [32, 32]}", "was scored by whole images, and {two} by windows of 32x32"),
    ],
)
def test_scores_of_other_splits_or_asked_otherwise_are_no_column_whatever_may_vary(word, says, tmp_path, capsys):
    runs = [a_run(tmp_path / "supervised/0", 0, 0.4, [0.4]), a_run(tmp_path / "other/0", 0, 0.5, [0.5], word)]
    path = Path(runs[1]) / "metrics.jsonl"
    path.write_text(path.read_text() + path.read_text().replace("val_", "test_"))
    assert cli.main(["table", *runs, "--vary", "eval"]) == 1
    assert says.format(one=runs[0], two=runs[1]) in capsys.readouterr().err


def test_a_setting_that_may_vary_is_no_other_one_that_begins_alike(tmp_path, capsys):
    geometry = "views.labelled.geometry={flip: 0.5, flip_vertical: 0.5}"
    runs = [a_run(tmp_path / "supervised/0", 0, 0.4, [0.4]), a_run(tmp_path / "other/0", 0, 0.5, [0.5], geometry)]
    assert cli.main(["table", *runs, "--vary", "views.labelled.geometry.flip"]) == 1
    assert "flip_vertical" in capsys.readouterr().err
    assert cli.main(["table", *runs, "--vary", "views.labelled.geometry"]) == 0


def test_of_many_settings_of_the_data_that_may_vary_the_whole_is_named(tmp_path, capsys):
    sizes = [f"data.{key}=3" for key in ("images", "labels", "val", "test")]
    more = [*(size.replace("3", "4") for size in sizes), "data.size=[64, 96]"]
    runs = [a_run(tmp_path / name / "0", 0, 0.4, [0.4], *of) for name, of in (("supervised", sizes), ("other", more))]
    assert cli.main(["table", *runs]) == 1
    assert "say so: --vary data\n" in capsys.readouterr().err


def test_scores_of_other_files_of_the_same_names_are_no_table(scored, capsys):
    for run in scored:
        path = run / "eval_test.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"files": 64 * "a"}))
    assert cli.main(["table", *map(str, scored), "--scores", path.name]) == 0
    path.write_text(json.dumps(json.loads(path.read_text()) | {"files": 64 * "b"}))
    assert cli.main(["table", *map(str, scored), "--scores", path.name]) == 1
    assert "were not scored alike: files" in capsys.readouterr().err


def test_a_score_from_a_file_is_taken_at_the_ends_of_runs_of_different_lengths(scored, capsys):
    other = scored[1]
    found = json.loads((other / "eval_test.json").read_text())
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace("steps: 4\n", "steps: 6\n"))
    metrics = (other / "metrics.jsonl").read_text()
    (other / "metrics.jsonl").write_text(metrics + metrics.splitlines()[-1].replace('"step": 4', '"step": 6') + "\n")
    (other / "eval_test.json").write_text(json.dumps(found | {"step": 6}))
    assert cli.main(["table", *map(str, scored), "--scores", "eval_test.json", "--vary", "steps"]) == 0
    assert "after 4 to 6 steps" in " ".join(capsys.readouterr().out.split())


def test_other_seeds_and_all_labels_may_have_other_images(tmp_path, capsys):
    names = {"supervised": "a", "method": "a", "supervised_all": "c"}
    runs = [
        (a_run(tmp_path / name / str(seed), seed, 0.3, [0.4]), 32 * f"{images}{seed}")
        for name, images in names.items()
        for seed in (0, 1)
    ]
    for run, images in runs:
        scoring(run, images, "labelled")
    assert cli.main(["table", *(run for run, _ in runs)]) == 0


def test_means_over_other_classes_are_told_with_the_runs(tmp_path, capsys):
    runs = [a_run(tmp_path / name / "0", 0, 0.3, [0.4]) for name in ("supervised", "method", "other")]
    for run, fence in zip(runs, (None, 0.0, 0.0), strict=True):
        path = Path(run) / "metrics.jsonl"
        line = json.loads(path.read_text()) | {"val_teacher": {"IoU": {"road": 0.5, "fence": fence, "void": None}}}
        path.write_text(json.dumps(line) + "\n")
    assert cli.main(["table", *runs]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "over the same classes: fence, which is labelled nowhere, counts as 0 where a pixel is predicted" in said
    assert "and not at all in supervised 0." in said
    assert "void, which" not in said  # it is in no mean


@pytest.mark.parametrize("word", ["views.crop=[32, 32]", "views.labelled.geometry={scale: [0.5, 1]}"])
def test_crops_and_what_labelled_images_go_through_are_no_part_of_a_method(word, tmp_path, capsys):
    runs = [a_run(tmp_path / name / "0", 0, 0.3, [0.4], *words) for name, words in (("supervised", ()), ("m", (word,)))]
    assert cli.main(["table", *runs]) == 1
    key = word.partition("=")[0]
    assert f"--vary {key}" in capsys.readouterr().err
    assert cli.main(["table", *runs, "--vary", key]) == 0


def test_comparisons_on_other_images_are_no_table(tmp_path, capsys):
    words = ("data.seed=0",)
    folders = [comparison(tmp_path / str(seed), seed, 0.3, 0.4, *words) for seed in (0, 1)]
    for folder, images in zip(folders, ("a" * 64, "b" * 64), strict=True):
        scoring(str(folder / "method"), images)
    assert cli.main(["table", *map(str, folders)]) == 1
    assert "were scored on other images" in capsys.readouterr().err


@pytest.fixture(scope="module")
def as_scored(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    for name, words in (("supervised", ["method.branches=[]"]), ("method", [])):
        assert cli.main(["train", str(folder / "tiny.yaml"), f"out={folder / name / '0'}", "eval.every=2", *words]) == 0
        assert cli.main(["eval", str(folder / name / "0"), "eval.split=test"]) == 0
    return folder


@pytest.fixture
def scored(as_scored, tmp_path) -> list[Path]:
    """Two runs, each evaluated on val as it trained, and scored on test when it was done, in eval_test.json."""
    return [shutil.copytree(as_scored / name, tmp_path / name) / "0" for name in ("supervised", "method")]


def test_a_table_of_scores_has_those_that_eval_wrote(scored, capsys):
    assert cli.main(["table", *map(str, scored), "--scores", "eval_test.json"]) == 0
    caption, asked, _, head, _, *rows = capsys.readouterr().out.splitlines()
    cells = {row.strip("| ").split(" | ")[0]: row.strip("| ").split(" | ")[1:] for row in rows}
    found = {run.parent.name: json.loads((run / "eval_test.json").read_text()) for run in scored}
    base = found["supervised"]["student"]["mIoU"]
    for method, of in found.items():
        student, teacher = (of[network]["mIoU"] for network in ("student", "teacher"))
        assert cells[method] == [f"{100 * student:.1f}", f"{100 * teacher:.1f}", f"{100 * (teacher - base):+.1f}"]
    assert head == "| method | student | teacher | teacher over supervised, each seed |"
    assert found["method"]["protocol"] in asked
    assert caption == "mIoU on test in percent after 4 steps, seed 0: no other seeds"


def test_comparisons_too_have_a_table_of_the_scores_that_eval_wrote(config, tmp_path, capsys):
    folders = [tmp_path / "both" / str(seed) for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        assert cli.main(["compare", config, f"out={folder}", f"seed={seed}"]) == 0
        for name in ("supervised", "method"):
            assert cli.main(["eval", str(folder / name), "eval.split=test"]) == 0
    capsys.readouterr()
    assert cli.main(["table", *map(str, folders), "--scores", "eval_test.json"]) == 0
    shown = capsys.readouterr().out
    found = {
        (seed, name): json.loads((folder / name / "eval_test.json").read_text())
        for seed, folder in enumerate(folders)
        for name in ("supervised", "method")
    }
    ahead = [
        100 * (found[seed, "method"]["teacher"]["mIoU"] - found[seed, "supervised"]["student"]["mIoU"])
        for seed in (0, 1)
    ]
    assert shown.startswith("mIoU on test in percent after 4 steps, seeds 0, 1")
    assert any(
        line.startswith("| method |") and f" {ahead[0]:+.1f}, {ahead[1]:+.1f} |" in line for line in shown.splitlines()
    )


def test_scores_of_a_chosen_checkpoint_are_not_called_those_of_the_last(scored, capsys):
    for run in scored:
        for at in ("2", "best"):
            assert cli.main(["eval", str(run), "eval.split=test", "--at", at]) == 0
    for name, when in (
        ("eval_test_2.json", "at step 2 of 4"),
        ("eval_test_best.json", "at the best checkpoint of 4 steps"),
    ):
        capsys.readouterr()
        plot = scored[0].parent / "plot.svg"
        assert cli.main(["table", *map(str, scored), "--scores", name, "--plot", str(plot)]) == 0
        assert capsys.readouterr().out.startswith(f"mIoU on test in percent {when}, seed 0")
        assert f"{when}, %" in plot.read_text()


def test_scores_of_a_checkpoint_that_is_the_best_no_more_are_no_table(scored, capsys):
    for run in scored:
        assert cli.main(["eval", str(run), "--at", "best"]) == 0
    words = ["table", *map(str, scored), "--scores", "eval_val_best.json"]
    assert cli.main(words) == 0
    path = scored[1] / "checkpoints/best.json"
    said = json.loads(path.read_text())
    other = {2: 4, 4: 2}[said["step"]]
    shutil.copytree(
        scored[1] / f"checkpoints/step-0000000{said['step']}",
        scored[1] / f"checkpoints/step-0000000{other}",
        dirs_exist_ok=True,
    )
    path.write_text(json.dumps(said | {"step": other}))
    assert cli.main(words) == 1
    assert (
        f"best checkpoint is that of step {other} by now, and the scores are of step {said['step']}"
        in capsys.readouterr().err
    )


def test_the_share_of_the_gap_is_of_the_files_scores_too(scored, capsys):
    values = {"supervised": (0.25, 0.125), "method": (0.25, 0.5), "full": (0.75, 0.625)}
    runs = [*scored, scored[0].parents[1] / "full" / "0"]
    shutil.copytree(scored[0], runs[2])
    for run in runs:
        path = run / "eval_test.json"
        found = json.loads(path.read_text())
        for network, value in zip(("student", "teacher"), values[run.parent.name], strict=True):
            found[network]["mIoU"] = value
        path.write_text(json.dumps(found))
    assert cli.main(["table", *map(str, runs), "--scores", "eval_test.json", "--full", "full"]) == 0
    shown = capsys.readouterr().out
    assert "| method | 25.0 | 50.0 | +25.0 | 50 % |" in shown
    assert shown.splitlines()[5].startswith("| full |")  # the best teacher first, by the files' scores


@pytest.mark.parametrize(
    ("change", "says"),
    [
        *(({fact: "otherwise"}, f"not scored alike: {fact}") for fact in FACTS),
        ({"step": 2}, "has trained on since step 2 of 4"),
        ({"teacher": None}, "has not the scores of a student and of a teacher"),
        ({"teacher": {"top1": 0.5}}, "has not the scores of a student and of a teacher"),
        ({"teacher": {"mIoU": math.nan}}, "has not the scores of a student and of a teacher"),
        ({"teacher": {"mIoU": None}}, "has not the scores of a student and of a teacher"),
    ],
)
def test_scores_of_other_images_or_of_half_a_run_are_no_table(change, says, scored, capsys):
    path = scored[1] / "eval_test.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert cli.main(["table", *map(str, scored), "--scores", path.name]) == 1
    assert says in capsys.readouterr().err


def test_scores_of_runs_that_are_not_finished_are_no_table(scored, capsys):
    lines = (scored[1] / "metrics.jsonl").read_text().splitlines(keepends=True)
    (scored[1] / "metrics.jsonl").write_text("".join(line for line in lines if json.loads(line)["step"] < 4))
    assert cli.main(["table", *map(str, scored), "--scores", "eval_test.json"]) == 1
    assert f"{scored[1]}: not finished" in capsys.readouterr().err


def test_a_run_without_the_scores_is_named_with_those_that_it_has(scored, capsys):
    (scored[0] / "eval_test_checkpoints.json").write_text("{}")
    assert cli.main(["table", *map(str, scored), "--scores", "eval_holdout.json"]) == 1
    error = capsys.readouterr().err
    assert "the run has eval_test.json;" in error
    assert f"tools/eval.py {scored[0]} [WORDS]" in error


@pytest.mark.parametrize("name", ["", "../0/eval_test.json", "{run}/eval_test.json"])
def test_scores_are_a_files_name_and_no_path(name, scored, capsys):
    """A path, as a shell completes it, would be one run's file for all of them."""
    assert cli.main(["table", *map(str, scored), "--scores", name.format(run=scored[0])]) == 1
    assert "is looked for in each run's folder" in capsys.readouterr().err


def test_means_of_a_files_scores_over_other_classes_are_told_too(scored, capsys):
    words = ["table", *map(str, scored), "--scores", "eval_test.json"]
    assert cli.main(words) == 0
    assert "over the same classes" not in capsys.readouterr().out
    path = scored[1] / "eval_test.json"
    found = json.loads(path.read_text())
    name = found["classes"][1]
    found["teacher"]["IoU"][name] = None
    path.write_text(json.dumps(found))
    assert cli.main(words) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"not all means are over the same classes: {name}, which" in said.lower()
    assert "not at all in method 0" in said


def test_scores_of_one_checkpoint_have_no_table_over_steps(scored, capsys):
    assert cli.main(["table", *map(str, scored), "--scores", "eval_test.json", "--steps"]) == 1
    assert "leave one out" in capsys.readouterr().err


def test_an_evaluation_that_not_all_runs_have_is_a_column_all_the_same(tmp_path, capsys):
    runs = [
        a_run(tmp_path / "supervised/0", 0, 0.9, [0.3, 0.4, 0.5]),
        a_run(tmp_path / "method/0", 0, 0.9, [None, 0.38, 0.6]),  # nothing was scored at step 2
    ]
    assert cli.main(["table", *runs, "--steps"]) == 0
    shown = capsys.readouterr().out
    assert "| method | - | 38.0 | 60.0 | -2.0 |" in shown
    assert "| supervised | 30.0 | 40.0 | 50.0 | - |" in shown


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_runs_of_different_lengths_are_each_taken_at_their_end(order, tmp_path, capsys):
    runs = [
        a_run(tmp_path / "supervised/0", 0, 0.4, [0.2, 0.4]),
        a_run(tmp_path / "longer/0", 0, 0.7, [0.4, 0.5, 0.6, 0.7]),
    ]
    assert cli.main(["table", *runs[order], "--vary", "steps"]) == 0
    shown = capsys.readouterr().out
    assert "| longer | 70.0 | 70.0 | 70.0 | +30.0 |" in shown
    assert shown.startswith("mIoU on val in percent after 4 to 8 steps, seed 0")


@pytest.mark.parametrize("words", [[], ["batch={labelled: 0, unlabelled: 4, consistency: all}", "data.unlabelled=all"]])
def test_a_comparison_too_has_its_table_over_steps(words, config, tmp_path, capsys):
    outs = [tmp_path / f"both{seed}" for seed in (0, 1)]
    for seed, out in enumerate(outs):
        assert cli.main(["compare", config, f"out={out}", f"seed={seed}", "eval.every=2", *words]) == 0
    capsys.readouterr()
    assert cli.main(["table", *map(str, outs), "--steps"]) == 0
    table = capsys.readouterr().out.partition("| method | 2 | 4 | smallest lead |\n")[2].splitlines()
    rows = {cells[0]: cells[1:] for cells in (line.strip("| ").split(" | ") for line in table[1:])}
    teachers = {
        name: [
            [100 * line["val_teacher/mIoU"] for line in read(out / name) if "val_teacher/mIoU" in line] for out in outs
        ]
        for name in ("supervised", "method")
    }
    for name, seeds in teachers.items():
        assert rows[name][:2] == [f"{one:.1f}, {two:.1f}" for one, two in zip(*seeds, strict=True)]
    leads = [
        method - alone
        for of, base in zip(teachers["method"], teachers["supervised"], strict=True)
        for method, alone in zip(of, base, strict=True)
    ]
    assert rows["method"][2] == f"{min(leads):+.1f}"


@pytest.mark.parametrize("words", [["--baseline", "method"], ["--full", "x"], ["--vary", "nonsense"]])
def test_words_about_methods_are_refused_where_there_are_comparisons(words, tmp_path, capsys):
    assert cli.main(["table", str(comparison(tmp_path / "a", 0, 0.3, 0.4)), *words]) == 1
    assert f"{words[0]}: is of runs named METHOD/SEED" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seed", "scores", "word", "says"),
    [
        (0, [0.5, 0.5], "steps=6", "not finished"),
        (0, [0.5, 0.5], "optimizer.lr=0.1", "optimizer.lr: 0.05 -> 0.1"),
        (0, [0.5, 0.5], "data.labels=3", "data.labels: 2 -> 3"),
        (1, [0.5, 0.5], "method.weight=3.0", "different seeds"),
    ],
)
def test_runs_that_do_not_compare_are_no_table_of_methods(seed, scores, word, says, tmp_path, capsys):
    base = a_run(tmp_path / "supervised/0", 0, 0.4, [0.4, 0.4])
    other = a_run(tmp_path / "other/0", seed, 0.5, scores, word)
    assert cli.main(["table", base, other]) == 1
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("order", list(itertools.permutations(("all", "few", "fewer"))), ids=",".join)
def test_numbers_of_labels_that_differ_are_refused_in_whatever_order_the_runs_are_named(order, tmp_path, capsys):
    labels = {"all": "all", "few": 2, "fewer": 1}
    run = {name: a_run(tmp_path / name / "0", 0, 0.4, [0.5], f"data.labels={labels[name]}") for name in order}
    words = ["--baseline", "few", "--full", "all"]
    assert cli.main(["table", *run.values(), *words]) == 1
    first, second = (name for name in order if name != "all")
    said = capsys.readouterr().err
    assert f"data.labels: {labels[first]} -> {labels[second]}" in said
    assert f"{run[first]} and {run[second]} differ in more than method and seed" in said
    assert cli.main(["table", *(run[name] for name in order if name != "fewer"), *words]) == 0


@pytest.mark.parametrize("order", [("all", "few"), ("few", "all")], ids=",".join)
def test_the_method_with_all_labels_may_differ_in_nothing_else_in_whatever_order(order, tmp_path, capsys):
    words = {"all": ["data.labels=all", "optimizer.lr=0.1"], "few": ["data.labels=2"]}
    runs = [a_run(tmp_path / name / "0", 0, 0.4, [0.5], *words[name]) for name in order]
    assert cli.main(["table", *runs, "--baseline", "few", "--full", "all"]) == 1
    said = capsys.readouterr().err
    assert "optimizer.lr" in said
    assert "data.labels" not in said


def test_the_table_of_classes_has_the_means_and_the_share_of_each_classs_gap(tmp_path, capsys):
    rng, runs, ious = np.random.default_rng(0), [], {}
    for name in ("supervised", "supervised_all", "good"):
        for seed in range(2):
            runs.append(a_run(tmp_path / name / str(seed), seed, 0.4, [0.3, 0.4]))
            ious[name, seed] = rng.random(4) + {"supervised": 0, "good": 1, "supervised_all": 2}[name]
            path = Path(runs[-1]) / "metrics.jsonl"
            first, last = map(json.loads, path.read_text().splitlines())
            classes = {"cat": ious[name, seed][0], "dog": ious[name, seed][1], "a|b": None if name == "good" else 0.5}
            whole = {"pixel_accuracy": ious[name, seed][2], "frequency_weighted_IoU": ious[name, seed][3]}
            first |= {"val_teacher": {"IoU": {"cat": 0.0, "dog": 0.0, "a|b": 0.0}}}
            last |= {"val_teacher": {"IoU": classes, **whole}}
            path.write_text(f"{json.dumps(first)}\n{json.dumps(last)}\n")
    assert cli.main(["table", *runs, "--classes"]) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    head = next(row for row in rows if row[0] == "teacher")
    assert sorted(head[1:4]) == ["good", "supervised", "supervised_all"]
    assert head[4] == "gap closed, good"
    for place, name in enumerate(["cat", "dog", "pixel accuracy", "frequency-weighted IoU"]):
        (row,) = (row for row in rows if row[0] == name)
        mean = {of: 100 * np.mean([ious[of, seed][place] for seed in range(2)]) for of in head[1:4]}
        for of, cell in zip(head[1:4], row[1:4], strict=True):
            deviation = 100 * np.std([ious[of, seed][place] for seed in range(2)], ddof=1)
            assert cell == f"{mean[of]:.1f} +- {deviation:.1f}"
        gap = mean["supervised_all"] - mean["supervised"]
        assert row[4] == f"{100 * (mean['good'] - mean['supervised']) / gap:.0f} %"
    (row,) = (row for row in rows if row[0] == "a&#124;b")
    assert row[1 + head[1:].index("good")] == row[4] == "-"


@pytest.mark.parametrize("word", ["--classes", "--steps"])
def test_further_tables_are_of_the_runs_own_evaluations_with_the_scores_they_are_of(word, tmp_path, capsys):
    runs = [a_run(tmp_path / name / "0", 0, 0.4, [0.5]) for name in ("supervised", "good")]
    assert cli.main(["table", *runs, word, "--scores", "eval_test.json"]) == 1
    assert f"{word}: is of the runs' own evaluations" in capsys.readouterr().err
    assert cli.main(["table", *runs, word]) == (word == "--classes")
    assert ("no IoU of classes" in capsys.readouterr().err) == (word == "--classes")


def test_the_runs_with_all_labels_have_as_many(tmp_path, capsys):
    runs = [a_run(tmp_path / "few" / str(seed), seed, 0.4, [0.5], "data.labels=2") for seed in range(2)]
    runs += [
        a_run(tmp_path / "all" / str(seed), seed, 0.4, [0.6], f"data.labels={labels}")
        for seed, labels in enumerate(("all", 5))
    ]
    assert cli.main(["table", *runs, "--baseline", "few", "--full", "all"]) == 1
    said = capsys.readouterr().err
    assert f"{runs[2]} and {runs[3]} differ in more than method and seed:\n  data.labels: all -> 5" in said


def test_rows_may_differ_in_what_is_said_to_vary(tmp_path, capsys):
    runs = [
        a_run(tmp_path / "supervised/0", 0, 0.4, [0.4], "method.branches=[]"),
        a_run(tmp_path / "few/0", 0, 0.5, [0.5], "batch.labelled=1", "batch.unlabelled=3", "data.labels=1"),
    ]
    assert cli.main(["table", *runs]) == 1
    words = "--vary batch.labelled --vary batch.unlabelled --vary data.labels"  # all at once
    assert f"If that is what is compared, say so: {words}\n" in capsys.readouterr().err
    assert cli.main(["table", *runs, "--vary", "batch", "--vary", "data.labels"]) == 0
    assert "| few | 50.0 | 50.0 | 50.0 | +10.0 |" in capsys.readouterr().out


def test_the_plot_of_a_table_of_methods_has_a_dot_for_each_seed_and_lines_at_the_rows_compared_with(tmp_path, capsys):
    scores = {"supervised": (0.40, 0.46), "a<b": (0.6, 0.7), "supervised_all": (0.84, 0.80)}
    runs = [
        a_run(tmp_path / name / str(seed), seed, 0.1, [score], f"data.labels={2 if name != 'supervised_all' else 6}")
        for name, of in scores.items()
        for seed, score in enumerate(of)
    ]
    assert cli.main(["table", *runs, "--plot", str(tmp_path / "plot.svg")]) == 0
    assert f"{tmp_path / 'plot.svg'}: the table's picture" in capsys.readouterr().err
    picture = ElementTree.parse(tmp_path / "plot.svg").getroot()
    space = {"s": "http://www.w3.org/2000/svg"}
    names = [text.text for text in picture.findall("s:text", space)]
    assert [name for name in names if name in scores] == ["supervised_all", "a<b", "supervised"]  # the best first
    assert "mIoU of the teacher on val after 2 steps, %" in names
    at = [float(dot.get("cx", "")) for dot in picture.findall("s:circle", space)]
    values = [100 * score for name in ("supervised_all", "a<b", "supervised") for score in scores[name]]
    slope = (at[0] - at[4]) / (values[0] - values[4])
    assert at == pytest.approx([at[4] + slope * (value - values[4]) for value in values], abs=0.1)
    compared = [float(line.get("x1", "")) for line in picture.findall("s:line[@stroke-dasharray]", space)]
    assert compared == pytest.approx([at[4] + slope * 3, at[0] - slope * 2], abs=0.1)  # the means of the two


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--full", "all"], "--full: no run of 'all' among supervised, good; name its folders too"),
        (["--vary", "batch.labeled"], "--vary batch.labeled: no setting of these runs; did you mean 'batch.labelled'?"),
    ],
)
def test_a_word_that_names_no_method_or_setting_is_refused(words, says, tmp_path, capsys):
    runs = [a_run(tmp_path / name / "0", 0, 0.5, [0.5]) for name in ("supervised", "good")]
    assert cli.main(["table", *runs, *words]) == 1
    assert says in capsys.readouterr().err


def test_where_all_labels_are_no_better_there_is_no_gap_to_close(tmp_path, capsys):
    runs = [a_run(tmp_path / name / "0", 0, 0.5, [0.5]) for name in ("supervised", "supervised_all", "good")]
    assert cli.main(["table", *runs]) == 0
    assert "| good | 50.0 | 50.0 | 50.0 | +0.0 | - |" in capsys.readouterr().out


def test_a_folder_of_folders_is_answered_with_those_to_name(tmp_path, capsys):
    run = a_run(tmp_path / "runs/supervised/0", 0, 0.5, [0.5])
    (tmp_path / "all").mkdir()
    one = comparison(tmp_path / "all/a", 0, 0.3, 0.4)
    for folder, says in (
        (tmp_path / "runs", f"a folder of runs; name each, as in: python tools/table.py {run}"),
        (tmp_path / "all", f"a folder of comparisons; name each, as in: python tools/table.py {one}"),
        (tmp_path / "none", "no such folder"),
    ):
        for more in ([], ["--plot", str(tmp_path / "plot.svg")]):
            assert cli.main(["table", str(folder), *more]) == 1
            assert f"{folder}: {says}" in capsys.readouterr().err


def test_runs_beside_something_else_are_no_table(tmp_path, capsys):
    run = a_run(tmp_path / "supervised/0", 0, 0.5, [0.5])
    assert cli.main(["table", run, str(tmp_path / "supervised")]) == 1
    assert f"{tmp_path / 'supervised'}: no metrics.jsonl, so no run, as {run} is one" in capsys.readouterr().err


def test_two_runs_of_one_folder_and_seed_are_no_table_of_methods(tmp_path, capsys):
    runs = [a_run(tmp_path / "runs" / name, 0, 0.5, [0.5]) for name in ("first", "choice")]
    assert cli.main(["table", *runs]) == 1
    assert f"{runs[1]}: the method 'runs' has seed 0 twice; tables take a run" in capsys.readouterr().err


def test_different_places_of_a_plots_axis_have_different_words() -> None:
    shown = re.findall(r'text-anchor="middle">([^<]*)<', dots("x", {"a": [88.31], "b": [88.43]}))
    assert len(shown) == len(set(shown)) >= 2
    assert [float(text) for text in shown] == sorted(map(float, shown))


def test_a_name_that_markdown_would_take_for_its_own_is_escaped(tmp_path, capsys):
    runs = [f"{name}={a_run(tmp_path / str(n), 0, 0.4, [0.4])}" for n, name in enumerate(["supervised", "m|t <i>x"])]
    for n in range(2):
        path = tmp_path / str(n) / "metrics.jsonl"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"val_teacher": {"IoU": {"a": 0.5}}}) + "\n")
    for tables in ([], ["--steps"], ["--classes"]):
        assert cli.main(["table", *runs, *tables]) == 0
        rows = [
            row for row in capsys.readouterr().out.splitlines() if row.startswith("|") and "m&#124;t &lt;i>x" in row
        ]
        assert rows
        assert "m|t" not in "".join(rows)


def test_a_plot_that_is_not_named_svg_is_refused(tmp_path, capsys):
    run = a_run(tmp_path / "supervised/0", 0, 0.5, [0.5])
    assert cli.main(["table", run, "--plot", str(tmp_path / "a.png")]) == 1
    assert "name a file that ends in .svg" in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()


def test_a_table_of_methods_without_its_baseline_says_which_rows_there_are(tmp_path, capsys):
    assert cli.main(["table", a_run(tmp_path / "other/0", 0, 0.5, [0.5])]) == 1
    assert "no run of 'supervised' among other" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["steps=8", "eval.split=test", "optimizer.lr=0.1", "method.weight=3.0"])
def test_comparisons_that_differ_in_more_than_their_seeds_are_no_table(word, tmp_path, capsys):
    one, other = comparison(tmp_path / "a", 0, 0.3, 0.4), comparison(tmp_path / "b", 1, 0.3, 0.4, word)
    assert cli.main(["table", str(one), str(other)]) == 1
    assert f"{word.partition('=')[0]}:" in capsys.readouterr().err


def test_one_seed_twice_is_no_table(tmp_path, capsys):
    folders = [str(comparison(tmp_path / name, 3, 0.3, 0.4)) for name in "ab"]
    assert cli.main(["table", *folders]) == 1
    assert "same seed, 3" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"split": "val", "seed": 0, "steps": 9, "mIoU": {}}', "null"])
def test_a_comparison_that_is_not_whole_is_named(content, tmp_path, capsys):
    folder = comparison(tmp_path / "a", 0, 0.3, 0.4)
    (folder / "comparison.json").write_text(content)
    assert cli.main(["table", str(folder)]) == 1
    assert "comparison.json: not a whole comparison" in capsys.readouterr().err


def table(shown: str) -> dict[str, list[str]]:
    """The rows of a Markdown table by their first cell."""
    rows = [line.strip("| ").split(" | ") for line in shown.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in rows}


def test_a_word_names_the_method_of_a_run_wherever_it_is(tmp_path, capsys, monkeypatch):
    scores = {("mine", 0): 0.5, ("mine", 1): 0.6, ("supervised", 0): 0.4, ("supervised", 1): 0.44}
    places = {("mine", 0): "first/method", ("mine", 1): "lr=1/second", ("supervised", 0): "supervised/0"}
    runs = {of: a_run(tmp_path / places.get(of, "x/y"), of[1], 0.1, [score]) for of, score in scores.items()}
    named = [f"{name}={run}" for (name, _), run in runs.items()]
    assert cli.main(["table", *named]) == 0
    found = table(capsys.readouterr().out)
    for name in ("mine", "supervised"):
        of = [100 * scores[name, seed] for seed in (0, 1)]
        assert found[name][1] == f"{np.mean(of):.1f} +- {np.std(of, ddof=1):.1f}"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=1" / "0").symlink_to("second")  # a folder that reads like a word is a folder
    assert cli.main(["table", "lr=1/0", f"supervised={runs['supervised', 1]}"]) == 0
    assert list(table(capsys.readouterr().out)) == ["method", "---", "lr=1", "supervised"]


def test_a_run_named_from_within_its_methods_folder_is_of_that_method(tmp_path, capsys, monkeypatch):
    a_run(tmp_path / "supervised/0", 0, 0.4, [0.4])
    a_run(tmp_path / "good/0", 0, 0.4, [0.5])
    monkeypatch.chdir(tmp_path / "good")
    assert cli.main(["table", "0", "../supervised/0"]) == 0
    assert table(capsys.readouterr().out)["good"][1] == "50.0"


def test_the_caption_speaks_of_a_gap_only_where_there_is_one(tmp_path, capsys):
    runs = []
    for name in ("supervised", "good", "supervised_all"):
        runs.append(a_run(tmp_path / name / "0", 0, 0.4, [0.5]))
        path = Path(runs[-1]) / "metrics.jsonl"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"val_teacher": {"IoU": {"cat": 0.5}}}) + "\n")
    for of, gap in ((runs[:2], False), (runs, True)):
        assert cli.main(["table", *of, "--classes"]) == 0
        shown = capsys.readouterr().out.partition("IoU of the teacher")[2]
        assert ("share of the gap" in shown) == ("gap closed" in shown) == gap


def test_comparisons_are_drawn_as_their_two_methods(config, tmp_path, capsys):
    folder, plot = tmp_path / "both", tmp_path / "plot.svg"
    assert cli.main(["compare", config, f"out={folder}"]) == 0
    assert cli.main(["table", str(folder), "--plot", str(plot)]) == 0
    texts = [text.text for text in ElementTree.parse(plot).getroot().iter("{http://www.w3.org/2000/svg}text")]
    assert {"supervised", "method"} <= set(texts)
    assert f"{plot}: the table's picture" in capsys.readouterr().err


def test_evaluations_that_were_asked_otherwise_than_the_last_are_in_no_table_and_on_no_page(tmp_path, capsys):
    """A run whose predictor was changed on its way: what was scored before is of other pixels."""
    run = tmp_path / "m/0"
    centre = "eval.predictor={kind: centre, size: [16, 16]}"
    fit(tiny(run, "eval.every=2", centre), quiet=True)
    fit(tiny(run, "eval.every=2", "steps=8", "accept_changes=[steps, eval.predictor]"), quiet=True)
    fit(tiny(tmp_path / "supervised/0", "method.branches=[]", "eval.every=2", "steps=8"), quiet=True)
    every = [line for line in read(run) if "val_teacher/mIoU" in line]
    assert [line["step"] for line in every] == [2, 4, 6, 8]
    assert len({line["asked"] for line in every[:2]} | {every[2]["asked"]}) == 2
    assert cli.main(["table", str(run), str(tmp_path / "supervised/0"), "--steps", "--vary", "method"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| m |")]
    cells = [cell.strip() for cell in rows[1].strip("|").split("|")]
    last = [f"{100 * line['val_teacher/mIoU']:.1f}" for line in every[2:]]
    assert cells[1:5] == ["-", "-", *last]
    best = max(line["val_teacher/mIoU"] for line in every[2:])
    assert rows[0].split("|")[4].strip() == f"{100 * best:.1f}"
    shown = page([run, tmp_path / "supervised/0"])
    assert f"{percent(best)} at " in shown
