"""The log of a process that tells nothing: of several, one speaks."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


class Mute:
    """The `Log` of a process that does not write."""

    def say(self, text: str) -> None:
        pass

    def warn(self, sentences: list[str]) -> None:
        pass

    def awaited(self, batches: Iterable[T]) -> Iterator[T]:
        return iter(batches)

    def train(self, step: int, values: dict[str, Any], *, images_per_step: int) -> None:
        pass

    def evaluated(self, step: int, split: str, found: dict[str, dict[str, Any]], *, asked: str = "") -> None:
        pass

    def pictures(self, step: int, found: dict[str, NDArray[np.uint8]]) -> None:
        pass

    def paused(self, step: int, *, since: float) -> None:
        pass

    def attempt(self, what: str, write: Callable[[], object], *, errors: type[Exception] = OSError) -> None:
        pass

    def scores(self, step: int, pools: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]] | None:
        return None

    def length(self) -> int:
        return 0
