"""The doctor's page: the report and its pictures in one HTML file that asks for nothing from elsewhere."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from mtseg.doctor.examine import Report
from mtseg.doctor.finding import SEVERITIES, Finding, amount, counted
from mtseg.doctor.pictures import Sheet
from mtseg.results.page import document, facts, folded, image, name_cell, number, share, table

SHOWN = 20  # files of a finding; the JSON has them all


def page(report: Report, sheets: Sequence[tuple[Sheet, Path]]) -> str:
    """The whole page. `sheets`: where each picture is drawn; what is drawn there becomes a part of the page."""
    counts = counted(report.findings)
    verdict = ", ".join(amount(counts[severity], severity) for severity in SEVERITIES)
    problems = [(sheet, path) for sheet, path in sheets if not sheet.key.startswith("views-")]
    views = [(sheet, path) for sheet, path in sheets if sheet.key.startswith("views-")]
    parts = [
        f"<h1>mtseg doctor</h1><p>{escape(verdict)}</p>",
        facts(report.facts),
        "<h2>Findings</h2>",
        *(_finding(finding) for finding in report.findings),
        "" if report.findings else "<p>Nothing to say.</p>",
        _classes(report),
        "<h2>What is wrong, in pictures</h2>" if problems else "",
        *(_figure(sheet, path) for sheet, path in problems),
        "<h2>What training sees</h2>" if views else "",
        *(_figure(sheet, path) for sheet, path in views),
    ]
    return document(f"mtseg doctor: {verdict}", parts)


def _finding(finding: Finding) -> str:
    suggestion = f"<pre>{escape(finding.words)}</pre>" if finding.words else ""
    names = "<br>".join(f"<code>{escape(name)}</code>" for name in finding.files[:SHOWN])
    more = f"<br>and {len(finding.files) - SHOWN} more" if len(finding.files) > SHOWN else ""
    listed = folded(amount(len(finding.files), "file"), f"{names}{more}" if names else "")
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
    inks = [*report.read.splits.palette, np.full(3, 255, np.uint8)]
    rows = []
    for (name, row), colour in zip(report.classes.items(), inks, strict=True):
        cells = (share(row[pool].pixels / totals[pool]) + number(str(row[pool].images)) for pool in pools)
        rows.append(name_cell(name, colour) + "".join(cells))
    heads = ["class", *(head for pool in pools for head in (pool, "images"))]
    return f"<h2>Classes</h2>{table(heads, rows)}"


def _figure(sheet: Sheet, path: Path) -> str:
    names = ", ".join(row.name for row in sheet.rows)
    return (
        f"<h3>{escape(sheet.title)}</h3><p>{escape(sheet.words)}</p><figure>"
        f"{image(path.read_bytes(), f'{sheet.title}: {names}')}"
        f"<figcaption>{escape(names)}</figcaption></figure>"
    )
