"""What the scripts `datasets/*/prepare.py` share: counting a tree, fetching lists, making masks that are missing."""

import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from mtseg.atomic import aside
from mtseg.data.cityscapes import TRAIN_ID
from mtseg.data.decode import read_mask
from mtseg.data.lists import read_list
from mtseg.data.masks import by_value
from mtseg.data.palette import voc_colours

T = TypeVar("T")
TIMEOUT = 20  # seconds without an answer
MAX_LIST = 50_000_000  # bytes; published lists have at most some millions


def answer(work: Callable[[], bool]) -> int:
    """Run a script's `work`; the exit code: 0 where all is there, 1 where not, or for an error, told in one line."""
    try:
        return 0 if work() else 1
    except (ValueError, OSError) as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 1


def counted(root: Path, expected: Mapping[str, int]) -> bool:
    """Print a table of globs under `root` with the number of files found and expected; whether all are equal.

    Raises ValueError where `root` is no folder.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; name the one that holds the data set (see README.md beside this)")
    table = Table("files", "found", "expected", "", title=str(root))
    found = {pattern: sum(1 for _ in root.glob(pattern)) for pattern in shown(expected, "counting")}
    for pattern, number in expected.items():
        verdict = "" if found[pattern] == number else f"{number - found[pattern]:+d} wanted"
        table.add_row(pattern, str(found[pattern]), str(number), verdict)
    Console().print(table)
    return found == dict(expected)


def shown(items: Iterable[T], what: str) -> Iterable[T]:
    """The items, with a progress bar on standard error."""
    listed = list(items)
    with Progress(console=Console(stderr=True)) as progress:
        yield from progress.track(listed, description=what)


def fetch(base: str, names: Mapping[str, str], into: Path, *, counts: Mapping[str, int]) -> None:
    """Get the lists `base`/URL for each `path: URL` of `names`, and write them to `into`/path.

    A list that is there already is kept. Raises ValueError in one line where the network or the list is not there,
    and for a list with another number of entries than `counts` (by path) says; nothing half fetched is left.
    """
    for path, url in shown(names.items(), "fetching lists"):
        place = into / path
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            with aside(place) as unfinished:
                unfinished.write_bytes(_got(f"{base}/{url}"))
        number = len(read_list(place))
        if number != counts.get(path, number):
            raise ValueError(f"{place}: names {number} images, {counts[path]} were published; delete it and try again")


def _got(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            content = response.read(MAX_LIST + 1)
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise ValueError(
            f"{url}: cannot be fetched ({reason}); fetch it elsewhere, or name a list of your own"
        ) from None
    if len(content) > MAX_LIST:
        raise ValueError(f"{url}: over {MAX_LIST} bytes, which is no list")
    return bytes(content)


def train_ids(root: Path) -> int:
    """Write labelTrainIds masks beside all of Cityscapes' labelIds masks that lack one; returns how many."""
    to_train, made = by_value(TRAIN_ID), 0
    for path in shown(sorted(root.glob("gtFine/*/*/*_gtFine_labelIds.png")), "labelTrainIds"):
        place = path.with_name(path.name.replace("_labelIds", "_labelTrainIds"))
        if not place.exists():
            save(place, to_train(read_mask(path), str(path)))
            made += 1
    return made


def merge_sbd(voc: Path, sbd: Path) -> int:
    """Make VOC's augmented training set: SegmentationClassAug and ImageSets/Segmentation/trainaug.txt.

    voc: VOCdevkit/VOC2012; sbd: the folder `dataset` of the Semantic Boundaries Dataset, with cls/*.mat, train.txt
    and val.txt. An image that VOC itself has a mask of keeps that mask; of the others all are training images. VOC's
    validation images are never among them. Returns the number of training images.
    """
    sets, masks = voc / "ImageSets" / "Segmentation", voc / "SegmentationClassAug"
    train, val = (_ids(sets / f"{name}.txt") for name in ("train", "val"))
    extra = set(_ids(sbd / "train.txt")) | set(_ids(sbd / "val.txt"))
    masks.mkdir(exist_ok=True)
    for name in shown([*train, *val], "VOC's own masks"):
        if not (masks / f"{name}.png").exists():
            save(masks / f"{name}.png", read_mask(voc / "SegmentationClass" / f"{name}.png"), voc_colours(256))
    for name in shown(sorted(extra - set(train) - set(val)), "SBD's masks"):
        if not (masks / f"{name}.png").exists():
            save(masks / f"{name}.png", sbd_mask(sbd / "cls" / f"{name}.mat"), voc_colours(256))
    names = sorted((extra | set(train)) - set(val))
    (sets / "trainaug.txt").write_text("".join(f"{name}\n" for name in names))
    return len(names)


def sbd_mask(path: Path) -> NDArray[np.uint8]:  # (H, W)
    """The class map of one of SBD's .mat files: GTcls.Segmentation, 0 to 20."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise ValueError("reading SBD's .mat files needs scipy: pip install scipy") from None
    try:
        content: Any = loadmat(path, struct_as_record=False, squeeze_me=True)
        return np.asarray(content["GTcls"].Segmentation, np.uint8)
    except Exception as error:  # what a damaged file raises is up to its reader
        raise ValueError(f"{path}: holds no GTcls.Segmentation ({error}); fetch SBD again") from error


def save(place: Path, mask: NDArray[np.uint8], palette: NDArray[np.uint8] | None = None) -> None:
    """Write a mask as PNG, whole or not at all; with a palette, as palette indices."""
    image = Image.fromarray(mask)
    if palette is not None:
        image.putpalette(palette.tobytes())
    with aside(place) as unfinished:
        image.save(unfinished, format="PNG")


def _ids(path: Path) -> Sequence[str]:
    return [entry.image for entry in read_list(path)]
