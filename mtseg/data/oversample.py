"""Which pixel a crop is placed on, so that classes of few pixels are seen as often as others."""

import numpy as np

from mtseg.data.source import IGNORE, Label

Pixel = tuple[int, int]  # row and column


def pixel_of_a_class(label: Label, rng: np.random.Generator) -> Pixel | None:
    """A pixel of a label (H, W) whose class is drawn alike from those that it has; None where nothing is labelled, or
    the image has a class as a whole."""
    if label.ndim == 0:
        return None
    counts = np.bincount(label.ravel(), minlength=IGNORE + 1)
    counts[IGNORE] = 0
    there = np.flatnonzero(counts)
    if not len(there):
        return None
    chosen = rng.choice(there)
    row, column = divmod(int(np.flatnonzero(label == chosen)[rng.integers(counts[chosen])]), label.shape[1])
    return row, column
