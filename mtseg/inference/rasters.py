"""Predictions as TIFF files that keep the georeference of their image: tiles, deflated, written as they come."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtseg.atomic import aside
from mtseg.data.geotiff import NO_DATA, Tag
from mtseg.data.source import IGNORE
from mtseg.inference.pictures import ROWS, Pixels, colours

TILE = ROWS
NONE = (NO_DATA, 2, 0, str(IGNORE), True)
MOST = 2**31  # bytes of pixels from which on the file is a BigTIFF


def write(
    path: Path, rows: Iterable[Pixels], size: tuple[int, int], tags: Sequence[Tag], palette: Pixels | None = None
) -> None:
    """Write strips (ROWS, W) or (ROWS, W, 3) of a picture of `size`, whole or not at all.

    With a `palette` (K, 3) values are indices of it, and IGNORE is none.
    """
    import tifffile

    strips = iter(rows)
    first = next(strips)
    options: dict[str, Any] = {"photometric": "rgb" if first.ndim == 3 else "minisblack", "extratags": list(tags)}
    if palette is not None:
        options |= {"photometric": "palette", "colormap": colours(palette).T.astype(np.uint16) * 257}
        options["extratags"].append(NONE)
    shape = (*size, *first.shape[2:])
    path.parent.mkdir(parents=True, exist_ok=True)
    with aside(path) as place, tifffile.TiffWriter(place, bigtiff=int(np.prod(shape)) >= MOST) as file:
        file.write(
            _tiles(first, strips),
            shape=shape,
            dtype=np.uint8,
            tile=(TILE, TILE),
            compression="zlib",
            maxworkers=1,
            metadata=None,
            software=False,
            **options,
        )


def whole(path: Path) -> bool:
    """Whether `path` is a TIFF file all of whose tiles decode."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            return all(values is not None for values, _, _ in file.pages.first.segments(maxworkers=1))
    except Exception:  # what a damaged file raises is up to its reader
        return False


def _tiles(first: Pixels, strips: Iterator[Pixels]) -> Iterator[Pixels]:
    strip: Pixels | None = first
    while strip is not None:
        for left in range(0, strip.shape[1], TILE):
            yield np.ascontiguousarray(strip[:, left : left + TILE])
        strip = next(strips, None)
