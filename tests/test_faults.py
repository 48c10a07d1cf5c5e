"""What happens to runs: each of 35 faults, injected, and the behaviour that is promised.

Tests elsewhere inject the others:
 1 stop and resume          test_trainer: a stopped and resumed run is the uninterrupted run to the bit (every method)
 2 repeated randomness      test_stream: no two samples of any step, slot, view or pass share geometry or noise
 3 silent consistency       test_trainer: every method's consistency reaches every weight; test_teachers
 6 damaged checkpoints      test_checkpoint: any damage to the newest is named; test_trainer: never started over
 7 labels that are none     test_stream: a label that is no class is refused by name; test_cli: a bad file is named
 8 sizes that differ        test_files: a mask of another size is refused with both; test_cli: a bad file is named
 9 images that are none     test_decode: cut off, damaged, missing; test_files: skip
12 signals                  test_trainer: a signal saves the step it came in; test_cli: ends with 75
22 another run              test_trainer: another run in the folder is refused; test_provenance: other images; and here
24 names that lead out      test_lists: names that lead out of the root are refused
26 modes and orientation    test_decode, test_folder: masks of colours, values and 16 bits
30 metrics                  test_metrics, test_evaluate
11, 12 in two processes    test_distributed: a step that is not finite in one is skipped by all; what one meets ends all
 4, 28 equal gradients      test_distributed: of two and four processes, and of two parts, those of one
13, 20 killed, restarted    test_torchrun
29 overflow                 test_precision: a step whose scaled gradient overflows is none
21, different numbers of batches, cannot happen: a step's batch is divided evenly or refused.
"""

import gc
import json
import multiprocessing
import os
import platform
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from processes import Program
from runs import TINY, tiny
from test_trainer import METHODS, Died, begin, files, stop_after

from mtseg import cli, trainer
from mtseg.config import Config
from mtseg.data.loading import loader
from mtseg.data.sound import LOOKED_AT
from mtseg.data.source import Splits, Subset
from mtseg.data.stream import Stream
from mtseg.run import checkpoint
from mtseg.run.exhausted import memory_told
from mtseg.run.log import Log
from mtseg.run.logged import read
from mtseg.run.replay import replay
from mtseg.signals import Stopped, leave_to_parent
from mtseg.state import State
from mtseg.step import train_step
from mtseg.trainer import fit

ROOT = Path(__file__).parent.parent


def written_config(folder: Path, **changes: object) -> str:
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY, **changes}))
    return str(path)


def everything(state: State) -> dict[str, torch.Tensor]:
    """Copies of all that a step may change, but for the counts of steps."""
    found = {f"student.{k}": v for k, v in state.student.state_dict().items()}
    found |= {f"teacher.{k}": v for k, v in state.teacher.module.state_dict().items()}
    found |= {f"memory.{k}": v for k, v in state.past.items()}
    found |= {f"said.{k}": torch.as_tensor(v) for k, v in state.teacher.state_dict().items() if k != "each"}
    for n, slot in state.optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{n}.{k}": torch.as_tensor(v) for k, v in slot.items()}
    return {key: value.clone() for key, value in found.items()}


class Spoilt:
    """A source that does something else when a process asks it for its 13th image after those that are looked at."""

    def __init__(self, source: Any, harm: Any) -> None:
        self.source, self.harm, self.asked = source, harm, 0

    def __len__(self) -> int:
        return len(self.source)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def image(self, index: int) -> Any:
        self.asked += 1
        if self.asked == LOOKED_AT + 13:
            self.harm()
        return self.source.image(index)


def spoilt(config: Config, harm: Any) -> tuple[Splits, list[str]]:
    """The config's images, of which one unlabelled one harms; and which it may be. Two come a step, to each in turn."""
    splits = config.data.build()
    stream = Stream(splits, views=config.views, sizes=config.batch, students=1, seed=config.seed)
    steps = range(6 * max(config.workers, 1), 7 * max(config.workers, 1))
    names = [splits.unlabelled.name(stream._indices("unlabelled", len(splits.unlabelled), 2, n)[0]) for n in steps]
    return replace(splits, unlabelled=Spoilt(splits.unlabelled, harm)), names


# 5: killed at any time


def life(command: list[str], seconds: float) -> None:
    """Run `command`, killed `seconds` after its first step, or after its start where it takes none."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step "):
            break
    time.sleep(seconds)
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_5_a_run_killed_at_25_random_times_loses_an_interval_at_most_and_ends_as_the_undisturbed_one(tmp_path):
    path, every, rng = written_config(tmp_path, data=TINY["data"] | {"val": 1}), 3, random.Random(0)
    words = ["steps=600", f"checkpoint_every={every}", "eval.every=20", "workers=1"]
    command = [sys.executable, "tools/train.py", path, f"out={tmp_path / 'killed'}", *words]
    for _ in range(25):
        life(command, rng.uniform(0, 0.5))
        lines = (tmp_path / "killed/metrics.jsonl").read_text().splitlines()
        done = max(json.loads(line)["step"] for line in lines if line.endswith("}"))
        found, _ = checkpoint.load_newest(tmp_path / "killed/checkpoints")
        assert found.step >= done - every
        assert found.step < 600, "it ended before it was killed often enough"
    assert subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 0
    assert not list((tmp_path / "killed/checkpoints").glob(".tmp-*"))
    assert cli.main(["train", path, f"out={tmp_path / 'whole'}", *words]) == 0
    assert files(tmp_path / "killed", 600) == files(tmp_path / "whole", 600)


# 1, in full


@pytest.mark.slow
@pytest.mark.parametrize("words", METHODS.values(), ids=METHODS)
def test_1_a_run_of_12_steps_stopped_after_any_of_them_is_the_uninterrupted_run(words, tmp_path, monkeypatch):
    more = [*words, "steps=12", "checkpoint_every=1", "eval.every=4"]
    fit(tiny(tmp_path / "whole", *more), quiet=True)
    for step in range(2, 13):
        broken = tiny(tmp_path / f"{step}", *more)
        with monkeypatch.context() as patch:
            stop_after(patch, step)
            with pytest.raises(Died):
                fit(broken, quiet=True)
        fit(broken, quiet=True)
        assert files(broken.out, 12) == files(tmp_path / "whole", 12), step


# The best checkpoint


def test_the_best_checkpoint_is_kept_and_named_whatever_comes_after(tmp_path, monkeypatch):
    scores = {2: 0.3, 4: 0.6, 6: 0.5, 8: 0.6, 10: 0.1}

    def scored(config: Config, splits: Splits, state: State, log: Log, stop: object) -> dict[str, Any]:
        found = {name: {"mIoU": scores[state.step]} for name in ("student", "teacher")}
        log.evaluated(state.step, "val", found)
        return {"val": found}

    monkeypatch.setattr(trainer, "_evaluated", scored)
    fit(tiny(tmp_path, "steps=10", "keep=1", "checkpoint_every=5"), quiet=True)
    folder = tmp_path / "checkpoints"
    assert [place.name for place in checkpoint.steps(folder)] == ["step-00000004", "step-00000010"]
    assert checkpoint.chosen(folder, "best") == (folder / "step-00000004", 0.6, "val", "whole images")


@pytest.mark.parametrize("otherwise", ["eval.predictor={kind: whole, augment: {scales: [0.5]}}", "eval.split=test"])
def test_scores_that_were_asked_otherwise_are_not_compared_to_find_the_best(otherwise, tmp_path, monkeypatch):
    scores = {2: 0.6, 4: 0.5, 6: 0.3, 8: 0.2}

    def scored(config: Config, splits: Splits, state: State, log: Log, stop: object) -> dict[str, Any]:
        found = {name: {"mIoU": scores[state.step]} for name in ("student", "teacher")}
        log.evaluated(state.step, config.eval.split, found)
        return {config.eval.split: found}

    monkeypatch.setattr(trainer, "_evaluated", scored)
    fit(tiny(tmp_path, "eval.every=2"), quiet=True)
    fit(tiny(tmp_path, "eval.every=2", "steps=8", otherwise, "accept_changes=[steps, eval]"), quiet=True)
    found = checkpoint.chosen(tmp_path / "checkpoints", "best")
    assert found is not None
    assert (found.place.name, found.score) == ("step-00000006", 0.3)


def test_the_best_is_one_that_is_there_and_a_resumed_run_knows_it(tmp_path, monkeypatch):
    config = tiny(tmp_path, "steps=6", "checkpoint_every=1", "eval.every=2")
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Died):
            fit(config, quiet=True)
    folder = tmp_path / "checkpoints"
    before = checkpoint.chosen(folder, "best")
    assert before is not None
    (folder / "best.json").unlink()  # as if killed between checkpoint and pointer
    fit(config, quiet=True)
    best = max((line["val_teacher/mIoU"], -line["step"]) for line in read(tmp_path) if "val_teacher/mIoU" in line)
    found = checkpoint.chosen(folder, "best")
    assert found is not None
    assert found[0].is_dir()
    assert found[:2] == (folder / checkpoint.name_of(-best[1]), best[0]) or before[0].name == "step-00000002"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"step": 9, "mIoU": 0.5, "split": "val"}', '{"step": "x"}', "\x00"])
def test_a_pointer_to_the_best_that_leads_nowhere_is_none(text, tmp_path):
    (tmp_path / "best.json").write_text(text)
    assert checkpoint.chosen(tmp_path, "best") is None


# 10: nothing to learn from


def test_10_a_step_without_a_label_or_a_sure_pixel_costs_nothing_and_counts(tmp_path):
    target = ["method.target={kind: hard, threshold: 1.0}", "method.distance={kind: cross_entropy}"]
    state, stream = begin(config := tiny(tmp_path, *target, "optimizer={kind: sgd, lr: 0.1, weight_decay: 0.0}"))
    batch = stream[0]
    batch.labelled.label.fill_(255)  # type: ignore[union-attr]
    before = [parameter.clone() for parameter in state.student.parameters()]
    terms = train_step(config, state, batch)
    assert (float(terms["loss"]), float(terms["gradient"]), terms["skipped"], state.step) == (0, 0, 0, 1)
    assert all(torch.equal(p, q) for p, q in zip(before, state.student.parameters(), strict=True))


# 11: numbers that are none


def poisoned(at: set[int], where: str) -> Any:
    """A train_step whose loss or gradient is not finite at the steps `at`, counted from 0."""

    def step(config: Config, state: State, batch: Any, **options: bool) -> Any:
        parameters = list(state.student.parameters())
        hooks = []
        if state.step in at and where == "gradient":
            hooks = [parameters[3].register_hook(lambda gradient: gradient * float("inf"))]
        if state.step in at and where == "forward":
            convolution = next(m for m in state.student.modules() if isinstance(m, torch.nn.Conv2d))
            hooks = [convolution.register_forward_hook(lambda m, i, output: output * float("nan"))]
        try:
            return train_step(config, state, batch, **options)
        finally:
            for hook in hooks:
                hook.remove()

    return step


@pytest.mark.parametrize("where", ["gradient", "forward"])
@pytest.mark.parametrize(
    "name", ["paper's teacher", "temporal ensembling", "adaptive", "unimatch", "adamw, cosine, clipping"]
)
def test_11_a_step_that_is_not_finite_changes_nothing_but_the_count(name, where, tmp_path):
    state, stream = begin(config := tiny(tmp_path, *METHODS[name]))
    train_step(config, state, stream[0])
    before = everything(state)
    terms = poisoned({1}, where)(config, state, stream[1])
    after = everything(state)
    assert before.keys() == after.keys()
    assert [key for key in before if not torch.equal(before[key], after[key])] == []
    assert (state.step, state.skipped, state.skipped_in_a_row, terms["skipped"]) == (2, 1, 1, 1)
    train_step(config, state, stream[2])
    assert (state.step, state.skipped, state.skipped_in_a_row) == (3, 1, 0)
    weights = [key for key, _ in state.student.named_parameters()]
    assert not any(torch.equal(everything(state)[f"student.{key}"], before[f"student.{key}"]) for key in weights[-4:])


def test_11_a_skipped_step_is_said_counted_survives_resuming_and_does_not_end_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trainer, "train_step", poisoned({1, 2}, "forward"))
    fit(tiny(tmp_path / "whole", "steps=6"))
    assert "not finite at step 2: no update (skipped: 1)" in capsys.readouterr().out
    lines = [line for line in read(tmp_path / "whole") if "train/loss" in line]
    assert [line["train/skipped"] for line in lines] == [0, 1, 2, 2, 2, 2]
    assert [line["train/loss"] is None for line in lines] == [False, True, True, False, False, False]
    step = trainer.train_step

    def dying(config: Config, state: State, batch: Any, **options: bool) -> Any:
        if state.step == 3:
            raise Died
        return step(config, state, batch, **options)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train_step", dying)
        with pytest.raises(Died):
            fit(tiny(tmp_path / "broken", "steps=6"), quiet=True)
    fit(tiny(tmp_path / "broken", "steps=6"), quiet=True)
    assert files(tmp_path / "broken", 6) == files(tmp_path / "whole", 6)


def captured(tmp_path: Path, where: str, *words: str) -> Path:
    config = tiny(tmp_path / "run", "steps=9", "max_skipped=3", *words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "train_step", poisoned({3, 4, 5}, where))
        with pytest.raises(ValueError, match=r"at step 6, after 3 steps in a row .*--replay .*capture-6\.pt"):
            fit(config, quiet=True)
    assert [place.name for place in checkpoint.steps(config.out / "checkpoints")][-1] == "step-00000004"
    return config.out / "capture-6.pt"


@pytest.mark.parametrize("name", ["cutmix, shared geometry", "temporal ensembling", "supervised", "balanced classes"])
def test_11_a_capture_is_the_step_itself(name, tmp_path, monkeypatch):
    """Taken again without the fault, it is the step that a run without that fault, from there, would have taken."""
    path = captured(tmp_path, "gradient", *METHODS[name])
    state, stream = begin(config := tiny(tmp_path / "run", "steps=9", *METHODS[name]))
    for step in range(6):
        expected = poisoned({3, 4}, "gradient")(config, state, stream[step])
    numbers = replay(path)[1].split("  ")
    assert f"loss {float(expected['loss']):.4g}" in numbers
    assert f"gradient {float(expected['gradient']):.4g}" in numbers


def test_11_a_replay_names_the_first_module_and_the_gradients_that_are_not_finite(tmp_path, monkeypatch, capsys):
    path = captured(tmp_path, "forward")
    assert replay(path)[-1] == "the update was made"  # the fault was put on from outside
    found = torch.load(path, weights_only=True)
    name = next(key for key in found["student"] if key.startswith("network.decoder") and key.endswith("0.weight"))
    found["student"][name][0, 0, 0, 0] = float("nan")
    torch.save(found, path)
    assert cli.main(["train", "--replay", str(path), "device=cpu"]) == 0
    shown = capsys.readouterr().out
    assert f"not finite are {name}" in shown
    assert (
        f"first output that is not finite: student.{name.removesuffix('.weight')} (Conv2d), from finite input" in shown
    )
    assert "gradients that are not finite: network." in shown
    assert "the update was skipped" in shown


@pytest.mark.parametrize("how", ["recompute", "compile"])
def test_11_a_replay_looks_into_a_student_that_was_recomputed_or_compiled_too(how, tmp_path):
    path = captured(tmp_path, "forward")
    found = torch.load(path, weights_only=True)
    name = next(key for key in found["student"] if key.startswith("network.encoder") and key.endswith(".weight"))
    found["student"][name].view(-1)[0] = float("nan")
    found["config"][how] = True
    torch.save(found, path)
    lines = replay(path)
    assert lines[0].endswith(f"on cpu; of the student without {how}")
    assert "every module's output is finite" not in lines
    first = f"first output that is not finite: student.{name.removesuffix('.weight')} ("
    assert any(line.startswith(first) for line in lines)


def test_11_a_capture_that_holds_code_is_refused_and_does_not_run(tmp_path, capsys):
    import pickle

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'executed'}",)

    path = tmp_path / "capture-1.pt"
    for content in (pickle.dumps(Payload()), b"", b"PK\x03\x04"):
        path.write_bytes(content)
        assert cli.main(["train", "--replay", str(path)]) == 1
        assert "not a captured step" in capsys.readouterr().err
    assert not (tmp_path / "executed").exists()


# 12, in an evaluation, which may take minutes


@pytest.mark.parametrize("which", [0, 1])  # the first image, and the last
def test_12_a_signal_in_an_evaluation_does_not_wait_for_its_end_and_the_run_is_the_whole_one(
    which, tmp_path, monkeypatch
):
    words = ["checkpoint_every=100", "eval.batch=1", "eval.every=2"]
    expected, asked = fit(tiny(tmp_path / "whole", *words), quiet=True), []
    config = tiny(tmp_path / "asked", *words)
    splits = config.data.build()

    class Signalling(Spoilt):
        def image(self, index: int) -> Any:
            asked.append(index)
            if len(asked) == which + 1:
                signal.raise_signal(signal.SIGUSR1)
            return self.source.image(index)

    monkeypatch.setattr(
        "mtseg.fits.refuse_unsound", lambda *_, **__: None
    )  # it looks at some, before any signal is caught
    with pytest.raises(Stopped, match="SIGUSR1, saved at step 2"):
        fit(config, splits=replace(splits, val=Signalling(splits.val, None)), quiet=True)
    assert len(asked) == which + 1
    assert fit(config, splits=splits, quiet=True) == expected
    assert files(config.out, 4) == files(tmp_path / "whole", 4)


# 14, 15, 16: loading processes


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def hang() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # as deep in a system call as one can be
    time.sleep(600)


def ask_for_too_much() -> None:
    raise MemoryError("Unable to allocate 9 GiB")


def lose_a_key() -> None:
    {}["palette"]


@pytest.mark.parametrize(
    ("harm", "workers", "says"),
    [
        (kill, 2, r"a loading process died \(SIGKILL\).*memory"),
        (crash, 1, r"a loading process died \(SIGSEGV\)"),
        (hang, 1, r"no batch came within 2 seconds \(loader_timeout\)"),
        (ask_for_too_much, 1, r"MemoryError: Unable to allocate 9 GiB"),
        (lose_a_key, 1, r"KeyError: 'palette'"),
        (lose_a_key, 0, r"KeyError: 'palette'"),
    ],
)
def test_14_15_16_what_befalls_a_loader_names_image_and_cause_is_saved_and_resumed_exactly(
    harm, workers, says, tmp_path
):
    words = ["steps=16", "checkpoint_every=100", "eval.every=100"]
    config = tiny(tmp_path / "run", *words, f"workers={workers}", "loader_timeout=2")
    splits, names = spoilt(config, harm)
    since = time.monotonic()
    with pytest.raises(ValueError, match=says) as caught:
        fit(config, splits=splits, quiet=True)
    assert time.monotonic() - since < 20
    assert any(name in str(caught.value) for name in names)
    assert "\n" not in str(caught.value)
    found, damaged = checkpoint.load_newest(config.out / "checkpoints")
    assert (found.step >= 1, damaged) == (True, {})
    fit(tiny(tmp_path / "run", *words), splits=config.data.build(), quiet=True)
    fit(tiny(tmp_path / "whole", *words), quiet=True)
    assert files(config.out, 16) == files(tmp_path / "whole", 16)


def test_14_no_loading_process_stays_behind_one_that_hangs(tmp_path):
    config = tiny(tmp_path / "run", "workers=2", "loader_timeout=2", "steps=16")
    splits, _ = spoilt(config, hang)
    stream = Stream(splits, views=config.views, sizes=config.batch, students=1, seed=0)
    with pytest.raises(ValueError, match="loader_timeout"):
        list(loader(stream, range(16), workers=2, pin=False, timeout=2))
    for process in multiprocessing.active_children():
        process.join(10)
    assert multiprocessing.active_children() == []


def test_14_no_loading_process_outlives_a_run_that_is_interrupted(tmp_path, monkeypatch):
    """While the interruption still travels, frames and all: one that waited at the exit would wait for ever."""

    def interrupted(config: Config, state: State, batch: Any, **options: bool) -> Any:
        assert len(multiprocessing.active_children()) == 2
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        fit(tiny(tmp_path / "run", "workers=2"), quiet=True)
    assert caught.tb is not None
    for process in multiprocessing.active_children():
        process.join(5)
    left = multiprocessing.active_children()
    for process in left:
        process.kill()
    assert left == []


def test_14_a_death_in_the_middle_of_a_step_does_not_tear_it(tmp_path):
    """All workers die while the step is computed: it is finished, and the death told where the next is waited for."""
    config = tiny(tmp_path, "steps=50")
    stream = Stream(config.data.build(), views=config.views, sizes=config.batch, students=1, seed=0)
    batches = loader(stream, range(50), workers=2, pin=False, timeout=60)
    next(batches)
    for process in multiprocessing.active_children():
        process.kill()
    until = time.monotonic() + 0.5
    while time.monotonic() < until:  # a step
        pass
    with pytest.raises(ValueError, match="SIGKILL"):
        list(batches)
    assert time.monotonic() - until < 30  # not the time-out


@pytest.mark.parametrize("end", ["read on", "closed"])
def test_14_a_loading_process_that_is_killed_with_a_lock_in_hand_does_not_keep_the_program_from_ending(end, tmp_path):
    """The lock of the event by which DataLoader asks its processes to end; nobody gives it back."""
    config = tiny(tmp_path, "steps=50")
    stream = Stream(config.data.build(), views=config.views, sizes=config.batch, students=1, seed=0)

    def training() -> None:
        batches = loader(stream, range(50), workers=2, pin=False, timeout=60)
        next(batches)
        batches.gi_frame.f_locals["answers"]._workers_done_event._cond.acquire()
        for process in multiprocessing.active_children():
            process.kill()
            process.join()
        if end == "closed":
            batches.close()
        else:
            with pytest.raises(ValueError, match="SIGKILL"):
                list(batches)
        del batches
        gc.collect()

    child = multiprocessing.get_context("fork").Process(target=training, daemon=False)
    child.start()
    child.join(30)
    hung = child.exitcode is None
    child.kill()
    assert not hung
    assert child.exitcode == 0


def test_16_loading_processes_stay_where_the_training_process_is_the_first_of_a_container(monkeypatch, tmp_path):
    """Number 1 is then their parent and no sign that it died."""
    monkeypatch.setattr(os, "getppid", lambda: 1)
    config = tiny(tmp_path, "steps=4")
    stream = Stream(config.data.build(), views=config.views, sizes=config.batch, students=1, seed=0)
    assert len(list(loader(stream, range(4), workers=2, pin=False, timeout=60))) == 4


def test_16_a_loading_process_whose_parent_died_before_it_had_begun_ends(tmp_path):
    begun, stayed = tmp_path / "begun", tmp_path / "stayed"

    def late(parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(0.01)
        begun.touch()
        leave_to_parent()
        stayed.touch()

    def training() -> None:
        context.Process(target=late, args=(os.getpid(),)).start()
        os._exit(0)

    context = multiprocessing.get_context("fork")
    first = context.Process(target=training)
    first.start()
    first.join(10)
    wait_until = time.monotonic() + 10
    while not begun.exists():
        assert time.monotonic() < wait_until
        time.sleep(0.01)
    time.sleep(0.3)
    assert not stayed.exists()


# 17: disks that are full


def test_17_without_room_the_checkpoint_is_left_out_the_one_before_stays_and_training_goes_on(
    tmp_path, monkeypatch, capsys
):
    free = {"free": 10**12}
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), free))

    def filling(config: Config, state: State, batch: Any, **options: bool) -> Any:
        free["free"] = 10_000 if state.step == 3 else 10**12  # full at the checkpoint of step 4 only
        return train_step(config, state, batch, **options)

    monkeypatch.setattr(trainer, "train_step", filling)
    fit(tiny(tmp_path / "run", "steps=6", "eval.every=6", "keep=9"))
    assert "the checkpoint of step 4 is NOT written" in capsys.readouterr().out
    names = [place.name for place in checkpoint.steps(tmp_path / "run/checkpoints")]
    assert names == ["step-00000002", "step-00000006"]


def test_17_a_half_written_pointer_to_the_best_does_not_stop_later_checkpoints(tmp_path, capsys):
    fit(tiny(tmp_path / "run"), quiet=True)
    (tmp_path / "run/checkpoints/.tmp-best.json-4242").write_text('{"st')
    fit(tiny(tmp_path / "run", "steps=8", "accept_changes=[steps]"))
    assert "NOT written" not in capsys.readouterr().out
    assert [place.name for place in checkpoint.steps(tmp_path / "run/checkpoints")][-1] == "step-00000008"
    assert not list((tmp_path / "run/checkpoints").glob(".tmp-*"))


def test_17_a_best_checkpoint_that_cannot_be_noted_is_said_and_the_run_goes_on(tmp_path, capsys):
    config = tiny(tmp_path / "run", "eval.every=2")
    pointer = tmp_path / "run/checkpoints/best.json"
    pointer.mkdir(parents=True)  # what no file can take the place of
    fit(config)
    shown = capsys.readouterr().out
    assert "the checkpoint of step 2 is NOT noted as the best" in shown
    assert "NOT written" not in shown
    names = [place.name for place in checkpoint.steps(tmp_path / "run/checkpoints")]
    assert names == ["step-00000002", "step-00000004"]
    pointer.rmdir()
    fit(config, quiet=True)
    assert checkpoint.chosen(tmp_path / "run/checkpoints", "best") is not None


@pytest.mark.parametrize("by", ["save", "choose"])
def test_17_an_old_checkpoint_that_cannot_be_deleted_is_said_and_the_new_one_is_whole(
    by, tmp_path, monkeypatch, capsys
):
    remove, folder = shutil.rmtree, tmp_path / "run/checkpoints"

    def held(path: Path, **options: bool) -> None:
        if Path(path).name == "step-00000001" and not options:
            raise OSError(16, "Device or resource busy", str(path))
        remove(path, **options)

    monkeypatch.setattr("shutil.rmtree", held)
    config = tiny(
        tmp_path / "run", "keep=1", "checkpoint_every=1", "eval.every=2" if by == "choose" else "eval.every=4"
    )
    fit(config)
    shown = capsys.readouterr().out
    assert (
        f"an old checkpoint is NOT deleted: [Errno 16] Device or resource busy: '{folder / 'step-00000001'}'" in shown
    )
    assert "NOT written" not in shown
    assert "NOT noted" not in shown
    names = [place.name for place in checkpoint.steps(folder)]
    assert names[0] == "step-00000001"
    assert names[-1] == "step-00000004"
    assert "step-00000003" not in names  # the others are deleted all the same
    assert checkpoint.chosen(folder, "best") is not None


def test_17_a_disk_that_takes_no_more_in_the_middle_leaves_whole_files_and_says_what_is_missing(tmp_path, monkeypatch):
    """The kernel refuses to let any file grow past some bytes, from step 3 on: checkpoints, metrics and TensorBoard."""
    run, path = tmp_path / "run", written_config(tmp_path)
    words = [path, f"out={run}", "steps=6"]

    def limited(config: Config, state: State, batch: Any, **options: bool) -> Any:
        most = 1000 if state.step >= 3 else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
        return train_step(config, state, batch, **options)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train_step", limited)
        ran = Program(lambda: cli.main(["train", *words]))
        assert ran.ended() == 1
    assert "the last step, 6, is not saved" in ran.stderr
    assert "the checkpoint of step 4 is NOT written" in ran.stdout
    for name in ("metrics.jsonl", "tensorboard"):
        assert ran.stdout.count(f"{name} cannot be written") == 1
    assert "Traceback" not in ran.stdout
    folder = run / "checkpoints"
    assert [path.name for path in checkpoint.steps(folder)] == ["step-00000002"]
    assert checkpoint.load_newest(folder)[1] == {}
    assert not list(folder.glob(".tmp-*"))
    assert cli.main(["train", *words]) == 0  # room was made
    assert cli.main(["train", path, f"out={tmp_path / 'whole'}", "steps=6"]) == 0
    assert files(run, 6) == files(tmp_path / "whole", 6)


def test_17_metrics_that_waited_for_room_are_written_in_order(tmp_path):
    from mtseg.run.log import _Lines

    lines = _Lines(tmp_path / "metrics.jsonl")
    lines.add('{"step": 1}\n')
    real = lines._file
    with Path("/dev/full").open("ab", buffering=0) as lines._file:
        for step in (2, 3):
            with pytest.raises(OSError, match="No space"):
                lines.add(f'{{"step": {step}}}\n')
    lines._file = real
    lines.add('{"step": 4}\n')
    assert [line["step"] for line in read(tmp_path)] == [1, 2, 3, 4]
    assert lines.length == (tmp_path / "metrics.jsonl").stat().st_size


# 18: too little data


def test_18_without_unlabelled_images_a_method_is_refused_and_supervised_training_is_not(tmp_path):
    method = tiny(tmp_path / "method")
    splits = method.data.build()
    splits = replace(splits, unlabelled=Subset(splits.unlabelled, []))
    with pytest.raises(ValueError, match=r"takes 2 unlabelled images, and there are none; .*supervised\.yaml"):
        fit(method, splits=splits, quiet=True)
    fit(tiny(tmp_path / "supervised", "method.branches=[]"), splits=splits, quiet=True)


def test_18_without_labelled_images_training_is_refused(tmp_path):
    config = tiny(tmp_path / "run")
    splits = config.data.build()
    with pytest.raises(ValueError, match=r"takes 2 labelled images, and there are none; add some$"):
        fit(config, splits=replace(splits, labelled=Subset(splits.labelled, [])), quiet=True)


@pytest.mark.parametrize("name", ["mean teacher", "supervised"])
def test_18_fewer_images_than_a_batch_holds_come_more_than_once(name, tmp_path):
    config = tiny(tmp_path / "run", *METHODS[name], "data.labels=1", "batch={labelled: 3, unlabelled: 9}")
    assert fit(config, quiet=True)["teacher"]["mIoU"] is not None


def test_21_what_is_said_to_accept_a_change_does_though_keys_of_the_old_kind_are_gone(tmp_path):
    fit(tiny(tmp_path / "run"), quiet=True)
    changes = ["schedule={kind: cosine}", "method.target={kind: hard, threshold: 0.5}", "steps=6"]
    with pytest.raises(ValueError, match="give ") as refused:
        fit(tiny(tmp_path / "run", *changes), quiet=True)
    (remedy,) = re.findall(r'"(accept_changes=\[.*?\])"', str(refused.value))
    fit(tiny(tmp_path / "run", *changes, remedy), quiet=True)
    assert read(tmp_path / "run")[-1]["step"] == 6


# 22: another run


def test_22_a_rate_that_leaps_as_a_schedule_is_stretched_is_said(tmp_path, capsys):
    """Of (1 - t / T)^0.9 the last of 4 steps has 0.287, and the fifth of 8 0.536, the fifth of 40 0.909."""
    for name, words, leaps in (("poly", [], True), ("constant", ["schedule={kind: constant}"], False)):
        for _ in range(2):
            fit(tiny(tmp_path / name, *words))  # once to its end, where the rate is 0, and once more
        assert "learning rate was" not in capsys.readouterr().out
        fit(tiny(tmp_path / name, *words, "steps=8", "accept_changes=[steps]"))
        assert ("rate was 0.29 of optimizer.lr and goes on at 0.54" in capsys.readouterr().out) == leaps


def test_22_a_finished_run_takes_no_other_settings_which_nothing_would_have_been_done_with(tmp_path):
    fit(tiny(tmp_path / "run"), quiet=True)
    before = (tmp_path / "run/config.yaml").read_text()
    changes = ["method.weight=50.0", "accept_changes=[method.weight]"]
    with pytest.raises(ValueError, match=r"is finished, so nothing would be done(.|\n)*method\.weight: 2\.0 -> 50\.0"):
        fit(tiny(tmp_path / "run", *changes), quiet=True)
    assert (tmp_path / "run/config.yaml").read_text() == before
    fit(tiny(tmp_path / "run", *changes, "steps=6", "accept_changes=[method.weight, steps]"), quiet=True)


def test_22_accepted_changes_are_shown_and_act_and_others_are_refused_with_the_key_to_give(tmp_path, capsys):
    fit(tiny(tmp_path / "run", "eval.every=1"), quiet=True)
    changes = ["steps=8", "eval.every=4", "optimizer.lr=0.001"]
    with pytest.raises(ValueError, match=r"give \"accept_changes=\[.*steps.*\]\"(.|\n)*steps: 4 -> 8"):
        fit(tiny(tmp_path / "run", *changes), quiet=True)
    with pytest.raises(ValueError, match=r"supervised_weight"):  # of which `supervised` is no part
        fit(tiny(tmp_path / "run", "method.supervised_weight=0.5", "accept_changes=[method.supervised]"), quiet=True)
    with pytest.raises(ValueError, match=r"accept_changes=\[steps, optimizer\.lr\]"):
        fit(tiny(tmp_path / "run", *changes[:1], changes[2], "eval.every=1", "accept_changes=[steps]"), quiet=True)
    fit(tiny(tmp_path / "run", *changes, "accept_changes=[steps, eval, optimizer.lr]"))
    shown = capsys.readouterr().out
    for line in ("steps: 4 -> 8", "eval.every: 1 -> 4", "optimizer.lr: 0.05 -> 0.001"):
        assert f"changed, as accepted: {line}" in shown
    lines = read(tmp_path / "run")
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(1, 9))
    assert [line["step"] for line in lines if "val_student" in line] == [1, 2, 3, 4, 8]
    rates = [line["train/lr"] for line in lines if "train/lr" in line]
    assert rates[3] == pytest.approx(0.05 * (1 - 3 / 4) ** 0.9)
    assert rates[4:] == pytest.approx([0.001 * (1 - step / 8) ** 0.9 for step in range(4, 8)])


@pytest.mark.parametrize("word", ["seed=3", "model.heads=1", "data.images=9", "optimizer={kind: adamw, lr: 0.05}"])
def test_22_what_the_saved_state_is_of_cannot_be_changed(word, tmp_path):
    fit(tiny(tmp_path), quiet=True)
    with pytest.raises(ValueError, match="other settings") as caught:
        fit(
            tiny(
                tmp_path,
                word if "heads" not in word else "model.options.decoder_channels=[9, 8, 4]",
                "accept_changes=[seed, model, data, optimizer]",
            ),
            quiet=True,
        )
    assert "accept_changes" not in str(caught.value)


def test_22_fewer_steps_than_are_done_and_an_unknown_key_are_refused(tmp_path):
    fit(tiny(tmp_path), quiet=True)
    with pytest.raises(ValueError, match="fewer than the 4"):
        fit(tiny(tmp_path, "steps=3", "accept_changes=[steps]"), quiet=True)
    with pytest.raises(ValueError, match=r"'optimizer.lrr' is no setting; did you mean 'optimizer.lr'"):
        tiny(tmp_path, "accept_changes=[optimizer.lrr]")


def test_22_other_code_is_said_and_written_down_and_continues(tmp_path, monkeypatch, capsys):
    config = tiny(tmp_path, "steps=4")
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Died):
            fit(config, quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr("platform.python_version", lambda: "99.0")
        fit(config)
    assert f"continued by other code: python {platform.python_version()} -> 99.0" in capsys.readouterr().out
    entries = json.loads((tmp_path / "versions.json").read_text())
    assert [(entry["from_step"], entry["python"]) for entry in entries] == [(0, platform.python_version()), (2, "99.0")]
    assert entries[0]["torch"] == torch.__version__
    assert entries[0]["source"] == entries[1]["source"]


def test_22_the_digest_of_the_source_changes_with_any_of_its_files_alone(tmp_path):
    from mtseg.run.versions import _digest

    for name in ("a.py", "data/b.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    before = _digest(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    assert _digest(tmp_path) == before
    (tmp_path / "data/b.py").write_text("2")
    assert _digest(tmp_path) != before


# 23: code in a config


@pytest.mark.parametrize(
    "word", ["model.encoder=os.system", "model.arch=os.system", "views.student.colour=[{name: os.system}]"]
)
def test_23_a_class_path_in_a_config_is_refused_as_an_unknown_name(word, tmp_path, capsys):
    path = written_config(tmp_path)
    assert cli.main(["train", path, f"out={tmp_path / 'run'}", word]) == 1
    assert "os.system" in capsys.readouterr().err


# 25: no network


def test_25_training_resuming_and_evaluating_need_no_connection(tmp_path, monkeypatch):
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("a socket was opened")

    for owner, name in ((socket.socket, "connect"), (socket, "create_connection"), (socket, "getaddrinfo")):
        monkeypatch.setattr(owner, name, refuse)
    words, run = [written_config(tmp_path), f"out={tmp_path / 'run'}"], str(tmp_path / "run")
    assert cli.main(["train", *words]) == cli.main(["train", *words]) == cli.main(["eval", run]) == 0
    assert cli.main(["train", *words, "steps=6", "accept_changes=[steps]"]) == 0


# 27: memory


def test_27_memory_that_runs_out_is_answered_with_what_decides_it_and_the_torn_step_is_not_saved(tmp_path, monkeypatch):
    def hungry(config: Config, state: State, batch: Any, **options: bool) -> Any:
        terms = train_step(config, state, batch, **options)
        if state.step == 4:
            torch.empty(2**50)
        return terms

    config = tiny(tmp_path, "steps=6", "checkpoint_every=2", "eval.every=2")
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "train_step", hungry)
        with pytest.raises(ValueError, match=r"memory ran out on cpu in step 4: 4 crops of 32x48") as caught:
            fit(config, quiet=True)
    assert "\n" not in str(caught.value)
    assert checkpoint.steps(tmp_path / "checkpoints")[-1].name == "step-00000002"


@pytest.mark.parametrize(
    "words",
    [
        ("method.branches=[{}, {}]",),
        ("batch.consistency=all", "method.branches=[{}, {}]"),
        ("batch={labelled: 0, unlabelled: 6, consistency: all}",),
        ("method.branches=[]",),
    ],
    ids=str,
)
def test_27_the_crops_that_are_named_are_those_that_the_student_saw(words, tmp_path, monkeypatch):
    seen = []
    config = tiny(tmp_path, *words)
    state, stream = begin(config)
    state.student.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    train_step(config, state, stream[0])
    said = rf": {sum(seen)} crops of 32x48 in a forward"
    with pytest.raises(ValueError, match=said), memory_told(config, state.device, "here"):
        raise MemoryError


def test_27_the_allocator_of_a_cpu_is_told_as_memory_wherever_a_network_meets_it(tmp_path, monkeypatch, capsys):
    fit(tiny(tmp_path / "run"), quiet=True)

    def short(*_: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("segmentation_models_pytorch.Unet.forward", short)
    with pytest.raises(ValueError, match=r"memory ran out on cpu in step 1: 4 crops"):
        fit(tiny(tmp_path / "other"), quiet=True)
    assert cli.main(["eval", str(tmp_path / "run"), "device=cpu"]) == 1
    assert "memory ran out on cpu, with the scores of eval.batch: 8 images" in capsys.readouterr().err


@pytest.mark.parametrize("said", ["CUDA error: device-side assert triggered", "cuDNN error: CUDNN_STATUS_MAPPING"])
def test_27_an_error_of_the_device_is_not_told_as_one_of_the_images(said, tmp_path, monkeypatch):
    def broken(*_: object) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr("segmentation_models_pytorch.Unet.forward", broken)
    with pytest.raises(RuntimeError, match=f"^{re.escape(said)}$"):
        fit(tiny(tmp_path), quiet=True)


def test_27_memory_that_runs_out_in_an_evaluation_loses_no_step(tmp_path, monkeypatch):
    def hungry(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(trainer, "evaluate_all", hungry)
    with pytest.raises(ValueError, match=r"in the evaluation after step 2.*eval\.batch"):
        fit(tiny(tmp_path, "checkpoint_every=9", "eval.every=2"), quiet=True)
    assert checkpoint.steps(tmp_path / "checkpoints")[-1].name == "step-00000002"


def test_27_other_errors_of_torch_stay_what_they_are(tmp_path, monkeypatch):
    def wrong(*_: object, **__: object) -> None:
        torch.zeros(2) @ torch.zeros(3)

    monkeypatch.setattr(trainer, "train_step", wrong)
    with pytest.raises(RuntimeError, match=r"inconsistent tensor size"):
        fit(tiny(tmp_path), quiet=True)


@pytest.mark.gpu
def test_27_cuda_memory_that_runs_out_is_answered_in_one_line(tmp_path, capsys):
    path = written_config(tmp_path)
    held = torch.empty(int(torch.cuda.mem_get_info()[0] * 0.98), dtype=torch.uint8, device="cuda")
    words = ["device=cuda", "views.crop=[512, 512]", "batch={labelled: 16, unlabelled: 16}"]
    assert cli.main(["train", path, f"out={tmp_path / 'run'}", *words]) == 1
    message = capsys.readouterr().err.strip()
    assert "memory ran out on cuda" in message
    assert "32 crops of 512x512" in message
    assert "\n" not in message
    del held


@pytest.mark.gpu
def test_11_a_step_waits_for_the_device_once(tmp_path):
    state, stream = begin(config := tiny(tmp_path, "optimizer.lr=0.01"))
    del state
    from mtseg.state import build

    device = torch.device("cuda")
    state = build(config, config.data.build(), device)
    train_step(config, state, stream[0].to(device))
    batch = stream[1].to(device)
    import warnings

    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            train_step(config, state, batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len([w for w in seen if "synchroniz" in str(w.message)]) <= 1


# 31, 32: folders


def test_31_two_runs_do_not_write_to_one_folder(tmp_path, capsys):
    path, run = written_config(tmp_path), tmp_path / "run"
    first = Program(lambda: cli.main(["train", path, f"out={run}", "steps=100000", "workers=1"]))
    try:
        first.until("step 3/")
        assert cli.main(["train", path, f"out={run}", "steps=100000"]) == 1
        message = capsys.readouterr().err.strip()
        assert str(run) in message
        assert f"process {first.pid} on " in message
        assert "\n" not in message
    finally:
        os.kill(first.pid, signal.SIGKILL)  # a stale lock, and a loading process that outlives it for seconds
        first.ended()
    done = checkpoint.load_newest(run / "checkpoints")[0].step
    words = [f"out={run}", f"steps={done + 1}", "accept_changes=[steps]"]
    assert cli.main(["train", path, *words]) == 0


def test_31_a_lock_keeps_no_folder_that_was_there_or_is_used(tmp_path):
    from mtseg.run.lock import locked

    with locked(tmp_path / "new"):
        assert (tmp_path / "new/lock").is_file()
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    with locked(tmp_path / "old"):
        pass
    assert (tmp_path / "old").is_dir()
    with locked(tmp_path / "used"):
        (tmp_path / "used/metrics.jsonl").touch()
    assert (tmp_path / "used/metrics.jsonl").is_file()


@pytest.mark.parametrize("name", ["Prüfung 試験", "-per%cent [1] 'x'", "x" * 200])
def test_32_a_folder_may_have_any_name(name, tmp_path):
    config = tiny(tmp_path / name)
    fit(config, quiet=True)
    assert fit(config, quiet=True)["teacher"] == read(tmp_path / name)[-1]["val_teacher"]


@pytest.mark.parametrize("place", ["/proc/mtseg/run", "/dev/null/run"])
def test_32_a_folder_that_cannot_be_made_is_told_before_anything_is_trained(place, tmp_path, capsys):
    assert cli.main(["train", written_config(tmp_path), f"out={place}"]) == 1
    assert place.rsplit("/", 1)[0] in capsys.readouterr().err


# 33: the edges


def test_33_one_image_of_one_pixel_and_many_classes_have_a_defined_end_and_one_class_is_refused(tmp_path):
    config = tiny(tmp_path / "many", "method.branches=[]")
    splits = config.data.build()

    class Dot:
        def __init__(self, *classes: int) -> None:
            self.classes = classes

        def __len__(self) -> int:
            return 1

        def name(self, index: int) -> str:
            return "dot"

        def image(self, index: int) -> Any:
            return np.full((1, len(self.classes), 3), 7, np.uint8)

        def label(self, index: int) -> Any:
            return np.array([self.classes], np.uint8)

    for count in (1, 255):
        pools = dict.fromkeys(("labelled", "unlabelled", "val", "test"), Dot(0))
        pools["labelled"] = Dot(*range(min(count, 2)))  # of several classes, one alone would teach nothing
        own = replace(splits, classes=tuple(map(str, range(count))), palette=np.zeros((count, 3), np.uint8), **pools)
        config = tiny(tmp_path / f"{count}", *METHODS["mean teacher"])
        if count == 1:
            with pytest.raises(ValueError, match=r"^data\.classes: '0' alone, whose probability is 1"):
                fit(config, splits=own, quiet=True)
        else:
            assert fit(config, splits=own, quiet=True)["teacher"]["mIoU"] in (0.0, 1.0)


def test_33_a_clock_that_jumps_back_changes_nothing(tmp_path, monkeypatch):
    fit(tiny(tmp_path / "whole"), quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr(time, "perf_counter", iter(range(10**9, 0, -1000)).__next__)
        fit(tiny(tmp_path / "jumped"), quiet=True)
    assert files(tmp_path / "jumped", 4) == files(tmp_path / "whole", 4)


# 34: batch normalisation of one


def test_34_batch_statistics_of_one_value_are_refused_in_words(tmp_path, capsys):
    path = written_config(tmp_path, model={"arch": "deeplabv3plus", "encoder": "resnet18", "weights": "none"})
    assert cli.main(["train", path, f"out={tmp_path / 'run'}", "method.branches=[]", "batch.labelled=1"]) == 1
    message = capsys.readouterr().err.strip()
    assert "choose larger batches" in message
    assert "\n" not in message


# 35: long runs


def belongings(pid: str) -> tuple[float, int]:
    """Resident memory in MB and open files of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6, len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.slow
def test_35_in_10000_steps_with_2_workers_memory_and_open_files_stay(tmp_path):
    path, run = written_config(tmp_path), tmp_path / "run"
    words = [f"out={run}", "steps=10000", "workers=2", "log_every=50", "eval.every=1000", "checkpoint_every=500"]
    words += ["views.crop=[24, 32]", "batch={labelled: 1, unlabelled: 1}"]
    command = [sys.executable, "tools/train.py", path, *words]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    seen: list[tuple[int, float, int]] = []
    for line in process.stdout:
        step = int(line.removeprefix("step ").partition("/")[0]) if line.startswith("step ") else 0
        if step and step % 1000 == 0 and (not seen or seen[-1][0] < step):
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            each = [belongings(pid) for pid in (str(process.pid), *children)]
            seen.append((step, sum(one[0] for one in each), sum(one[1] for one in each)))
    assert process.wait() == 0
    print(*seen, sep="\n")
    early, late = [row for row in seen if 2000 <= row[0] <= 4000], [row for row in seen if 7000 <= row[0] <= 9000]
    assert max(row[1] for row in late) < 1.03 * max(row[1] for row in early)
    assert max(row[2] for row in late) <= max(row[2] for row in early)
