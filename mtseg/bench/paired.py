"""Cases that are timed in turn within one process, and the ratios of what they took."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import quantiles
from typing import Any

import torch

Clock = Callable[[], float]  # seconds
Seconds = dict[str, list[float]]  # of each case, by round
LEAST = 0.05  # seconds that a case runs for at least, by repetition


@dataclass(frozen=True)
class Ratio:
    """How often `bottom` goes into `top`, both names of cases, round by round; and what it should be."""

    top: str
    bottom: str
    at_least: float | None = None
    at_most: float | None = None

    def target(self) -> str:
        return f"at least {self.at_least:g}" if self.at_least else f"at most {self.at_most:g}" if self.at_most else ""


@dataclass(frozen=True)
class Group:
    """What was measured side by side under `name`: seconds by case, and the ratios that matter."""

    name: str
    seconds: Seconds
    ratios: tuple[Ratio, ...]

    def facts(self) -> dict[str, Any]:
        """Plain values: median and quartiles of each case's milliseconds and of each ratio."""
        return {
            "name": self.name,
            "rounds": len(next(iter(self.seconds.values()))),
            "ms": {case: spread([1000 * value for value in taken]) for case, taken in self.seconds.items()},
            "ratios": {
                f"{ratio.top} / {ratio.bottom}": spread(self.ratio(ratio)) | {"target": ratio.target()}
                for ratio in self.ratios
            },
        }

    def ratio(self, of: Ratio) -> list[float]:
        """By round."""
        pairs = zip(self.seconds[of.top], self.seconds[of.bottom], strict=True)
        return [top / bottom for top, bottom in pairs]


def clock_of(device: torch.device) -> Clock:
    """On a CPU the seconds that this process computed, whatever else runs; on a GPU those until it is done."""
    if device.type == "cpu":
        return time.process_time

    def done() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return done


def timed(cases: Mapping[str, Callable[[], object]], *, rounds: int, clock: Clock) -> Seconds:
    """The seconds of one call of each case, in `rounds` in turn, every second one backwards; the first is not counted.

    A case that takes less than LEAST is repeated within a round.
    """
    repeats = {name: _repeats(work, clock) for name, work in cases.items()}
    seconds: Seconds = {name: [] for name in cases}
    for number in range(rounds):
        for name in list(cases)[:: 1 if number % 2 == 0 else -1]:
            seconds[name].append(_once(cases[name], repeats[name], clock))
    return seconds


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median and quartiles, with four digits."""
    known = list(values)
    low, middle, high = quantiles(known, n=4, method="inclusive") if len(known) > 1 else (known[0],) * 3
    return {"median": _four(middle), "low": _four(low), "high": _four(high)}


def _repeats(work: Callable[[], object], clock: Clock) -> int:
    work()
    return max(1, round(LEAST / max(1e-7, _once(work, 1, clock))))


def _once(work: Callable[[], object], repeats: int, clock: Clock) -> float:
    start = clock()
    for _ in range(repeats):
        work()
    return (clock() - start) / repeats


def _four(value: float) -> float:
    return float(f"{value:.4g}")
