"""Which image each loading process has in hand, in memory they share: where one dies or hangs, its parent knows."""

import os
import time
from typing import TypeVar

import torch
from torch.utils.data import Dataset, get_worker_info

from mtseg.data.source import Source

POOLS = ("labelled", "unlabelled", "evaluated")
T = TypeVar("T")


class InHand:
    """A row a process: its id, the number of a pool, an image's index in it, and when it was taken in hand."""

    def __init__(self, workers: int) -> None:
        self._rows = torch.zeros((max(workers, 1), 4), dtype=torch.float64).share_memory_()

    def take(self, pool: str, index: int) -> None:
        """From now on this process reads the image `index` of `pool`."""
        info = get_worker_info()
        place = 0 if info is None else info.id
        if place >= len(self._rows):  # of a loader of the program's own, which nobody asks
            return
        row = [os.getpid(), POOLS.index(pool), index, time.monotonic()]
        self._rows[place] = torch.tensor(row, dtype=torch.float64)

    def of(self, process: int | None) -> tuple[str, int] | None:
        """Pool and index of what the process of that id has in hand; of None, what has been in any hand for longest."""
        rows = [row for row in self._rows.tolist() if row[0] and process in (None, int(row[0]))]
        found = min(rows, key=lambda row: row[3], default=None)
        return None if found is None else (POOLS[int(found[1])], int(found[2]))


class Reading(Dataset[T]):
    """What reads images of pools in loading processes, and says which one each has in hand."""

    in_hand: InHand

    def pool(self, name: str) -> Source:
        """The images of that pool, one of POOLS."""
        raise NotImplementedError
