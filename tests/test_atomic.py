"""Files that are whole: the old one, the new one, or none; whatever goes wrong, and whatever they are called."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mtseg.atomic import aside, digest_of, write_whole
from mtseg.run import checkpoint


def test_a_text_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    write_whole(path, "steps: 1\n")
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", lambda *_: pytest.fail("crash"))
        with pytest.raises(pytest.fail.Exception):
            write_whole(path, "steps: 2\n")
    assert path.read_text() == "steps: 1\n"


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """What the disk is asked to have, and what is renamed, in their order: the names then."""
    asked: list[str] = []
    rename, replace = Path.rename, Path.replace

    def named(how: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
        return lambda path, to: (asked.append(f"{path.name} -> {Path(to).name}"), how(path, to))[1]

    monkeypatch.setattr(os, "fsync", lambda handle: asked.append(Path(f"/proc/self/fd/{handle}").readlink().name))
    monkeypatch.setattr(Path, "rename", named(rename))
    monkeypatch.setattr(Path, "replace", named(replace))
    return asked


def test_a_text_file_is_on_the_disk_before_it_has_its_name(asked, tmp_path):
    write_whole(tmp_path / "best.json", "{}")
    aside = f".tmp-{os.getpid()}-best.json"
    assert asked == [aside, f"{aside} -> best.json"]


def test_all_of_a_checkpoint_is_on_the_disk_before_it_has_its_name_and_then_the_name(asked, tmp_path):
    place = checkpoint.save(tmp_path / "checkpoints", checkpoint.Checkpoint(3, {}, {}, {}), keep=1)
    aside = f".tmp-3-{os.getpid()}"
    *files, folder, renamed, holder = asked
    assert sorted(files) == sorted(path.name for path in place.iterdir())
    assert (folder, renamed, holder) == (aside, f"{aside} -> {place.name}", "checkpoints")


@pytest.mark.parametrize("moment", ["pathlib.Path.write_text", "mtseg.atomic.flush", "pathlib.Path.replace"])
def test_a_text_file_that_the_disk_does_not_take_leaves_nothing_beside_the_old_one(moment, tmp_path, monkeypatch):
    path = tmp_path / "best.json"
    write_whole(path, "{}")
    write = Path.write_text

    def refused(aside: Path, *given: object, **options: object) -> None:
        write(aside, "half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(moment, refused)
        with pytest.raises(OSError, match="No space"):
            write_whole(path, "{1}")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "{}"


def test_what_fails_while_it_is_written_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(b"old")

    def stopped() -> None:
        with aside(path) as place:
            place.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


def test_a_full_disk_is_told_with_the_file_that_was_to_be_written(tmp_path):
    def full() -> None:
        with aside(tmp_path / "scores.json"):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"No space left on device: '.*scores\.json'"):
        full()


@pytest.mark.parametrize("name", ["n" * 250 + ".png", "\u4e2d" * 83 + ".png", "a.png"])
def test_whatever_name_there_may_be_can_be_written(name, tmp_path):
    path = tmp_path / name
    with aside(path) as place:
        assert place.suffix == ".png"
        place.write_bytes(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


def test_the_digest_is_that_of_the_content(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert digest_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()
