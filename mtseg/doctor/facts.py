"""What is in an image and in its mask: all that the doctor wants to know of them, decoded once."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtseg.data.channels import COLOURS, PLAIN, Channels
from mtseg.data.damaged import Damaged
from mtseg.data.decode import header, read_mask
from mtseg.data.files import Files, same_size
from mtseg.data.imagefolder import Pictures
from mtseg.data.masks import NO_CLASS, code_of, spans
from mtseg.data.source import IGNORE, Pixels, Source, Subset, fingerprint

MOST = 300  # different values or colours of one mask that are kept, the commonest first
Counts = tuple[tuple[int, int], ...]  # (value, pixels), by pixels, descending


@dataclass(frozen=True)
class Fault:
    """Why a file cannot be used: a code, and a sentence with file, value, rule and remedy."""

    code: str
    text: str


@dataclass(frozen=True)
class Values:
    """What the values of a channel are, 255 of 8 bits being 1."""

    low: float
    high: float
    mean: float
    variance: float


@dataclass(frozen=True)
class Image:
    """An image. `digest` is of its decoded pixels, so that the same picture in another format has the same.

    `values` are those of each channel, where there are others than red, green and blue.
    """

    name: str
    size: tuple[int, int] = (0, 0)  # (H, W); zeros where the header cannot be read
    bytes: int = 0
    orientation: int = 1
    grey: bool = False  # all three channels are equal
    digest: str = ""
    values: tuple[Values, ...] = ()
    fault: Fault | None = None


@dataclass(frozen=True)
class Mask:
    """A mask. `raw` are its values (colours as integers); `wrong` those of them that are no class."""

    name: str
    colours: bool = False
    raw: Counts = ()
    wrong: Counts = ()
    classes: Counts = ()  # (class or IGNORE, pixels)
    digest: str = ""
    fault: Fault | None = None

    @property
    def pixels(self) -> int:
        """1 for the class of a whole image."""
        return sum(n for _, n in self.classes)

    @property
    def ignored(self) -> int:
        return dict(self.classes).get(IGNORE, 0)


@dataclass(frozen=True)
class Entry:
    """An image of a pool, with its mask where it has one."""

    image: Image
    mask: Mask | None = None


def look(source: Source, index: int) -> Entry:
    """What is in an image, and in its mask where the source has masks."""
    if isinstance(source, Files):
        name, mask = source.name(index), source.mask_name(index)
        image = _image(source.root / name, name, source.channels)
        return Entry(image, None if mask is None else _mask(source, mask, image))
    return _drawn(source, index)


def _image(path: Path, name: str, channels: Channels) -> Image:
    if not path.is_file():
        return Image(name, fault=Fault("image-missing", f"{path}: no such file; put it there or take it off the list"))
    beside = [Path(name) for name in channels.names_of(str(path))]
    weight = sum(file.stat().st_size for file in (path, *beside) if file.is_file())
    try:
        head = header(path)
    except ValueError as error:
        return Image(name, bytes=weight, fault=Fault("image-unreadable", str(error)))
    try:
        pixels = channels.read(path)
    except ValueError as error:
        fault = Fault(_image_code(error, head.mode, channels), str(error))
        return Image(name, head.size, weight, head.orientation, fault=fault)
    values = () if channels == PLAIN else _values(pixels)
    return Image(name, head.size, weight, head.orientation, _is_grey(pixels), fingerprint(pixels), values)


def _image_code(error: ValueError, mode: str, channels: Channels) -> str:
    if isinstance(error, Damaged):
        return "image-unreadable"
    if channels != PLAIN or mode[0].islower():  # numpy's name of a type, and not one of PIL's modes
        return "image-channels"
    if mode.startswith("I") or mode == "F":
        return "image-depth"
    return "image-colours" if mode in ("CMYK", "YCbCr", "LAB", "HSV") else "image-alpha"


def _mask(source: Files, name: str, image: Image) -> Mask:
    path = source.root / name
    if not path.is_file():
        return Mask(name, fault=Fault("mask-missing", f"{path}: no such file; put it there or take it off the list"))
    try:
        raw = read_mask(path)
    except ValueError as error:
        return Mask(name, fault=Fault(_mask_code(error, path), str(error)))
    colours = raw.ndim == 3
    values = _counts(code_of(raw) if colours else raw)
    mask = Mask(name, colours=colours, raw=values, digest=fingerprint(raw))
    code = "size-mismatch"
    try:
        if image.size != (0, 0):
            same_size(source.root / image.name, path, (raw.shape[0], raw.shape[1]))
        code = "mask-channels"
        label = source.classes.lookup(raw, str(path))
    except ValueError as error:
        return replace(mask, fault=Fault(code, str(error)))
    lost = label == NO_CLASS
    classes = _counts(label[~lost].astype(np.uint8))
    if not lost.any():
        return replace(mask, classes=classes)
    wrong = _counts((code_of(raw) if colours else raw)[lost])
    held = "" if colours else f"; a mask holds {spans(source.classes.known())}"
    fault = Fault("labels-outside", f"{path}: {_listed(wrong, colours)}: no class of the set{held}")
    return replace(mask, wrong=wrong, classes=classes, fault=fault)


def _mask_code(error: ValueError, path: Path) -> str:
    if isinstance(error, Damaged):
        return "mask-unreadable"
    head = header(path)
    if "changes the values of a mask" in str(error):
        return "mask-lossy"
    return "mask-alpha" if head.mode in ("LA", "RGBA") else "mask-mode"


def _lies(source: Source, index: int) -> int:
    """The EXIF orientation of an image in a folder of its class; 1 for one that is in no file."""
    while isinstance(source, Subset):
        index, source = int(source.indices[index]), source.source
    return header(source.file(index)).orientation if isinstance(source, Pictures) else 1


def _drawn(source: Source, index: int) -> Entry:
    """An image and a label of a source without masks."""
    name = source.name(index)
    try:
        pixels = source.image(index)
    except (ValueError, OSError) as error:
        return Entry(Image(name, fault=Fault("image-unreadable", f"{name}: {error}")))
    size = (pixels.shape[0], pixels.shape[1])
    values = _values(pixels) if pixels.shape[2] != COLOURS else ()
    image = Image(name, size, pixels.nbytes, _lies(source, index), _is_grey(pixels), fingerprint(pixels), values)
    try:
        label = source.label(index)
    except (ValueError, OSError) as error:
        return Entry(image, Mask(name, fault=Fault("mask-unreadable", f"{name}: {error}")))
    if label.shape not in ((), size):
        text = f"{name}: the image is {size} and its label {label.shape} (height, width); they must be equal"
        return Entry(image, Mask(name, raw=_counts(label), fault=Fault("size-mismatch", text)))
    return Entry(image, Mask(name, raw=_counts(label), classes=_counts(label), digest=fingerprint(label)))


def _counts(values: NDArray[Any]) -> Counts:
    if values.dtype in (np.uint8, np.uint16):
        found, counts = np.arange(65536), np.bincount(values.ravel(), minlength=65536)
        found, counts = found[counts > 0], counts[counts > 0]
    else:
        found, counts = np.unique(values, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:MOST]
    return tuple(zip(found[order].tolist(), counts[order].tolist(), strict=True))


def _listed(counts: Counts, colours: bool, most: int = 4) -> str:
    named = [f"{f'colour #{v:06x}' if colours else f'value {v}'} on {n} pixels" for v, n in counts[:most]]
    return ", ".join(named) + (f" and {len(counts) - most} more" if len(counts) > most else "")


def _values(pixels: Pixels) -> tuple[Values, ...]:
    flat = pixels.reshape(-1, pixels.shape[2]) / np.float64(255)
    each = (flat.min(0), flat.max(0), flat.mean(0), flat.var(0))
    return tuple(Values(*map(float, one)) for one in zip(*each, strict=True))


def _is_grey(pixels: Pixels) -> bool:
    if pixels.shape[2] != COLOURS:
        return False
    return bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all())
