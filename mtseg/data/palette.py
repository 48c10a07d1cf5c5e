"""Colours of classes, for pictures."""

import numpy as np
from numpy.typing import NDArray


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


def inks(text: str) -> NDArray[np.uint8]:  # (K, 3)
    """Colours written as hexadecimal triples with blanks between them: `804080 f423e8`."""
    return np.array([list(bytes.fromhex(ink)) for ink in text.split()], np.uint8)


def colours(count: int) -> NDArray[np.uint8]:  # (count, 3)
    """Those of VOC's classes, from the start again where there are not enough."""
    return np.resize(voc_colours(min(count, 255)), (count, 3))
