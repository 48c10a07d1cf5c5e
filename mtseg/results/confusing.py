"""The confusion matrix on a page: numbers where there is room for them, else a picture; and the worst pairs."""

import io
from collections.abc import Iterator, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pil

from mtseg.results.page import image, name_cell, share, table

READABLE = 20  # classes up to which numbers are shown
PAIRS = 12  # of classes that are taken for one another
CELL = 4  # pixels of a side, where it is a picture


def confusing(counts: Sequence[Sequence[int]], names: Sequence[str], *, of: str = "pixels") -> Iterator[str]:
    """The parts of the page for counts (K, K) by label and prediction of the classes `names`; none without counts.

    `of`: what was counted.
    """
    if not counts or len(counts) != len(names):
        return
    matrix = np.array(counts, dtype=np.float64)
    whole = matrix.sum(1, keepdims=True)
    shares = np.divide(matrix, whole, out=np.zeros_like(matrix), where=whole > 0)
    yield "<h2>What the teacher takes for what</h2>"
    unit = "percent" if len(names) <= READABLE else "the darker, the larger the share (square root)"
    yield f'<p class="quiet">A row a labelled class, a column a predicted one; {unit} of the row\'s {of}.</p>'
    yield _numbers(shares, names) if len(names) <= READABLE else _picture(shares)
    apart = np.where(np.eye(len(names), dtype=bool), 0, matrix)
    order = np.argsort(-apart, axis=None, kind="stable")[:PAIRS]
    pairs = [np.unravel_index(place, apart.shape) for place in order if apart.flat[place] > 0]
    rows = [name_cell(names[i]) + name_cell(names[j]) + share(float(shares[i, j])) for i, j in pairs]
    if rows:
        yield f"<h3>The pairs that cost most {of}</h3>"
        text = f"Sorted by the number of {of}, the most first; the bar is their share of the labelled class's {of}."
        yield f'<p class="quiet">{text}</p>'
        yield table(["labelled", "predicted", "of the labelled"], rows)


def _numbers(shares: NDArray[np.float64], names: Sequence[str]) -> str:
    heads = "".join(f"<th>{escape(name)}</th>" for name in names)
    rows = []
    for name, row in zip(names, shares, strict=True):
        cells = (
            f'<td style="background: color-mix(in srgb, var(--bar) {100 * value:.0f}%, transparent)">'
            f"{f'{100 * value:.0f}' if value >= 0.005 else ''}</td>"
            for value in row
        )
        rows.append(f"<tr><th>{escape(name)}</th>{''.join(cells)}</tr>")
    head = f"<thead><tr><th></th>{heads}</tr></thead>"
    return f'<div class="wide"><table class="cells">{head}<tbody>{"".join(rows)}</tbody></table></div>'


def _picture(shares: NDArray[np.float64]) -> str:
    dark = (255 * (1 - np.sqrt(shares))).round().astype(np.uint8).repeat(CELL, 0).repeat(CELL, 1)
    file = io.BytesIO()
    Pil.fromarray(dark).save(file, "PNG")
    return image(file.getvalue(), "the confusion matrix, dark: many pixels (square root)", style="map")
