"""Which training images are labelled: seeded, and nested, so that 1/16 lies inside 1/8."""

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field

from mtseg.data.source import Source, Subset
from mtseg.randomness import generator

# How many images are labelled: a number, a share such as "1/8" (rounded down), or "all".
Labels = Annotated[int, Field(ge=1)] | str


def choose(count: int, labels: Labels, seed: int) -> list[int]:
    """The indices in [0, count) that are labelled, ascending; the smaller choice of a seed lies in the larger."""
    wanted = _wanted(count, labels)
    return sorted(int(i) for i in generator(seed, "labelled images").permutation(count)[:wanted])


def unlabelled_pool(source: Source, labelled: Sequence[int], which: Literal["all", "rest"]) -> Source:
    """All of `source`, or what is not labelled of it. Raises ValueError where nothing is left."""
    if which == "all":
        return source
    rest = sorted(set(range(len(source))) - set(labelled))
    if not rest:
        raise ValueError("data.unlabelled: 'rest' leaves nothing where every image is labelled; use 'all'")
    return Subset(source, rest)


def _wanted(count: int, labels: Labels) -> int:
    if labels == "all":
        return count
    if isinstance(labels, str):
        if not re.fullmatch(r"[1-9]\d*/[1-9]\d*", labels) or Fraction(labels) > 1:
            raise ValueError(f"data.labels: {labels!r} is not a number of images, a share such as '1/8', or 'all'")
        wanted = int(count * Fraction(labels))
    else:
        wanted = labels
    if not 1 <= wanted <= count:
        raise ValueError(f"data.labels: {labels!r} is {wanted} of {count} training images; choose from 1 to {count}")
    return wanted
