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
    order = generator(seed, "labelled images").permutation(count)
    return sorted(int(i) for i in order[: wanted(count, labels)])


def wanted(count: int, labels: Labels) -> int:
    """How many of `count` images `labels` asks for, a share rounded down. Raises ValueError where that is none."""
    number = number_of(count, labels, "data.labels")
    if not 1 <= number <= count:
        raise ValueError(f"data.labels: {labels!r} is {number} of {count} training images; choose from 1 to {count}")
    return number


def number_of(count: int, labels: Labels, key: str) -> int:
    """What `labels` is of `count` images, a share rounded down. Raises ValueError, naming `key`, for what is none."""
    if labels == "all":
        return count
    if isinstance(labels, int):
        return labels
    if not re.fullmatch(r"[1-9]\d*/[1-9]\d*", labels) or Fraction(labels) > 1:
        raise ValueError(f"{key}: {labels!r} is not a number of images, a share such as '1/8', or 'all'")
    return int(count * Fraction(labels))
