"""The report for people in a terminal, for programs as JSON, and as a folder of pictures with a page."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mtseg.atomic import write_whole
from mtseg.config import Config, whole
from mtseg.data.tree import first
from mtseg.doctor.channels import completed
from mtseg.doctor.examine import Report, examine
from mtseg.doctor.finding import SEVERITIES, Finding, amount, counted, key_of
from mtseg.doctor.machine import Machine
from mtseg.run.machine import share_cores
from mtseg.settings.words import gathered

FINDINGS = "findings.json"
STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


def answer(words: Sequence[str], here: Machine, *, to_json: bool, out: str | None) -> int:
    """Examine the config of command-line words, tell, and write what `--out` asks for; 1 where there are errors."""
    tree, anew = gathered(words)
    config = whole({"out": "runs"} | tree, anew)
    with suppress(ValueError):  # a GPU that is not here is a finding
        share_cores(config)  # a crop takes as long as it will in training
    report = examine(config, here)
    written = write(report, config, Path(out)) if out else None
    if to_json:
        print(as_json(report))
    else:
        print_report(report, Console())
        if written:
            print(f"written to {written}")
    return int(counted(report.findings)["error"] > 0)


def print_report(report: Report, console: Console) -> None:
    """The facts, the classes, the findings, and how many there are. No text of a file is read as markup."""
    for key, value in report.facts.items():
        console.print(Text.assemble((f"{key:>14}: ", "dim"), value), soft_wrap=True)
    if report.classes:
        console.print(_table(report))
    for finding in report.findings:
        print_finding(finding, console)
    console.print(Text(verdict(report)), soft_wrap=True)


def print_finding(finding: Finding, console: Console) -> None:
    """One finding: its sentence, the first of its files, its suggestion."""
    severity = (finding.severity, STYLES[finding.severity])
    console.print(Text.assemble(severity, f" {finding.code}: {finding.text}"), soft_wrap=True)
    if finding.files:
        console.print(Text(f"    {first(list(finding.files))}", "dim"), soft_wrap=True)
    if finding.words:
        console.print(Text(f"    suggestion: {finding.words}"), soft_wrap=True)


def verdict(report: Report) -> str:
    """`1 error, 0 warnings, 2 notes`."""
    counts = counted(report.findings)
    return ", ".join(amount(counts[severity], severity) for severity in SEVERITIES)


def as_json(report: Report) -> str:
    """All of the report, with every file of every finding."""
    tree: dict[str, Any] = {f"{severity}s": count for severity, count in counted(report.findings).items()}
    tree["findings"] = [asdict(finding) for finding in report.findings]
    tree["facts"] = report.facts
    tree["classes"] = {
        name: {pool: asdict(share) for pool, share in row.items()} for name, row in report.classes.items()
    }
    return json.dumps(tree, indent=1)


def write(report: Report, config: Config, folder: Path) -> Path:
    """Fill `folder` with findings.json, a picture for each problem and of the views, and doctor.html, the page.

    Pictures of an earlier page's problems are taken away.
    """
    from mtseg.doctor.page import page
    from mtseg.doctor.pictures import draw, of_findings, of_views

    folder.mkdir(parents=True, exist_ok=True)
    _cleared(folder)
    sheets = []
    if report.read is not None:
        whole = completed(config, report.read)
        sheets = [*of_findings(report.findings, report.read, whole.views), *of_views(whole, report.read)]
    drawn = [(sheet, folder / f"{sheet.key}.png") for sheet in sheets]
    for sheet, path in drawn:
        draw(sheet, path)
    write_whole(folder / FINDINGS, as_json(report))
    write_whole(folder / "doctor.html", page(report, drawn))
    return folder / "doctor.html"


def _cleared(folder: Path) -> None:
    """Take the pictures of the problems away that an earlier report in `folder` names."""
    with suppress(OSError, ValueError, KeyError, TypeError):  # where there is none, or something else of that name
        before = json.loads((folder / FINDINGS).read_text(encoding="utf-8"))["findings"]
        for number, finding in enumerate(before):
            (folder / f"{key_of(number, finding['code'])}.png").unlink(missing_ok=True)


def _table(report: Report) -> Table:
    pools = list(next(iter(report.classes.values())))
    totals = {pool: max(1, sum(row[pool].pixels for row in report.classes.values())) for pool in pools}
    table = Table("class")
    for pool in pools:
        table.add_column(Text(f"{pool} %"), justify="right")
        table.add_column("images", justify="right")
    for name, row in report.classes.items():
        cells = [(f"{100 * row[pool].pixels / totals[pool]:.2f}", str(row[pool].images)) for pool in pools]
        table.add_row(Text(name), *(text for cell in cells for text in cell))
    return table
