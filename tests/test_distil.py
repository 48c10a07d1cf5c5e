"""Finished runs as the teacher, against their own answers as `mtseg.load` gives them."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import TAUGHT, tiny
from safetensors.torch import load_file
from smalls import small

import mtseg
from mtseg.cli.train import main
from mtseg.config import Config, load, written
from mtseg.distil import FrozenTeacher
from mtseg.doctor.examine import examine
from mtseg.doctor.machine import machine
from mtseg.run import capture, checkpoint
from mtseg.run.duration import forwards
from mtseg.run.estimate import estimate
from mtseg.run.replay import replay
from mtseg.state import batches_of, build
from mtseg.step import train_step
from mtseg.trainer import fit

CPU = torch.device("cpu")
ROOT = Path(__file__).parent.parent


def frozen(*runs: Path | str, **settings: str) -> str:
    more = "".join(f", {key}: {value}" for key, value in settings.items())
    return f"method.teacher={{kind: frozen, runs: {[str(run) for run in runs]}{more}}}"


def trained(folder: Path, *words: str) -> Path:
    fit(tiny(folder, "method.branches=[]", "steps=2", *words), quiet=True)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs of other networks, asked in other normalisations."""
    folder = tmp_path_factory.mktemp("runs")
    other = ("model.arch=linknet", "model.options={encoder_depth: 3}", "views.mean=[0.5, 0.4, 0.3]")
    return [
        trained(folder / "a", *other, "views.std=[0.1, 0.2, 0.3]", "checkpoint_every=1"),
        trained(folder / "b", "seed=3"),
    ]


def answered(config: Config) -> tuple[torch.Tensor, torch.Tensor]:
    """What the teacher of a run's first step says, and the pixels that it is asked about."""
    splits = config.data.build()
    state, batch = build(config, splits, CPU), batches_of(config, splits, CPU)[0]
    assert batch.teacher is not None
    view = batch.teacher.view(config.views)
    return state.teacher.answer(state.student, view, batch.teacher.index).data, batch.teacher.image


def test_the_answer_is_the_mean_of_what_each_run_says_of_the_pixels(runs, tmp_path):
    found, pixels = answered(tiny(tmp_path, frozen(*runs)))
    with torch.no_grad():
        said = [mtseg.load(run).answer(pixels).softmax(1) for run in runs]
    torch.testing.assert_close(found, torch.stack(said).mean(0), atol=1e-5, rtol=1e-4)
    assert (said[0] - said[1]).abs().max() > 0.01


def test_the_step_that_answers_is_the_one_that_is_named(runs, tmp_path):
    found, pixels = answered(tiny(tmp_path, frozen(runs[0], at="1")))
    with torch.no_grad():
        first, last = (mtseg.load(runs[0], at=at).answer(pixels).softmax(1) for at in ("1", "last"))
    torch.testing.assert_close(found, first, atol=1e-5, rtol=1e-4)
    assert (first - last).abs().max() > 1e-3


def test_an_answer_is_the_mean_over_mirror_images_too(runs, tmp_path):
    found, pixels = answered(tiny(tmp_path, frozen(*runs, augment="{flip: true}")))
    with torch.no_grad():
        given = [(mtseg.load(run), turned) for run in runs for turned in (False, True)]
        said = [one.answer(pixels.flip(2)).flip(-1) if turned else one.answer(pixels) for one, turned in given]
    expected = torch.stack([logits.softmax(1) for logits in said]).mean(0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_the_student_learns_from_it_and_it_from_nobody(runs, tmp_path):
    """With cross entropy to its answers alone, the student's own come nearer to them; the runs stay what they are."""
    words = ("method.distance={kind: kl}", "method.weight=100", "method.ramp={kind: constant}", "steps=40")
    still = ("views.student={geometry: shared, colour: []}", "optimizer.lr=0.01", "norm=group")
    config = tiny(tmp_path / "student", frozen(*runs), *words, *still)
    splits = config.data.build()
    state, batches = build(config, splits, CPU), batches_of(config, splits, CPU)
    assert isinstance(state.teacher, FrozenTeacher)
    before = {name: value.clone() for name, value in state.teacher.panel.state_dict().items()}
    costs = [float(train_step(config, state, batches[step])["loss_cons"]) for step in range(config.steps)]
    assert np.mean(costs[-8:]) < 0.5 * np.mean(costs[:8])
    assert all(torch.equal(value, before[name]) for name, value in state.teacher.panel.state_dict().items())
    weights = load_file(checkpoint.steps(runs[1] / "checkpoints")[-1] / "teacher.safetensors")
    there = {name.removeprefix("members.1."): value for name, value in before.items() if name.startswith("members.1.")}
    assert weights.keys() == there.keys() != set()
    assert all(torch.equal(value, there[name]) for name, value in weights.items())


def test_the_consistency_is_the_distance_to_what_the_runs_say(runs, tmp_path):
    config = tiny(tmp_path, frozen(*runs), "views.student={geometry: shared}", "method.ramp={kind: constant}")
    splits = config.data.build()
    state, batch = build(config, splits, CPU), batches_of(config, splits, CPU)[0]
    assert batch.teacher is not None
    seen = batch.students[0].view(config.views).data
    labelled = batch.labelled.view(config.views).data
    with torch.no_grad():
        said = torch.stack([mtseg.load(run).answer(batch.teacher.image).softmax(1) for run in runs]).mean(0)
        answer = state.student.train()(torch.cat([labelled, seen]))[len(labelled) :].softmax(1)
    known = batch.teacher.view(config.views).known
    expected = ((answer - said).square().sum(1, keepdim=True) * known).sum() / known.sum()
    again = build(config, splits, CPU)
    assert float(train_step(config, again, batch)["loss_cons"]) == pytest.approx(float(expected), rel=1e-4)


def test_a_network_for_whole_images_is_taught_too(tmp_path):
    folder = tmp_path / "taught"
    fit(taught := small(folder, "method.branches=[]", "steps=2"), quiet=True)
    config = small(tmp_path / "student", frozen(taught.out), "views.std=[0.5, 0.5, 0.5]")
    splits = config.data.build()
    state, batch = build(config, splits, CPU), batches_of(config, splits, CPU)[0]
    assert batch.teacher is not None
    said = state.teacher.answer(state.student, batch.teacher.view(config.views), batch.teacher.index).data
    assert said.shape == (len(batch.teacher.index), len(splits.classes))
    fit(config, quiet=True)


def test_what_was_learnt_needs_the_runs_no_more(runs, tmp_path):
    shutil.copytree(runs[1], tmp_path / "taught")
    config = tiny(tmp_path / "student", frozen(tmp_path / "taught"), "steps=2")
    fit(config, quiet=True)
    shutil.rmtree(tmp_path / "taught")
    pixels = np.zeros((64, 64, 3), np.uint8)
    assert mtseg.load(config.out).predict(pixels).classes.shape == (64, 64)
    with pytest.raises(ValueError, match=r"taught: no config.yaml"):
        fit(tiny(config.out, frozen(tmp_path / "taught"), "steps=4", "accept_changes=[steps]"), quiet=True)


def test_a_run_is_not_continued_with_other_weights_of_its_teachers(runs, tmp_path):
    words = ("method.branches=[]", "steps=3", "accept_changes=[steps]")
    for name in ("a", "b"):
        shutil.copytree(runs["ab".index(name)], tmp_path / name)
    more = ("steps=4", "accept_changes=[steps, method.teacher.at]")
    both = (tmp_path / "b", tmp_path / "a")
    out, told = tmp_path / "student", frozen(*both)
    fit(tiny(out, told, "steps=2"), quiet=True)
    other = ("model.arch=linknet", "model.options={encoder_depth: 3}", "views.mean=[0.5, 0.4, 0.3]")
    fit(tiny(tmp_path / "a", *words, *other, "views.std=[0.1, 0.2, 0.3]"), quiet=True)
    with pytest.raises(ValueError, match=rf"method.teacher.runs: {re.escape(str(both[1]))} had other .*teacher.at"):
        fit(tiny(out, told, *more), quiet=True)
    fit(tiny(out, frozen(*both, at="2"), *more), quiet=True)
    assert checkpoint.load_newest(out / "checkpoints")[0].step == 4


def test_a_captured_step_is_taken_again(runs, tmp_path):
    config = tiny(tmp_path, frozen(*runs))
    splits = config.data.build()
    state, batch = build(config, splits, CPU), batches_of(config, splits, CPU)[0]
    train_step(config, state, batch)
    path = capture.write(config, state, batch, classes=len(splits.classes), images=len(splits.unlabelled))
    assert replay(path)[-1] == "the update was made"


REFUSED = {
    "a folder that is no run": (["{tmp}/nowhere"], (), r"nowhere: no config.yaml"),
    "no run at all": ([], (), r"runs"),
    "no branch": ([TAUGHT], ("method.branches=[]",), r"'frozen' networks .*method.teacher.kind=ema"),
    "no such step": ([TAUGHT], ("method.teacher.at=77",), r"no checkpoint of step 77; there are: 1, 2"),
    "another normalisation": (
        [TAUGHT],
        ("views.standard={kind: image}",),
        r"method.teacher.runs: .* other views.standard .*name runs",
    ),
    "an answer for whole images": (["{tmp}/small/run"], (), r"method.teacher.runs: .*small/run has other classes"),
}


@pytest.mark.parametrize(("names", "words", "said"), REFUSED.values(), ids=REFUSED)
def test_a_teacher_that_cannot_be_is_refused(names, words, said, tmp_path):
    if "{tmp}/small/run" in names:
        fit(small(tmp_path / "small", "method.branches=[]", "steps=2"), quiet=True)
    names = [name.replace("{tmp}", str(tmp_path)) for name in names]
    with pytest.raises(ValueError, match=said):
        fit(tiny(tmp_path / "run", frozen(*names), *words), quiet=True)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_run_about_something_else_is_refused(runs, tmp_path):
    shutil.copytree(runs[1], tmp_path / "other")
    own, classes = tmp_path / "other/config.yaml", tmp_path / "other/classes.json"
    before, names = own.read_text(), json.loads(classes.read_text())

    def refused(what: str) -> None:
        with pytest.raises(ValueError, match=rf"method.teacher.runs: .*other has other {what} .*than this run.*name"):
            fit(tiny(tmp_path / "run", frozen(tmp_path / "other")), quiet=True)

    classes.write_text(json.dumps(names | {"classes": names["classes"][::-1]}))
    refused("classes")
    classes.write_text(json.dumps(names))
    own.write_text(written(load([str(ROOT / "configs/demo.yaml"), str(ROOT / "configs/data/rgbd.yaml")])))
    refused("data.channels")
    own.write_text(written(small(tmp_path / "small")))
    refused("an answer for every pixel")
    own.write_text(before)
    fit(tiny(tmp_path / "run", frozen(tmp_path / "other"), "steps=2"), quiet=True)


def test_its_forwards_and_its_weights_are_counted(runs, tmp_path):
    one, two = tiny(tmp_path, frozen(runs[1])), tiny(tmp_path, frozen(runs[1], runs[1]))
    assert forwards(two) - forwards(one) == one.batch.unlabelled
    network = one.model.build(6)
    held = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    few, many = (estimate(config, network, 6, 8) for config in (one, two))
    assert many.total - few.total == pytest.approx(held, rel=0.1)
    assert many.checkpoint(two) == few.checkpoint(one)


def test_the_doctor_and_the_dry_run_say_what_is_wrong_with_its_runs(runs, tmp_path, capsys):
    def found(*words: str) -> list[tuple[str, str]]:
        findings = examine(tiny(tmp_path / "run", *words), machine()).findings
        return [(one.severity, one.text) for one in findings if one.code == "teacher"]

    assert found(frozen(*runs)) == found() == []
    ((severity, text),) = found(frozen(*runs, tmp_path / "nowhere"))
    assert severity == "error"
    assert text.startswith(f"method.teacher.runs: {tmp_path}/nowhere: no config.yaml")
    other = found(frozen(*runs), "data.seed=5")
    assert [severity for severity, _ in other] == ["warning", "warning"]
    assert all(str(run) in text for run, (_, text) in zip(runs, other, strict=True))
    dump = tmp_path / "run.yaml"
    dump.write_text(written(tiny(tmp_path / "run", frozen(runs[0], at="5"))))
    assert main([str(dump), "--dry-run"]) == 1
    assert "method.teacher.runs" in (said := capsys.readouterr().err)
    assert "no checkpoint of step 5" in said


def test_where_its_runs_were_scored_on_other_images_it_is_said(runs, tmp_path, capsys):
    fit(tiny(tmp_path / "same", frozen(*runs)))
    assert "other images" not in capsys.readouterr().out
    fit(tiny(tmp_path / "other", frozen(*runs), "data.seed=5"))
    assert f"{runs[0]} was scored on other images" in " ".join(capsys.readouterr().out.split())
