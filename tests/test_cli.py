"""The commands as a user types them."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from processes import Program
from runs import TINY, comparison, tiny
from safetensors.torch import load_file
from trees import camvid

from mtseg import cli
from mtseg.config import load, of_run
from mtseg.results.compare import compare
from mtseg.results.gallery import coloured, predicted
from mtseg.run import checkpoint
from mtseg.run.logged import read
from mtseg.run.machine import share_cores
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
        assert found[name] == found[name] | last[f"val_{name}"]
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
        (
            ["method.ramp={kind: rampup, steps: 9, every: 2}"],
            f"rises to {2 * math.exp(-5 * (7 / 9) ** 2):.2g} of 2 in the run's 4",
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


@pytest.mark.parametrize(
    ("load", "threads", "said"), [(0.4, 4, False), (1.5, 4, True), (7.0, 2, True), (2.5, 2, False), (30.0, 1, False)]
)
def test_that_others_keep_the_cores_busy_is_told_where_threads_would_wait(
    load, threads, said, config, monkeypatch, capsys
):
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("mtseg.run.machine.torch.get_num_threads", lambda: threads)
    monkeypatch.setattr("mtseg.run.machine.torch.set_num_threads", lambda _: None)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert cli.main(["train", config, "out=x", "--dry-run"]) == 0
    assert (f"{load} of 4 cores" in capsys.readouterr().out) == said
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert cli.main(["train", config, "out=x", "--dry-run"]) == 0
    assert "OMP_NUM_THREADS" not in capsys.readouterr().out


@pytest.mark.parametrize(("weights", "said"), [("imagenet", True), ("none", False)])
def test_dry_run_says_from_where_weights_would_be_fetched(weights, said, config, capsys):
    assert cli.main(["train", config, "out=x", f"model.weights={weights}", "--dry-run"]) == 0
    assert ("fetched at the start from huggingface.co/timm/test_resnet" in capsys.readouterr().out) == said


def test_dry_run_says_no_weight_where_there_is_no_consistency(config, capsys):
    assert cli.main(["train", config, "out=x", "method.branches=[]", "--dry-run"]) == 0
    assert "consistency weight" not in capsys.readouterr().out


def test_compare_trains_both_on_equal_terms_and_leaves_a_table_and_a_picture(config, tmp_path, capsys):
    out = tmp_path / "both"
    assert cli.main(["compare", config, f"out={out}", "eval.every=2"]) == 0
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


def test_of_several_processes_the_first_alone_prints_and_writes_a_comparison(config, tmp_path, capsys, monkeypatch):
    out = tmp_path / "both"
    rows = compare(load([config, f"out={out}"]))
    for file in ("comparison.json", "comparison.png"):
        (out / file).unlink()
    capsys.readouterr()
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("mtseg.results.compare.fit", lambda _: None)  # both are there already
    assert compare(load([config, f"out={out}"])) == rows
    assert cli.main(["compare", config, f"out={out}"]) == 0
    assert capsys.readouterr().out == ""
    assert not list(out.glob("comparison.*"))


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


def test_a_run_that_was_moved_is_told_how_its_own_config_goes_on(config, tmp_path, capsys):
    assert cli.main(["train", config, f"out={tmp_path / 'run'}"]) == 0
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    capsys.readouterr()
    assert cli.main(["train", str(moved / "config.yaml"), "--dry-run"]) == 0
    assert f"give out={moved} to continue it" in capsys.readouterr().out
    assert cli.main(["train", str(moved / "config.yaml"), "--dry-run", f"out={moved}"]) == 0
    assert "to continue it" not in capsys.readouterr().out


def test_a_network_of_another_size_than_the_checkpoint_is_refused_in_one_line(config, tmp_path, capsys):
    run = tmp_path / "run"
    cli.main(["train", config, f"out={run}"])
    capsys.readouterr()
    assert cli.main(["eval", str(run), "model.options.decoder_channels=[8, 8, 8]"]) == 1
    message = capsys.readouterr().err.strip()
    assert "the network of a run cannot be changed (model.options.decoder_channels: [12, 8, 4] -> [8, 8, 8])" in message
    assert "leave these out of the words" in message
    assert "\n" not in message
    assert cli.main(["eval", str(run), "model.options.decoder_interpolation=bilinear"]) == 1  # its weights would fit
    assert "cannot be changed (model.options.decoder_interpolation: None -> bilinear)" in capsys.readouterr().err
    assert cli.main(["eval", str(run), "model.weights=imagenet", "norm=sync"]) == 0  # of training
    capsys.readouterr()
    assert cli.main(["eval", str(run), "model.arch=fpn", "model.options={}"]) == 1
    message = capsys.readouterr().err.strip()
    assert "model.arch: unet -> fpn" in message
    assert not re.search(r"size mismatch|state_dict|Missing key|\.weight", message)
    assert message.endswith("or train another run")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["split", "x.yaml", "--labels", "1", "--out", "y", "--how", "sequences"], "did you mean 'sequence'?"),
        (["predict", "run", "x.png", "--out", "y", "--network", "techer"], "did you mean 'teacher'?"),
        (["split", "x.yaml", "--labels", "1", "--out", "y", "--how", "x"], "not one of random, balanced, sequence\n"),
    ],
)
def test_an_options_misspelt_choice_is_answered_with_the_nearest(words, says, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 2
    assert says in capsys.readouterr().err


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
    words = ["train", config, f"out={run}", "steps=100000", "workers=1", "eval.every=100000"]
    program = Program(lambda: cli.main(words))
    program.until("step 3/")
    os.kill(program.pid, signal.Signals[name])
    assert program.ended() == 75
    assert f"stopped on {name}, saved at step" in program.stderr
    assert "Traceback" not in program.stderr
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
        "import mtseg.results.compare"
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
from mtseg.run.machine import hold_memory
held, faults = hold_memory(), []
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    numpy.ones(6_000_000) + numpy.ones(6_000_000)
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
