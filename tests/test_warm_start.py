"""A run that begins as a network of a finished one: with its weights to the bit, or it is refused."""

import shutil
from pathlib import Path

import pytest
import torch
from processes import each
from runs import tiny
from safetensors.torch import load_file
from smalls import small
from trees import own

from mtseg import cli
from mtseg.config import Config, splits_of, written
from mtseg.run import checkpoint
from mtseg.state import build
from mtseg.trainer import fit

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def before(tmp_path_factory) -> Path:
    """A finished run, whose student and teacher differ."""
    out = tmp_path_factory.mktemp("before") / "run"
    fit(tiny(out, "seed=5", "method.teacher={kind: ema, decay: 0.9}"), quiet=True)
    return out


def weights(run: Path, network: str = "teacher", step: int = 4) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step-{step:08d}" / f"{network}.safetensors")


def begun(config: Config) -> dict[str, torch.Tensor]:
    return build(config, splits_of(config), CPU).student.state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("network", ["teacher", "student"])
@pytest.mark.parametrize("step", [2, 4])
def test_the_student_begins_as_the_network_that_is_named(network, step, before, tmp_path):
    config = tiny(tmp_path, f"load_from={{run: {before}, at: {step}, network: {network}}}")
    assert same(begun(config), weights(before, network, step))
    assert not same(weights(before, network, step), weights(before, network, 6 - step))
    assert not same(weights(before, "student", step), weights(before, "teacher", step))


@pytest.mark.parametrize(
    "teacher", ["ema", "itself, mode: eval", "ensemble, every: 1", "memory, size: [4, 4]", "frozen, runs: [{run}]"]
)
def test_so_does_its_teacher_and_the_run_learns_from_there(teacher, before, tmp_path):
    words = [f"load_from.run={before}", f"method.teacher={{kind: {teacher.format(run=before)}}}"]
    config = tiny(tmp_path / "run", *words, "steps=1", "checkpoint_every=1", "eval.every=1")
    state = build(config, splits_of(config), CPU)
    for name, value in state.teacher.module.state_dict().items():
        assert torch.equal(value, weights(before)[name.removeprefix("members.").lstrip("0123456789").lstrip(".")])
    fit(config, quiet=True)
    moved = weights(config.out, "student", 1)
    assert not same(moved, weights(before))
    distance = sum(float((moved[n] - value).abs().sum()) for n, value in weights(before).items())
    assert distance < sum(float((moved[n] - v).abs().sum()) for n, v in begun(tiny(tmp_path)).items()) / 4


def test_no_other_first_weights_are_read_or_fetched(before, tmp_path):
    for weights_ in ("imagenet", "missing.pth"):
        config = tiny(tmp_path, f"load_from.run={before}", f"model.weights={weights_}", "model.frozen=true")
        assert same(begun(config), weights(before))


def test_of_other_classes_all_but_the_head_is_taken(before, tmp_path, capsys):
    root = own(tmp_path / "own")
    labelled = "{images: labelled/images, masks: labelled/masks}"
    data = f"data={{kind: folder, root: {root}, labelled: {labelled}, val: 0.3, classes: [a, b, c]}}"
    config = tiny(tmp_path / "run", data, f"load_from.run={before}")
    found, old = begun(config), weights(before)
    assert found.keys() == old.keys()
    other = {name for name in found if found[name].shape != old[name].shape or not torch.equal(found[name], old[name])}
    assert {name.rpartition("segmentation_head")[1] for name in other} == {"segmentation_head"}
    assert len(other) == 2
    fit(config)
    assert "it learnt other classes" in capsys.readouterr().out


def test_as_many_classes_of_other_names_are_others(before, tmp_path):
    folder = shutil.copytree(before, tmp_path / "before")
    text = (folder / "classes.json").read_text()
    assert text.count('"disc"') == 1
    (folder / "classes.json").write_text(text.replace('"disc"', '"disk"'))
    found = begun(tiny(tmp_path / "run", f"load_from.run={folder}"))
    assert {n for n, v in weights(before).items() if not torch.equal(v, found[n])} == {
        name for name in found if "segmentation_head" in name
    }


def test_a_network_for_whole_images_begins_so_too_and_is_not_settled_by_data_again(tmp_path):
    first = small(tmp_path, "steps=2", f"out={tmp_path / 'first'}")
    fit(first, quiet=True)
    config = small(tmp_path, f"load_from.run={first.out}", "seed=8", f"out={tmp_path / 'second'}")
    assert same(begun(config), weights(first.out, step=2))


REFUSED = {
    "no run": (["load_from.run=nowhere"], "nowhere"),
    "a step": (["load_from.at=3"], "no checkpoint of step 3"),
    "network": (["model.arch=linknet", "model.options={encoder_depth: 3}"], r"model.arch: unet -> linknet"),
    "norm": (["norm=group"], "norm: process -> group"),
    "normalisation": (["views.mean=[0.5, 0.5, 0.5]"], r"minus \[0.485, 0.456, 0.406\]"),
    "peer": (["method.teacher={kind: peer}"], "never differ"),
    "heads": (["model.heads=2", "method.logit_distance=0.01"], "model.heads: 1 -> 2"),
}


@pytest.mark.parametrize(("words", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_begun_with_is_refused_by_the_run_the_dry_run_and_the_doctor(
    words, said, before, tmp_path, capsys
):
    with pytest.raises(ValueError, match=said) as caught:
        fit(tiny(tmp_path / "run", f"load_from.run={before}", *words), quiet=True)
    assert "load_from" in str(caught.value)
    assert not (tmp_path / "run").exists()
    if "never differ" in said:  # no config
        return
    path = tmp_path / "config.yaml"
    path.write_text(written(tiny(tmp_path / "run", f"load_from.run={before}", *words)))
    for command in (["train", str(path), "--dry-run"], ["doctor", str(path)]):
        assert cli.main(command) == 1
    spoken = capsys.readouterr()
    assert str(caught.value) in spoken.err.replace("\n", " ")
    assert "error load-from: " in spoken.out


def test_a_teacher_of_several_networks_is_refused_and_its_student_is_not(tmp_path):
    first = tiny(tmp_path / "first", "method.teacher={kind: ensemble, count: 2, every: 1}")
    fit(first, quiet=True)
    with pytest.raises(ValueError, match=r"use load_from\.network=student"):
        begun(tiny(tmp_path / "run", f"load_from.run={first.out}"))
    config = tiny(tmp_path / "run", f"load_from={{run: {first.out}, network: student}}")
    assert same(begun(config), weights(first.out, "student"))


def test_a_run_that_has_begun_needs_the_other_no_more_and_cannot_be_said_to_have_begun_otherwise(before, tmp_path):
    gone = shutil.copytree(before, tmp_path / "gone")
    whole = tiny(tmp_path / "whole", f"load_from.run={gone}")
    expected = fit(whole, quiet=True)
    half = shutil.copytree(whole.out, tmp_path / "half")
    shutil.rmtree(half / "checkpoints/step-00000004")
    shutil.rmtree(gone)
    assert fit(tiny(half, f"load_from.run={gone}"), quiet=True) == expected
    assert same(weights(half), weights(whole.out))
    path = tmp_path / "config.yaml"
    path.write_text(written(tiny(half, f"load_from.run={gone}")))
    assert cli.main(["doctor", str(path)]) == cli.main(["train", str(path), "--dry-run"]) == 0
    with pytest.raises(ValueError, match="load_from"):
        fit(tiny(half, "steps=8", "accept_changes=[steps]"), quiet=True)


def test_of_a_checkpoint_before_a_damaged_one_it_is_said_that_it_is_not_the_end(before, tmp_path, capsys):
    damaged = shutil.copytree(before, tmp_path / "damaged")
    (damaged / "checkpoints/step-00000004/teacher.safetensors").write_bytes(b"")
    fit(tiny(tmp_path / "run", f"load_from.run={damaged}"))
    out = capsys.readouterr().out
    assert "step 2 (weights" in out
    assert "stands at step 2 of 4: it is not finished" in out


def test_weights_of_an_encoder_are_no_folder_of_a_run_and_say_so(before, tmp_path):
    with pytest.raises(ValueError, match=rf"model\.weights: .*load_from\.run={before}"):
        begun(tiny(tmp_path, f"model.weights={before}"))


def test_all_processes_begin_alike_and_one_that_cannot_stops_all(before, tmp_path):
    def found() -> list[dict[str, torch.Tensor] | str]:
        state = begun(tiny(tmp_path / "run", f"load_from.run={before}"))
        try:
            begun(tiny(tmp_path / "run", f"load_from.run={before}", "norm=group"))
        except Exception as error:
            return [state, str(error)]
        return [state, ""]

    for state, error in each(2, tmp_path / "each", found):
        assert same(state, weights(before))
        assert "norm: process -> group" in error


def test_it_is_said_what_a_run_begins_as_and_where_that_may_have_learnt_what_is_scored(before, tmp_path, capsys):
    digest = checkpoint.weights_of(before / "checkpoints", 4, "teacher")[:12]
    words = ["method.branches=[]", f"load_from.run={before}"]
    fit(tiny(tmp_path / "one", *words))
    out = capsys.readouterr().out
    assert f"begins as the teacher of {before}, step 4 (weights {digest})" in out
    assert "may have learnt" not in out
    fit(tiny(tmp_path / "two", *words, "data.seed=3"))
    out = capsys.readouterr().out
    assert "other labelled images" in out
    assert "may have learnt from these" in out
    path = tmp_path / "config.yaml"
    path.write_text(written(tiny(tmp_path / "three", f"load_from.run={before}", "data.seed=3")))
    assert cli.main(["train", str(path), "--dry-run"]) == 0
    assert "may have learnt from these" in " ".join(capsys.readouterr().out.split())
