"""Curves as SVG, without a script: thinned to what the eye can tell apart, with a legend of last values."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from mtseg.results.page import INKS

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 340, 190, 46, 20, 8  # of a chart, in its own units
BINS = 170  # a curve has at most two points in each
DASHES = ("", "6 3", "2 3", "8 3 2 3")  # one after another where the colours are used up
Point = tuple[float, float | None]  # step, and a value or a gap


@dataclass(frozen=True)
class Curve:
    """Values over steps. `low` and `high`, where given, are the borders of a band around it, at its steps."""

    name: str
    points: Sequence[Point]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def chart(title: str, curves: Sequence[Curve], *, percent: bool = False) -> str:
    """A figure of all curves that have a value; in `percent` of 1, then within 0 and 100. "": none has."""
    shown = [curve for curve in (_scaled(curve, 100.0 if percent else 1.0) for curve in curves) if _values(curve)]
    if not shown:
        return ""
    every = [value for curve in shown for value in (*_values(curve), *curve.low, *curve.high)]
    steps = [step for curve in shown for step, _ in curve.points]
    if percent:
        every = [min(max(value, 0.0), 100.0) for value in every]
        middle = (min(every) + max(every)) / 2
        every += [max(0.0, middle - 1), min(100.0, middle + 1)]  # less than two points is no difference to fill a chart
    low, high = _stretched(min(every), max(every))
    frame = _Frame(min(steps), max(steps), low, min(high, 100.0) if percent else high)
    inner = [*frame.grid()]
    for number, curve in enumerate(shown):
        colour, dash = f"var(--c{number % INKS})", DASHES[number // INKS % len(DASHES)]
        inner += frame.band(curve, colour)
        inner += [
            f'<path class="curve" style="stroke: {colour}" stroke-dasharray="{dash}" d="{path}"/>'
            for path in frame.paths(curve.points)
        ]
    legend = "".join(
        f'<span><i style="border-color: var(--c{number % INKS})"></i>{escape(curve.name)} '
        f"{short(_values(curve)[-1])}</span> "
        for number, curve in enumerate(shown)
    )
    said = escape(f"{title} over steps: {', '.join(curve.name for curve in shown)}")
    return (
        f'<figure><h3>{escape(title)}</h3><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{said}">'
        f'{"".join(inner)}</svg><p class="legend">{legend}</p></figure>'
    )


def short(value: float) -> str:
    """Four digits at most."""
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.4g}"


@dataclass(frozen=True)
class _Frame:
    """Where steps and values are in the picture."""

    first: float
    last: float
    low: float
    high: float

    def x(self, step: float) -> float:
        return LEFT + (step - self.first) / max(self.last - self.first, 1e-12) * (WIDTH - LEFT - 8)

    def y(self, value: float) -> float:
        within = min(max(value, self.low), self.high)
        return TOP + (self.high - within) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)

    def grid(self) -> Iterator[str]:
        values = ticks(self.low, self.high)
        for value, text in zip(values, told_apart(values), strict=True):
            y = self.y(value)
            yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - 8}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
        ends = [(self.first, "start"), (self.last, "end")] if self.last > self.first else [(self.first, "start")]
        for step, anchor in ends:
            yield f'<text x="{self.x(step):.1f}" y="{HEIGHT - 5}" text-anchor="{anchor}">{step:g}</text>'

    def paths(self, points: Sequence[Point]) -> Iterator[str]:
        """A line for each stretch without gaps; a stretch of one point is a dot."""
        for stretch in _stretches(thinned(points)):
            places = [f"{self.x(step):.1f} {self.y(value):.1f}" for step, value in stretch]
            yield f"M{'L'.join(places)}" if len(places) > 1 else f"M{places[0]}h.1m-2 0a2 2 0 1 0 4 0a2 2 0 1 0-4 0"

    def band(self, curve: Curve, colour: str) -> Iterator[str]:
        if curve.low:
            steps = [step for step, _ in curve.points]
            there = [(self.x(s), self.y(v)) for s, v in zip(steps, curve.high, strict=True)]
            back = [(self.x(s), self.y(v)) for s, v in zip(steps, curve.low, strict=True)][::-1]
            places = " ".join(f"{x:.1f},{y:.1f}" for x, y in there + back)
            yield f'<polygon points="{places}" style="fill: {colour}" opacity=".18"/>'


def thinned(points: Sequence[Point]) -> list[Point]:
    """`points`, or the least and the greatest value of each of BINS stretches, in their order, where they are more."""
    if len(points) <= 2 * BINS:
        return list(points)
    kept: list[Point] = []
    for n in range(BINS):
        begin, end = n * len(points) // BINS, (n + 1) * len(points) // BINS
        known = [(value, at) for at in range(begin, end) if (value := points[at][1]) is not None]
        kept += [points[at] for at in sorted({min(known)[1], max(known)[1]} if known else {begin})]
    return kept


def ticks(low: float, high: float) -> list[float]:
    """Round values in [low, high], two to six of them."""
    raw = (high - low) / 5
    step = 10.0 ** math.floor(math.log10(raw))
    step *= next(m for m in (1, 2, 5, 10) if m * step >= raw * 0.999)
    return [n * step for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def told_apart(values: Sequence[float]) -> list[str]:
    """Different values in different words: `short`, and in more digits where these are alike."""
    texts = [short(value) for value in values]
    for digits in range(4, 16):
        if len(set(texts)) == len(set(values)):
            break
        texts = [f"{value:.{digits}g}" for value in values]
    return texts


def _stretches(points: Sequence[Point]) -> Iterator[list[tuple[float, float]]]:
    stretch: list[tuple[float, float]] = []
    for step, value in [*points, (0.0, None)]:
        if value is not None:
            stretch.append((step, value))
        elif stretch:
            yield stretch
            stretch = []


def _stretched(low: float, high: float) -> tuple[float, float]:
    """A range that is not empty, with a little room; it begins at 0 where that is near."""
    low = 0.0 if 0 <= low < 0.5 * high else low
    room = 0.04 * (high - low) or 0.5 * abs(high) or 1.0
    return (low if low == 0 else low - room), high + room


def _scaled(curve: Curve, scale: float) -> Curve:
    points = [(step, None if value is None else scale * value) for step, value in curve.points]
    return Curve(curve.name, points, [scale * v for v in curve.low], [scale * v for v in curve.high])


def _values(curve: Curve) -> list[float]:
    return [value for _, value in curve.points if value is not None]
