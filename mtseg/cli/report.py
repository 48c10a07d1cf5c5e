"""Draw a run's page again, or one page that compares several runs."""

import argparse
from collections.abc import Sequence

from mtseg.cli.common import answer


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="report", description=__doc__)
    parser.add_argument("runs", nargs="+", help="folders of runs (their out=)")
    parser.add_argument(
        "--out", metavar="DIR", help="the folder that gets report.html, or a file of another name, as in x/all.html "
        "(the run's own folder; of several runs the one that all are in)"
    )  # fmt: skip
    parsed = parser.parse_args(arguments)
    return answer(lambda: _report(parsed.runs, parsed.out))


def _report(runs: Sequence[str], out: str | None) -> None:
    import os
    from pathlib import Path

    from mtseg.atomic import write_whole
    from mtseg.results import run_page, runs_page

    folders = [Path(run) for run in runs]
    if len(folders) == 1:
        text, place = run_page.page(folders[0]), folders[0]
    else:
        text, place = runs_page.page(folders), Path(os.path.commonpath([run.resolve().parent for run in folders]))
    place = Path(out) if out else place
    path = place if place.suffix.lower() in (".html", ".htm") and not place.is_dir() else place / run_page.FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)
    print(f"written to {path}")
