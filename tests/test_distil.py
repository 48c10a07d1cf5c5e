"""Finished runs as the teacher, against their own answers as `mtseg.load` gives them."""

import json
import shutil
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runs import TAUGHT, tiny
from safetensors.torch import load_file
from smalls import small
from trees import own

import mtseg
from mtseg.cli.train import main
from mtseg.config import Config, load, written
from mtseg.distil import FrozenTeacher
from mtseg.doctor.examine import examine
from mtseg.doctor.machine import machine
from mtseg.lessons import told
from mtseg.results import runs_page
from mtseg.results.compare import compare
from mtseg.run import capture, checkpoint, duration
from mtseg.run.duration import forwards, on_cpu
from mtseg.run.estimate import estimate
from mtseg.run.replay import replay
from mtseg.state import batches_of, build
from mtseg.step import train_step
from mtseg.trainer import fit
from mtseg.whiten import fit_zca

CPU = torch.device("cpu")
ROOT = Path(__file__).parent.parent

OTHER = (
    "method.branches=[]",
    "model.arch=linknet",
    "model.options={encoder_depth: 3}",
    "views={mean: [0.5, 0.4, 0.3], std: [0.1, 0.2, 0.3]}",
)


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
    return [
        trained(folder / "a", *OTHER[1:], "checkpoint_every=1"),
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


def test_a_run_is_not_continued_with_other_weights_of_its_teachers_wherever_these_lie(runs, tmp_path, monkeypatch):
    folders = [tmp_path / "b", tmp_path / "a"]
    for folder, run in zip(folders, reversed(runs), strict=True):
        shutil.copytree(run, folder)
    out, more = tmp_path / "student", ("steps=4", "accept_changes=[steps, method.teacher.at]")
    fit(tiny(out, frozen(*folders), "steps=2"), quiet=True)
    fit(tiny(folders[1], *OTHER, "steps=3", "accept_changes=[steps]"), quiet=True)  # it learns on
    told = (
        r"method.teacher.runs: .*begun with other teachers \(\w{12} of step 2, .*\) than .*of step 3 now; .*teacher.at"
    )
    with pytest.raises(ValueError, match=told):
        fit(tiny(out, frozen(*folders), *more), quiet=True)
    with pytest.raises(ValueError, match="begun with other teachers"):
        fit(tiny(out, frozen(folders[0]), *more), quiet=True)
    monkeypatch.chdir(tmp_path)
    folders[0].rename(tmp_path / "moved")
    fit(tiny(out, frozen("moved", "./a", at="2"), *more), quiet=True)
    assert checkpoint.load_newest(out / "checkpoints")[0].step == 4


def test_runs_with_other_teachers_are_not_taken_for_one_run_with_two_seeds(runs, tmp_path):
    folders = [tmp_path / str(seed) for seed in (0, 1)]
    for seed, folder in enumerate(folders):
        fit(tiny(folder, frozen(runs[seed]), f"seed={seed}", "data.seed=0", "steps=2"), quiet=True)
    first, second = (escape(f"['{run}']") for run in runs)
    assert f"method.teacher.runs: {first} -&gt; {second}" in runs_page.page(folders)


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
    own.write_text(before.replace("norm: process", "norm: sync"))  # as a run on several GPUs has it
    fit(tiny(tmp_path / "run", frozen(tmp_path / "other"), "steps=2"), quiet=True)


def test_its_forwards_and_its_weights_are_counted(runs, tmp_path):
    one, two = tiny(tmp_path, frozen(runs[1])), tiny(tmp_path, frozen(runs[1], runs[1]))
    assert forwards(two) - forwards(one) == one.batch.unlabelled
    network = one.model.build(6)
    held = sum(value.numel() * value.element_size() for value in network.state_dict().values())
    few, many = (estimate(config, network, 6, 8) for config in (one, two))
    assert many.total - few.total == pytest.approx(held, rel=0.1)
    assert many.checkpoint(two) == few.checkpoint(one)


def test_the_time_of_a_step_is_that_of_each_teachers_own_network(runs, tmp_path, monkeypatch):
    """A crop takes as many seconds as the network has parameters: an answer, of each teacher, its own."""
    config = tiny(tmp_path, frozen(*runs), "method.teacher.augment={flip: true}", "steps=7")
    sizes = []

    def weighed(network: torch.nn.Module, crop: tuple[int, int], *, channels: int) -> float:
        sizes.append(sum(parameter.numel() for parameter in network.parameters()))
        return float(sizes[-1])

    monkeypatch.setattr(duration, "tried", weighed)
    classes = len(config.data.build().classes)
    found = on_cpu(config, config.model.build(classes), classes, channels=3)
    own, *others = sizes
    assert len(others) == len(runs) >= 2
    assert len({own, *others}) > 1
    crops, asked = config.crops
    assert found.steps == pytest.approx(7 * (3 * crops * own + asked * 2 * sum(others)))


def test_the_doctor_and_the_dry_run_say_what_is_wrong_with_its_runs(runs, tmp_path, capsys):
    def found(*words: str) -> list[tuple[str, str]]:
        findings = examine(tiny(tmp_path / "run", *words), machine()).findings
        return [(one.severity, one.text) for one in findings if one.code == "teacher"]

    assert found(frozen(*runs)) == found() == []
    ((severity, text),) = found(frozen(*runs, tmp_path / "nowhere"))
    assert severity == "error"
    assert text.startswith(f"method.teacher.runs: {tmp_path}/nowhere: no config.yaml")
    other = found(frozen(*runs), "data.seed=5")
    assert [severity for severity, _ in other] == [
        "warning"
    ] * 4  # of each what it learnt from, and what it is scored on
    assert [str(run) in text for run in runs for _, text in other] == [True] * 2 + [False] * 4 + [True] * 2
    dump = tmp_path / "run.yaml"
    dump.write_text(written(tiny(tmp_path / "run", frozen(runs[0], at="5"))))
    assert main([str(dump), "--dry-run"]) == 1
    assert "method.teacher.runs" in (said := capsys.readouterr().err)
    assert "no checkpoint of step 5" in said


def said(config: Config, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What is said of the teachers at the start."""
    capsys.readouterr()
    fit(config)
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("method.teacher.runs")]


def test_where_its_runs_may_have_learnt_what_is_scored_it_is_said(tmp_path, capsys):
    """By names and sizes of files; the other images have the same names."""
    for folder in ("here", "there"):
        own(tmp_path / folder)
    for path in (tmp_path / "there/labelled/images").iterdir():
        Image.fromarray(np.asarray(Image.open(path))[:, ::-1] // 2).save(path)
    pools = "labelled: {images: labelled/images, masks: labelled/masks}, unlabelled: {images: [unlabelled]}, val: 0.25"
    data = f"data={{kind: folder, classes: [a, b, c], {pools}}}"
    here, there = ((data, f"data.root={tmp_path / folder}") for folder in ("here", "there"))
    taught = trained(tmp_path / "taught", *here)
    lesson = (frozen(taught), "steps=2")

    assert said(tiny(tmp_path / "same", *here, *lesson), capsys) == []
    (line,) = said(tiny(tmp_path / "sizes", *there, *lesson), capsys)
    assert f"{taught} was scored on other images than this run's val" in line
    first, second = said(tiny(tmp_path / "drawn", *here, "data.split_seed=5", *lesson), capsys)
    assert "other labelled images" in first
    assert "other images than this run's val" in second


def test_its_val_may_be_the_students_test_and_what_it_held_out_too(runs, tmp_path, capsys):
    splits = tiny(tmp_path, "data.seed=0").data.build()
    as_test = replace(splits, test=splits.val, val=splits.test)
    config = tiny(tmp_path / "test", frozen(*runs), "eval.split=test", "steps=2")
    assert told(config, as_test) == []
    assert len(told(config, replace(splits, test=splits.labelled))) == len(runs)


def test_images_held_out_that_a_teacher_may_have_learnt_are_told(tmp_path, capsys):
    """Each seed holds out another one of the labelled images, which then chooses a checkpoint."""
    held = ("eval.select=holdout", "data.labels=6", "data.seed=0", "steps=2")
    taught = trained(tmp_path / "taught", *held, "seed=0")
    assert said(tiny(tmp_path / "same", frozen(taught), *held, "seed=0"), capsys) == []
    first, second = said(tiny(tmp_path / "other", frozen(taught), *held, "seed=1"), capsys)
    assert "other labelled images" in first
    assert "other images than this run's holdout" in second


def test_a_teacher_that_is_not_finished_is_said_to_be_none(runs, tmp_path, capsys):
    shutil.copytree(runs[1], tmp_path / "taught")
    path = tmp_path / "taught/config.yaml"
    path.write_text(path.read_text().replace("steps: 2\n", "steps: 99\n"))
    (line,) = said(tiny(tmp_path / "run", frozen(tmp_path / "taught"), "steps=2"), capsys)
    assert "taught stands at step 2 of 99" in line


def test_a_normalisation_that_is_no_mean_and_deviation_is_not_turned_into_one(tmp_path):
    words = ("views.standard={kind: image}",)
    fit(taught := small(tmp_path / "taught", "method.branches=[]", "steps=2", *words), quiet=True)
    config = small(tmp_path / "student", frozen(taught.out), *words, "views.mean=[0, 0, 0]", "views.std=[1, 1, 1]")
    splits = config.data.build()
    state, batch = build(config, splits, CPU), batches_of(config, splits, CPU)[0]
    assert batch.teacher is not None
    view = batch.teacher.view(config.views)  # drawn once: it is moved, and has noise
    found = state.teacher.answer(state.student, view, batch.teacher.index).data
    with torch.no_grad():
        expected = mtseg.load(taught.out).network(view.data).softmax(1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_copy_of_a_whitening_is_the_same_one_and_another_is_not(tmp_path):
    def whitening(path: Path, seed: int) -> str:
        mean, matrix = fit_zca(np.random.default_rng(seed).integers(0, 256, (9, 16, 16, 3), np.uint8))
        np.savez(path, mean=mean, matrix=matrix)
        return f"views.standard={{kind: zca, file: {path}}}"

    first = whitening(tmp_path / "a.npz", 0)
    fit(taught := small(tmp_path / "taught", "method.branches=[]", "steps=2", first), quiet=True)
    fit(small(tmp_path / "same", frozen(taught.out), whitening(tmp_path / "b.npz", 0), "steps=2"), quiet=True)
    with pytest.raises(ValueError, match="another whitening"):
        fit(small(tmp_path / "other", frozen(taught.out), whitening(tmp_path / "c.npz", 1), "steps=2"), quiet=True)


def test_sides_that_a_teacher_does_not_take_are_refused(tmp_path):
    fit(
        taught := small(tmp_path / "taught", "method.branches=[]", "steps=2", "model={kind: shake26, width: 4}"),
        quiet=True,
    )
    with pytest.raises(ValueError, match=r"takes sides that are divisible by 4 .*views.crop is \[18, 18\]"):
        fit(small(tmp_path / "run", frozen(taught.out), "views.crop=[18, 18]", "views.made=workers"), quiet=True)


def test_a_comparison_without_its_teachers_trains_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"method.teacher.runs: .*nowhere: no config.yaml"):
        compare(tiny(tmp_path / "run", frozen(tmp_path / "nowhere")))
    assert not (tmp_path / "run").exists()


def test_a_teacher_whose_network_cannot_be_built_is_named(runs, tmp_path):
    shutil.copytree(runs[1], tmp_path / "taught")
    path = tmp_path / "taught/config.yaml"
    path.write_text(path.read_text().replace("encoder_depth: 3", "encoder_depth: 4"))
    with pytest.raises(ValueError, match=r"method.teacher.runs: .*taught cannot answer: "):
        fit(tiny(tmp_path / "run", frozen(tmp_path / "taught")), quiet=True)


def test_a_run_that_has_not_said_its_classes_is_known_by_its_data(runs, tmp_path):
    shutil.copytree(runs[1], tmp_path / "taught")
    (tmp_path / "taught/classes.json").unlink()
    fit(tiny(tmp_path / "run", frozen(tmp_path / "taught"), "steps=2"), quiet=True)
    fit(whole := small(tmp_path / "small", "method.branches=[]", "steps=2"), quiet=True)
    (whole.out / "classes.json").unlink()
    with pytest.raises(ValueError, match="has other classes"):
        fit(tiny(tmp_path / "other", frozen(whole.out), "steps=2"), quiet=True)
