"""Georeferenced TIFF: the tags that tie its pixels to the ground, and its pixels in bands, so that any size is read."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtseg.data.channels import RGB, Channels, Layer
from mtseg.data.damaged import Damaged, damaged
from mtseg.data.raster import is_tiff
from mtseg.data.source import Pixels

# Scale, tie points and transformation of the pixels (GeoTIFF 1.1, OGC 19-008), their coordinate system as keys, the
# keys' numbers and letters, and RPC. Of GDAL's own tags none: statistics and "no data" are those of other values.
GEOREFERENCE = (33550, 33922, 34264, 34735, 34736, 34737, 50844)
NO_DATA = 42113  # of GDAL: the value of pixels that have none, as text
GREY, COLOURS, YCBCR = 1, 2, 6  # photometric interpretations; the third is decoded to the second where it is JPEG
JPEG = (6, 7)  # compressions
Tag = tuple[int, int, int, Any, bool]  # as tifffile writes it


def georeference(path: Path | None) -> tuple[Tag, ...]:
    """The tags of a TIFF that tie it to the ground; none for other files, and for one that cannot be read."""
    import tifffile

    if path is None or not is_tiff(path):
        return ()
    try:
        with tifffile.TiffFile(path) as file:
            tags = file.pages.first.tags
            found = [tags[code] for code in GEOREFERENCE if code in tags]
            return tuple((tag.code, int(tag.dtype), tag.count, tag.value, True) for tag in found)
    except Exception:  # what a damaged file raises is up to its reader; whoever reads its pixels says so
        return ()


def no_data(path: Path | None, channels: Channels) -> Pixels | None:
    """A pixel (C,) of an image as it is read where a TIFF declares that there are no data, by GDAL's tag.

    None for other files, images of several files and of palettes, and for one that declares none, a value that it
    cannot hold, or NaN, in whose place stands what `nan` of its layer says.
    """
    import tifffile

    if path is None or not is_tiff(path) or len(channels.layers) > 1:
        return None
    layer = channels.layers[0]
    try:
        with tifffile.TiffFile(path) as file:
            page: Any = file.pages.first
            value, kind = float(page.tags[NO_DATA].value), np.dtype(page.dtype)
            as_stored = layer != RGB or page.photometric in (GREY, COLOURS)  # others are turned into colours
        with np.errstate(invalid="ignore", over="ignore"):
            declared = np.full((1, 1, layer.count), value).astype(kind)
        there = math.isfinite(value) and (kind.kind == "f" or bool((declared == value).all()))
        return layer.of(declared, path)[0, 0] if there and as_stored else None
    except Exception:  # no tag, no number, no such value; whoever reads the pixels says what is wrong with them
        return None


@contextmanager
def in_bands(path: Path | None, channels: Channels, least: int) -> Iterator["Bands | None"]:
    """The pixels of a georeferenced TIFF of at least so many, to be read band by band.

    None for other files, and where that cannot be: images of several files, compressions that need imagecodecs.
    """
    import tifffile

    if path is None or not georeference(path) or len(channels.layers) > 1:
        yield None
        return
    with tifffile.TiffFile(path) as file:
        page: Any = file.pages.first
        large = page.imagelength * page.imagewidth >= least
        yield Bands(path, page, channels.layers[0]) if large and _can(page, channels.layers[0]) else None


def _can(page: Any, layer: Layer) -> bool:
    """Whether the strips or tiles can be decoded one by one, to what the whole would be."""
    if page.imagedepth != 1 or page.samplesperpixel != layer.count:
        return False
    coloured = page.photometric == COLOURS or (page.photometric == YCBCR and page.compression in JPEG)
    if layer == RGB and not (coloured and page.dtype == np.uint8):  # what PIL turns into RGB
        return False
    try:
        _segment(page, 0)
    except Exception:  # a codec that is not there; damage too, of which the reader of the whole will tell
        return False
    return True


class Bands:
    """Pixels (1, H, W, C) of a TIFF, sliced like a tensor's; what the last slice needed of the file is held, no more.

    It is cheap to go through from top to bottom: rows that two slices share are decoded once.
    """

    def __init__(self, path: Path, page: Any, layer: Layer) -> None:
        self.shape = (1, page.imagelength, page.imagewidth, layer.used)
        self._path, self._page, self._layer = path, page, layer
        self._plain = page.is_memmappable  # uncompressed, in one piece: rows are found by counting
        self._top, self._band = 0, self._empty(0)

    def __getitem__(self, window: tuple[slice, slice, slice]) -> Tensor:
        """Pixels (1, h, w, C). Raises ValueError, naming the file, for one that is damaged, and as `Layer.of` does."""
        top, bottom, _ = window[1].indices(self.shape[1])
        values = self._rows(top, bottom)[:, window[2]]
        return torch.from_numpy(np.ascontiguousarray(self._layer.of(values, self._path)))[None]

    def _rows(self, top: int, bottom: int) -> NDArray[Any]:  # (h, W, channels of the file)
        unit = 1 if self._plain else self._page.tilelength if self._page.is_tiled else self._page.rowsperstrip
        first, last = top // unit * unit, min(-(-bottom // unit) * unit, self.shape[1])
        held = self._top + len(self._band)
        if not self._top <= first <= last <= held:
            band = self._empty(last - first)
            known = self._band[first - self._top :] if self._top <= first < held else self._empty(0)
            band[: len(known)] = known[: len(band)]
            try:
                (self._count_off if self._plain else self._decode)(band, first, first + len(known), unit)
            except Damaged:
                raise
            except Exception as error:  # what a damaged file raises is up to its reader
                raise damaged(self._path, error) from error
            self._top, self._band = first, band
        return self._band[top - self._top : bottom - self._top]

    def _decode(self, band: NDArray[Any], first: int, start: int, unit: int) -> None:
        """Fill `band`, whose row 0 is `first`, from row `start` on."""
        page, end = self._page, first + len(band)
        across = -(-page.imagewidth // page.tilewidth) if page.is_tiled else 1
        down = -(-page.imagelength // unit)
        planes = page.samplesperpixel if page.planarconfig == 2 else 1
        rows = range(start // unit, -(-end // unit))
        for plane, row, column in product(range(planes), rows, range(across)):
            index = (plane * down + row) * across + column
            if not page.databytecounts[index]:
                raise Damaged(f"{self._path}: some of its strips or tiles were never written; fill them")
            values, (_, _, y, x, _) = _segment(page, index)
            which = slice(plane, plane + 1) if planes > 1 else slice(None)
            place = band[y - first : y - first + values.shape[1], x : x + values.shape[2], which]
            place[:] = values[0, : place.shape[0], : place.shape[1]]  # the last ones reach beyond the image

    def _count_off(self, band: NDArray[Any], first: int, start: int, unit: int) -> None:
        """`_decode` of pixels that lie in one piece, as they are."""
        page, skipped = self._page, start - first
        planes, each = (band.shape[2], 1) if page.planarconfig == 2 else (1, band.shape[2])
        for plane in range(planes):
            row = page.imagewidth * each
            skip = (plane * page.imagelength + start) * row * band.dtype.itemsize
            page.parent.filehandle.seek(page.dataoffsets[0] + skip)
            kind = np.dtype(page.parent.byteorder + band.dtype.char)
            found = page.parent.filehandle.read_array(kind, (len(band) - skipped) * row)
            band[skipped:, :, plane : plane + each] = found.reshape(len(band) - skipped, page.imagewidth, each)

    def _empty(self, rows: int) -> NDArray[Any]:
        return np.empty((rows, self.shape[2], self._page.samplesperpixel), np.dtype(self._page.dtype).newbyteorder("="))


def _segment(page: Any, index: int) -> tuple[NDArray[Any], tuple[int, ...]]:
    """The strip or tile `index`, (1, h, w, C), and where it lies: (plane, 0, y, x, 0)."""
    tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if page.compression in JPEG else {}
    file, decode = page.parent.filehandle, page.decode
    offset, size = page.dataoffsets[index], page.databytecounts[index]
    file.seek(offset)  # last: all of these may be read from the file only now
    values, place, _ = decode(file.read(size), index, **tables)
    return values, place
