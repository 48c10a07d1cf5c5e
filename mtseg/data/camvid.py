"""CamVid, 11 classes, in the layout of the SegNet tutorial: lists of `image mask` lines beside their folders."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mtseg.data.source import IGNORE, Splits, Subset
from mtseg.data.splits import Labels, choose, unlabelled_pool
from mtseg.part import part

CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree"),
    *("sign", "fence", "car", "pedestrian", "bicyclist"),
)
VOID = 11
_INKS = "808080 800000 c0c080 804080 3c28de 808000 c08080 404080 400080 404000 0080c0"
PALETTE = np.array([list(bytes.fromhex(ink)) for ink in _INKS.split()], np.uint8)  # (K, 3)


@dataclass(frozen=True)
class ImagePairs:
    """Images and masks in files; every file is read when asked for, and refused when it is not whole."""

    root: Path
    pairs: Sequence[tuple[str, str]]  # image, mask, relative to root

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        return self.pairs[index][0]

    def image(self, index: int) -> NDArray[np.uint8]:
        return np.asarray(_opened(self.root / self.pairs[index][0]).convert("RGB"))

    def label(self, index: int) -> NDArray[np.uint8]:
        """Class indices as they stand in the file, VOID -> IGNORE. Raises ValueError for any other value."""
        path = self.root / self.pairs[index][1]
        mask = np.asarray(_opened(path))
        if mask.ndim != 2 or mask.dtype != np.uint8:
            raise ValueError(f"{path}: a mask of class indices has one 8-bit channel, this has {mask.shape}")
        if mask.max() > VOID:
            raise ValueError(f"{path}: value {mask.max()} is no class; they are 0 to 10, and {VOID} for void")
        return np.where(mask == VOID, np.uint8(IGNORE), mask)


@part
class Camvid:
    """CamVid under `root`; `labels` says how many of its 367 training images keep their masks."""

    kind: Literal["camvid"] = "camvid"
    root: Path
    labels: Labels = "all"
    split_seed: int = 0
    unlabelled: Literal["all", "rest"] = "all"

    def build(self) -> Splits:
        """Read the three lists. Raises ValueError where one is missing, or a line is not an image and a mask."""
        train, val, test = (ImagePairs(self.root, _pairs(self.root, split)) for split in ("train", "val", "test"))
        labelled = choose(len(train), self.labels, self.split_seed)
        return Splits(
            classes=CLASSES,
            palette=PALETTE.copy(),
            labelled=Subset(train, labelled),
            unlabelled=unlabelled_pool(train, labelled, self.unlabelled),
            val=val,
            test=test,
        )


def _pairs(root: Path, split: str) -> list[tuple[str, str]]:
    path = root / f"{split}.txt"
    if not path.is_file():
        raise ValueError(f"data.root: no {path}; see datasets/camvid/README.md for the expected tree")
    pairs = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        names = line.split()
        if not names:
            continue
        if len(names) != 2:
            raise ValueError(f"{path}, line {number}: {line!r} is not `image mask`")
        for name in names:
            if not (root / name).resolve().is_relative_to(root.resolve()):
                raise ValueError(f"{path}, line {number}: {name!r} lies outside of {root}")
        pairs.append((names[0], names[1]))
    if not pairs:
        raise ValueError(f"{path} names no image")
    return pairs


def _opened(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()  # here, so that a truncated file is named
    except Exception as error:
        raise ValueError(f"{path}: not a whole image ({error}); fetch it again or take it off the list") from error
    return image
