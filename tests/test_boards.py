"""Boards are shown what the run's own files have; they are asked for, never wait, and end no run."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from runs import tiny
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mtseg.run.logged import read
from mtseg.trainer import fit


class Fake(SimpleNamespace):
    """Any library of the three: every call is noted, whatever its name."""

    def __init__(self, **more):
        super().__init__(calls=[], **more)

    def __getattr__(self, name):
        if name.startswith("__") or name == "api":
            raise AttributeError(name)

        def noted(*args, **more):
            self.calls.append((name, args, more))
            return self

        return noted

    def values(self, key):
        """What was logged under a key, by step."""
        found = {}
        for name, args, more in self.calls:
            if name == "log" and key in args[0]:
                found[more["step"]] = args[0][key]
            elif name == "log_metric" and args[0] == key:
                found[more["step"]] = args[1]
        return found


def numbers(run, key):
    return {line["step"]: line[key] for line in read(run) if key in line}


@pytest.fixture(autouse=True)
def _no_account(monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_board_that_is_asked_for_gets_the_numbers_and_the_pictures_and_is_closed(name, tmp_path, monkeypatch):
    fake = Fake()
    monkeypatch.setitem(sys.modules, name, fake)
    fit(tiny(tmp_path / "run", f"boards=[{name}]", "eval.gallery=1", "eval.every=2"), quiet=True)
    for key in ("train/loss_sup", "val_teacher/mIoU"):
        assert fake.values(key) == numbers(tmp_path / "run", key)
        assert len(fake.values(key)) >= 2
    assert fake.calls[-1][0] in ("finish", "end_run")
    pictures = [args for called, args, _ in fake.calls if called in ("Image", "log_image")]
    assert len(pictures) == 2  # one an evaluation
    assert pictures[0][0].shape == (64, 6 * 64, 3)
    assert not (tmp_path / "run/tensorboard").exists()


def test_without_an_account_nothing_would_ask_for_one(tmp_path, monkeypatch):
    for name, called in (("wandb", "init"), ("mlflow", "set_tracking_uri")):
        fake = Fake()
        monkeypatch.setitem(sys.modules, name, fake)
        fit(tiny(tmp_path / name, f"boards=[{name}]"), quiet=True)
        ((_, args, more),) = [call for call in fake.calls if call[0] == called]
        assert more.get("mode", "offline") == "offline"
        assert name == "wandb" or args[0].startswith("file:///")
    monkeypatch.setenv("WANDB_API_KEY", "x")
    monkeypatch.setitem(sys.modules, "wandb", fake := Fake())
    fit(tiny(tmp_path / "online", "boards=[wandb]"), quiet=True)
    assert fake.calls[0][2]["mode"] == "online"


def test_a_board_that_fails_is_said_once_and_the_run_ends_well(tmp_path, monkeypatch, capsys):
    def refuse(*args, **more):
        raise ConnectionError("no such host")

    fake = Fake(log=refuse)
    monkeypatch.setitem(sys.modules, "trackio", fake)
    assert fit(tiny(tmp_path / "run", "boards=[trackio, tensorboard]"))["teacher"]["mIoU"] is not None
    assert capsys.readouterr().out.count("no such host") == 1
    assert list((tmp_path / "run/tensorboard").iterdir())


def test_a_board_that_cannot_be_begun_is_told_before_anything_is_trained(tmp_path, monkeypatch):
    def refuse(*args, **more):
        raise RuntimeError("no such project")

    monkeypatch.setitem(sys.modules, "trackio", Fake(init=refuse))
    with pytest.raises(ValueError, match=r"trackio cannot be begun \(RuntimeError: no such project"):
        fit(tiny(tmp_path / "run", "boards=[trackio]"), quiet=True)


def test_a_board_that_is_not_installed_is_told_before_anything_is_trained_and_leaves_no_file_open(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="pip install wandb"):
        fit(tiny(tmp_path / "run", "boards=[wandb]"), quiet=True)
    held = [handle.readlink() for handle in Path("/proc/self/fd").iterdir() if handle.is_symlink()]
    assert [path.name for path in held if path.is_relative_to(tmp_path)] == []


def test_tensorboard_has_the_numbers_and_a_panel_of_the_worst_images(tmp_path):
    fit(tiny(tmp_path / "run", "eval.gallery=2"), quiet=True)
    found = EventAccumulator(str(tmp_path / "run/tensorboard"), size_guidance={"images": 0}).Reload()
    for key in ("train/loss_sup", "train/loss_cons", "train/lr", "val_student/mIoU", "val_teacher/mIoU"):
        shown = {event.step: event.value for event in found.Scalars(key)}
        assert shown == pytest.approx(numbers(tmp_path / "run", key), rel=1e-5)
    scored = read(tmp_path / "run")[-1]["val_teacher"]["IoU"]
    assert found.Scalars("val_teacher/IoU/background")[-1].value == pytest.approx(scored["background"])
    assert sorted(found.Tags()["images"]) == ["val/worst_0", "val/worst_1"]
    event = found.Images("val/worst_0")[-1]
    assert (event.step, event.height, event.width) == (4, 64, 6 * 64)
    assert np.isfinite(event.wall_time)
