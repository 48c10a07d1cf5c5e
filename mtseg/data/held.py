"""Images that lie in memory, all of one size: small ones, of which a device holds whole data sets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtseg.data.source import Label, Source, Subset, fingerprint


@dataclass(frozen=True, eq=False)
class Held:
    """Images (N, H, W, 3) uint8 with a class each, (N,) int64, or UNKNOWN; `names` are theirs."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return self.names[index]

    def identity(self, index: int) -> str:
        """The pixels' own: names are places in an array, which say nothing of another array."""
        return fingerprint(self.images[index])

    def image(self, index: int) -> NDArray[np.uint8]:
        return self.images[index]

    def label(self, index: int) -> Label:
        return self.labels[index, ...]


def held_classes(source: Source) -> NDArray[np.int64] | None:
    """The classes (N,) of a pool of images that lie in memory; None of one that is read from files."""
    if isinstance(source, Held):
        return source.labels
    if isinstance(source, Subset) and isinstance(source.source, Held):
        return source.source.labels[np.asarray(source.indices, np.int64)]
    return None


def held_by(source: Source, pool: str) -> tuple[Held, NDArray[np.int64]]:
    """The images in memory that a pool is part of, and where in them its images are.

    Raises ValueError for a pool that is read from files.
    """
    whole, places = (source.source, source.indices) if isinstance(source, Subset) else (source, range(len(source)))
    if not isinstance(whole, Held):
        raise ValueError(
            f"views.made: the {pool} images do not lie in memory, all of one size, so the device cannot hold them; "
            "set views.made=workers"
        )
    return whole, np.asarray(places, np.int64)
