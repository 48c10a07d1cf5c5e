"""The cache of decoded files: it changes no pixel, keeps up with its sources, and outlives whoever writes it."""

import dataclasses
import errno
import io
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import trees
from PIL import Image
from runs import tiny

from mtseg.config import Config
from mtseg.data import cache as cache_module
from mtseg.data.cache import UNFINISHED, Cache
from mtseg.data.channels import Channels, Layer
from mtseg.data.files import Files, Pool, files
from mtseg.data.folder import Folder
from mtseg.data.masks import in_order
from mtseg.doctor import cache as doctors
from mtseg.doctor.examine import examine
from mtseg.doctor.machine import Machine
from mtseg.run import checkpoint
from mtseg.settings.checked import dump, validate
from mtseg.settings.differences import differences
from mtseg.settings.merge import merge
from mtseg.trainer import fit

COUNT = 6


def a_source(root: Path, folder: Path | None) -> Files:
    names, masks = [f"i/{i}.png" for i in range(COUNT)], [f"m/{i}.png" for i in range(COUNT)]
    if not root.exists():
        for i, (name, mask) in enumerate(zip(names, masks, strict=True)):
            trees.image(root / name, i)
            trees.mask(root / mask, trees.blocks([0, 1, 2, 255], i))
    source = files(root, Pool(names, masks), in_order(3))
    return dataclasses.replace(source, cache=None if folder is None else Cache(folder))


def arrays(folder: Path) -> list[Path]:
    return sorted(folder.glob("??/*.npy"))


def test_what_is_kept_is_what_is_decoded_to_the_bit(tmp_path):
    plain, cached = a_source(tmp_path / "data", None), a_source(tmp_path / "data", tmp_path / "cache")
    for _ in range(2):
        for i in range(COUNT):
            np.testing.assert_array_equal(cached.image(i), plain.image(i))
            np.testing.assert_array_equal(cached.label(i), plain.label(i))
            assert cached.image(i).dtype == plain.image(i).dtype
    assert len(arrays(tmp_path / "cache")) == 2 * COUNT
    assert not list((tmp_path / "cache" / UNFINISHED).iterdir())


def test_what_is_kept_is_not_decoded_again(tmp_path):
    source = a_source(tmp_path / "data", tmp_path / "cache")
    wanted = [source.image(i).copy() for i in range(COUNT)]
    for path in (tmp_path / "data/i").iterdir():  # the same size and time, and no image
        times = path.stat()
        path.write_bytes(b"x" * times.st_size)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    for i in range(COUNT):
        np.testing.assert_array_equal(source.image(i), wanted[i])


def test_a_source_that_changes_in_time_or_size_is_decoded_again(tmp_path):
    source, path = a_source(tmp_path / "data", tmp_path / "cache"), tmp_path / "data/i/0.png"
    source.image(0)
    before = path.stat()
    trees.image(path, 77)
    changed = np.asarray(Image.open(path))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    np.testing.assert_array_equal(source.image(0), changed)
    with path.open("ab") as file:
        file.write(b"tail")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    np.testing.assert_array_equal(source.image(0), changed)
    assert len(arrays(tmp_path / "cache")) == 3


def test_a_further_file_that_changes_is_a_change_of_the_image(tmp_path):
    root = trees.rgbd(tmp_path / "data")
    layers = (Layer(), Layer(folder=("images", "depth"), suffix=".png", count=1, range=(0, 10000)))
    source = files(root, Pool(["labelled/images/labelled_0.jpg"], []), in_order(3))
    source = dataclasses.replace(source, channels=Channels(layers=layers), cache=Cache(tmp_path / "cache"))
    source.image(0)
    trees.mask(root / "labelled/depth/labelled_0.png", np.full(trees.SIZE, 10000, np.uint16))
    assert (source.image(0)[..., 3] == 255).all()


def test_other_settings_of_decoding_are_other_entries(tmp_path):
    source = a_source(tmp_path / "data", tmp_path / "cache")
    swapped = dataclasses.replace(source, channels=Channels(layers=(Layer(take=(2, 1, 0)),)))
    np.testing.assert_array_equal(swapped.image(0), source.image(0)[..., ::-1])
    np.testing.assert_array_equal(source.image(0), source.image(0))
    assert len(arrays(tmp_path / "cache")) == 2


def test_images_that_are_changed_by_who_reads_them_change_no_file(tmp_path):
    source = a_source(tmp_path / "data", tmp_path / "cache")
    wanted = source.image(0).copy()
    source.image(0)[:] = 0
    np.testing.assert_array_equal(source.image(0), wanted)


@pytest.mark.parametrize("wrong", [b"", b"\x93NUMPY", b"anything", "half", "objects", "pickled"])
def test_an_entry_that_is_not_whole_is_made_again_and_executes_nothing(tmp_path, wrong, monkeypatch):
    source, plain = a_source(tmp_path / "data", tmp_path / "cache"), a_source(tmp_path / "data", None)
    source.image(0)
    (place,) = arrays(tmp_path / "cache")
    whole = place.read_bytes()
    monkeypatch.setattr("pickle.load", lambda *_, **__: pytest.fail("unpickled"))
    if wrong == "objects":
        np.save(place, np.array([[{"an": "object"}]], object), allow_pickle=True)
    elif wrong == "pickled":
        place.write_bytes(pickle.dumps([1, 2]))
    else:
        place.write_bytes(whole[: len(whole) // 2] if wrong == "half" else wrong)
    np.testing.assert_array_equal(source.image(0), plain.image(0))
    assert place.read_bytes() == whole


def test_a_process_that_dies_while_it_writes_leaves_no_entry_and_is_swept_up(tmp_path, monkeypatch):
    source = a_source(tmp_path / "data", tmp_path / "cache")
    monkeypatch.setattr(cache_module.os, "fsync", lambda _: os.kill(os.getpid(), signal.SIGKILL))
    child = multiprocessing.get_context("fork").Process(target=source.image, args=(0,))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert not arrays(tmp_path / "cache")
    (left,) = (tmp_path / "cache" / UNFINISHED).iterdir()
    source.cache.sweep()
    assert left.exists()  # it may be of a process that lives
    os.utime(left, (0, time.time() - 2 * cache_module.ABANDONED))
    source.cache.sweep()
    assert not left.exists()


def test_a_machine_that_dies_while_it_writes_harms_no_entry_that_another_is_writing(tmp_path, monkeypatch):
    """Their processes have one number, as those of containers do."""
    first, second = (a_source(tmp_path / "data", tmp_path / "cache") for _ in range(2))
    save, number = np.save, os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: number)

    def dying(file, *_, **__):
        file.write(b"no array")
        file.flush()
        signal.raise_signal(signal.SIGKILL)

    def half(file, values, **_):
        whole = io.BytesIO()
        save(whole, values)
        file.write(whole.getvalue()[:200])
        file.flush()
        monkeypatch.setattr(cache_module.np, "save", dying)
        child = multiprocessing.get_context("fork").Process(target=second.image, args=(0,))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        file.write(whole.getvalue()[200:])

    monkeypatch.setattr(cache_module.np, "save", half)
    read = first.image(0)
    (place,) = arrays(tmp_path / "cache")
    np.testing.assert_array_equal(np.load(place), read)


def _read(source: Files, turn: int, barrier, queue) -> None:
    barrier.wait()
    wrong = 0
    for i in [(turn + n) % COUNT for n in range(COUNT)] * 3:
        wrong += not np.array_equal(source.image(i), dataclasses.replace(source, cache=None).image(i))
    queue.put(wrong)


def test_processes_that_read_and_write_at_once_all_read_what_is_right(tmp_path):
    source, context = a_source(tmp_path / "data", tmp_path / "cache"), multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(6), context.SimpleQueue()
    workers = [context.Process(target=_read, args=(source, turn // 2, barrier, queue)) for turn in range(6)]
    for worker in workers:
        worker.start()
    assert [queue.get() for _ in workers] == [0] * 6
    for worker in workers:
        worker.join()
    assert len(arrays(tmp_path / "cache")) == COUNT
    assert not list((tmp_path / "cache" / UNFINISHED).iterdir())


def test_a_full_disk_is_said_once_and_reading_goes_on(tmp_path, monkeypatch, capfd):
    source, plain = a_source(tmp_path / "data", tmp_path / "cache"), a_source(tmp_path / "data", None)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache_module.np, "save", full)
    for i in range(COUNT):
        np.testing.assert_array_equal(source.image(i), plain.image(i))
    assert capfd.readouterr().err.count("data.cache: ") == 1
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_bad_files_are_told_as_without_a_cache(tmp_path):
    source = a_source(tmp_path / "data", tmp_path / "cache")
    os.truncate(tmp_path / "data/i/0.png", 40)
    (tmp_path / "data/i/1.png").unlink()
    for i, says in ((0, r"i/0\.png: not a whole image"), (1, r"i/1\.png: no such file")):
        with pytest.raises(ValueError, match=says):
            source.image(i)
    assert not arrays(tmp_path / "cache")


def config_of(root: Path, out: Path, cache: Path | None) -> Config:
    data = {"kind": "folder", "root": str(root), "classes": ["a", "b", "c"], "val": 0.25}
    data |= {"labelled": {"images": "labelled/images", "masks": "labelled/masks"}}
    data |= {"unlabelled": {"images": "unlabelled"}, "cache": None if cache is None else str(cache)}
    return validate(Config, merge(dump(tiny(out, "workers=2")), {"data": data}))


def test_a_run_is_the_same_to_the_bit_with_a_cache_that_is_empty_full_and_none(tmp_path):
    root = trees.own(tmp_path / "data")
    outcomes = []
    for name, folder in (("none", None), ("empty", tmp_path / "cache"), ("full", tmp_path / "cache")):
        config = config_of(root, tmp_path / name, folder)
        fit(config, quiet=True)
        weights = checkpoint.load_newest(config.out / "checkpoints")[0].student
        metrics = (config.out / "metrics.jsonl").read_bytes()
        outcomes.append([metrics, *(weights[key].numpy().tobytes() for key in weights)])
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert arrays(tmp_path / "cache")
    assert differences(config_of(root, tmp_path, None), config_of(root, tmp_path, tmp_path / "cache")) == []


def folder_with(root: Path, *, images: str | list[str], cache: Path) -> Folder:
    pools = {"labelled": {"images": "labelled/images", "masks": "labelled/masks"}, "unlabelled": {"images": images}}
    return validate(Folder, {"root": str(root), "classes": ["a", "b", "c"], "val": 0.25, "cache": str(cache), **pools})


@pytest.mark.parametrize(
    ("images", "cache"),
    [
        ("unlabelled", "unlabelled"),
        ("unlabelled", "unlabelled/deep/cache"),
        ("unlabelled", "archive/cache"),  # through a link
        ("unlabelled/**/*", "unlabelled/cache"),
        (["unlabelled/*.png", "un*/**/*.npy"], "unlabelled/cache"),
        ("unlabelled/*/*/*", "unlabelled/cache"),
        ("unlabelled/*.png", "labelled/masks/cache"),
    ],
)
def test_a_cache_in_a_folder_that_is_searched_is_refused_before_it_is_written(images, cache, tmp_path):
    root = trees.own(tmp_path / "data")
    for name in ("0.png", "1.npy"):
        (root / "unlabelled/a/b").mkdir(parents=True, exist_ok=True)
        (root / "unlabelled/a/b" / name).touch()
    (root / "archive").mkdir()
    (root / "unlabelled/more").symlink_to("../archive")
    with pytest.raises(ValueError, match=r"data\.cache: \S+ lies in a folder that is searched for images.* elsewhere"):
        folder_with(root, images=images, cache=root / cache).build()


@pytest.mark.parametrize(
    ("images", "cache"),
    [
        ("unlabelled", "cache"),
        ("unlabelled", "unlabelled/.cache"),
        ("unlabelled/**/*.png", "unlabelled/cache"),
        ("unlabelled/*", "unlabelled/cache"),
        ("some.txt", "unlabelled/cache"),
    ],
)
def test_a_cache_that_no_search_finds_may_lie_in_the_root_and_changes_no_pool(images, cache, tmp_path):
    root = trees.own(tmp_path / "data")
    (root / "some.txt").write_text("unlabelled/snap_3.png\nunlabelled/snap_1.png\n")
    for _ in range(2):
        source = folder_with(root, images=images, cache=root / cache).build().unlabelled
        assert len(source) == (2 if images == "some.txt" else 8)
        for index in range(len(source)):
            source.image(index)
    assert arrays(root / cache)


# -- the doctor -------------------------------------------------------------------------------------------------------

HEALTHY = Machine({"torch": "2.6", "torchvision": "0.21"}, "", 2**40, 2**20)


def test_the_doctor_says_what_the_cache_takes_and_will_take(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")  # of a disk that nobody else writes to
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**40, 2**39, 2**39))
    root = trees.own(tmp_path / "data")
    config = config_of(root, tmp_path / "run", tmp_path / "cache")
    kept = doctors.kept(examine(config, HEALTHY, workers=0).read)
    area = trees.SIZE[0] * trees.SIZE[1]
    values = area * (3 * 16 + 8)  # 8 labelled images, 8 others, 8 masks
    assert (kept.there, kept.ours, kept.coming) == (0, 0, values)
    splits = config.data.build()
    for pool in (splits.labelled, splits.val, splits.unlabelled):
        for i in range(len(pool)):
            pool.image(i)
            if pool.masks is not None:
                pool.label(i)
    taken = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.npy"))
    assert values < taken < 1.2 * values
    trees.image(root / "unlabelled/snap_0.png", 999)
    found = examine(config, HEALTHY, workers=0)
    kept = doctors.kept(found.read)
    assert (kept.there, kept.coming) == (taken, 3 * area)
    assert kept.there - kept.ours == 3 * area + 128  # the entry of what it was, with numpy's header
    assert json.loads(json.dumps(found.facts))["cache"] == kept.sentence()
    assert not [finding for finding in found.findings if finding.code == "cache-full"]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**40, 2**40 - 100, 3 * area - 1))
    assert "cache-full" in {finding.code for finding in doctors.of_cache(doctors.kept(found.read))}
