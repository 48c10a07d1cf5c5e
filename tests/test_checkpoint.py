"""Checkpoints: what is written is read, what is damaged is seen, and nothing that loads can execute."""

import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mtseg.run import checkpoint
from mtseg.run.checkpoint import Checkpoint


def sample(step: int) -> Checkpoint:
    torch.manual_seed(step)
    tensors = {"weight": torch.randn(3, 4), "count": torch.tensor(step), "half": torch.randn(2).bfloat16()}
    return Checkpoint(step, tensors, {"weight": torch.randn(3, 4).t()}, {"optimizer": {"state": {}}, "n": step})


def equal(one: Checkpoint, other: Checkpoint) -> bool:
    same = one.step == other.step and one.rest == other.rest
    for mine, yours in ((one.student, other.student), (one.teacher, other.teacher)):
        same = same and mine.keys() == yours.keys() and all(torch.equal(mine[k], yours[k]) for k in mine)
        same = same and all(mine[k].dtype == yours[k].dtype for k in mine)
    return same


def test_what_was_saved_is_loaded(tmp_path):
    checkpoint.save(tmp_path, sample(7), keep=2)
    loaded, damaged = checkpoint.load_newest(tmp_path)
    assert equal(loaded, sample(7))
    assert damaged == {}


def test_the_newest_by_step_is_chosen_and_only_the_last_are_kept(tmp_path):
    for step in (5, 50, 500, 100000000):
        checkpoint.save(tmp_path, sample(step), keep=2)
    assert [path.name for path in checkpoint.steps(tmp_path)] == ["step-00000500", "step-100000000"]
    assert checkpoint.load_newest(tmp_path)[0].step == 100000000


@pytest.mark.parametrize("name", ["student.safetensors", "teacher.safetensors", "state.pt", "manifest.json"])
@pytest.mark.parametrize("harm", ["flip", "truncate", "empty", "remove"])
def test_any_damage_to_the_newest_is_named_and_the_one_before_is_loaded(name, harm, tmp_path):
    for step in (1, 2):
        checkpoint.save(tmp_path, sample(step), keep=2)
    victim = checkpoint.steps(tmp_path)[-1] / name
    data = bytearray(victim.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 1
    if harm == "remove":
        victim.unlink()
    else:
        victim.write_bytes(data if harm == "flip" else data[: len(data) // 2] if harm == "truncate" else b"")
    loaded, damaged = checkpoint.load_newest(tmp_path)
    assert equal(loaded, sample(1))
    assert len(damaged) == 1
    assert next(iter(damaged)).name == "step-00000002"


def test_a_crash_while_writing_leaves_the_earlier_checkpoint(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, sample(1), keep=2)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    for moment in ("mtseg.run.checkpoint.save_file", "torch.save", "mtseg.run.checkpoint.flush", "pathlib.Path.rename"):
        with monkeypatch.context() as patch:
            patch.setattr(moment, crash)
            with pytest.raises(KeyboardInterrupt):
                checkpoint.save(tmp_path, sample(2), keep=1)
        loaded, damaged = checkpoint.load_newest(tmp_path)
        assert equal(loaded, sample(1))
        assert damaged == {}


def test_what_a_crash_left_aside_is_cleared_by_the_next_checkpoint(tmp_path):
    left = tmp_path / ".tmp-3-999999"
    left.mkdir()
    (left / "student.safetensors").write_bytes(b"half")
    checkpoint.save(tmp_path, sample(4), keep=2)
    assert not left.exists()


def test_a_file_that_a_crash_left_aside_is_cleared_too_and_a_stranger_to_the_naming_stays(tmp_path):
    left, other = tmp_path / ".tmp-best.json-999999", tmp_path / "notes.txt"
    left.write_text('{"step": 3')
    other.write_text("mine")
    place = checkpoint.save(tmp_path, sample(4), keep=2)
    assert sorted(tmp_path.iterdir()) == [other, place]


def test_a_payload_in_a_checkpoint_is_refused_and_does_not_run(tmp_path):
    place = checkpoint.save(tmp_path / "run", sample(1), keep=2)
    marker = tmp_path / "executed"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {marker}",)

    (place / "state.pt").write_bytes(pickle.dumps(Payload()))
    rewrite_manifest(place)
    with pytest.raises(ValueError, match="no whole checkpoint"):
        checkpoint.load_newest(tmp_path / "run")
    assert not marker.exists()


def rewrite_manifest(place: Path) -> None:
    """What a stranger would do: a manifest that agrees with the files."""
    import hashlib
    import json

    manifest = json.loads((place / "manifest.json").read_text())
    for name in manifest["files"]:
        data = (place / name).read_bytes()
        manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (place / "manifest.json").write_text(json.dumps(manifest))


def test_no_checkpoint_at_all_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no whole checkpoint"):
        checkpoint.load_newest(tmp_path)


def test_damaged_checkpoints_set_aside_are_not_counted_by_the_keeping(tmp_path):
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, sample(step), keep=9)
    for step in (2, 3):
        (tmp_path / checkpoint.name_of(step) / "state.pt").write_bytes(b"")
    loaded, damaged = checkpoint.load_newest(tmp_path)
    for place in damaged:
        assert checkpoint.set_aside(place).is_dir()
    checkpoint.save(tmp_path, sample(loaded.step + 1), keep=2)
    assert [place.name for place in checkpoint.steps(tmp_path)] == ["step-00000001", "step-00000002"]
    assert checkpoint.load_newest(tmp_path)[1] == {}


def test_weights_that_are_not_finite_are_refused_and_nothing_is_written(tmp_path):
    for value in (float("nan"), float("inf")):
        bad = sample(2)
        next(tensor for tensor in bad.teacher.values() if tensor.is_floating_point()).fill_(value)
        with pytest.raises(ValueError, match=r"teacher's .* not finite at step 2"):
            checkpoint.save(tmp_path, bad, keep=2)
    assert list(tmp_path.iterdir()) == []


def test_what_is_amended_is_loaded_in_the_place_of_what_was_saved_and_all_else_stays(tmp_path):
    place = checkpoint.save(tmp_path, sample(3), keep=2)
    checkpoint.amend(place, {"n": 4})
    checkpoint.amend(place, {"more": 5})
    loaded = checkpoint.load(place)
    assert loaded.rest == sample(3).rest | {"n": 4, "more": 5}
    assert equal(replace(loaded, rest=sample(3).rest), sample(3))
    (place / "state.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"state\.pt is not what was written"):
        checkpoint.load(place)
