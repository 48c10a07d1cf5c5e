"""Predictions as PNG files: class indices with a palette, an overlay on the image, confidence; written whole or not.

Rows are encoded as they come, so that large pictures are never held: PIL would take four bytes for a pixel.
"""

import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mtseg.atomic import aside
from mtseg.data.damaged import MAX_PIXELS
from mtseg.data.source import IGNORE

ROWS = 256  # drawn and encoded at a time
GREY, RGB, PALETTE = 0, 2, 3  # colour types of PNG
UP = 2  # the filter of a row that is written as its difference to the row above
Pixels = NDArray[np.uint8]


def colours(palette: Pixels) -> Pixels:  # (256, 3)
    """A colour for each value of a mask: those of the classes (K, 3), white for IGNORE and what is no class."""
    table = np.full((256, 3), 255, np.uint8)
    table[: len(palette)] = palette
    return table


def overlay(
    image: Iterable[Pixels], classes: Iterable[Pixels], palette: Pixels, *, share: float = 0.5
) -> Iterator[Pixels]:
    """Strips (h, W, 3) of an image with `share` of the classes' colours laid on it; as it is where no class is, or one
    whose colour is black, as the background's is in most palettes."""
    table = colours(palette).astype(np.float32)
    for rows, named in zip(image, classes, strict=True):
        black = (table[named] == 0).all(-1)  # is no colour to lay on: it would be a shadow
        mixed = ((1 - share) * rows.astype(np.float32) + share * table[named]).round().astype(np.uint8)
        yield np.where((black | (named == IGNORE))[..., None], rows, mixed)


def strips(picture: Pixels) -> Iterator[Pixels]:
    """The rows of a picture, some at a time."""
    for top in range(0, len(picture), ROWS):
        yield picture[top : top + ROWS]


def write(path: Path, rows: Iterable[Pixels], size: tuple[int, int], palette: Pixels | None = None) -> None:
    """Write strips (h, W) or (h, W, 3) of a picture of `size` as a PNG, so that a crash leaves no part under its name.

    With a `palette` (K, 3) values are indices of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with aside(path) as place, place.open("wb") as file:
        _encode(file, iter(rows), size, palette)


def whole(path: Path) -> bool:
    """Whether `path` is a PNG file with all of its chunks, whose checksums are right."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the cap is our own
            with Image.open(path, formats=["PNG"]) as picture:
                fits = picture.width * picture.height <= MAX_PIXELS
                picture.verify()
    except Exception:  # what a damaged file raises is up to its reader
        return False
    return fits


def _encode(file: BinaryIO, rows: Iterator[Pixels], size: tuple[int, int], palette: Pixels | None) -> None:
    """The chunks of a PNG (W3C, Portable Network Graphics), with 8 bits a channel."""
    first = next(rows)
    kind = PALETTE if palette is not None else RGB if first.ndim == 3 else GREY
    file.write(b"\x89PNG\r\n\x1a\n")
    _chunk(file, b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], 8, kind, 0, 0, 0))
    if palette is not None:
        _chunk(file, b"PLTE", colours(palette).tobytes())
    squeeze = zlib.compressobj(3)
    _chunk(file, b"IDAT", squeeze.compress(_lines(first, kind)))
    for strip in rows:
        _chunk(file, b"IDAT", squeeze.compress(_lines(strip, kind)))
    _chunk(file, b"IDAT", squeeze.flush())
    _chunk(file, b"IEND", b"")


def _lines(strip: Pixels, kind: int) -> bytes:
    """Each row after the byte that names its filter: none for indices and for the first row of a strip."""
    plain = np.ascontiguousarray(strip).reshape(len(strip), -1)
    lines = np.zeros((len(plain), plain.shape[1] + 1), np.uint8)
    lines[:, 1:] = plain
    if kind != PALETTE:
        lines[1:, 0] = UP
        lines[1:, 1:] = plain[1:] - plain[:-1]  # modulo 256, as the format has it
    return lines.tobytes()


def _chunk(file: BinaryIO, name: bytes, data: bytes) -> None:
    if data or name == b"IEND":
        file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))
