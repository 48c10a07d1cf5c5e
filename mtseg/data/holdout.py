"""Labelled images that are held out of training: a checkpoint is chosen by them, so that no score is chosen for."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mtseg.data.files import Files
from mtseg.data.source import Source, Splits, Subset
from mtseg.data.splits import Labels, number_of
from mtseg.randomness import generator


def held_out(splits: Splits, share: Labels, seed: int) -> Splits:
    """`splits` with `share` of its labelled images, at least one, in `holdout` and in no other pool.

    Raises ValueError where no image would be left to learn from.
    """
    count = len(splits.labelled)
    number = max(1, number_of(count, share, "eval.holdout"))
    if number >= count:
        raise ValueError(
            f"eval.holdout: {share!r} is {number} of {count} labelled images, which leaves none to learn from; give "
            "fewer, label more, or use eval.select=split"
        )
    order = generator(seed, "held-out images").permutation(count)
    apart, rest = np.sort(order[:number]), np.sort(order[number:])
    names = {splits.labelled.name(int(index)) for index in apart}
    others = [index for index in range(len(splits.unlabelled)) if splits.unlabelled.name(index) not in names]
    if len(splits.unlabelled) and not others:
        raise ValueError("eval.holdout: leaves no unlabelled image; add others, or use eval.select=split")
    return replace(
        splits,
        labelled=_only(splits.labelled, rest),
        unlabelled=_only(splits.unlabelled, np.array(others)),
        holdout=_strict(_only(splits.labelled_to_score or splits.labelled, apart)),
        labelled_to_score=None,
    )


def _strict(source: Source) -> Source:
    """Images that are scored: none is passed over."""
    return replace(source, on_bad_image="error") if isinstance(source, Files) else source


def _only(source: Source, indices: NDArray[np.int64]) -> Source:
    """The images at `indices`. One that reads on past a bad file (`Files`) must not read on into another pool."""
    return source.only(indices) if isinstance(source, Files | Subset) else Subset(source, indices)
