"""Strict decoding of image and mask files: whole or refused, never clipped, blended, resized or turned.

The orientation that cameras note in EXIF is applied to neither images nor masks: pixels are taken as they are stored.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from mtseg.data.opened import loaded, lossy, opened, orientation
from mtseg.data.raster import extent, is_array, is_tiff, read_raster

AT_ONCE = 4_000_000  # pixels that are moved to numpy at once; more, in strips, take a fifth longer and less memory


@dataclass(frozen=True)
class Header:
    """What a file says of its pixels before they are decoded. `orientation`: EXIF's, 1 to 8; 1 is upright."""

    size: tuple[int, int]  # (H, W)
    mode: str  # PIL's: L, P, RGB, RGBA, I;16, ...; numpy's type, of arrays and of TIFF that PIL cannot read
    format: str
    orientation: int


def read_image(path: Path) -> NDArray[np.uint8]:  # (H, W, 3)
    """The RGB pixels of a file, as stored; of a .npy file, an array of uint8.

    Grey, 1-bit and palette images become RGB; alpha is dropped where every pixel is opaque. 48-bit colour is read
    as its upper 8 bits. Raises ValueError, naming the file, the rule and the remedy, for a file that is missing,
    damaged, truncated or over MAX_PIXELS; of several pages; with transparent pixels; with 16-bit or float grey values,
    because which of them should be white is not known; and for other colour models (CMYK, LAB).
    """
    if is_array(path):
        return _bytes_of_array(path)
    image = loaded(path)
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        image = _opaque(path, image, "RGB")
    if image.mode.startswith("I") or image.mode == "F":
        raise ValueError(
            f"{path}: a grey image of more than 8 bits ({image.mode}); which value should be white is not known, "
            "so it is not guessed: say it in data.channels, as configs/data/grey.yaml does, or save it with 8 bits, "
            "scaled by one factor for all images"
        )
    if image.mode not in ("1", "L", "P", "RGB"):
        raise ValueError(f"{path}: its colours are {image.mode}; images are grey or RGB: convert it to RGB")
    return _pixels(image if image.mode == "RGB" else image.convert("RGB"))


def read_mask(path: Path) -> NDArray[Any]:  # (H, W) uint8, uint16 or int32; (H, W, 3) uint8 for a mask of colours
    """The raw values of a mask file: palette indices, grey values of 1 to 16 bits, RGB colours, or an array's.

    Raises ValueError as `read_image` does, and for compressions that change labels (JPEG, also in TIFF, lossy WebP).
    """
    if is_array(path):
        return _indices_of_array(path)
    image = loaded(path)
    if compression := lossy(path, image):
        raise ValueError(
            f"{path}: {compression} changes the values of a mask; save masks as PNG from the program they come from"
        )
    if image.mode in ("LA", "RGBA"):
        image = _opaque(path, image, image.mode.removesuffix("A"))
    if image.mode in ("1", "L", "P", "RGB", "I") or image.mode.startswith("I;16"):
        return _stored(path, image)
    raise ValueError(f"{path}: a mask is grey, palette or RGB, this is {image.mode}; save it as PNG with class indices")


def read_values(path: Path) -> NDArray[Any]:  # (H, W, C)
    """The values of a file of any depth and number of channels, as stored: arrays, TIFF, and what PIL reads.

    A palette's indices are its values, and alpha is a channel like others. Raises ValueError as `read_image` does, for
    damaged files and colour models (CMYK, LAB).
    """
    if is_array(path) or is_tiff(path):
        return read_raster(path)
    image = loaded(path)
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I", "F") and not image.mode.startswith("I;16"):
        raise ValueError(f"{path}: its colours are {image.mode}, which are no channels: convert it, or save an array")
    deep = image.format == "PNG" and _bits(path) == 16 and len(image.getbands()) > 1  # of which PIL keeps 8
    values = _all_bits(path) if deep else _stored(path, image)
    return values if values.ndim == 3 else values[..., None]


def size_of(path: Path) -> tuple[int, int]:  # (H, W)
    """The size that the file's header says; pixels are not decoded. Raises ValueError as `read_image` does."""
    if _is_raster(path):
        return extent(path).size
    with opened(path) as image:
        return image.height, image.width


def header(path: Path) -> Header:
    """The header of a file. Raises Damaged, a ValueError, where it has none that can be read."""
    if _is_raster(path):
        found = extent(path)
        return Header(found.size, found.dtype, "NPY" if is_array(path) else "TIFF", 1)
    with opened(path) as image:
        turn = orientation(image) if image.format != "PNG" or "exif" in image.info else 1  # PNG would decode
        return Header((image.height, image.width), image.mode, image.format or "", turn)


def turned(path: Path) -> bool:
    """Whether the file's EXIF orientation exchanges height and width for those who view it."""
    return header(path).orientation in (5, 6, 7, 8)


def _is_raster(path: Path) -> bool:
    """Whether a file is to be asked for its header as an array, or as a TIFF that PIL does not know."""
    if not is_tiff(path):
        return is_array(path)
    try:
        opened(path).close()
    except ValueError:
        return True
    return False


def _bytes_of_array(path: Path) -> NDArray[np.uint8]:  # (H, W, 3)
    values = read_raster(path)
    if values.dtype != np.uint8 or values.shape[2] not in (1, 3):
        raise ValueError(
            f"{path}: {values.dtype} of {values.shape[2]} channels; an RGB image is uint8 of 3 (or of 1, grey): for "
            "others say in data.channels what they hold"
        )
    return values if values.shape[2] == 3 else np.repeat(values, 3, axis=2)


def _indices_of_array(path: Path) -> NDArray[Any]:  # (H, W)
    values = read_raster(path)
    if values.dtype.kind == "f" or values.shape[2] != 1:
        raise ValueError(f"{path}: {values.dtype} of {values.shape[2]} channels; a mask is (H, W) of whole numbers")
    return values[..., 0]


def _bits(path: Path) -> int:
    """The bits of a channel of a PNG, which its first chunk says (IHDR: width, height, bits, ...)."""
    with path.open("rb") as file:
        return file.read(25)[24]


def _stored(path: Path, image: Image.Image) -> NDArray[Any]:
    """The values of a decoded image as its file has them: PIL spreads those of under 8 bits, and turns TIFF's white."""
    values = np.array(image)
    if image.mode not in ("1", "L"):
        return values
    bits, white = 8, False
    if image.format == "PNG":
        bits = _bits(path)
    elif isinstance(image, TiffImageFile):
        bits, white = int(image.tag_v2.get(258, (1,))[0]), image.tag_v2.get(262) == 0
    top = 2 ** min(bits, 8) - 1
    values = values.astype(np.uint8) // (1 if image.mode == "1" else 255 // top)
    return top - values if white else values


def _all_bits(path: Path) -> NDArray[Any]:  # (H, W, C)
    """The 16-bit channels of a PNG that PIL has decoded without complaint."""
    values = np.asarray(cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED))
    return values[..., [2, 1, 0, *range(3, values.shape[2])]]  # OpenCV begins with blue


def _pixels(image: Image.Image) -> NDArray[np.uint8]:  # (H, W, 3)
    """The pixels of an RGB image; of a large one strip by strip, because PIL's way to numpy holds them three times."""
    strip = 512
    if image.width * image.height <= AT_ONCE:
        return np.array(image)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, strip):
        rows = image.crop((0, top, image.width, min(top + strip, image.height)))
        pixels[top : top + strip] = np.asarray(rows)
    return pixels


def _opaque(path: Path, image: Image.Image, mode: str) -> Image.Image:
    """`image` in `mode`, without its alpha. Raises ValueError where that would show or hide anything."""
    lowest = image.convert("RGBA").getchannel("A").getextrema()[0]
    if lowest != 255:
        raise ValueError(
            f"{path}: has transparent pixels (alpha down to {lowest}), and what lies under them is not defined: "
            "lay it on a background, or save it without alpha; where the last channel is data, say so in data.channels "
            "(docs/own-data.md)"
        )
    return image.convert(mode)
