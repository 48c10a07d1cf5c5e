"""The commands as a user types them."""

import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from runs import TINY, tiny
from safetensors.torch import load_file
from trees import camvid

from mtseg import checkpoint, cli
from mtseg.cli.common import share_cores
from mtseg.config import of_run, written
from mtseg.logged import read
from mtseg.report import coloured, predicted
from mtseg.scored import FACTS
from mtseg.views import Views

ROOT = Path(__file__).parent.parent


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return str(path)


def test_eval_gives_the_trainers_last_numbers_and_writes_them(config, tmp_path, capsys):
    run = tmp_path / "run"
    assert cli.main(["train", config, f"out={run}"]) == 0
    assert cli.main(["eval", str(run)]) == 0
    shown = capsys.readouterr().out
    found = json.loads((run / "eval_val.json").read_text())
    last = [line for line in read(run) if "val_teacher" in line][-1]
    assert found["step"] == last["step"] == 4
    assert found["images"] == 2
    for name in ("student", "teacher"):
        assert found[name] == last[f"val_{name}"]
        assert f"{100 * found[name]['mIoU']:.2f}" in shown


def test_eval_takes_another_split_by_word(config, tmp_path):
    run = tmp_path / "run"
    cli.main(["train", config, f"out={run}"])
    assert cli.main(["eval", str(run), "eval.split=test"]) == 0
    assert json.loads((run / "eval_test.json").read_text())["images"] == 3


def test_the_scores_of_an_evaluation_do_not_depend_on_its_batch(config, tmp_path):
    run = tmp_path / "run"
    cli.main(["train", config, f"out={run}"])
    found = []
    for batch in (1, 2, 3):
        cli.main(["eval", str(run), "eval.split=test", f"eval.batch={batch}"])
        found.append(json.loads((run / "eval_test.json").read_text())["teacher"]["mIoU"])
    assert found == pytest.approx([found[0]] * 3, abs=1e-3)


def test_dry_run_prints_the_resolved_config_and_what_follows_and_trains_nothing(config, tmp_path, capsys):
    assert cli.main(["train", config, f"out={tmp_path / 'run'}", "optimizer.lr=1e-3", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    resolved, _, facts = shown.partition("\n\n")
    assert yaml.safe_load(resolved)["optimizer"]["lr"] == 0.001
    assert "decoder_lr: null" in resolved  # a default that no file names
    assert "2, 2 a step, 4.0 passes" in facts
    assert "million" in facts
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["train", "compare"])
def test_another_batch_than_the_files_is_said_with_its_linear_scaling(command, config, tmp_path, capsys):
    assert cli.main([command, config, f"out={tmp_path / 'run'}", "batch.labelled=1", "--dry-run"]) == 0
    assert "linear scaling would be optimizer.lr=0.025" in capsys.readouterr().out


def test_a_dry_run_says_how_the_run_in_the_folder_stands_and_changes_nothing_there(config, tmp_path, capsys):
    run = tmp_path / "run"
    words = [config, f"out={run}", "checkpoint_every=1"]

    def said(*more: str) -> tuple[int, str, str]:
        files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        code = cli.main(["train", *words, *more, "--dry-run"])
        assert files == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        return code, *capsys.readouterr()

    assert f"folder: {run}, a new run" in said()[1]
    assert cli.main(["train", *words]) == 0
    assert f"folder: {run} is finished already" in said()[1]
    steps = of_run(run).steps
    longer = [f"steps={steps + 1}", "accept_changes=[steps]"]
    assert f"folder: continuing {run} at step {steps}; changed, as accepted: steps: " in said(*longer)[1]
    for more in (["seed=5"], [f"steps={steps + 1}"], ["resume=never"]):
        code, _, refused = said(*more)
        assert (code, cli.main(["train", *words, *more])) == (1, 1)
        assert refused == capsys.readouterr().err
    newest = max((run / "checkpoints").glob("step-*"))
    (newest / "student.safetensors").write_bytes(b"")
    assert f"{newest} is damaged and passed over" in said()[1]
    pools = json.loads((run / "splits.json").read_text())
    pools["val"]["sha256"] = "0" * 64
    (run / "splits.json").write_text(json.dumps(pools))
    code, _, refused = said()
    assert (code, "begun with other images (val: " in refused) == (1, True)


def test_a_dry_run_of_a_comparison_says_what_follows_for_both_runs_and_trains_nothing(config, tmp_path, capsys):
    assert cli.main(["compare", config, f"out={tmp_path / 'both'}", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    resolved, _, rest = shown.partition("\n\n")
    assert yaml.safe_load(resolved)["method"]["branches"]
    alone, _, method = rest.partition("2 of 2")
    assert "unlabelled images: not used" in alone
    assert "consistency weight" not in alone
    assert "unlabelled images: 6, " in method
    assert "consistency weight: " in method
    assert not (tmp_path / "both").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["method.ramp={kind: constant}"], "consistency weight: 2 at first, 2 halfway, 2 at last\n"),
        (["method.ramp={kind: rampup, steps: 2}"], "consistency weight: 0.013 at first, 2 halfway, 2 at last\n"),
        (
            ["method.ramp={kind: rampup, steps: 9}"],
            f"rises to {2 * math.exp(-5 * (6 / 9) ** 2):.2g} of 2 in the run's 4",
        ),
    ],
)
def test_dry_run_says_how_the_consistency_weight_goes(words, says, config, capsys):
    assert cli.main(["train", config, "out=x", *words, "--dry-run"]) == 0
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["batch.labelled=3", "accumulate=2"],
            "batch.labelled: 3 images a step, over all processes, cannot",
        ),
        (["boards=[wandb]"], "boards: wandb is not installed"),
        (["out=tiny.yaml/x/y"], "out: tiny.yaml/x/y cannot be made or written to (Not a directory)"),
        (["out=tiny.yaml"], "out: tiny.yaml cannot be made or written to (File exists)"),
        ([f"out={'x' * 300}/y"], "(File name too long); choose another folder"),
    ],
)
def test_what_a_run_refuses_at_its_start_the_dry_run_refuses_in_the_same_words(
    words, says, config, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.chdir(tmp_path)
    told = []
    for more in (["--dry-run"], []):
        before = sorted(tmp_path.rglob("*"))
        assert cli.main(["train", config, "out=x", *words, *more]) == 1
        told.append(capsys.readouterr().err)
        assert not more or sorted(tmp_path.rglob("*")) == before
    assert told[0] == told[1]
    assert says in told[0]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder in which nobody can make one")
def test_a_folder_on_a_file_system_that_holds_no_files_is_refused(config, capsys):
    assert cli.main(["train", config, "out=/proc/x"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("mtseg: out: /proc/x cannot be made or written to (")
    assert message.endswith("); choose another folder\n")


def test_a_dry_run_refuses_a_folder_that_it_may_not_write_to_and_says_which(config, tmp_path, capsys, monkeypatch):
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path and allowed(path, mode))
    for command in ("train", "compare"):
        for out in (tmp_path / "a/b", tmp_path):
            assert cli.main([command, config, f"out={out}", "--dry-run"]) == 1
            assert f"cannot be made or written to ({tmp_path}: Permission denied)" in capsys.readouterr().err


@pytest.mark.parametrize("threads", [1, 2])
def test_images_are_read_by_no_more_threads_than_the_network_has(threads, tmp_path, monkeypatch):
    """OpenCV has a pool of its own, a thread a core: beside other runs its threads wait for each other."""
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    before = cv2.getNumThreads(), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        cv2.setNumThreads(4)
        share_cores(tiny(tmp_path))
        assert cv2.getNumThreads() == threads
    finally:
        cv2.setNumThreads(before[0])
        torch.set_num_threads(before[1])


@pytest.mark.parametrize(("weights", "said"), [("imagenet", True), ("none", False)])
def test_dry_run_says_from_where_weights_would_be_fetched(weights, said, config, capsys):
    assert cli.main(["train", config, "out=x", f"model.weights={weights}", "--dry-run"]) == 0
    assert ("fetched at the start from huggingface.co/timm/test_resnet" in capsys.readouterr().out) == said


def test_dry_run_says_no_weight_where_there_is_no_consistency(config, capsys):
    assert cli.main(["train", config, "out=x", "method.branches=[]", "--dry-run"]) == 0
    assert "consistency weight" not in capsys.readouterr().out


def test_compare_trains_both_on_equal_terms_and_leaves_a_table_and_a_picture(config, tmp_path, capsys):
    out = tmp_path / "both"
    assert cli.main(["compare", config, f"out={out}"]) == 0
    found, shown = json.loads((out / "comparison.json").read_text()), capsys.readouterr().out
    for name, run, network in (
        ("supervised-only", "supervised", "student"),
        ("supervised-only, averaged weights", "supervised", "teacher"),
        ("student", "method", "student"),
        ("teacher", "method", "teacher"),
    ):
        values = [line[f"val_{network}"]["mIoU"] for line in read(out / run) if "val_teacher" in line]
        assert len(values) == 2
        assert found["mIoU"][name] == {"last": values[-1], "best": max(values)}
        assert f"{100 * values[-1]:.2f}" in shown
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    configs = [yaml.safe_load((out / run / "config.yaml").read_text()) for run in ("supervised", "method")]
    assert configs[0]["method"].pop("branches") == []
    configs[1]["method"].pop("branches")
    assert configs[0]["method"] == configs[1]["method"]
    assert {**configs[0], "out": ""} == {**configs[1], "out": ""}


def comparison(folder: Path, seed: int, supervised: float, teacher: float, *words: str) -> Path:
    """A finished comparison with these last scores; the best are 0.1 higher."""
    values = {
        "supervised-only": supervised,
        "supervised-only, averaged weights": 0.3,
        "student": 0.4,
        "teacher": teacher,
    }
    rows = {name: {"last": value, "best": value + 0.1} for name, value in values.items()}
    folder.mkdir()
    facts = {"split": "val", "seed": seed, "steps": 9, "mIoU": rows}
    (folder / "comparison.json").write_text(json.dumps(facts))
    (folder / "method").mkdir()
    method = tiny(folder / "method", f"seed={seed}", f"data.seed={seed}", *words)
    (folder / "method" / "config.yaml").write_text(written(method))
    return folder


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


@pytest.fixture
def scored(config, tmp_path, capsys) -> list[Path]:
    """Two runs, each evaluated on val as it trained, and scored on test when it was done, in eval_test.json."""
    runs = [tmp_path / name / "0" for name in ("supervised", "method")]
    for run, words in zip(runs, (["method.branches=[]"], []), strict=True):
        assert cli.main(["train", config, f"out={run}", *words]) == 0
        assert cli.main(["eval", str(run), "eval.split=test"]) == 0
    capsys.readouterr()
    return runs


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
    assert caption.startswith("mIoU on test in percent after 4 steps, seed 0")


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
    assert "| longer | 70.0 | 70.0 | 70.0 | +30.0 |" in capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["batch={labelled: 0, unlabelled: 4, consistency: all}", "data.unlabelled=all"]])
def test_a_comparison_too_has_its_table_over_steps(words, config, tmp_path, capsys):
    outs = [tmp_path / f"both{seed}" for seed in (0, 1)]
    for seed, out in enumerate(outs):
        assert cli.main(["compare", config, f"out={out}", f"seed={seed}", *words]) == 0
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
        a_run(tmp_path / "few/0", 0, 0.5, [0.5], "batch.labelled=1", "batch.unlabelled=3"),
    ]
    assert cli.main(["table", *runs]) == 1
    assert "If that is what is compared, say so: --vary batch.labelled" in capsys.readouterr().err
    assert cli.main(["table", *runs, "--vary", "batch"]) == 0
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


def test_comparisons_have_no_plot_of_methods(tmp_path, capsys):
    folder = comparison(tmp_path / "a", 0, 0.3, 0.4)
    assert cli.main(["table", str(folder), "--plot", str(tmp_path / "plot.svg")]) == 1
    assert "these are comparisons" in capsys.readouterr().err


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
    assert f"{runs[1]}: the method 'runs' has seed 0 twice; tables read METHOD/SEED" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["table", "nowhere"], "nowhere: no such folder"),
        (["train", "nowhere.yaml"], "no such file"),
        (["train", "{config}", "out=x", "optimizer.lrr=1"], "optimizer.lrr: unknown key (value 1); did you mean 'lr'"),
        (["train", "{config}", "out=x", "data.labels=99"], "labels"),
        (["train", "{config}", "out=x", "device=cuda:9"], "cuda:9"),
        (["train", "{config}"], "missing key 'out'"),
        (["eval", "nowhere"], "no config.yaml"),
        (["train", "{config}", "out=tiny.yaml/x"], "Not a directory"),
        (["train", "{config}", "out=x", "method.distance=kl"], "write {{kind: kl}}"),
        (["train", "{config}", "out=x", "model.weights=none.pth", "--dry-run"], "no file none.pth"),
        (
            [
                "train",
                "{config}",
                "out=x",
                "method.branches=[]",
                "method.teacher={{kind: ema, mode: train, buffers: own}}",
            ],
            "'own' are gathered by the teacher's answers",
        ),
        (["train", "{config}", "out=x", "views.student.geometry={{scale: [1e-9, 1.0]}}"], "0.001 <= low"),
        (["train", "{config}", "out=x", "views.std=[1e-9, 1.0, 1.0]"], "at least 1e-6"),
        (["compare", "{config}", "out=x", "method.branches=[]"], "supervised-only already"),
    ],
)
def test_a_mistake_ends_in_words_and_exit_code_1(words, says, config, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main([word.format(config=config) for word in words]) == 1
    assert says.format() in capsys.readouterr().err


def test_a_folder_of_runs_given_for_a_run_is_answered_with_the_runs(tmp_path, capsys):
    folder = comparison(tmp_path / "both", 0, 0.3, 0.4)
    assert cli.main(["eval", str(folder)]) == 1
    assert str(folder / "method") in capsys.readouterr().err


def test_a_network_of_another_size_than_the_checkpoint_is_refused_in_one_line(config, tmp_path, capsys):
    run = tmp_path / "run"
    cli.main(["train", config, f"out={run}"])
    capsys.readouterr()
    assert cli.main(["eval", str(run), "model.options.decoder_channels=[8, 8, 8]"]) == 1
    message = capsys.readouterr().err.strip()
    assert "does not fit the network" in message
    assert "\n" not in message


def test_the_teacher_that_gathers_its_own_statistics_can_be_compared(config, tmp_path):
    """Supervised-only asks no teacher, whose averaged weights then need averaged statistics, or they score nothing."""
    out = tmp_path / "both"
    assert cli.main(["compare", config, f"out={out}", "method.teacher={kind: ema, mode: train, buffers: own}"]) == 0
    weights = load_file(out / "supervised/checkpoints/step-00000004/teacher.safetensors")
    means = [value for name, value in weights.items() if name.endswith("running_mean")]
    assert any(value.abs().max() > 0 for value in means)


def test_a_finished_run_says_so_with_its_scores(config, tmp_path, capsys):
    run = tmp_path / "run"
    cli.main(["train", config, f"out={run}"])
    capsys.readouterr()
    assert cli.main(["train", config, f"out={run}"]) == 0
    shown = capsys.readouterr().out
    assert f"finished already: val mIoU: student {100 * read(run)[-1]['val_student/mIoU']:.2f}" in shown


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signalled_process_is_saved_and_ends_with_75_and_the_same_command_finishes_it(name, config, tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "tools/train.py", config, f"out={run}", "steps=100000", "workers=1", "eval.every=100000"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 3/"):
            break
    process.send_signal(signal.Signals[name])
    _, message = process.communicate(timeout=60)
    assert process.returncode == 75
    assert f"stopped on {name}, saved at step" in message
    assert "Traceback" not in message
    found, damaged = checkpoint.load_newest(run / "checkpoints")
    assert (damaged, found.step >= 3) == ({}, True)


@pytest.mark.parametrize("text", ['{"step": 1}\n{"st', "[1]\n", "nonsense\n"])
def test_a_line_that_is_no_metrics_is_named(text, tmp_path):
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line \d: not a line of metrics"):
        read(tmp_path)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("fault", ["size", "value", "truncated"])
def test_a_bad_file_is_named_in_one_line_from_a_worker_too(fault, workers, tmp_path, capsys):
    root = camvid(tmp_path / "data", images=4)
    victim = root / "train" / "0001TP_006720.jpg" if fault == "truncated" else root / "trainannot/0001TP_006720.png"
    if fault == "truncated":
        victim.write_bytes(victim.read_bytes()[:500])
    else:
        Image.new("L", (120, 90) if fault == "value" else (90, 120), 200 if fault == "value" else 0).save(victim)
    words = [str(ROOT / "configs/demo.yaml"), str(ROOT / "configs/data/camvid.yaml"), f"data.root={root}"]
    words += ["data.labels=all", "batch.labelled=4", f"workers={workers}", f"out={tmp_path / 'run'}"]
    assert cli.main(["train", *words]) == 1
    message = capsys.readouterr().err.strip()
    assert victim.stem in message
    assert "\n" not in message


@pytest.mark.parametrize("tool", [path.stem for path in sorted((ROOT / "tools").glob("*.py"))])
def test_the_tools_answer_help_without_loading_torch(tool):
    code = (
        "import runpy, sys; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_path('tools/{tool}.py', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert 'torch' not in sys.modules and 'cv2' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def test_importing_the_package_opens_no_connection():
    code = (
        "import socket\n"
        "def refuse(*a, **k): raise AssertionError('a socket was opened')\n"
        "socket.socket.connect = refuse; socket.create_connection = refuse; socket.getaddrinfo = refuse\n"
        "from mtseg.colour import Painter; Painter([])\n"
        "import mtseg.compare"
    )
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], cwd=ROOT, check=True)


def test_an_image_that_may_not_be_written_to_is_predicted_without_a_warning():
    import torch

    image = np.zeros((4, 6, 3), np.uint8)
    image.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classes, confidence = predicted(torch.nn.Conv2d(3, 2, 1), image, Views(crop=(16, 16)))
    assert classes.shape == confidence.shape == (4, 6)


def test_label_pictures_use_the_palette_and_show_ignored_pixels_white():

    palette = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    picture = coloured(np.array([[0, 1, 255]], np.uint8), palette)
    assert picture.tolist() == [[[1, 2, 3], [4, 5, 6], [255, 255, 255]]]


def test_memory_is_held_unless_the_environment_says_otherwise():
    """Asked of processes of their own: what is set stays."""
    code = """
import resource, numpy
from mtseg.cli.common import hold_memory
held, faults = hold_memory(), []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    numpy.ones(20_000_000) + numpy.ones(20_000_000)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(int(held), faults[-1])
"""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    (held, few), (left, many) = (
        map(int, subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True).stdout.split())
        for env in (clean, clean | {"MALLOC_TOP_PAD_": "131072"})
    )
    assert not left
    if held:  # with another C library it cannot be
        assert few < many / 2
