"""Which small images are labelled: the paper's class-balanced choice, published label lists, and lists of numbers.

The choice is that of the paper's TensorFlow code, from numpy's `RandomState`, so that a seed means the same images
where the files are in their official order.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mtseg.data.tree import is_image

Indices = NDArray[np.int64]


def divided(count: int, first: int, random: np.random.RandomState) -> tuple[Indices, Indices]:
    """[0, count) in two random parts, of `first` and of all others, both ascending."""
    mask = np.zeros(count, bool)
    mask[:first] = True
    random.shuffle(mask)
    return np.flatnonzero(mask), np.flatnonzero(~mask)


def refuse_two_ways(labels: int | str, per_class: int | None, split: Path | None) -> None:
    """Raises ValueError where more than one of them chooses the labelled images; `labels` does unless it is `all`."""
    chosen = [key for key, value in (("split", split), ("per_class", per_class)) if value is not None]
    if len(chosen) + (labels != "all") > 1:
        raise ValueError(f"labels: {labels!r} and {' and '.join(chosen)} choose the labelled images; keep one")


def drawn(
    wanted: int | Literal["all"],
    labels: NDArray[np.int64],
    random: np.random.RandomState,
    classes: Sequence[str],
    *,
    per_class: int | None,
) -> Indices:
    """Random indices of `labels`: `wanted` of them, as many of each of the `classes`, or `per_class` of each.

    `all`, ascending, where neither says how many. Raises ValueError as `balanced` does, and for a number that is not
    the same of each class.
    """
    if per_class is None and wanted == "all":
        return np.arange(len(labels))
    if per_class is None and int(wanted) % len(classes):
        raise ValueError(
            f"data.labels: {wanted} is not the same number of each of {len(classes)} classes; choose a multiple"
        )
    return balanced(labels, per_class or int(wanted) // len(classes), random, classes)


def balanced(
    labels: NDArray[np.int64], per_class: int, random: np.random.RandomState, classes: Sequence[str]
) -> Indices:
    """`per_class` random indices of each of the `classes` that `labels` are of, in the order of the classes.

    Raises ValueError for a class of fewer images, or of none.
    """
    counts = np.bincount(labels, minlength=len(classes))
    if counts.min() < per_class:
        least = int(counts.argmin())
        raise ValueError(
            f"data.labels: {per_class} images of each class are asked for, and class {least} ({classes[least]}) has "
            f"{counts[least]}; ask for fewer, add images of it, or leave out the class"
        )
    chosen = [random.choice(np.flatnonzero(labels == one), per_class, replace=False) for one in range(len(classes))]
    return np.concatenate(chosen)


def listed(path: Path, labels: NDArray[np.int64], classes: Sequence[str], names: Sequence[str]) -> Indices:
    """The training images in a list, or in labelled.txt in a folder of lists: a line an image.

    That is its number from 0; or its file, as `names` has it or by the last parts of that (`CLASS/FILE`, `FILE`), where
    they mean one image alone; and, if the line has one, its class. `47689_airplane.png airplane` is image 47689, where
    the images are no files. `labels` are those of the training images. An array of numbers is read from .npy.

    Raises ValueError, with file and line, for what is no such list, for an image that is not there, is of another class
    or may be one of several, and for one that is named twice.
    """
    path = path / "labelled.txt" if path.is_dir() else path  # as tools/split.py writes it
    if not path.is_file():
        raise ValueError(f"data.split: no file {path}; name a list of images, or drop it and set data.labels")
    wheres, found = _array(path) if path.suffix == ".npy" else _lines(path, labels, classes, names)
    if not len(found):
        raise ValueError(f"{path}: names no image; write one a line, or drop data.split and set data.labels")
    outside = found[(found < 0) | (found >= len(labels))]
    if len(outside):
        raise ValueError(f"{path}: image {outside[0]} is not among the {len(labels)} training images, counted from 0")
    first: dict[int, str] = {}
    for where, image in zip(wheres, found.tolist(), strict=True):
        if image in first:
            raise ValueError(f"{path}: image {image} is named twice, on {first[image]} and {where}; name each once")
        first[image] = where
    return found


def _array(path: Path) -> tuple[list[str], Indices]:
    """Where each number stands in the file, and the numbers."""
    try:
        found = np.load(path, allow_pickle=False)
    except Exception as error:  # what a damaged file raises is up to its reader
        raise ValueError(f"{path}: not an array of image numbers ({type(error).__name__})") from error
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise ValueError(f"{path}: holds {found.dtype} of shape {found.shape}, not a row of image numbers")
    return [f"place {place}" for place in range(len(found))], found.astype(np.int64)


def _lines(
    path: Path, labels: NDArray[np.int64], classes: Sequence[str], names: Sequence[str]
) -> tuple[list[str], Indices]:
    """The lines that name an image, and those images."""
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8; save the list as UTF-8 text") from None
    wanted = {name for line in lines for name, _ in _readings(line.strip())}
    places: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        for end in _ends(name):
            if end in wanted:
                places.setdefault(end, []).append(index)
    asked = _Asked(labels, classes, names, places)
    numbered = [(f"line {number}", line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    images = [asked.image(f"{path}, {where}", line) for where, line in numbered]
    return [where for where, _ in numbered], np.array(images, np.int64)


def _readings(line: str) -> list[tuple[str, str | None]]:
    """What a line may be, a file and the class beside it; names may contain blanks. The longest file comes first."""
    blanks = reversed(list(re.finditer(r"\s+", line)))
    return [(line, None), *((line[: blank.start()], line[blank.end() :]) for blank in blanks)]


def _ends(name: str) -> list[str]:
    """`train/cat/1.png` -> that, `cat/1.png`, `1.png`."""
    parts = name.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


@dataclass(frozen=True)
class _Asked:
    """The training images, as the lines of a list are about them."""

    labels: NDArray[np.int64]
    classes: Sequence[str]
    names: Sequence[str]
    places: Mapping[str, list[int]]  # end of a name -> the images with it

    def image(self, where: str, line: str) -> int:
        """The image of one line."""
        named = [(name, said) for name, said in _readings(line) if name in self.places]
        if named:
            return self._named(where, *named[0])
        words = line.split()
        files = any(is_image(name) for name in self.names[:1])  # and a file's name is no number
        leading = re.match(r"(\d{1,12})$" if files else r"(\d{1,12})(_|$)", words[0])
        if len(words) > 2 or not leading:
            raise ValueError(f"{where}: {line!r} is neither a training image nor its number, alone or with its class")
        index = int(leading[1])
        if len(words) == 2 and index < len(self.labels):
            self._check(where, index, words[1])
        return index

    def _named(self, where: str, name: str, said: str | None) -> int:
        """The image that a file's name means, and if several may be meant, the class beside it."""
        there = self.places[name]
        exactly = [index for index in there if self.names[index] == name] or there
        fitting = [index for index in exactly if said in (None, self._class(index))]
        if len(fitting) > 1:
            first, second = (self.names[index] for index in fitting[:2])
            raise ValueError(f"{where}: {name!r} may be {first} or {second}; write CLASS/FILE")
        if not fitting:
            self._check(where, exactly[0], str(said))
        return fitting[0]

    def _check(self, where: str, index: int, said: str) -> None:
        """Raises ValueError for an image of another class than is `said`."""
        if self._class(index) != said:
            raise ValueError(
                f"{where}: image {index} is of class {self._class(index)!r} here and {said!r} in the list, so the list "
                "belongs to other images, or to another order of them; take the official files"
            )

    def _class(self, index: int) -> str:
        return self.classes[self.labels[index]]
