"""A plot of methods as an SVG file of its own: a dot for each seed, a bar at the mean, lines at some rows."""

from collections.abc import Mapping, Sequence
from html import escape
from statistics import mean

from mtseg.results.charts import ticks, told_apart

WIDTH, ROW, LEFT, RIGHT, TOP, BOTTOM = 640, 20, 190, 24, 34, 26  # in the picture's own units
INK, FAINT, DOT = "#1a1a1a", "#d5d5d5", "#0b62a4"


def dots(title: str, rows: Mapping[str, Sequence[float]], lines: Sequence[str] = ()) -> str:
    """An SVG with a line of dots for each of `rows`, in their order, over one axis; values in percent.

    At the means of the rows named in `lines` stands a dashed line through the whole plot. Raises ValueError for a row
    without values and for no row.
    """
    if not rows or not all(rows.values()):
        raise ValueError(f"{title}: nothing to draw; every row needs a value for each seed")
    every = [value for values in rows.values() for value in values]
    room = 0.04 * (max(every) - min(every)) or 1.0
    low, high = min(every) - room, max(every) + room
    height = TOP + ROW * len(rows) + BOTTOM

    def x(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    inner = [f'<text x="{LEFT}" y="16" font-weight="bold">{escape(title)}</text>']
    places = ticks(low, high)
    for value, text in zip(places, told_apart(places), strict=True):
        inner.append(_line(x(value), TOP, height - BOTTOM, f'stroke="{FAINT}"'))
        inner.append(f'<text x="{x(value):.1f}" y="{height - 8}" text-anchor="middle">{text}</text>')
    for name in lines:
        inner.append(_line(x(mean(rows[name])), TOP, height - BOTTOM, f'stroke="{INK}" stroke-dasharray="4 3"'))
    for number, (name, values) in enumerate(rows.items()):
        y = TOP + ROW * (number + 0.5)
        inner.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        inner.append(_line(x(mean(values)), y - 7, y + 7, f'stroke="{DOT}" stroke-width="2.5"'))
        inner += [f'<circle cx="{x(v):.1f}" cy="{y:.1f}" r="3.2" fill="{DOT}" fill-opacity=".55"/>' for v in values]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="{INK}">'
        f'<rect width="100%" height="100%" fill="#ffffff"/>{"".join(inner)}</svg>\n'
    )


def _line(x: float, top: float, bottom: float, style: str) -> str:
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" {style}/>'
