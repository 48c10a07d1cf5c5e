"""The parts of a page that is one HTML file, asks for nothing from elsewhere, and is light or dark, wide or narrow.

The doctor's page, a run's and that of several runs are made of them. No text of a user becomes markup.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

INKS = 8  # colours of curves, the style's --c0, --c1, ...
STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #fdfdfc; --line: #d5d5d2; --quiet: #63666b; --bar: #7c9cc4;
  --error: #b3261e; --warning: #8a5a00; --note: #3a6b4c; --c0: #1f6fb4; --c1: #cf5a1f; --c2: #2c8a4b; --c3: #8a4fb0;
  --c4: #9a7700; --c5: #008790; --c6: #c23f7e; --c7: #6b6e73; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e3; --paper: #17191c; --line: #3a3d42; --quiet: #a0a3a8;
  --bar: #4f7099; --error: #ff8a80; --warning: #f0b95a; --note: #8fc9a3; --c0: #6cb2f0; --c1: #f59464; --c2: #74cf93;
  --c3: #c79be8; --c4: #e0c04e; --c5: #4fd0d8; --c6: #f08cb8; --c7: #b4b7bc; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 62rem; padding: 1rem; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .2rem; overflow-wrap: anywhere; }
section.finding { border-left: 4px solid var(--line); padding: .1rem 0 .1rem .8rem; margin: 1rem 0; }
.error { border-color: var(--error) !important; } .error b { color: var(--error); }
.warning { border-color: var(--warning) !important; } .warning b { color: var(--warning); }
.note { border-color: var(--note) !important; } .note b { color: var(--note); }
p, td, details, figcaption { overflow-wrap: anywhere; } th, td.name { white-space: nowrap; }
p { margin: .3rem 0; } .quiet, summary, figcaption { color: var(--quiet); font-size: .9rem; }
code { font-size: .88em; } pre { white-space: pre-wrap; border: 1px solid var(--line); padding: .4rem .6rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; }
td, th { text-align: left; padding: .15rem .8rem .15rem 0; vertical-align: top; border-bottom: 1px solid var(--line); }
td.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.track { display: inline-block; width: 3rem; text-align: left; }
.bar { display: inline-block; height: .7rem; background: var(--bar); } .ink { display: inline-block; width: .9rem;
  height: .9rem; border: 1px solid var(--line); margin-right: .4rem; vertical-align: -.1rem; }
figure { margin: .6rem 0 1.6rem; overflow-x: auto; } img { max-width: 100%; height: auto; }
@media (max-width: 40rem) { img { max-width: none; } }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); gap: .8rem 1.4rem; }
.charts figure { margin: 0; overflow: visible; min-width: 0; }
.charts svg { width: 100%; height: auto; display: block; }
.charts h3 { margin: .4rem 0 0; } .charts text { font: 11px system-ui, sans-serif; fill: var(--quiet); }
.charts .grid { stroke: var(--line); stroke-width: 1; }
.charts .curve { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
.legend { font-size: .85rem; margin: 0; } .legend span { white-space: nowrap; margin-right: .9rem; }
.legend i { display: inline-block; width: 1rem; border-top: 3px solid; margin-right: .3rem; vertical-align: .2rem; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .5rem; margin: 0 0 1rem; }
.panels figure { margin: 0; } .panels img, .map { width: 100%; max-width: none; image-rendering: pixelated; }
.map { max-width: 40rem; border: 1px solid var(--line); }
.cells td { padding: .1rem .3rem; text-align: right; font-size: .8rem; border: 1px solid var(--line); }
.cells th { font-size: .8rem; font-weight: normal; padding: .1rem .4rem; vertical-align: bottom; }
.cells thead th { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; }
"""


def document(title: str, parts: Iterable[str]) -> str:
    """The whole file: `parts` are HTML, the empty ones are left out."""
    head = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
    ]
    return "\n".join([*head, *(part for part in parts if part), "</body></html>", ""])


def facts(of: Mapping[str, str]) -> str:
    """A table of two columns."""
    rows = "".join(f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in of.items())
    return f'<div class="wide"><table>{rows}</table></div>' if rows else ""


def table(heads: Sequence[str], rows: Iterable[str]) -> str:
    """A table that scrolls where it is too wide; `rows` are strings of cells."""
    names = "".join(f"<th>{escape(head)}</th>" for head in heads)
    return f'<div class="wide"><table><tr>{names}</tr>{"".join(f"<tr>{row}</tr>" for row in rows)}</table></div>'


def name_cell(name: str, colour: NDArray[np.uint8] | None = None) -> str:
    """A cell with a name, after a spot of its colour."""
    return f'<td class="name">{"" if colour is None else ink(colour)}{escape(name)}</td>'


def number(text: str) -> str:
    """A cell with a number."""
    return f'<td class="number">{escape(text)}</td>'


def share(value: float | None, absent: str = "-") -> str:
    """A cell with a share of 1, in percent and as a bar, which ends at 0 and 100; `absent` for None."""
    if value is None:
        return number(absent)
    width = 100 * min(max(value, 0.0), 1.0)
    bar = f'<span class="track"><span class="bar" style="width: {width:.1f}%"></span></span>'
    return f'<td class="number">{100 * value:.2f} % {bar}</td>'


def ink(colour: NDArray[np.uint8]) -> str:
    """A spot of an RGB colour."""
    return f'<span class="ink" style="background: #{bytes(colour.tolist()).hex()}"></span>'


def image(data: bytes, alt: str, *, style: str = "") -> str:
    """A picture, of a PNG or JPEG file, that is a part of the page."""
    within = f' class="{style}"' if style else ""
    kind = "jpeg" if data.startswith(b"\xff\xd8") else "png"
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f'<img{within} alt="{escape(alt)}" src="{source}">'


def folded(summary: str, inner: str, *, open_: bool = False) -> str:
    """What is shown when `summary` is touched."""
    return f"<details{' open' if open_ else ''}><summary>{escape(summary)}</summary>{inner}</details>" if inner else ""
