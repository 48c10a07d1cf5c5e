"""The frames of a video, as images that are read in their order."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")
SLACK = 0.01  # of the frames that a file promises may be missing: some containers only estimate them


def is_video(name: str) -> bool:
    """Whether a file is one by its suffix."""
    return name.lower().endswith(SUFFIXES)


class Frames:
    """The frames of a file, cheapest one after the other: going back opens the file again.

    count: of the frames that can be read; promised: those that the file says it has, 0 where it does not say
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open()
        self.promised = max(0, int(self._file.get(cv2.CAP_PROP_FRAME_COUNT)))
        self.count = 0
        while self._file.grab():
            self.count += 1
        self._close()

    @property
    def cut_off(self) -> bool:
        """Whether the file ends before what it promises."""
        return self.count == 0 or self.promised - self.count > max(2, SLACK * self.promised)

    def read(self, index: int) -> NDArray[np.uint8]:
        """Frame `index` as RGB (H, W, 3). Raises ValueError where it cannot be read."""
        if index < self._at:  # or closed
            self._open()
        while self._at < index and self._file.grab():
            self._at += 1
        there, frame = self._file.read()
        self._at += 1
        if self._at >= self.count:
            self._close()
        if not there or frame is None:
            raise ValueError(
                f"{self.path}: frame {index} cannot be read ({self.count} can, {self.promised} are promised); "
                "copy the file again, or convert it"
            )
        return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), dtype=np.uint8)

    def _open(self) -> None:
        self._file, self._at = cv2.VideoCapture(str(self.path)), 0

    def _close(self) -> None:
        self._file.release()
        self._at = self.count + 1  # whatever is read next, is read from the beginning on
