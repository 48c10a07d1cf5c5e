"""The training loop: resuming, gradients, reproducibility, and what it refuses."""

import json
import os
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from runs import TAUGHT, tiny
from safetensors.torch import load_file
from smalls import small
from torch import nn

from mtseg.config import Config
from mtseg.data.damaged import Damaged
from mtseg.data.source import IGNORE, Source, refuse_one_class
from mtseg.data.stream import Stream
from mtseg.run import checkpoint
from mtseg.settings.differences import differences
from mtseg.signals import Stopped
from mtseg.state import State, build
from mtseg.step import train_step
from mtseg.targets import Moment
from mtseg.trainer import fit

CPU = torch.device("cpu")
HARD = [
    "method.target={kind: hard, threshold: 0.155}",
    "method.distance={kind: cross_entropy}",
    "views.student.geometry=shared",
]
METHODS = {
    "mean teacher": ["method.teacher.kind=ema"],
    "paper's teacher": ["method.teacher={kind: ema, mode: train, buffers: own, early_decay: 0.5, early_steps: 2}"],
    "cutmix, shared geometry": ["method.branches=[{mix: {kind: cutmix}}]", "views.student.geometry=shared"],
    "source frame, KL": ["method.frame=source", "method.distance={kind: kl}"],
    "supervised": ["method.branches=[]"],
    "pi": ["method.teacher={kind: itself, gradient: both, average: {decay: 0.9, buffers: copy}}"],
    "temporal ensembling": ["method.teacher={kind: memory, size: [24, 32], decay: 0.8}", "batch.unlabelled=4"],
    "ensemble": ["method.teacher={kind: ensemble, every: 3, of: {decay: 0.9}}", "method.target={kind: sharpen}"],
    "peer": ["method.teacher={kind: peer, average: {decay: 0.9}}", "method.branches=[{mix: {kind: cutmix}}]", *HARD],
    "frozen": [f"method.teacher={{kind: frozen, runs: [{TAUGHT!r}]}}", "method.branches=[{mix: {kind: bands}}]"],
    "ensemble's current": [
        "method.teacher={kind: ensemble, count: 3, every: 1, answer: current, of: {mode: train, buffers: own}}"
    ],
    "fixmatch": [
        "method.teacher={kind: itself, mode: eval}",
        "method.branches=[{mix: {kind: cutmix, p: 0.5}}]",
        *HARD,
    ],
    "unimatch": [
        "method.teacher={kind: itself}",
        "method.branches=[{weight: 0.25, mix: {kind: cutmix}}, {weight: 0.25, mix: {kind: cutmix}}, "
        "{weight: 0.5, sees: teacher, features: {kind: channel_dropout}}]",
        *HARD,
        "method.target.threshold=0.3",
    ],
    "unimatch's second": [
        "method.branches=[{features: {kind: channel_dropout, half: first, share: 0.5}}, "
        "{features: {kind: channel_dropout, half: second, share: 0.5}}]",
        *HARD,
    ],
    "features with noise, without regions": [
        "method.branches=[{features: {kind: noise}}, {features: {kind: feature_dropout, share: 0.5}}]"
    ],
    "vat": [
        "method.teacher={kind: itself}",
        "method.branches=[{sees: teacher, adversary: {kind: vat, size: 0.5}}, {distance: {kind: entropy}}]",
        "method.distance={kind: kl}",
    ],
    "ict": ["method.branches=[{sees: teacher, mix: {kind: mixup}}]"],
    "classmix, labelled cutmix": [
        "method.branches=[{mix: {kind: classmix}}, {mix: {kind: cutmix, p: 1.0, partner: labelled}}]",
        "method.mean_over=counted",
        *HARD,
    ],
    "cutout, bands, dice": [
        "method.branches=[{mix: {kind: cutout}}, {mix: {kind: bands}}]",
        "views.student.geometry=shared",
        "method.supervised={kind: dice}",
    ],
    "low entropy": ["method.target={kind: low_entropy, drop: 0.5}", "method.distance={kind: cross_entropy}"],
    "adaptive": ["method.target={kind: adaptive, start: 0.15, momentum: 0.5}", "method.distance={kind: cross_entropy}"],
    "adaptive, per class": [
        "method.target={kind: adaptive, start: 0.2, momentum: 0.5, per_class: true}",
        "method.supervised={kind: ohem, keep: 500}",
    ],
    "two heads": ["model.heads=2", "method.logit_distance=0.01"],
    "images held out": ["eval.select=holdout"],
    "balanced classes": ["balance=0.7"],
    "adamw, cosine, clipping": ["optimizer={kind: adamw, lr: 0.01}", "schedule={kind: cosine, warmup: 2}", "clip=0.5"],
}


def begin(config: Config) -> tuple[State, Stream]:
    splits = config.data.build()
    students = config.method.views_of_student if config.method.branches else None
    stream = Stream(splits, views=config.views, sizes=config.batch, students=students, seed=config.seed)
    return build(config, splits, CPU), stream


def files(run: Path, step: int) -> dict[str, bytes]:
    """All that a run leaves: weights, optimizer and metrics."""
    place = run / "checkpoints" / f"step-{step:08d}"
    found = {name: (place / name).read_bytes() for name in ("student.safetensors", "teacher.safetensors")}
    return found | {"metrics": (run / "metrics.jsonl").read_bytes()}


class Died(Exception):
    pass


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Make training die after `step` updates, before anything of that step is written."""

    def dying(config: Config, state: State, batch: object, **options: bool) -> dict[str, object]:
        terms = train_step(config, state, batch, **options)  # type: ignore[arg-type]
        if state.step == step:
            raise Died
        return terms

    monkeypatch.setattr("mtseg.trainer.train_step", dying)


@pytest.mark.parametrize("words", METHODS.values(), ids=METHODS)
def test_a_stopped_and_resumed_run_is_the_uninterrupted_run_to_the_bit(words, tmp_path, monkeypatch):
    whole, broken = (tiny(tmp_path / name, "eval.every=2", *words) for name in ("whole", "broken"))
    expected = fit(whole, quiet=True)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Died):
            fit(broken, quiet=True)
    assert [path.name for path in checkpoint.steps(broken.out / "checkpoints")] == ["step-00000002"]
    assert fit(broken, quiet=True) == expected
    assert files(broken.out, 4) == files(whole.out, 4)
    trained = [line for line in map(json.loads, (whole.out / "metrics.jsonl").open()) if "train/loss" in line]
    assert trained[-1].get("train/loss_cons", 0) > 0 or not whole.method.branches  # something was there to resume
    optimizers = [checkpoint.load_newest(run.out / "checkpoints")[0].rest["optimizer"] for run in (whole, broken)]
    for one, other in zip(*(list(o["state"].values()) for o in optimizers), strict=True):
        assert all(torch.equal(torch.as_tensor(one[key]), torch.as_tensor(other[key])) for key in one)


ALREADY_WRITTEN = {  # batch statistics, by the forward before that which fails; the teacher's is the first
    "parts": (3, ["accumulate=2"]),
    "apart": (3, ["bn=separate"]),
    "the teacher's own": (2, ["method.teacher={kind: ema, decay: 0.9, mode: train, buffers: own}"]),
}


@pytest.mark.parametrize(("fails", "words"), ALREADY_WRITTEN.values(), ids=ALREADY_WRITTEN)
def test_an_error_in_the_middle_of_a_step_saves_the_step_before_as_it_was(fails, words, tmp_path, monkeypatch):
    whole, broken = (tiny(tmp_path / name, "checkpoint_every=100", *words) for name in ("whole", "broken"))
    expected = fit(whole, quiet=True)
    asked, entered = [0], train_step

    def counted(config: Config, state: State, batch: object, **options: bool) -> dict[str, object]:
        asked[0] = 0 if state.step == 2 else -1000
        return entered(config, state, batch, **options)  # type: ignore[arg-type]

    def failing(self: nn.Module, *given: object) -> object:
        asked[0] += 1
        if asked[0] == fails:
            raise ValueError("something is wrong with these images")
        return forward(self, *given)

    with monkeypatch.context() as patch:
        forward = smp.Unet.forward
        patch.setattr("mtseg.trainer.train_step", counted)
        patch.setattr(smp.Unet, "forward", failing)
        with pytest.raises(ValueError, match="something is wrong with these images"):
            fit(broken, quiet=True)
    assert [path.name for path in checkpoint.steps(broken.out / "checkpoints")][-1] == "step-00000002"
    assert fit(broken, quiet=True) == expected
    assert files(broken.out, 4) == files(whole.out, 4)


def test_an_error_is_told_though_nothing_can_be_put_back(tmp_path, monkeypatch):
    def failing(*_: object) -> None:
        raise RuntimeError("CUDA error: it is lost")

    monkeypatch.setattr(smp.Unet, "forward", failing)
    monkeypatch.setattr("mtseg.state.Undo.__call__", lambda _: torch.zeros(1) @ torch.zeros(2))
    with pytest.raises(RuntimeError, match="it is lost"):
        fit(tiny(tmp_path), quiet=True)


def test_resuming_with_another_number_of_workers_changes_nothing(tmp_path, monkeypatch):
    whole = tiny(tmp_path / "whole")
    fit(whole, quiet=True)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Died):
            fit(tiny(tmp_path / "broken", "workers=2"), quiet=True)
    fit(tiny(tmp_path / "broken", "workers=1"), quiet=True)
    assert files(tmp_path / "broken", 4) == files(whole.out, 4)


def test_a_damaged_newest_checkpoint_is_passed_over_and_the_result_is_the_same(tmp_path, monkeypatch):
    words = ["steps=6"]
    whole, broken = tiny(tmp_path / "whole", *words), tiny(tmp_path / "broken", *words)
    fit(whole, quiet=True)
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(Died):
            fit(broken, quiet=True)
    newest = checkpoint.steps(broken.out / "checkpoints")[-1] / "student.safetensors"
    data = bytearray(newest.read_bytes())
    data[-3] ^= 4
    newest.write_bytes(data)
    fit(broken, quiet=True)
    assert files(broken.out, 6) == files(whole.out, 6)


def test_a_finished_run_is_not_trained_again(tmp_path, monkeypatch):
    config = tiny(tmp_path / "run")
    expected = fit(config, quiet=True)
    before = files(config.out, 4)
    monkeypatch.setattr("mtseg.trainer.train_step", lambda *_, **__: pytest.fail("a finished run took a step"))
    assert fit(config, quiet=True) == expected
    assert files(config.out, 4) == before


def test_the_seed_decides_the_run(tmp_path):
    runs = {name: tiny(tmp_path / name, f"seed={seed}") for name, seed in (("a", 1), ("b", 1), ("c", 2))}
    for config in runs.values():
        fit(config, quiet=True)
    a, b, c = (files(config.out, 4) for config in runs.values())
    assert a == b
    assert a["student.safetensors"] != c["student.safetensors"]


@pytest.mark.parametrize("words", METHODS.values(), ids=METHODS)
def test_every_methods_consistency_reaches_every_weight_of_the_student_and_none_that_is_evaluated(words, tmp_path):
    """The labelled term is cut off, so that any gradient there is comes from the unlabelled images."""
    config = tiny(tmp_path, *words, "method.ramp={kind: constant}")
    if not config.method.branches:
        pytest.skip("supervised training has no consistency")
    state, stream = begin(config)
    batch = stream[0]
    train_step(config, state, batch)  # residual branches begin with a scale of 0, and memories empty
    batch.labelled.label.fill_(255)  # type: ignore[union-attr]
    before = [parameter.clone() for parameter in state.student.parameters()]
    gradients = {}
    for name, parameter in state.student.named_parameters():
        parameter.register_hook(lambda gradient, name=name: gradients.update({name: gradient.clone()}))
    terms = train_step(config, state, batch, watch=True)
    assert float(terms["loss_cons"]) > 0
    assert 0 < float(terms["known"]) <= 1
    assert 0 < float(terms["kept"]) <= 1
    if not any(getattr(branch.mix, "partner", "") == "labelled" for branch in config.method.branches):
        assert float(terms["loss_sup"]) == 0
    for name, _ in state.student.named_parameters():
        assert gradients[name].isfinite().all(), name
        assert gradients[name].abs().max() > 0, name
    assert not any(torch.equal(p, q) for p, q in zip(before, state.student.parameters(), strict=True))
    assert all(p.grad is None and not p.requires_grad for p in state.teacher.module.parameters())


@pytest.mark.parametrize("frame", ["student", "source"])
def test_known_is_the_share_of_the_pixels_that_are_compared(frame, tmp_path):
    apart = ["views.student.geometry={scale: [1, 2]}", "views.teacher.geometry={scale: [1, 2]}", "views.crop=[32, 32]"]
    config = tiny(tmp_path, f"method.frame={frame}", *apart)
    state, stream = begin(config)
    asked, method, moment = {"student": state.student, "teacher": state.teacher}, config.method, Moment(0, 4)
    (task,) = method.plan(stream[0], **asked, views=config.views, moment=moment, past={}).tasks
    compared = method.compared(torch.zeros_like(task.target.data), task).known
    assert float(train_step(config, state, stream[0], watch=True)["known"]) == pytest.approx(
        compared.float().mean().item()
    )


@pytest.mark.parametrize("words", [METHODS["mean teacher"], METHODS["source frame, KL"]], ids=["student", "source"])
def test_consistency_alone_moves_every_weight_of_the_student_and_none_of_the_teacher(words, tmp_path):
    """The labelled term is cut off, so that any gradient there is comes from the teacher's targets."""
    config = tiny(tmp_path, *words, "method.ramp={kind: constant}")
    state, stream = begin(config)
    train_step(config, state, stream[0])  # residual branches begin with a scale of 0, and so without a gradient
    batch = stream[1]
    with torch.no_grad():
        for parameter in state.teacher.module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)  # a teacher that disagrees
    batch.labelled.label.fill_(255)  # type: ignore[union-attr]
    teacher = [parameter.clone() for parameter in state.teacher.module.parameters()]
    gradients = {}
    for name, parameter in state.student.named_parameters():
        parameter.register_hook(lambda gradient, name=name: gradients.update({name: gradient.abs().max().item()}))
    terms = train_step(config, state, batch)
    assert float(terms["loss_sup"]) == 0
    assert float(terms["loss_cons"]) > 0
    silent = [name for name, _ in state.student.named_parameters() if not gradients.get(name, 0) > 0]
    assert silent == []
    assert all(p.grad is None and not p.requires_grad for p in state.teacher.module.parameters())
    for before, after, student in zip(
        teacher, state.teacher.module.parameters(), state.student.parameters(), strict=True
    ):
        torch.testing.assert_close(after, 0.5 * before + 0.5 * student)  # a = 1 - 1 / 2, and nothing else


@pytest.mark.parametrize("buffers", ["average", "copy"])
def test_with_decay_zero_the_teacher_is_the_student_buffers_included(buffers, tmp_path):
    config = tiny(tmp_path, f"method.teacher={{kind: ema, decay: 0.0, buffers: {buffers}}}")
    fit(config, quiet=True)
    saved, _ = checkpoint.load_newest(config.out / "checkpoints")
    assert saved.student.keys() == saved.teacher.keys()
    assert any("running_mean" in name for name in saved.student)
    for name, value in saved.student.items():
        assert torch.equal(value, saved.teacher[name]), name


def test_supervised_training_ignores_the_unlabelled_images(tmp_path):
    """The same labelled batches give the same student whatever the pool of unlabelled images is."""
    students = []
    for name, word in (("all", "data.unlabelled=all"), ("rest", "data.unlabelled=rest")):
        config = tiny(tmp_path / name, "method.branches=[]", word)
        fit(config, quiet=True)
        students.append(load_file(config.out / "checkpoints/step-00000004/student.safetensors"))
    assert all(torch.equal(students[0][name], students[1][name]) for name in students[0])


def test_metrics_hold_every_step_and_evaluation_once_and_only_finite_json(tmp_path):
    config = tiny(tmp_path / "run", "eval.every=2")
    fit(config, quiet=True)
    lines = [json.loads(line, parse_constant=pytest.fail) for line in (config.out / "metrics.jsonl").open()]
    assert [line["step"] for line in lines if "train/loss" in line] == [1, 2, 3, 4]
    assert [line["step"] for line in lines if "val_teacher/mIoU" in line] == [2, 4]
    assert list((config.out / "tensorboard").iterdir())


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_the_logged_loss_is_the_sum_of_its_terms(share, tmp_path):
    config = tiny(tmp_path / "run", f"method.supervised_weight={share}")
    fit(config, quiet=True)
    lines = [json.loads(line) for line in (config.out / "metrics.jsonl").open()]
    for line in (line for line in lines if "train/loss" in line):
        expected = share * line["train/loss_sup"] + line["train/weight"] * line["train/loss_cons"]
        assert line["train/loss"] == pytest.approx(expected, rel=1e-5)


def test_the_learning_rate_is_the_schedule_of_each_group(tmp_path):
    config = tiny(tmp_path, "optimizer={kind: sgd, lr: 0.01, decoder_lr: 0.1}", "schedule={kind: poly, power: 1.0}")
    state, stream = begin(config)
    for step in range(4):
        train_step(config, state, stream[step])
        rates = [group["lr"] for group in state.optimizer.param_groups]
        assert rates == pytest.approx([0.01 * (1 - step / 4), 0.1 * (1 - step / 4)])


def test_clipping_bounds_the_step(tmp_path):
    """With SGD without momentum or decay the update is lr times the clipped gradient."""
    optimizer = "optimizer={kind: sgd, lr: 1.0, momentum: 0.0, weight_decay: 0.0}"
    lengths = {}
    for clip in ("null", "0.01"):
        config = tiny(tmp_path, optimizer, f"clip={clip}")
        state, stream = begin(config)
        before = [p.detach().clone() for p in state.student.parameters()]
        train_step(config, state, stream[0])
        moved = [(p.detach() - q).square().sum() for p, q in zip(state.student.parameters(), before, strict=True)]
        lengths[clip] = float(torch.stack(moved).sum().sqrt())
    assert lengths["0.01"] == pytest.approx(0.01, rel=1e-3)
    assert lengths["null"] > 0.02


def test_another_run_in_the_folder_is_refused_with_the_difference(tmp_path):
    fit(tiny(tmp_path / "run"), quiet=True)
    with pytest.raises(ValueError, match=r"method\.weight: 2\.0 -> 3\.0"):
        fit(tiny(tmp_path / "run", "method.weight=3"), quiet=True)
    with pytest.raises(ValueError, match="resume is never"):
        fit(tiny(tmp_path / "run", "resume=never"), quiet=True)


def test_a_folder_in_which_no_run_came_to_a_checkpoint_is_free(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Died):
            fit(tiny(tmp_path / "run"), quiet=True)
    again, fresh = tiny(tmp_path / "run", "method.weight=3"), tiny(tmp_path / "fresh", "method.weight=3")
    fit(again, quiet=True)
    fit(fresh, quiet=True)
    assert files(again.out, 4) == files(fresh.out, 4)


def test_a_run_that_cannot_begin_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        fit(tiny(tmp_path / "run", "model.weights=nowhere.pth"), quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_run_without_one_whole_checkpoint_is_never_started_over_silently(tmp_path):
    config = tiny(tmp_path / "run")
    fit(config, quiet=True)
    for place in checkpoint.steps(config.out / "checkpoints"):
        os.truncate(place / "state.pt", 10)
    with pytest.raises(ValueError, match="no whole checkpoint"):
        fit(config, quiet=True)


def test_a_loss_that_stays_no_number_ends_the_run_with_the_step_and_a_capture(tmp_path):
    with pytest.raises(ValueError, match=r"not finite at step 3, after 2 steps in a row"):
        fit(tiny(tmp_path / "run", "optimizer.lr=1e30", "max_skipped=2", "eval.every=4"), quiet=True)
    assert (tmp_path / "run/capture-3.pt").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("words", "ahead"), [([], 0.03), (["views.labelled.colour=[]"], 0.08)], ids=["demo", "plain"])
def test_the_teacher_of_the_demo_is_ahead_of_supervised_only(words, ahead, seed, tmp_path):
    """The demo's labelled images have the student's colours, which alone are worth most of what plain ones miss."""
    from mtseg.config import load
    from mtseg.results.compare import compare

    demo = str(Path(__file__).parent.parent / "configs" / "demo.yaml")
    rows = compare(load([demo, *words, f"seed={seed}", f"data.seed={seed}", f"out={tmp_path}"]))
    assert rows["teacher"]["last"] > rows["supervised-only"]["last"] + ahead
    assert rows["teacher"]["last"] > rows["supervised-only, averaged weights"]["last"] + ahead


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
@pytest.mark.parametrize("step", [1, 2])  # between evaluations, and where one is due
def test_a_signal_saves_the_step_it_came_in_and_the_continued_run_is_the_whole_one(name, step, tmp_path, monkeypatch):
    whole, asked = tiny(tmp_path / "whole", "eval.every=2"), tiny(tmp_path / "asked", "eval.every=2")
    expected = fit(whole, quiet=True)

    def signalled(config: Config, state: State, batch: object, **options: bool) -> dict[str, object]:
        if state.step + 1 == step:
            signal.raise_signal(signal.Signals[name])
        return train_step(config, state, batch, **options)  # type: ignore[arg-type]

    before = signal.getsignal(signal.Signals[name])
    with monkeypatch.context() as patch:
        patch.setattr("mtseg.trainer.train_step", signalled)
        with pytest.raises(Stopped, match=f"{name}, saved at step {step}"):
            fit(asked, quiet=True)
    assert signal.getsignal(signal.Signals[name]) is before
    assert fit(asked, quiet=True) == expected
    assert files(asked.out, 4) == files(whole.out, 4)


def stopped_in(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Make a signal come in `step`."""

    def signalled(config: Config, state: State, batch: object, **options: bool) -> dict[str, object]:
        if state.step + 1 == step:
            signal.raise_signal(signal.SIGTERM)
        return train_step(config, state, batch, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("mtseg.trainer.train_step", signalled)


def evaluations(run: Path) -> int:
    """How many were made, whatever became of their scores."""
    return sum("evaluation_seconds" in line for line in map(json.loads, (run / "timings.jsonl").open()))


def test_an_evaluation_made_up_for_at_the_end_is_made_once_however_often_the_command_is_given(
    tmp_path, monkeypatch, capsys
):
    whole, asked = tiny(tmp_path / "whole", "eval.every=4"), tiny(tmp_path / "asked", "eval.every=4")
    expected = fit(whole, quiet=True)
    with monkeypatch.context() as patch:
        stopped_in(patch, 4)
        with pytest.raises(Stopped, match="saved at step 4"):
            fit(asked, quiet=True)
    for times in range(3):
        assert fit(asked) == expected
        assert ("is finished already" in capsys.readouterr().out) == (times > 0)
    assert evaluations(asked.out) == 1
    assert files(asked.out, 4) == files(whole.out, 4)


def test_an_evaluation_made_up_for_is_not_made_again_where_the_run_dies_before_its_next_checkpoint(
    tmp_path, monkeypatch
):
    whole, asked = tiny(tmp_path / "whole", "eval.every=2"), tiny(tmp_path / "asked", "eval.every=2")
    expected = fit(whole, quiet=True)
    for broken, error in ((lambda patch: stopped_in(patch, 2), Stopped), (lambda patch: stop_after(patch, 3), Died)):
        with monkeypatch.context() as patch:
            broken(patch)
            with pytest.raises(error):
                fit(asked, quiet=True)
    assert fit(asked, quiet=True) == expected
    assert evaluations(asked.out) == 2  # of steps 2 and 4
    assert files(asked.out, 4) == files(whole.out, 4)


def test_a_disk_that_does_not_take_where_an_evaluation_stands_ends_no_run(tmp_path, monkeypatch, capsys):
    config = tiny(tmp_path / "run", "eval.every=4")
    with monkeypatch.context() as patch:
        stopped_in(patch, 4)
        with pytest.raises(Stopped):
            fit(config, quiet=True)
    before = (config.out / "checkpoints/step-00000004/manifest.json").read_bytes()
    (config.out / f"checkpoints/step-00000004/.tmp-{os.getpid()}-manifest.json").mkdir()
    scores = fit(config)
    assert "the evaluation of step 4 is NOT noted" in capsys.readouterr().out
    assert (config.out / "checkpoints/step-00000004/manifest.json").read_bytes() == before
    assert fit(config, quiet=True) == scores


def test_a_second_ctrl_c_leaves_at_once(tmp_path, monkeypatch):
    def twice(*_: object, **__: bool) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("still there")

    monkeypatch.setattr("mtseg.trainer.train_step", twice)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny(tmp_path), quiet=True)


class Torn:
    """A source whose image `bad` cannot be read."""

    def __init__(self, source: object, bad: int) -> None:
        self.source, self.bad = source, bad

    def __len__(self) -> int:
        return len(self.source)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> object:
        return getattr(self.source, name)

    def image(self, index: int) -> object:
        if index == self.bad:
            raise Damaged("torn.jpg: not a whole image")
        return self.source.image(index)  # type: ignore[attr-defined]


def test_an_evaluation_that_cannot_be_made_loses_no_step_and_is_made_up_for(tmp_path):
    whole, torn = (
        tiny(tmp_path / "whole", "eval.every=2"),
        tiny(tmp_path / "torn", "eval.every=2", "checkpoint_every=100"),
    )
    expected = fit(whole, quiet=True)
    splits = torn.data.build()
    with pytest.raises(ValueError, match=r"torn\.jpg"):
        fit(torn, splits=replace(splits, val=Torn(splits.val, 1)), quiet=True)
    assert [place.name for place in checkpoint.steps(torn.out / "checkpoints")] == ["step-00000002"]
    assert fit(torn, splits=splits, quiet=True) == expected
    assert files(torn.out, 4) == files(whole.out, 4)


def test_images_of_ones_own_are_trained_on_in_place_of_the_configs(tmp_path):
    """Splits given to fit decide the run: those of the config give the config's run, others another one."""
    config = tiny(tmp_path / "a")
    fit(config, quiet=True)
    fit(tiny(tmp_path / "b"), splits=config.data.build(), quiet=True)
    fit(tiny(tmp_path / "c"), splits=replace(config.data, seed=9).build(), quiet=True)
    a, b, c = (files(tmp_path / name, 4) for name in "abc")
    assert a == b
    assert a["student.safetensors"] != c["student.safetensors"]


def test_a_damaged_checkpoint_does_not_cost_a_whole_one_when_the_run_goes_on(tmp_path, monkeypatch):
    config = tiny(tmp_path, "steps=8", "keep=2", "checkpoint_every=1")
    with monkeypatch.context() as patch:
        stop_after(patch, 6)
        with pytest.raises(Died):
            fit(config, quiet=True)
    for place in checkpoint.steps(config.out / "checkpoints")[-1:]:  # of steps 4 and 5
        (place / "student.safetensors").write_bytes(b"")
    with monkeypatch.context() as patch:
        stop_after(patch, 6)
        with pytest.raises(Died):
            fit(config, quiet=True)
    found, damaged = checkpoint.load_newest(config.out / "checkpoints")
    assert (found.step, damaged) == (5, {})
    assert len(checkpoint.steps(config.out / "checkpoints")) == 2


@pytest.mark.parametrize("left", [0, 40])
def test_lost_metrics_are_said_and_the_rest_is_whole_lines_without_padding(left, tmp_path, monkeypatch, capsys):
    config = tiny(tmp_path)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Died):
            fit(config, quiet=True)
    metrics = config.out / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[:1]) if left else "")
    fit(config)
    assert "lost its last" in capsys.readouterr().out
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()][-3:] == [3, 4, 4]


def test_weights_that_are_no_numbers_end_the_run_and_leave_the_last_good_checkpoint(tmp_path, monkeypatch):
    config = tiny(tmp_path, "steps=6", "log_every=100")

    def poisoned(config: Config, state: State, batch: object, **options: bool) -> dict[str, object]:
        terms = train_step(config, state, batch, **options)  # type: ignore[arg-type]
        if state.step == 3:
            next(state.student.parameters()).data.fill_(float("nan"))
        return terms

    monkeypatch.setattr("mtseg.trainer.train_step", poisoned)
    with pytest.raises(ValueError, match="finite"):
        fit(config, quiet=True)
    assert [place.name for place in checkpoint.steps(config.out / "checkpoints")] == ["step-00000002"]


def test_a_moved_data_set_is_the_same_run_and_another_choice_of_labels_is_not(tmp_path):
    def camvid(root: str, labels: int) -> Config:
        return tiny(tmp_path, f"data={{kind: camvid, root: {root}, labels: {labels}}}")

    assert differences(camvid("here", 22), camvid("there", 22)) == []
    assert differences(camvid("here", 22), camvid("here", 45)) == ["data.labels: 22 -> 45"]


def test_masks_of_unlabelled_images_are_looked_at_and_change_nothing(tmp_path):
    for name, look in (("blind", "false"), ("looking", "true")):
        fit(tiny(tmp_path / name, f"diagnose_with_masks={look}"), quiet=True)
    blind, looking = (files(tmp_path / name, 4) for name in ("blind", "looking"))
    for name in ("student.safetensors", "teacher.safetensors"):
        assert blind[name] == looking[name]
    values = [json.loads(line).get("train/pseudo_accuracy") for line in looking["metrics"].splitlines()]
    assert all(0 < value < 1 for value in values if value is not None)
    assert len([value for value in values if value is not None]) == 4
    assert b"pseudo_accuracy" not in blind["metrics"]


def test_accuracy_of_the_teachers_answers_is_that_of_its_view_against_the_masks(tmp_path):
    config = tiny(tmp_path, "diagnose_with_masks=true")
    state, _ = begin(config)
    stream = Stream(
        config.data.build(), views=config.views, sizes=config.batch, students=1, seed=config.seed, masks=True
    )
    batch = stream[0]
    seen = batch.teacher.view(config.views)
    with torch.no_grad():
        said = state.teacher.module.eval()(seen.data).argmax(1)
    counted = seen.known[:, 0] & (batch.teacher.label != 255)
    expected = (said == batch.teacher.label)[counted].float().mean()
    terms = train_step(config, state, batch, watch=True)
    torch.testing.assert_close(terms["pseudo_accuracy"], expected)


def test_health_is_logged_with_every_line_and_costs_nothing_in_between(tmp_path, monkeypatch):
    asked, none = [], torch.zeros(7)
    found = {"kept": torch.tensor(1.0), "target_share": none, "label_share": none}
    monkeypatch.setattr("mtseg.step.health", lambda *args: asked.append(1) or found)
    fit(tiny(tmp_path, "steps=7", "log_every=3"), quiet=True)
    assert len(asked) == 3  # steps 3, 6 and the last


def test_an_alarm_reaches_the_reader(tmp_path, capsys):
    words = ["steps=12", "method.target={kind: hard, threshold: 1.0}", "method.distance={kind: cross_entropy}"]
    fit(tiny(tmp_path, *words))
    assert "look: under 1 % of the pixels are kept" in capsys.readouterr().out


# -- labels that teach nothing ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Blank:
    """A source whose labels are ignored everywhere but in the images `drawn`."""

    of: Source
    drawn: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.of)

    def name(self, index: int) -> str:
        return self.of.name(index)

    def image(self, index: int) -> np.ndarray:
        return self.of.image(index)

    def label(self, index: int) -> np.ndarray:
        label = self.of.label(index)
        return label if index in self.drawn else np.full_like(label, IGNORE)


@pytest.mark.parametrize("method", [[], METHODS["supervised"]], ids=["mean teacher", "supervised"])
@pytest.mark.parametrize(("pool", "says"), [("labelled", "nothing is learnt"), ("val", "nothing is scored")])
def test_labels_that_are_all_ignored_are_refused_before_anything_is_written(pool, says, method, tmp_path):
    config = tiny(tmp_path / "run", *method)
    splits = config.data.build()
    blank = replace(splits, **{pool: Blank(getattr(splits, pool))})
    with pytest.raises(ValueError, match=rf"data\.{pool}: every pixel of all 2 labels is ignored, so {says}.*doctor"):
        fit(config, splits=blank, quiet=True)
    assert not (tmp_path / "run").exists()


def test_one_label_with_classes_is_enough_to_begin(tmp_path):
    config = tiny(tmp_path / "run", "steps=1")
    splits = config.data.build()
    fit(config, splits=replace(splits, labelled=Blank(splits.labelled, (1,)), val=Blank(splits.val, (1,))), quiet=True)
    assert (tmp_path / "run/config.yaml").exists()


@dataclass(frozen=True)
class Only(Blank):
    """A source whose labels are of the first `classes` alone, and where they are of another, ignored; what was read."""

    classes: int = 1
    ignored: int = IGNORE
    read: list[int] = field(default_factory=list)

    def label(self, index: int) -> np.ndarray:
        self.read.append(index)
        label = self.of.label(index)
        return np.where(label < self.classes, label, self.ignored).astype(label.dtype)


def test_labels_of_a_single_class_are_refused_before_anything_is_written(tmp_path):
    config = tiny(tmp_path / "run")
    splits = config.data.build()
    single = replace(splits, labelled=Only(splits.labelled))
    says = (
        rf"data\.labelled: all 2 labels are of one class alone, {splits.classes[0]} of {len(splits.classes)}, so "
        r"nothing tells classes apart.*doctor.*Values 0 and 255 alone .*data\.mask_map=\{"
    )
    with pytest.raises(ValueError, match=says):
        fit(config, splits=single, quiet=True)
    with pytest.raises(ValueError, match=r"one class alone((?!Values 0 and 255).)*$"):  # where nothing is ignored
        fit(config, splits=replace(splits, labelled=Only(splits.labelled, ignored=0)), quiet=True)
    assert not (tmp_path / "run").exists()


def test_images_that_are_all_of_one_class_are_refused_too(tmp_path):
    config = small(tmp_path)
    splits = config.data.build()
    with pytest.raises(ValueError, match=r"data\.labelled: all 8 labels are of one class alone, 0 of 4.*other classes"):
        fit(config, splits=replace(splits, labelled=Only(splits.labelled, ignored=0)), quiet=True)


def test_of_two_classes_labels_are_read_to_the_first_that_has_both():
    splits = tiny(Path()).data.build()
    labelled = Only(splits.labelled, classes=2, ignored=0)
    refuse_one_class(replace(splits, labelled=labelled, classes=splits.classes[:2]))
    assert labelled.read == [0]


def test_a_data_set_of_one_class_is_refused_before_a_label_is_read(tmp_path):
    config = tiny(tmp_path / "run", "steps=1")
    splits = config.data.build()
    pools = {pool: Only(getattr(splits, pool)) for pool in ("labelled", "unlabelled", "val", "test")}
    one = replace(splits, classes=splits.classes[:1], palette=splits.palette[:1], **pools)
    with pytest.raises(
        ValueError, match=r"^data\.classes: 'background' alone, .* name what is around it as a class too"
    ):
        refuse_one_class(one)
    assert pools["labelled"].read == []
    with pytest.raises(ValueError, match=r"^data\.classes: 'background' alone"):
        fit(config, splits=one, quiet=True)
    assert not (tmp_path / "run").exists()
