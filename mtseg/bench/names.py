"""Measurements, each against a baseline of the same run, so that its ratios hold on any machine."""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from mtseg.data.cache import Cache
from mtseg.data.files import Files, Pool, files
from mtseg.data.folder import Folder
from mtseg.data.masks import in_order
from mtseg.data.match import Images, Labelled
from mtseg.warping import draw_image

Facts = dict[str, Any]
WORKERS, FOLDERS = 8, 100
SIZE, CROP = (1024, 2048), 512  # pixels: of an image of Cityscapes, and of a view of it
OWN = Path("/proc/self/smaps_rollup")  # Linux


def names(count: int) -> Facts:
    """Open a list of `count` file names, and hold it in WORKERS forked processes that ask for every name.

    The seconds of opening are compared with those of listing the folders and splitting the list into lines. The bytes
    by which a worker's own, unshared memory grows are compared with those that the names take in the parent; beside
    it stands the same for a list of strings, whose reference counts every reader writes to. Null where the system
    does not say (other than Linux).
    """
    with tempfile.TemporaryDirectory() as place:
        root = _tree(Path(place), count)
        baseline, _ = _timed(lambda: _plain(root))
        seconds, source = _timed(lambda: _opened(root))
    strings = [source.name(index) for index in range(len(source))]
    size = source.names.nbytes
    # Bytes that do not depend on the names (the interpreter's own, touched by any loop) are measured and taken off.
    idle = _growth(lambda: sum(len(str(index)) for index in range(count)))
    held = _growth(lambda: sum(len(source.name(index)) for index in range(count)))
    copied = _growth(lambda: sum(len(name) for name in strings))
    over = {"worker_over_parent": held, "worker_over_parent_as_strings": copied}
    return {
        "names": len(source),
        "seconds": round(seconds, 3),
        "baseline_seconds": round(baseline, 3),
        "seconds_over_baseline": round(seconds / baseline, 2),
        "workers": WORKERS,
        "bytes_of_the_names": size,
        **{key: round(max(0.0, max(grown) - min(idle)) / size, 3) if grown else None for key, grown in over.items()},
    }


def cache(count: int) -> Facts:
    """Take a crop of CROP from each of `count` images of SIZE, decoded each time, and from the cache of decoded files.

    The seconds of decoding are those of an image. All is read from the system's memory, not from its disk: before the
    first pass over a set that is larger than that, a disk may well be slower than a decoder.
    """
    facts: Facts = {"images": count, "size": f"{SIZE[0]}x{SIZE[1]}", "crop": f"{CROP}x{CROP}"}
    with tempfile.TemporaryDirectory() as place:
        for suffix in ("jpg", "png"):
            plain = _pictures(Path(place) / suffix, suffix, count)
            kept = replace(plain, cache=Cache(Path(place) / "cache"))
            decoding, _ = _timed(lambda source=plain: _crops(source))  # type: ignore[misc]
            _crops(kept)
            reading, _ = _timed(lambda source=kept: _crops(source))  # type: ignore[misc]
            facts |= {
                f"{suffix}_seconds": round(decoding / count, 5),
                f"{suffix}_over_cache": round(decoding / reading, 1),
            }
        facts["cache_bytes_an_image"] = Cache(Path(place) / "cache").size() // (2 * count)
    return facts


def _pictures(root: Path, suffix: str, count: int) -> Files:
    """`count` smooth pictures with some noise, as photographs are."""
    root.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = rng.integers(0, 256, (SIZE[0] // 32, SIZE[1] // 32, 3), dtype=np.uint8)
        smooth = cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_CUBIC).astype(np.float32)
        noisy = np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(root / f"{i}.{suffix}", quality=92)
    return files(root, Pool([f"{i}.{suffix}" for i in range(count)], []), in_order(1))


def _crops(source: Files) -> int:
    """Draw the middle of every image, as a view is drawn."""
    warp = np.diag([CROP / SIZE[1], CROP / SIZE[0], 1.0])
    return sum(int(draw_image(source.image(i), warp, (CROP, CROP))[0, 0, 0]) for i in range(len(source)))


def _tree(root: Path, count: int) -> Path:
    """`count` empty files in folders of unlabelled images, a list of them, and four labelled images with masks."""
    places = [f"unlabelled/{i % FOLDERS:03d}/photo_{i:08d}.jpg" for i in range(count)]
    places += [f"labelled/{kind}/photo_{i}.png" for kind in ("images", "masks") for i in range(4)]
    for folder in {Path(place).parent for place in places}:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for place in places:
        os.close(os.open(root / place, os.O_CREAT | os.O_WRONLY))
    (root / "unlabelled.txt").write_text("\n".join(places[:count]))
    return root


def _plain(root: Path) -> int:
    listed = sum(len(os.listdir(folder)) for folder in (root / "unlabelled").iterdir())  # noqa: PTH208 (the quickest)
    return listed + len((root / "unlabelled.txt").read_text().splitlines())


def _opened(root: Path) -> Files:
    data = Folder(
        root=root,
        classes=("one", "other"),
        labelled=Labelled(images="labelled/images", masks="labelled/masks"),
        unlabelled=Images(images="unlabelled.txt"),
        val=0.25,
    )
    source = data.build().unlabelled
    assert isinstance(source, Files)
    return source


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """The seconds of the best of three, and what the work gave."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
    return min(seconds), result


def _growth(work: Callable[[], Any]) -> list[int]:
    """By how many bytes of its own each of WORKERS forked processes grows, side by side, doing `work`."""
    if not OWN.is_file():
        return []
    context = multiprocessing.get_context("fork")
    queue: SimpleQueue[int] = context.SimpleQueue()
    barrier = context.Barrier(WORKERS)
    workers = [context.Process(target=_worker, args=(work, queue, barrier)) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    grown = [queue.get() for _ in workers]
    for worker in workers:
        worker.join()
    return grown


def _worker(work: Callable[[], Any], queue: "SimpleQueue[int]", barrier: Any) -> None:
    before = _own()
    work()
    queue.put(_own() - before)
    barrier.wait()  # all are alive until all have measured: what they share is shared


def _own() -> int:
    """The bytes of this process that no other shares."""
    lines = [line.split() for line in OWN.read_text().splitlines() if line.startswith("Private_")]
    return sum(int(line[1]) for line in lines) * 1024
