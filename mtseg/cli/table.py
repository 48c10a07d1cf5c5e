"""Print one Markdown table over finished comparisons that differ in their seed, or over runs of several methods."""

import argparse
from collections.abc import Sequence

from mtseg.cli.common import answer


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="table", description=__doc__)
    parser.add_argument("folders", nargs="+", help="folders of comparisons, or of runs named METHOD/SEED (their out=)")
    parser.add_argument("--baseline", default="supervised", help="the METHOD that the others are compared with")
    parser.add_argument("--full", default="supervised_all", help="the METHOD with all labels, where there is one")
    parsed = parser.parse_args(arguments)
    return answer(lambda: _table(parsed))


def _table(parsed: argparse.Namespace) -> None:
    from pathlib import Path

    from mtseg.tables import of_methods, over_seeds

    folders = [Path(folder) for folder in parsed.folders]
    runs = all((folder / "metrics.jsonl").exists() for folder in folders)
    print(of_methods(folders, baseline=parsed.baseline, full=parsed.full) if runs else over_seeds(folders))
