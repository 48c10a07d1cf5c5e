"""Files that a stranger hands over: any bytes are an object of the right kind or one clear error, and never run."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from runs import TINY, tiny
from test_checkpoint import rewrite_manifest
from test_trainer import CPU

import mtseg
from mtseg import cli
from mtseg.config import Config, load
from mtseg.data.lists import Entry, read_list
from mtseg.data.provenance import named, record
from mtseg.inference.trained import Trained
from mtseg.results.run_page import page
from mtseg.run import capture, checkpoint, versions
from mtseg.run.checkpoint import Checkpoint
from mtseg.run.logged import read
from mtseg.saved import restore
from mtseg.state import build
from mtseg.trainer import fit

FUZZ = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
FEW = settings(FUZZ, max_examples=20)
DEEP = b"[" * 3000

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


def paths_of(tree: dict[str, Any], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    inner = [(*prefix, key) for key in tree]
    deeper = [paths_of(value, (*prefix, key)) for key, value in tree.items() if isinstance(value, dict)]
    return inner + [path for some in deeper for path in some]


def outcome(call: Callable[[], Any]) -> Any:
    """What `call` returns, or the ValueError that it raises; any other error is the test's."""
    try:
        return call()
    except ValueError as error:
        return error


def said_well(error: Any) -> bool:
    """A ValueError for a reader: not empty, no wall of text, not the words of an accident inside."""
    text = str(error)
    return (
        isinstance(error, ValueError)
        and 0 < len(text) < 3000
        and not any(word in text for word in ("Traceback", "NoneType", "object at 0x"))
    )


@FUZZ
@given(st.sampled_from(paths_of(TINY)), trees)
def test_a_config_with_anything_in_any_place_is_a_config_or_an_error(tmp_path, path, value):
    tree = json.loads(json.dumps(TINY)) | {"out": "run"}
    place = tree
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(tree, allow_unicode=False), encoding="utf-8")
    found = outcome(lambda: load([str(file)]))
    assert isinstance(found, Config) or said_well(found)


@FUZZ
@given(st.data())
def test_a_config_with_bytes_changed_is_a_config_or_an_error(tmp_path, data):
    whole = bytearray(yaml.safe_dump(TINY | {"out": "run"}).encode())
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    file = tmp_path / "config.yaml"
    file.write_bytes(whole)
    found = outcome(lambda: load([str(file)]))
    assert isinstance(found, Config) or said_well(found)


@FUZZ
@given(st.binary() | st.text().map(str.encode) | trees.map(lambda tree: json.dumps(tree).encode()), st.booleans())
@example(DEEP, True)
@example(DEEP, False)
@example(b'{"a.jpg": ' + DEEP, True)
@example(b"\xef\xbb\xbf", True)
@example(b"9" * 5000, True)
def test_any_bytes_are_a_list_or_an_error_that_names_the_file(tmp_path, content, as_json):
    path = tmp_path / ("list.json" if as_json else "list.txt")
    path.write_bytes(content)
    found = outcome(lambda: read_list(path))
    if isinstance(found, list):
        assert found
        assert all(isinstance(entry, Entry) and entry.image for entry in found)
    else:
        assert str(path) in str(found)
        assert said_well(found)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("fuzz") / "run"
    fit(tiny(run, "steps=2", "method.target={kind: adaptive}", "method.distance={kind: cross_entropy}"), quiet=True)
    return run


@FEW
@given(st.sampled_from(["student.safetensors", "teacher.safetensors", "state.pt"]), st.data())
def test_a_checkpoint_with_bytes_changed_and_a_manifest_that_agrees_is_whole_or_an_error(trained, tmp_path, name, data):
    folder = tmp_path / "checkpoints"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(trained / "checkpoints", folder)
    place = checkpoint.steps(folder)[-1]
    content = bytearray((place / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(2000, len(content) - 1)))  # where the structure is
        content[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    (place / name).write_bytes(content)
    rewrite_manifest(place)
    config = tiny(trained, "steps=2", "method.target={kind: adaptive}", "method.distance={kind: cross_entropy}")
    state = build(config, config.data.build(), CPU)
    found = outcome(lambda: restore(state, checkpoint.load_newest(folder)[0], trained))
    assert isinstance(found, int) or said_well(found)


@FEW
@given(trees)
@example({})
@example({"teacher": {}, "memory": {}, "optimizer": {}, "metrics_bytes": 0})
def test_a_checkpoint_with_anything_beside_its_weights_is_refused_or_restored(trained, rest):
    config = tiny(trained, "steps=2")
    saved, _ = checkpoint.load_newest(trained / "checkpoints")
    found = Checkpoint(saved.step, saved.student, saved.teacher, rest)
    with pytest.raises(ValueError, match="not of a run with its config"):
        restore(build(config, config.data.build(), CPU), found, trained)


@FUZZ
@given(st.binary(max_size=300))
@example(DEEP)
@example(b'{"step": 1, "files": {"../../../etc/passwd": {"bytes": 1, "sha256": ""}}}')
@example(b'{"step": -1, "files": {}}')
def test_any_manifest_is_a_checkpoint_or_an_error(trained, tmp_path, content):
    folder = tmp_path / "checkpoints"
    if not folder.exists():
        shutil.copytree(trained / "checkpoints", folder)
    (checkpoint.steps(folder)[-1] / "manifest.json").write_bytes(content)
    found = outcome(lambda: checkpoint.load_newest(folder)[0])
    assert isinstance(found, Checkpoint) or "no whole checkpoint" in str(found)


def contents() -> st.SearchStrategy[bytes]:
    def saved(tree: Any) -> bytes:
        file = io.BytesIO()
        torch.save(tree, file)
        return file.getvalue()

    return st.binary(max_size=200) | trees.map(saved)


@FUZZ
@given(contents())
def test_any_bytes_are_a_captured_step_or_an_error(tmp_path, content):
    path = tmp_path / "capture-1.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a captured step"):
        capture.read(path, [])


@FUZZ
@given(st.binary(max_size=100))
@example(DEEP)
def test_any_bytes_in_a_runs_small_files_are_read_or_an_error(tmp_path, content):
    splits = tiny(tmp_path).data.build()
    readers = {
        "metrics.jsonl": lambda: read(tmp_path),
        "splits.json": lambda: record(tmp_path, splits, continued=True),
        "best.json": lambda: checkpoint.chosen(tmp_path, "best"),
        "versions.json": lambda: versions.record(tmp_path, 1),
    }
    for name, reader in readers.items():
        (tmp_path / name).write_bytes(content)
        found = outcome(reader)
        assert not isinstance(found, ValueError) or name in str(found)


@pytest.fixture(scope="module")
def handed(trained: Path) -> Path:
    assert cli.main(["export", str(trained), "--to", "hf"]) == 0
    return trained / "export/hf"


ODD = [
    *("null", "[1]", '"text"', "7", "{}"),
    *({"palette": p} for p in ([], ["000000"] * 6, ["00000"] * 7, ["grey"] * 7, ["#-12345"] * 7, [[1, 2, 3]] * 7)),
    *({"classes": c} for c in ([], ["a"] * 7, ["a", "b"], "abcdefg", [str(n) for n in range(300)], [["a"]] * 7)),
    *({"step": n} for n in (-1, 1.5, "last", None)),
    *({"network": n} for n in ("both", "", None, ["teacher"])),
    *({"device": d} for d in ("gpu", "cuda:x", "mps", "", 0, "cuda:99", "cuda:999")),
    {"channels": {"layers": [{"count": 4}], "rgb": True}},
    {"model": {"kind": "smp", "arch": "nothing", "encoder": "none"}},
    {"model": {"kind": "smp", "arch": "unet", "encoder": "tu-test_resnet", "options": {"encoder_depth": "deep"}}},
    {"more": 1},
]


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_what_a_folder_says_of_its_weights_is_one_that_fits_or_an_error_with_file_and_key(handed, tmp_path, odd):
    folder = tmp_path / "hf"
    shutil.copytree(handed, folder)
    whole = json.loads((folder / "mtseg.json").read_text())
    (folder / "mtseg.json").write_text(odd if isinstance(odd, str) else json.dumps(whole | odd))
    found = outcome(lambda: mtseg.load(folder))
    assert said_well(found)
    assert str(folder / "mtseg.json") in str(found)
    assert all(key in str(found) for key in (odd if isinstance(odd, dict) else []))


@FUZZ
@given(st.data())
def test_a_folder_that_says_anything_of_its_weights_is_loaded_or_refused_by_name(handed, tmp_path, data):
    folder = tmp_path / "hf"
    if not folder.exists():
        shutil.copytree(handed, folder)
    tree = json.loads((handed / "mtseg.json").read_text())
    path = data.draw(st.sampled_from(paths_of(tree)))
    place = tree
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = data.draw(trees)
    (folder / "mtseg.json").write_text(json.dumps(tree))
    found = outcome(lambda: mtseg.load(folder))
    if not isinstance(found, Trained):
        assert "mtseg.json" in str(found)
        assert said_well(found) or "cannot be built: " in str(found)  # in the words of the library


@FUZZ
@given(st.binary(max_size=100) | trees.map(lambda tree: json.dumps(tree).encode()))
@example(DEEP)
@example(b"[1]")
@example(b'{"classes": [], "palette": []}')
def test_any_bytes_are_what_a_folder_says_or_an_error(handed, tmp_path, content):
    folder = tmp_path / "hf"
    if not folder.exists():
        shutil.copytree(handed, folder)
    (folder / "mtseg.json").write_bytes(content)
    found = outcome(lambda: mtseg.load(folder))
    assert said_well(found)
    assert "mtseg.json" in str(found)


names = st.lists(st.text(max_size=3), max_size=3)
inks = st.lists(st.text("0123456789abcdef#g ", max_size=7), max_size=3)


@FUZZ
@given(
    st.binary(max_size=100)
    | trees.map(lambda tree: json.dumps(tree).encode())
    | st.fixed_dictionaries({"classes": names | trees, "palette": inks | trees}).map(lambda t: json.dumps(t).encode())
)
@example(DEEP)
@example(b"[1]")
@example(b'{"classes": ["a", "a"], "palette": ["000000", "ffffff"]}')
@example(b'{"classes": ["a", "b"], "palette": ["000000"]}')
@example(b'{"classes": ["a"], "palette": ["00000000"]}')
@example(b'{"classes": ["a"], "palette": "000000"}')
@example(b'{"classes": "a", "palette": ["000000"]}')
@example(b'{"classes": [1], "palette": ["000000"]}')
def test_any_bytes_are_classes_with_colours_or_an_error_and_the_page_is_drawn(trained, tmp_path, content):
    run = tmp_path / "run"
    if not run.exists():
        shutil.copytree(trained, run)
    (run / "classes.json").write_bytes(content)
    found = outcome(lambda: named(run / "classes.json"))
    if isinstance(found, tuple):
        assert len(set(found[0])) == len(found[1]) > 0
        assert (found[1].shape[1:], found[1].dtype) == ((3,), np.uint8)
    else:
        assert said_well(found)
        assert "classes.json" in str(found)
        assert "classes.json" in str(outcome(lambda: mtseg.load(run)))
    assert "<h2>Curves</h2>" in page(run)


@FUZZ
@given(st.sampled_from(["evaluation.json", "versions.json", "splits.json", "timings.jsonl"]), st.data())
def test_a_page_is_drawn_whatever_its_files_say(trained, tmp_path, name, data):
    run = tmp_path / "run"
    if not run.exists():
        shutil.copytree(trained, run)
    whole = (trained / name).read_bytes()
    said = json.loads(whole.splitlines()[0] if name.endswith("l") else whole)
    content = trees
    if isinstance(said, dict):
        content |= st.fixed_dictionaries({key: st.just(value) | trees for key, value in said.items()})
    (run / name).write_text(json.dumps(data.draw(content)))
    found = outcome(lambda: page(run))
    assert "<h2>Curves</h2>" in str(found)
    (run / name).write_bytes(whole)
