"""Which training images are labelled: seeded, and nested, so that 1/16 lies inside 1/8."""

import re
from fractions import Fraction
from typing import Annotated

from pydantic import Field

from mtseg.randomness import generator

# How many images are labelled: a number, a share such as "1/8" (rounded down), or "all".
Labels = Annotated[int, Field(ge=1)] | str


def choose(count: int, labels: Labels, seed: int) -> list[int]:
    """The indices in [0, count) that are labelled, ascending; the smaller choice of a seed lies in the larger."""
    wanted = _wanted(count, labels)
    return sorted(int(i) for i in generator(seed, "labelled images").permutation(count)[:wanted])


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
