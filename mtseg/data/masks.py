"""From the values in a mask file to classes: a table, and what is said of a value that is not in it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from mtseg.data.source import IGNORE, TWO

NO_CLASS = -1
DOCTOR = "tools/doctor.py counts the values of all masks"
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}|\d{1,3} *, *\d{1,3} *, *\d{1,3}")
Raw = NDArray[Any]  # (H, W) integers, or (H, W, 3) uint8 for a mask of colours


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Raw value -> class or IGNORE.

    table:   (V + 1,) int16, by raw value; the last entry is for all values from V on; NO_CLASS is refused
    colours: (N,) int64 ascending, red * 65536 + green * 256 + blue; empty where masks are not colours
    inks:    (N,) int16, the class of each of the colours
    other:   class of a colour that is not among them: IGNORE or NO_CLASS
    written: of a map that a user writes, whether there are words in it; None of a data set's own
    """

    table: NDArray[np.int16]
    colours: NDArray[np.int64]
    inks: NDArray[np.int16]
    other: int = NO_CLASS
    written: Literal["words", "nothing"] | None = None

    def __call__(self, mask: Raw, where: str) -> NDArray[np.uint8]:  # (H, W)
        """The label of a mask. Raises ValueError with `where`, the value and its pixels for one that is no class."""
        label = self.lookup(mask, where)
        if label.min(initial=0) == NO_CLASS:
            raise ValueError(f"{where}: {self._complaint(mask, label == NO_CLASS)}")
        return label.astype(np.uint8)

    def lookup(self, mask: Raw, where: str) -> NDArray[np.int16]:  # (H, W)
        """The class of each pixel, NO_CLASS where there is none. Raises ValueError for channels that do not fit."""
        return self._of_colours(mask, where) if mask.ndim == 3 else self._of_values(mask, where)

    def known(self) -> list[int]:
        """The raw values, below the table's last entry, that are a class or IGNORE."""
        return [int(value) for value in np.flatnonzero(self.table[:-1] != NO_CLASS)]

    def _of_values(self, mask: Raw, where: str) -> NDArray[np.int16]:
        if len(self.colours) and len(self.table) == 1:
            raise ValueError(f"{where}: has one channel, and mask_map has colours alone; give its values in mask_map")
        last = len(self.table) - 1
        if mask.dtype == np.uint8:  # nearly all masks
            return np.asarray(cv2.LUT(mask, self.table[np.minimum(np.arange(256), last)]))
        values = mask.astype(np.int64)  # uint8 cannot hold `last`
        return self.table[np.where((values < 0) | (values > last), last, values)]

    def _of_colours(self, mask: Raw, where: str) -> NDArray[np.int16]:
        if not len(self.colours):
            grey = (mask == mask[..., :1]).all()
            remedy = "save it with one channel" if grey else 'say its colours in mask_map, as in {"#804080": road}'
            raise ValueError(f"{where}: a mask of class values has one channel, this has three (RGB): {remedy}")
        codes = code_of(mask)
        place = np.searchsorted(self.colours, codes).clip(max=len(self.colours) - 1)
        return np.where(self.colours[place] == codes, self.inks[place], np.int16(self.other))

    def _complaint(self, mask: Raw, wrong: NDArray[np.bool_]) -> str:
        if mask.ndim == 3:
            codes, counts = np.unique(code_of(mask[wrong]), return_counts=True)
            common = codes[counts.argmax()]
            return (
                f"colour #{common:06x} on {counts.max()} pixels is not in mask_map; add it to data.mask_map, or set "
                f"data.other=ignore; {DOCTOR}"
            )
        values, counts = np.unique(mask[wrong], return_counts=True)
        found = set(np.unique(mask).tolist())
        if self.written == "words" and len(self.colours):
            return (
                f"value {values[0]} on {counts[0]} pixels: this mask holds numbers, and data.mask_map names colours; "
                f'save it in those, or name the classes of the numbers too, as in "{values[0]}": CLASS; {DOCTOR}'
            )
        text = f"value {values[0]} on {counts[0]} pixels is no class; a mask holds {spans(self.known())}"
        text += f"; {self._remedy(int(values[0]))}{DOCTOR}"
        if found <= {0, 255}:
            text += f". {TWO}"
        return text

    def _remedy(self, value: int) -> str:
        if self.written is None:
            return ""
        if self.written == "words":
            return f'add it to data.mask_map, as in "{value}": ignore, or set data.other=ignore; '
        return (
            f"where it is void, set data.ignore={value}; else name every value in data.mask_map, or set "
            "data.other=ignore; "
        )


def by_value(classes: Mapping[int, int]) -> LabelMap:
    """The map of raw values in [0, 65535] to classes or IGNORE; every other value is refused."""
    table = np.full(max(classes) + 2, NO_CLASS, np.int16)
    table[list(classes)] = list(classes.values())
    return LabelMap(table, np.zeros(0, np.int64), np.zeros(0, np.int16))


def in_order(count: int, void: int | None = IGNORE) -> LabelMap:
    """The map of raw values that are class indices 0 to `count` - 1; `void`, where given, is IGNORE."""
    return by_value({value: value for value in range(count)} | ({} if void is None else {void: IGNORE}))


def by_words(classes: Sequence[str], words: Mapping[str, int | str], *, void: int | None, other: int) -> LabelMap:
    """The map that a user writes: raw values and colours -> index or name of a class, or `ignore`.

    Without `words`, raw values are class indices. `void`, unless a word says otherwise, is IGNORE; `other` is what
    everything else is. Raises ValueError for a key or a class that means nothing.
    """
    plain = {} if void is None else {void: IGNORE}
    plain |= {} if words else {index: index for index in range(len(classes))}
    colours: dict[int, int] = {}
    spelt: dict[tuple[bool, int], str] = {}
    for key, meaning in words.items():
        is_colour, raw = _COLOUR.fullmatch(key) is not None, _raw(key)
        if (other_key := spelt.setdefault((is_colour, raw), key)) != key:
            raise ValueError(f"mask_map: {other_key!r} and {key!r} are the same; leave one out")
        (colours if is_colour else plain)[raw] = _class(classes, key, meaning)
    table = np.full(max(plain, default=-1) + 2, other, np.int16)
    table[list(plain)] = list(plain.values())
    codes = sorted(colours)
    classes_of = np.array([colours[c] for c in codes], np.int16)
    return LabelMap(table, np.array(codes, np.int64), classes_of, other, "words" if words else "nothing")


def _raw(key: str) -> int:
    """`7` -> 7; `#804080` and `128, 64, 128` -> 0x804080."""
    if key.startswith("#") and _COLOUR.fullmatch(key):
        return int(key[1:], 16)
    numbers = [int(part) for part in key.split(",") if part.strip().isdecimal()]
    if _COLOUR.fullmatch(key) and max(numbers) < 256:
        return numbers[0] * 65536 + numbers[1] * 256 + numbers[2]
    if key.isdecimal() and numbers[0] <= 65535:
        return numbers[0]
    raise ValueError(f'mask_map: {key!r} is neither a raw value (0 to 65535) nor a colour ("#804080", "128, 64, 128")')


def _class(classes: Sequence[str], key: str, meaning: int | str) -> int:
    if isinstance(meaning, str) and meaning in classes:
        return list(classes).index(meaning)
    if meaning == "ignore":
        return IGNORE
    if isinstance(meaning, int) and 0 <= meaning < len(classes):
        return meaning
    raise ValueError(
        f"mask_map: {key!r} is mapped to {meaning!r}, which is no class; they are {', '.join(classes)} "
        f"(0 to {len(classes) - 1}), and ignore"
    )


def spans(values: list[int]) -> str:
    """Ascending integers in words: [0, 1, 2, 255] is `0 to 2, 255`."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def code_of(mask: Raw) -> NDArray[np.int64]:  # (H, W)
    """The colours of a mask (H, W, 3) as red * 65536 + green * 256 + blue."""
    return (mask.astype(np.int64) * (65536, 256, 1)).sum(axis=-1)
