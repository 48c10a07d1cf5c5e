"""Whether images and labels are what every source must give: looked at before a run, in a few of each pool."""

from collections.abc import Collection, Iterator

import numpy as np

from mtseg.data.damaged import Damaged
from mtseg.data.source import UNKNOWN, Label, Pixels, Source, Splits

_INTEGERS = (np.uint8, np.int16, np.int32, np.int64)
LOOKED_AT = 3  # images of a pool: the first, the last, and those between


def refuse_unsound(splits: Splits, scored: Collection[str], *, ranged: bool) -> None:
    """Raises ValueError where an image is not (H, W, C) of uint8, or float32 on its scale, or a label not its map, and
    where classes have not a name and a colour each.

    Reads up to LOOKED_AT images of each pool, and their labels where they are learnt or `scored`. `ranged`: which
    values are 0 and 1 has been said, so that dark images are dark. Of a file that is not whole it says nothing: whoever
    wants it does, and may take another.
    """
    _refuse_classes(splits)
    highest, unit = 0.0, ""
    for pool in ("labelled", "unlabelled", "val", "test"):
        labels = pool == "labelled" or pool in scored
        for where, image, label in _few(getattr(splits, pool), pool, labels=labels):
            _refuse_image(where, image, splits.channels)
            if labels:
                _refuse_label(where, label, image)
            if image.dtype == np.float32:
                highest, unit = max(highest, float(image.max(initial=0))), unit or where
    if unit and 0 < highest <= 1 and not ranged:
        raise ValueError(
            f"{unit}: float32 of at most {highest:.3g}, as all that were looked at; float32 images are on the scale of "
            "uint8, where 255 is white: give values 255 times as high"
        )


def _few(source: Source, pool: str, *, labels: bool) -> Iterator[tuple[str, Pixels, Label]]:
    """Where it is, an image, and its label, or nothing, of those that are looked at."""
    count = len(source)
    for index in np.unique(np.linspace(0, count - 1, min(count, LOOKED_AT)).round().astype(int)).tolist():
        try:
            image, label = source.image(index), source.label(index) if labels else np.array(0)
        except Damaged:
            continue
        yield f"data: {pool} image {index} ({source.name(index)})", image, label


def _refuse_classes(splits: Splits) -> None:
    count, palette = len(splits.classes), splits.palette
    if not isinstance(palette, np.ndarray):
        raise ValueError(f"palette: a {type(palette).__name__}; a palette is a NumPy array ({count}, 3) of uint8")
    whole = np.issubdtype(palette.dtype, np.integer)
    if palette.shape != (count, 3) or not whole or palette.min(initial=0) < 0 or palette.max(initial=0) > 255:
        raise ValueError(
            f"palette: {palette.dtype} {palette.shape} for {count} classes; give a colour of three whole numbers from "
            f"0 to 255 each, ({count}, 3)"
        )
    if len(set(splits.classes)) < count:
        twice = next(name for name in splits.classes if splits.classes.count(name) > 1)
        raise ValueError(f"classes: {twice!r} is there twice; every class has a name of its own")


def _refuse_image(where: str, image: Pixels, channels: int) -> None:
    rule = f"an image is a NumPy array (height, width, {channels}), uint8, or float32 on the same scale"
    if not isinstance(image, np.ndarray):
        raise ValueError(f"{where}: a {type(image).__name__}; {rule}")
    if image.ndim != 3 or image.shape[2] != channels or image.dtype not in (np.uint8, np.float32):
        raise ValueError(f"{where}: {image.dtype} of shape {image.shape}; {rule}")


def _refuse_label(where: str, label: Label, image: Pixels) -> None:
    if not isinstance(label, np.ndarray | np.generic) or not np.issubdtype(label.dtype, np.integer):
        kind = getattr(label, "dtype", type(label).__name__)
        raise ValueError(f"{where}: its label is {kind}; a label is a NumPy array of integers")
    if label.dtype.newbyteorder("=") not in _INTEGERS or not label.dtype.isnative or min(label.strides, default=0) < 0:
        raise ValueError(
            f"{where}: its label is {label.dtype.str} with strides {label.strides}; a label is uint8, or signed "
            "integers that hold 255, in this machine's order, forwards: np.ascontiguousarray(label, dtype=np.int64)"
        )
    if label.shape == () and label < UNKNOWN:
        raise ValueError(
            f"{where}: its label is {label}; the class of a whole image is 0 or more, and {UNKNOWN} says that "
            "it has none"
        )
    if label.shape not in ((), image.shape[:2]):
        raise ValueError(
            f"{where}: a label of shape {label.shape} for an image of {image.shape}; a label is as large as its "
            "image, (height, width), or () for the image as a whole"
        )
