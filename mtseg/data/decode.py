"""Strict decoding of image and mask files: whole or refused, never clipped, blended, resized or turned.

The orientation that cameras note in EXIF is applied to neither images nor masks: pixels are taken as they are stored.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

MAX_PIXELS = 150_000_000  # of a decoded file; under the 179 million at which PIL itself refuses
AT_ONCE = 4_000_000  # pixels that are moved to numpy at once; more, in strips, take a fifth longer and less memory
LOSSY = ("JPEG", "MPO")
ORIENTATION = 0x0112  # the EXIF tag


class Damaged(ValueError):
    """A file that is missing, truncated, too large or no image, as against a whole one that is of no use here."""


@dataclass(frozen=True)
class Header:
    """What a file says of its pixels before they are decoded. `orientation`: EXIF's, 1 to 8; 1 is upright."""

    size: tuple[int, int]  # (H, W)
    mode: str  # PIL's: L, P, RGB, RGBA, I;16, ...
    format: str
    orientation: int


def read_image(path: Path) -> NDArray[np.uint8]:  # (H, W, 3)
    """The RGB pixels of a file, as stored.

    Grey, 1-bit and palette images become RGB; alpha is dropped where every pixel is opaque. 48-bit colour is read
    as its upper 8 bits. Raises ValueError, naming the file, the rule and the remedy, for a file that is missing,
    damaged, truncated or over MAX_PIXELS; with transparent pixels; with 16-bit or float grey values, because which
    of them should be white is not known; and for other colour models (CMYK, LAB).
    """
    image = _loaded(path)
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        image = _opaque(path, image, "RGB")
    if image.mode.startswith("I") or image.mode == "F":
        raise ValueError(
            f"{path}: a grey image of more than 8 bits ({image.mode}); which value should be white is not known, "
            "so it is not guessed: save it with 8 bits, scaled by one factor for all images"
        )
    if image.mode not in ("1", "L", "P", "RGB"):
        raise ValueError(f"{path}: its colours are {image.mode}; images are grey or RGB: convert it to RGB")
    return _pixels(image if image.mode == "RGB" else image.convert("RGB"))


def read_mask(path: Path) -> NDArray[Any]:  # (H, W) uint8, uint16 or int32; (H, W, 3) uint8 for a mask of colours
    """The raw values of a mask file: palette indices, grey values of 1, 8 or 16 bits, or RGB colours.

    Raises ValueError as `read_image` does, and for JPEG, whose compression changes labels.
    """
    image = _loaded(path)
    if image.format in LOSSY:
        raise ValueError(
            f"{path}: JPEG changes the values of a mask; save masks as PNG from the program they come from"
        )
    if image.mode in ("LA", "RGBA"):
        image = _opaque(path, image, image.mode.removesuffix("A"))
    if image.mode == "1":
        return np.array(image).astype(np.uint8)
    if image.mode in ("L", "P", "RGB", "I") or image.mode.startswith("I;16"):
        return np.array(image)
    raise ValueError(f"{path}: a mask is grey, palette or RGB, this is {image.mode}; save it as PNG with class indices")


def size_of(path: Path) -> tuple[int, int]:  # (H, W)
    """The size that the file's header says; pixels are not decoded. Raises ValueError as `read_image` does."""
    with _opened(path) as image:
        return image.height, image.width


def header(path: Path) -> Header:
    """The header of a file. Raises Damaged, a ValueError, where it has none that can be read."""
    with _opened(path) as image:
        orientation = _orientation(image) if image.format != "PNG" or "exif" in image.info else 1  # PNG would decode
        return Header((image.height, image.width), image.mode, image.format or "", orientation)


def turned(path: Path) -> bool:
    """Whether the file's EXIF orientation exchanges height and width for those who view it."""
    with _opened(path) as image:
        return _orientation(image) in (5, 6, 7, 8)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # what damaged EXIF raises is up to its reader; the pixels are none the worse
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _opened(path: Path) -> Image.Image:
    if ImageFile.LOAD_TRUNCATED_IMAGES:  # a switch for the whole process, which any library may have turned
        raise ValueError(f"{path}: PIL was told to accept truncated files; set ImageFile.LOAD_TRUNCATED_IMAGES = False")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the cap below is our own
            image = Image.open(path)
    except Image.DecompressionBombError as error:
        raise Damaged(f"{path}: {error}; {_remedy()}") from error
    except Exception as error:  # what a damaged header raises is up to its reader
        raise _damaged(path, error) from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise Damaged(f"{path}: {image.width} x {image.height} pixels; {_remedy()}")
    return image


def _loaded(path: Path) -> Image.Image:
    with _opened(path) as image:
        try:
            image.load()  # here, so that a truncated file is named
        except Exception as error:
            raise _damaged(path, error) from error
    return image


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
            "lay it on a background, or save it without alpha"
        )
    return image.convert(mode)


def _damaged(path: Path, error: Exception) -> Damaged:
    if isinstance(error, FileNotFoundError):
        return Damaged(f"{path}: no such file; put it there or take it off the list")
    return Damaged(f"{path}: not a whole image ({error}); fetch it again or take it off the list")


def _remedy() -> str:
    return f"at most {MAX_PIXELS // 10**6} million are decoded: cut it into tiles"
