"""Which small images are labelled: the paper's class-balanced choice, published label lists, and lists of numbers.

The choice is that of the paper's TensorFlow code, from numpy's `RandomState`, so that a seed means the same images
where the files are in their official order.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def part(count: int, first: int, random: np.random.RandomState) -> tuple[Indices, Indices]:
    """[0, count) in two random parts, of `first` and of all others, both ascending."""
    mask = np.zeros(count, bool)
    mask[:first] = True
    random.shuffle(mask)
    return np.flatnonzero(mask), np.flatnonzero(~mask)


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
            f"{counts[least]}; ask for fewer, keep fewer apart for data.val, or leave out the class"
        )
    chosen = [random.choice(np.flatnonzero(labels == one), per_class, replace=False) for one in range(len(classes))]
    return np.concatenate(chosen)


def listed(path: Path, labels: NDArray[np.int64], classes: Sequence[str], names: Mapping[str, int]) -> Indices:
    """The training images in a list: a line an image, its number from 0, or a file and its class.

    `47689_airplane.png airplane` is image 47689 and must be of that class; a file that is among `names` is what they
    say. `labels` are those of the training images. An array of numbers is read from .npy.

    Raises ValueError, with file and line, for what is no such list, for an image that is not there or of another class,
    and for one that is named twice.
    """
    if not path.is_file():
        raise ValueError(f"data.split: no file {path}; name a list of images, or drop it and set data.labels")
    found = _array(path) if path.suffix == ".npy" else _lines(path, labels, classes, names)
    outside = found[(found < 0) | (found >= len(labels))]
    if len(outside):
        raise ValueError(f"{path}: image {outside[0]} is not among the {len(labels)} training images, counted from 0")
    if len(np.unique(found)) < len(found) or not len(found):
        raise ValueError(f"{path}: names no image, or one twice; name each once")
    return found


def _array(path: Path) -> Indices:
    try:
        found = np.load(path, allow_pickle=False)
    except Exception as error:  # what a damaged file raises is up to its reader
        raise ValueError(f"{path}: not an array of image numbers ({type(error).__name__})") from error
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise ValueError(f"{path}: holds {found.dtype} of shape {found.shape}, not a row of image numbers")
    return found.astype(np.int64)


def _lines(path: Path, labels: NDArray[np.int64], classes: Sequence[str], names: Mapping[str, int]) -> Indices:
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8; save the list as UTF-8 text") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            found.append(_image(f"{path}, line {number}", line.split(), labels, classes, names))
    return np.array(found, np.int64)


def _image(
    where: str, words: list[str], labels: NDArray[np.int64], classes: Sequence[str], names: Mapping[str, int]
) -> int:
    """The image of one line."""
    leading = re.match(r"(\d{1,12})(_|$)", words[0])
    if len(words) > 2 or not (words[0] in names or leading):
        raise ValueError(f"{where}: {' '.join(words)!r} is neither an image's number nor `file class`")
    index = names[words[0]] if words[0] in names else int(leading[1])  # type: ignore[index]
    if len(words) == 2 and index < len(labels):
        here = classes[labels[index]]
        if here != words[1]:
            raise ValueError(
                f"{where}: image {index} is of class {here!r} here and {words[1]!r} in the list, so the list belongs "
                "to other images, or to another order of them; take the official files"
            )
    return index
