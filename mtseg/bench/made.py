"""What is measured on: drawn scenes, as pixels in memory and as JPEG and PNG files."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mtseg.data.folder import Folder
from mtseg.data.match import Images, Labelled
from mtseg.data.scenes import SCENE_CLASSES, draw_scene
from mtseg.data.source import Splits
from mtseg.randomness import generator

Pixels = NDArray[np.uint8]
CLASSES = tuple(f"class {number}" for number in range(21))  # as many as PASCAL VOC has
QUALITY = 92  # of JPEG


@dataclass(frozen=True)
class Drawn:
    """`count` scenes of `size` (height, width) in memory."""

    count: int
    size: tuple[int, int]

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"drawn-{index}"

    def image(self, index: int) -> Pixels:
        return scene(index, self.size)[0]

    def label(self, index: int) -> Pixels:
        return scene(index, self.size)[1]


def in_memory(count: int, size: tuple[int, int]) -> Splits:
    """The same `count` scenes in every pool, of CLASSES classes."""
    source = Drawn(count, size)
    return Splits(CLASSES, np.zeros((len(CLASSES), 3), np.uint8), source, source, source, source)


def in_files(root: Path, count: int, size: tuple[int, int]) -> Splits:
    """`count` JPEG files with PNG masks, a quarter of them for val, and as many without; read as one's own folders."""
    for pool in ("labelled/images", "labelled/masks", "unlabelled"):
        (root / pool).mkdir(parents=True)
    for index in range(2 * count):
        image, label = scene(index, size)
        if index < count:
            Image.fromarray(image).save(root / f"labelled/images/{index:03d}.jpg", quality=QUALITY)
            Image.fromarray(label).save(root / f"labelled/masks/{index:03d}.png")
        else:
            Image.fromarray(image).save(root / f"unlabelled/{index:03d}.jpg", quality=QUALITY)
    return read(root)


def read(root: Path, cache: Path | None = None) -> Splits:
    """The files of `in_files`; what is decoded is kept in `cache`."""
    both, alone = Labelled(images="labelled/images", masks="labelled/masks"), Images(images="unlabelled")
    return Folder(root=root, classes=CLASSES, labelled=both, val=0.25, unlabelled=alone, cache=cache).build()


@lru_cache(maxsize=64)
def scene(index: int, size: tuple[int, int]) -> tuple[Pixels, Pixels]:
    """A scene with the grain of a photograph, so that its files are as large: image (H, W, 3), label (H, W)."""
    rng = generator(0, "scenes to measure on", index)
    image, label = draw_scene(rng, size, front=1 + index % (len(SCENE_CLASSES) - 1))
    grain = rng.normal(0, 4, size=(*size, 1))
    return (image + grain).clip(0, 255).astype(np.uint8), label
