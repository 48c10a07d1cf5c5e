"""The doctor's page: the report and its pictures in one HTML file that asks for nothing from elsewhere."""

import base64
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtseg.doctor.examine import Report
from mtseg.doctor.finding import SEVERITIES, Finding, amount, counted
from mtseg.doctor.pictures import Sheet

SHOWN = 20  # files of a finding; the JSON has them all
STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #fdfdfc; --line: #d5d5d2; --quiet: #63666b; --bar: #7c9cc4;
  --error: #b3261e; --warning: #8a5a00; --note: #3a6b4c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e3; --paper: #17191c; --line: #3a3d42; --quiet: #a0a3a8;
  --bar: #4f7099; --error: #ff8a80; --warning: #f0b95a; --note: #8fc9a3; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 62rem; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; } h3 { font-size: 1rem; margin: 1.4rem 0 .2rem; }
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
"""


def page(report: Report, sheets: Sequence[tuple[Sheet, Path]]) -> str:
    """The whole page. `sheets`: where each picture is drawn; what is drawn there becomes a part of the page."""
    counts = counted(report.findings)
    verdict = ", ".join(amount(counts[severity], severity) for severity in SEVERITIES)
    problems = [(sheet, path) for sheet, path in sheets if not sheet.key.startswith("views-")]
    views = [(sheet, path) for sheet, path in sheets if sheet.key.startswith("views-")]
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>mtseg doctor: {escape(verdict)}</title><style>{STYLE}</style></head><body>",
        f"<h1>mtseg doctor</h1><p>{escape(verdict)}</p>",
        _facts(report.facts),
        "<h2>Findings</h2>",
        *(_finding(finding) for finding in report.findings),
        "" if report.findings else "<p>Nothing to say.</p>",
        _classes(report),
        "<h2>What is wrong, in pictures</h2>" if problems else "",
        *(_figure(sheet, path) for sheet, path in problems),
        "<h2>What training sees</h2>" if views else "",
        *(_figure(sheet, path) for sheet, path in views),
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part)


def _facts(facts: Mapping[str, str]) -> str:
    rows = "".join(f"<tr><th>{escape(key)}</th><td>{escape(value)}</td></tr>" for key, value in facts.items())
    return f'<div class="wide"><table>{rows}</table></div>' if rows else ""


def _finding(finding: Finding) -> str:
    suggestion = f"<pre>{escape(shlex.quote(finding.suggestion))}</pre>" if finding.suggestion else ""
    names = "<br>".join(f"<code>{escape(name)}</code>" for name in finding.files[:SHOWN])
    more = f"<br>and {len(finding.files) - SHOWN} more" if len(finding.files) > SHOWN else ""
    listed = f"<details><summary>{amount(len(finding.files), 'file')}</summary>{names}{more}</details>" if names else ""
    return (
        f'<section class="finding {finding.severity}">'
        f"<p><b>{finding.severity}</b> <code>{escape(finding.code)}</code></p>"
        f"<p>{escape(finding.text)}</p>{suggestion}{listed}</section>"
    )


def _classes(report: Report) -> str:
    """The histogram: of each pool its share of the pixels, as a number and a bar, and how many images have it."""
    if not report.classes or report.read is None:
        return ""
    pools = list(next(iter(report.classes.values())))
    totals = {pool: max(1, sum(row[pool].pixels for row in report.classes.values())) for pool in pools}
    heads = "".join(f"<th>{escape(pool)}</th><th>images</th>" for pool in pools)
    inks = [*report.read.splits.palette, np.full(3, 255, np.uint8)]
    rows = []
    for (name, row), ink in zip(report.classes.items(), inks, strict=True):
        cells = "".join(_cell(row[pool].pixels / totals[pool], row[pool].images) for pool in pools)
        rows.append(f'<tr><td class="name">{_ink(ink)}{escape(name)}</td>{cells}</tr>')
    return f'<h2>Classes</h2><div class="wide"><table><tr><th>class</th>{heads}</tr>{"".join(rows)}</table></div>'


def _cell(share: float, images: int) -> str:
    bar = f'<span class="track"><span class="bar" style="width: {100 * share:.1f}%"></span></span>'
    return f'<td class="number">{100 * share:.2f} % {bar}</td><td class="number">{images}</td>'


def _ink(colour: NDArray[np.uint8]) -> str:
    return f'<span class="ink" style="background: #{bytes(colour).hex()}"></span>'


def _figure(sheet: Sheet, path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    names = ", ".join(row.name for row in sheet.rows)
    return (
        f"<h3>{escape(sheet.title)}</h3><p>{escape(sheet.words)}</p><figure>"
        f'<img alt="{escape(f"{sheet.title}: {names}")}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(names)}</figcaption></figure>"
    )
