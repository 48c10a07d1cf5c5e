"""Rows of a picture as they are made, from top to bottom: in memory, or, of a large one, in a file without a name."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import SpooledTemporaryFile

import numpy as np
from numpy.typing import NDArray

from mtseg.inference.pictures import ROWS

IN_MEMORY = 2**26  # bytes


class Rows:
    """Rows (W,) of bytes. Beyond IN_MEMORY they lie in folder `aside`, and are gone with this object."""

    def __init__(self, width: int, aside: Path) -> None:
        self.width, self.count = width, 0
        self._file = SpooledTemporaryFile(IN_MEMORY, dir=str(aside))  # noqa: SIM115  it lives as long as this

    def add(self, values: NDArray[np.uint8], *, top: int, left: int, around: int) -> None:
        """Rows from `top` on, (h, w) from column `left` on, with `around` beside them and in the rows before them."""
        self.end(top, around=around)
        if values.shape[1] < self.width:
            inner, values = values, np.full((len(values), self.width), around, np.uint8)
            values[:, left : left + inner.shape[1]] = inner
        self._file.write(np.ascontiguousarray(values).tobytes())
        self.count += len(values)

    def end(self, count: int, *, around: int) -> None:
        """Rows of `around`, up to `count` in all."""
        while self.count < count:
            rows = min(ROWS, count - self.count)
            self._file.write(bytes([around]) * (rows * self.width))
            self.count += rows

    def strips(self) -> Iterator[NDArray[np.uint8]]:
        """The rows, ROWS at a time, (h, W)."""
        for top in range(0, self.count, ROWS):
            self._file.seek(top * self.width)
            rows = min(ROWS, self.count - top)
            yield np.frombuffer(self._file.read(rows * self.width), np.uint8).reshape(rows, self.width)
