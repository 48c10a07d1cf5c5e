"""What the rest of the program knows of a data set: ordered images, labels, and which are labelled.

A label has the shape S of what is predicted: (H, W) for the pixels of an image, () for the image as a whole.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[Any]  # (H, W, C), uint8, or float32 on the same scale: 255 is 1
Label = NDArray[Any]  # (H, W) uint8, class or IGNORE; or () int64, class or UNKNOWN
IGNORE = 255  # label value, in maps, of pixels that count nowhere: void, borders, padding
TWO = 'Values 0 and 255 alone are a mask of two classes as pictures show it: data.mask_map={"0": 0, "255": 1}'
UNKNOWN = -1  # label value of whole images without a class


class Source(Protocol):
    """Images in a fixed order, read one at a time and safe to read in several processes.

    Pixels are uint8, or float32 on the same scale (255 is 1) where their source has more than 8 bits: one type for all.
    """

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What the image is called, alone in its pool: a file name, or an identifier that is stable between runs. In
        two pools one name is one image."""
        ...

    def image(self, index: int) -> Pixels:  # (H, W, C)
        ...

    def label(self, index: int) -> Label:  # (*S)
        """The label; images of an unlabelled pool need not have one (ValueError)."""
        ...


def identity(source: Source, index: int) -> str:
    """What an image is told from others by: its name, or what a source's own method `identity(index)` says.

    A source has that method where its names say nothing of another copy of the data, as places in an array do.
    """
    own = getattr(source, "identity", None)
    return str(own(index) if callable(own) else source.name(index))


def bytes_of(source: Source, index: int) -> tuple[int, ...]:
    """The sizes of an image's files, of its mask's too, as a source's own `bytes(index)` says; () of no files."""
    own = getattr(source, "bytes", None)
    return tuple(own(index)) if callable(own) else ()


def fingerprint(pixels: Pixels) -> str:
    """A hash of pixels, of their size too: BLAKE2b, 32 hexadecimal digits. Labels have no part in it."""
    return hashlib.blake2b(pixels.tobytes(), key=str(pixels.shape).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Subset:
    """The images of `source` at `indices`, in that order."""

    source: Source
    indices: Sequence[int] | NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        return self.source.name(self.indices[index])

    def identity(self, index: int) -> str:
        return identity(self.source, self.indices[index])

    def bytes(self, index: int) -> tuple[int, ...]:
        return bytes_of(self.source, self.indices[index])

    def image(self, index: int) -> Pixels:
        return self.source.image(self.indices[index])

    def label(self, index: int) -> Label:
        return self.source.label(self.indices[index])

    def only(self, indices: Sequence[int] | NDArray[np.int64]) -> "Subset":
        """Those at `indices` of these, in that order."""
        return Subset(self.source, np.asarray(self.indices, np.int64)[np.asarray(indices, np.int64)])


class Nothing:
    """A source without images."""

    def __len__(self) -> int:
        return 0

    def name(self, index: int) -> str:
        raise IndexError(index)

    def image(self, index: int) -> Pixels:
        raise IndexError(index)

    label = image


@dataclass(frozen=True)
class Splits:
    """A data set, built: its classes and its pools of images.

    `unlabelled` may contain the labelled images too (`data.unlabelled: all`); its labels are never read.
    `test` is empty where a data set has no public test labels. `holdout` has labelled images that nothing is trained on
    and by which a checkpoint is chosen (`eval.select`), in no other pool; `labelled_to_score` are the labelled images
    as they are read for that, where it is not as they are trained on. `name` is what a run calls the split. Every image
    has `channels`, of which, with `rgb`, the first three are red, green and blue.
    """

    classes: tuple[str, ...]
    palette: NDArray[np.uint8]  # (K, 3) RGB, for pictures
    labelled: Source
    unlabelled: Source
    val: Source
    test: Source
    name: str = "data"
    channels: int = 3
    rgb: bool = True
    holdout: Source = field(default_factory=Nothing)
    labelled_to_score: Source | None = None


def shared(splits: Splits) -> dict[int, int]:
    """Unlabelled image -> labelled image, by their indices, of the images that are in both pools."""
    names = {splits.labelled.name(i): i for i in range(len(splits.labelled))}
    found = ((i, names.get(splits.unlabelled.name(i))) for i in range(len(splits.unlabelled)))
    return {i: place for i, place in found if place is not None}


def refuse_apart(splits: Splits) -> None:
    """Raises ValueError where no labelled image is in the unlabelled pool, of which alone `batch.labelled: 0` reads."""
    if not shared(splits):
        raise ValueError(
            "batch.labelled: 0 takes all images from the unlabelled pool, and none of the labelled ones is in it, so "
            "no label would be learnt; set data.unlabelled=all, or labelled images a step"
        )


def refuse_blank(splits: Splits, pools: Mapping[str, str]) -> None:
    """Raises ValueError where a pool has images and none of their labels has a class; `pools`: what it is there for.

    Reads labels up to the first that has one.
    """
    for pool, done in pools.items():
        source: Source = getattr(splits, pool)
        labels = (np.asarray(source.label(index)) for index in range(len(source)))
        if len(source) and not any((label != (IGNORE if label.ndim else UNKNOWN)).any() for label in labels):
            raise ValueError(
                f"data.{pool}: every pixel of all {len(source)} labels is ignored, so nothing is {done}; say in "
                "data.ignore, data.mask_map and data.other which values are classes: tools/doctor.py counts them"
            )


def refuse_one_class(splits: Splits) -> None:
    """Raises ValueError where the labelled images show one class alone: a constant would be learnt.

    Reads labels up to the first that has a second one.
    """
    count, found, maps = len(splits.classes), set[int](), False
    classes: set[int] = set()
    if count == 1:
        raise ValueError(
            f"data.classes: {splits.classes[0]!r} alone, whose probability is 1 whatever a network says; name what is "
            "around it as a class too, as in data.classes=[background, thing]; where whole images have classes, give "
            "images of a second one"
        )
    for index in range(len(splits.labelled)):
        label = np.asarray(splits.labelled.label(index))
        maps = label.ndim > 0
        found.update(np.unique(label).tolist())
        classes = {value for value in found if 0 <= value < count} - ({IGNORE} if maps else set())
        if len(classes) > 1:
            return
    if not classes:
        return
    remedy = "label images of the other classes too"
    if maps:
        remedy += ", or say in data.mask_map and data.ignore which values are classes: tools/doctor.py counts them"
        remedy += f". {TWO}" if found == {0, IGNORE} else ""
    raise ValueError(
        f"data.labelled: all {len(splits.labelled)} labels are of one class alone, {splits.classes[min(classes)]} of "
        f"{count}, so nothing tells classes apart; {remedy}"
    )
