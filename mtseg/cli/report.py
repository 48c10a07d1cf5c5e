"""Draw a run's page again, or one page that compares several runs."""

import argparse
from collections.abc import Sequence

from mtseg.cli.common import answer


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="report", description=__doc__)
    parser.add_argument("runs", nargs="+", help="folders of runs (their out=)")
    parser.add_argument("--out", metavar="FILE", help="of several runs (report.html in the folder that all are in)")
    parsed = parser.parse_args(arguments)
    return answer(lambda: _report(parsed.runs, parsed.out))


def _report(runs: Sequence[str], out: str | None) -> None:
    import os
    from pathlib import Path

    from mtseg import run_page, runs_page
    from mtseg.checkpoint import write_whole

    folders = [Path(run) for run in runs]
    if len(folders) == 1:
        text, path = run_page.page(folders[0]), Path(out) if out else folders[0] / run_page.FILE
    else:
        text = runs_page.page(folders)
        path = Path(out) if out else Path(os.path.commonpath([folder.resolve().parent for folder in folders]))
        path = path if out else path / run_page.FILE
    write_whole(path, text)
    print(f"written to {path}")
