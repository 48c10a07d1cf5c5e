"""Colours of classes, for pictures."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

DISTINCT = """000000 e6194b 3cb44b ffe119 4363d8 f58231 911eb4 42d4f4 f032e6 bfef45 fabed4 469990 dcbeff 9a6324 fffac8
800000 aaffc3 808000 ffd8b1 000075 a9a9a9"""


def voc_colours(count: int) -> NDArray[np.uint8]:  # (count, 3) RGB
    """The first `count` colours of PASCAL VOC's rule, distinct up to 256; colour 0 is black.

    Bits 0, 3, 6 of the index are the highest bits of red, bits 1, 4, 7 those of green, bits 2, 5 those of blue
    (VOC development kit, VOClabelcolormap).
    """
    index = np.arange(count)
    colours = np.zeros((count, 3), np.int64)
    for place in range(8):
        for channel in range(3):
            colours[:, channel] |= ((index >> (3 * place + channel)) & 1) << (7 - place)
    return colours.astype(np.uint8)


def distinct(count: int) -> NDArray[np.uint8]:  # (count, 3) RGB
    """The first `count`, at most 255, of colours that are easily told apart in a picture; 0 is black, and none white.

    After black the colours of S. Trubetskoy, "List of 20 simple, distinct colors" (2017, sashamaps.net), in its order;
    after these, those of VOC's rule that are not among them.
    """
    table = np.concatenate([inks(DISTINCT), voc_colours(256)])
    _, first = np.unique(table, axis=0, return_index=True)
    return table[np.sort(first)][:count]


def check_named(classes: Sequence[str], palette: Sequence[str]) -> None:
    """Raises ValueError for classes of which two have one name, and for colours that are not one for each class."""
    if len(set(classes)) < len(classes):
        raise ValueError(f"classes: {', '.join(classes)} names one twice; give each its own name")
    if len(palette) != len(classes):
        raise ValueError(f"palette: {len(palette)} colours for {len(classes)} classes; give one for each")
    wrong = [ink for ink in palette if not re.fullmatch("#?[0-9a-fA-F]{6}", ink)]
    if wrong:
        raise ValueError(f'palette: {wrong[0]!r} is no colour; write it as "#804080"')


def inks(text: str) -> NDArray[np.uint8]:  # (K, 3)
    """Colours written as hexadecimal triples with blanks between them: `804080 #f423e8`."""
    return np.array([list(bytes.fromhex(ink.removeprefix("#"))) for ink in text.split()], np.uint8)


def colours(count: int) -> NDArray[np.uint8]:  # (count, 3)
    """Those of VOC's classes, from the start again where there are not enough."""
    return np.resize(voc_colours(min(count, 255)), (count, 3))
