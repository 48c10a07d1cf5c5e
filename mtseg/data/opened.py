"""Picture files as PIL opens them: whole, of one page, not too large; and what PIL's headers say of them."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from mtseg.data.damaged import MAX_PIXELS, Damaged, damaged, remedy
from mtseg.data.raster import extent, is_tiff

LOSSY = ("JPEG", "MPO", "JPEG2000", "AVIF")  # of which the last two may be lossless, and are not told apart
ORIENTATION = 0x0112  # the EXIF tag


def opened(path: Path) -> Image.Image:
    """A file whose header is read. Raises ValueError, naming it, where PIL cannot read it, or it is too large."""
    if ImageFile.LOAD_TRUNCATED_IMAGES:  # a switch for the whole process, which any library may have turned
        raise ValueError(f"{path}: PIL was told to accept truncated files; set ImageFile.LOAD_TRUNCATED_IMAGES = False")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the cap below is our own
            image = Image.open(path)
    except Image.DecompressionBombError as error:
        raise Damaged(f"{path}: {error}; {remedy()}") from error
    except Exception as error:  # what a damaged header raises is up to its reader
        raise _of_bands(path) or damaged(path, error) from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise Damaged(f"{path}: {image.width} x {image.height} pixels; {remedy()}")
    return image


def _of_bands(path: Path) -> ValueError | None:
    """What to say of a whole TIFF that is no picture."""
    try:
        found = extent(path) if is_tiff(path) else None
    except ValueError:
        return None
    if found is None:
        return None
    most = np.iinfo(found.dtype).max if np.issubdtype(found.dtype, np.integer) else 1
    return ValueError(
        f"{path}: {found.channels} channels of {found.dtype}: say in data.channels what they hold, with the values "
        f"that are 0 and 1, as in 'data.channels={{layers: [{{count: {found.channels}, range: [0, {most}]}}]}}' "
        "(docs/own-data.md)"
    )


def loaded(path: Path) -> Image.Image:
    """A file whose pixels are decoded. Raises ValueError as `opened` does, and for what is damaged or has pages."""
    with opened(path) as image:
        try:
            pages = _pages(image)
            image.load()  # here, so that a truncated file is named
        except Exception as error:
            raise damaged(path, error) from error
    if pages > 1:
        raise ValueError(
            f"{path}: holds {pages} pages, and which of them is meant is not guessed: save the one that is meant alone"
        )
    return image


def _pages(image: Image.Image) -> int:
    """How many pictures a file holds, smaller copies (TIFF's NewSubfileType) and those of cameras' JPEGs left out."""
    count = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if count == 1 or not isinstance(image, TiffImageFile):
        return count
    whole = 0
    for page in range(count):
        image.seek(page)
        whole += not int(image.tag_v2.get(254, 0)) & 5  # 1: a smaller copy, 4: a mask of what is seen
    image.seek(0)
    return whole


def orientation(image: Image.Image) -> int:
    """EXIF's, 1 to 8; 1, upright, where it says none."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # what damaged EXIF raises is up to its reader; the pixels are none the worse
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def lossy(path: Path, image: Image.Image) -> str:
    """The compression of a file that changes values; empty where it changes none."""
    if image.format in LOSSY:
        return "JPEG" if image.format == "MPO" else str(image.format)
    within = str(image.info.get("compression", ""))
    if image.format == "TIFF" and any(word in within for word in ("jpeg", "webp", "jp2")):
        return f"{within} in TIFF"
    return "lossy WebP" if image.format == "WEBP" and b"VP8 " in _chunks(path) else ""


def _chunks(path: Path) -> list[bytes]:
    """The names of the chunks of a RIFF file, as WebP is one."""
    names = []
    with path.open("rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            names.append(head[:4])
            size = int.from_bytes(head[4:], "little")
            file.seek(size + size % 2, 1)
    return names
