"""Predictions as PNG files: class indices with a palette, an overlay on the image, confidence; written whole or not."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mtseg.data.decode import MAX_PIXELS
from mtseg.data.source import IGNORE

ROWS = 512  # drawn at a time, so that large pictures need little memory
Pixels = NDArray[np.uint8]


def colours(palette: Pixels) -> Pixels:  # (256, 3)
    """A colour for each value of a mask: those of the classes (K, 3), white for IGNORE and what is no class."""
    table = np.full((256, 3), 255, np.uint8)
    table[: len(palette)] = palette
    return table


def mask(classes: Pixels, palette: Pixels) -> Image.Image:
    """A picture whose values are the classes (H, W) and which shows their colours."""
    picture = Image.fromarray(classes)
    picture.putpalette(colours(palette).tobytes())
    return picture


def overlay(image: Pixels, classes: Pixels, palette: Pixels, *, share: float = 0.5) -> Image.Image:
    """The image (H, W, 3) with `share` of the classes' colours laid on it; as it is where no class is named."""
    h, w = classes.shape
    table = colours(palette).astype(np.float32)
    picture = Image.new("RGB", (w, h))
    for top in range(0, h, ROWS):
        rows, named = image[top : top + ROWS], classes[top : top + ROWS]
        mixed = (1 - share) * rows + share * table[named]
        drawn = np.where((named == IGNORE)[..., None], rows, mixed.round().astype(np.uint8))
        picture.paste(Image.fromarray(drawn), (0, top))
    return picture


def write(picture: Image.Image, path: Path) -> None:
    """Write a PNG so that a crash leaves no part of it under its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".tmp-{os.getpid()}-{path.name}"[-200:])
    try:
        picture.save(aside, format="PNG", compress_level=3)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def whole(path: Path) -> bool:
    """Whether `path` is a PNG file with all of its chunks, whose checksums are right."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            fits = picture.width * picture.height <= MAX_PIXELS
            picture.verify()
    except Exception:  # what a damaged file raises is up to its reader
        return False
    return fits
