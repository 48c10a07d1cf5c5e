"""Settings that change nothing: said where that is so, by a run that is taken without them, and only there."""

import pytest
import torch
from runs import tiny
from safetensors.torch import load_file

from mtseg.cli.doctor import main as doctor
from mtseg.cli.train import main as train
from mtseg.config import written
from mtseg.idle import idle
from mtseg.losses import CrossEntropy, Ohem
from mtseg.run.logged import read
from mtseg.trainer import fit

AREA = 2 * 32 * 48  # labelled pixels of a step of the tiny run
VAT = ["method.teacher={kind: itself, mode: eval}", "method.branches=[{sees: teacher, adversary: {kind: vat}}]"]


@pytest.mark.parametrize(("keep", "says"), [(AREA - 1, False), (AREA, True)])
def test_so_many_hard_pixels_that_all_are_is_said_and_is_plain_cross_entropy(keep, says, tmp_path):
    sentences = idle(tiny(tmp_path, f"method.supervised={{kind: ohem, keep: {keep}}}"))
    assert ["method.supervised.keep" in sentence for sentence in sentences] == [True] * says
    torch.manual_seed(0)
    logits, label = torch.randn(2, 5, 32, 48).double(), torch.randint(5, (2, 32, 48))
    assert (float(Ohem(keep=keep, threshold=1e-3)(logits, label)) == float(CrossEntropy()(logits, label))) == says


def weights(folder, *words):
    fit(tiny(folder, *words, "steps=2"), quiet=True)
    return load_file(folder / "checkpoints" / "step-00000002" / "student.safetensors")


def same(one, two):
    return all(torch.equal(value, two[name]) for name, value in one.items())


COLOURS = "views.student.colour=[{name: Solarize, p: 1.0}]"
NONE = "views.student.colour=[]"


@pytest.mark.parametrize("branches", [VAT, [VAT[0], "method.branches=[{sees: teacher}, {}]"]], ids=["nobody", "one"])
def test_colours_that_nobody_is_shown_are_said(branches, tmp_path):
    runs = [weights(tmp_path / str(n), *branches, words) for n, words in enumerate((COLOURS, NONE))]
    sentences = [idle(tiny(tmp_path, *branches, words)) for words in (COLOURS, NONE)]
    assert [len(found) for found in sentences] == [int(same(*runs)), 0]
    assert same(*runs) == (branches is VAT)


def test_averages_without_a_turn_are_said_and_are_the_student(tmp_path):
    """Of three averages, `every` 2 steps: after 4 steps the third has had none, after 5 it has."""
    said = []
    for steps in (4, 5):
        words = (f"steps={steps}", "method.teacher={kind: ensemble, count: 3, every: 2}")
        said.append(bool(idle(tiny(tmp_path, *words))))
    assert said == [True, False]


@pytest.mark.parametrize(("norm", "says"), [("group", True), ("frozen", True), ("process", False)])
def test_images_apart_that_are_not_normalised_together_are_said(norm, says, tmp_path):
    config = tiny(tmp_path, f"norm={norm}", "bn=separate")
    assert [sentence.startswith("bn: separate") for sentence in idle(config)] == [True] * says
    losses = []
    for bn in ("separate", "joint"):
        fit(tiny(tmp_path / bn, f"norm={norm}", f"bn={bn}", "steps=2"), quiet=True)
        losses.append([line["train/loss"] for line in read(tmp_path / bn) if "train/loss" in line])
    assert (losses[0] == pytest.approx(losses[1], rel=1e-4)) == says


def test_the_run_the_dry_run_and_the_doctor_say_it(tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text(written(tiny(tmp_path / "run", *VAT, COLOURS, "steps=2", "boards=[]")))
    for command, words in ((train, []), (train, ["--dry-run"]), (doctor, [])):
        command([str(config), *words])
        assert "views.student: its colours and noise are shown to nobody" in " ".join(capsys.readouterr().out.split())


def test_the_rows_of_the_tests_are_made_of_what_acts(tmp_path):
    assert idle(tiny(tmp_path)) == []
    assert idle(tiny(tmp_path, "method.branches=[]", "bn=separate", "norm=group")) == []


@pytest.mark.parametrize(("steps", "said"), [(100, False), (55, False), (30, True)])
def test_a_rate_that_a_short_run_never_reaches_is_said(steps, said, tmp_path):
    """The ramp down of 50 steps is exp(-12.5 (1 - left / 50)^2): of 55 steps it is whole, of 30 0.14 at the first."""
    sentences = idle(tiny(tmp_path, "schedule={kind: ramps, up: 5, down: 50}", f"steps={steps}"))
    assert any("the rate never comes over" in sentence for sentence in sentences) is said
    assert not idle(tiny(tmp_path, "steps=1"))
