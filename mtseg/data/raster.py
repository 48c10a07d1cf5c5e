"""Files of numbers, of any type and number of channels: NumPy arrays (.npy) and TIFF.

Whole or refused, as everywhere: nothing is scaled, clipped or turned, and nothing in a file is executed.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtseg.data.damaged import MAX_PIXELS, Damaged, damaged, remedy

# What it says of a "no data" that the pixels cannot hold is no fault of the image: `geotiff.no_data` passes it over.
logging.getLogger("tifffile").addFilter(lambda record: "GDAL_NODATA" not in record.getMessage())

MOST = 4  # values for each of the pixels that a file may have
ARRAY, TIFF = (".npy",), (".tif", ".tiff")
KINDS = "uif"  # of numpy's types: unsigned, signed, floating point
_REMEDY = "an image is one array of numbers, (H, W) or (H, W, channels)"


class Extent(NamedTuple):
    """What a file's header says: (H, W), the number of channels, and the type of the values, as numpy calls it."""

    size: tuple[int, int]
    channels: int
    dtype: str


class Unfit(ValueError):
    """A whole file that holds something else than an image."""


def read_raster(path: Path) -> NDArray[Any]:  # (H, W, C)
    """The values of a .npy file (H, W) or (H, W, C), or of the first image of a TIFF, however its bands are stored.

    Raises ValueError, naming the file, the rule and the remedy, for one that is missing, damaged or truncated, too
    large, or anything but numbers of one image.
    """
    if not is_tiff(path):
        return np.array(_mapped(path))
    with _series(path) as series:
        order = _order(path, series)
        if any(0 in page.databytecounts for page in series.pages if page is not None):  # they would be read as zeros
            raise Damaged(f"{path}: some of its strips or tiles were never written; write it again, or fill them")
        values = np.asarray(series.asarray()).transpose(order)
    return np.ascontiguousarray(values if len(order) == 3 else values[..., None])


def extent(path: Path) -> Extent:
    """What the file's header says; values are not decoded. Raises ValueError as `read_raster` does."""
    if not is_tiff(path):
        values = _mapped(path)
        return Extent((values.shape[0], values.shape[1]), values.shape[2], values.dtype.name)
    with _series(path) as series:
        h, w, *channels = (int(series.shape[axis]) for axis in _order(path, series))
        return Extent((h, w), channels[0] if channels else 1, np.dtype(series.dtype).name)


def is_array(path: Path) -> bool:
    """Whether the file's name is that of a NumPy array."""
    return path.suffix.lower() in ARRAY


def is_tiff(path: Path) -> bool:
    """Whether the file's name is that of a TIFF."""
    return path.suffix.lower() in TIFF


def _mapped(path: Path) -> NDArray[Any]:  # (H, W, C)
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: a header that lies takes no memory
    except Exception as error:  # what a damaged file raises is up to its reader
        raise damaged(path, error) from error
    if not isinstance(values, np.ndarray):
        raise Unfit(f"{path}: several arrays; {_REMEDY}")
    if values.ndim not in (2, 3) or 0 in values.shape or values.dtype.kind not in KINDS:
        raise Unfit(f"{path}: {values.dtype} of shape {values.shape}; {_REMEDY}")
    _small(path, values.shape)
    return values if values.ndim == 3 else values[..., None]


@contextmanager
def _series(path: Path) -> Iterator[Any]:
    """The first series of a TIFF: its full image, no overview. Within, what its reader raises is told in words."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            yield file.series[0]
    except (Damaged, Unfit):
        raise
    except Exception as error:  # what a damaged file raises is up to its reader
        if "imagecodecs" not in str(error):
            raise damaged(path, error) from error
        raise Unfit(
            f"{path}: its compression needs the package imagecodecs ({error}): pip install imagecodecs, or save it "
            "uncompressed or deflated"
        ) from error


def _order(path: Path, series: Any) -> list[int]:
    """Which axes of a series are height, width and, where there is one more, channels."""
    axes, shape, kind = str(series.axes), tuple(series.shape), np.dtype(series.dtype)
    others = [n for n, axis in enumerate(axes) if axis not in "YX"]
    if not {"Y", "X"} <= set(axes) or len(others) > 1 or 0 in shape or kind.kind not in KINDS:
        raise Unfit(f"{path}: {kind} of shape {shape}, axes {axes}; an image is numbers of one height and width")
    order = [axes.index("Y"), axes.index("X"), *others]
    _small(path, [shape[axis] for axis in order])
    return order


def _small(path: Path, shape: Sequence[int]) -> None:
    if shape[0] * shape[1] > MAX_PIXELS or math.prod(shape) > MOST * MAX_PIXELS:
        channels = f" of {shape[2]} channels" if len(shape) == 3 else ""
        raise Damaged(f"{path}: {shape[1]} x {shape[0]} pixels{channels}; {remedy()}")
