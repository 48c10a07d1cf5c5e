"""Print one Markdown table over finished comparisons that differ in their seed, or over runs of several methods."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mtseg.atomic import write_whole
from mtseg.cli.common import answer

if TYPE_CHECKING:
    from mtseg.results.standings import Standings


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="table", description=__doc__)
    parser.add_argument(
        "folders", nargs="+", help="folders of comparisons, or of runs: METHOD/SEED (their out=), or METHOD=RUN"
    )
    parser.add_argument("--baseline", help="the METHOD that the others are compared with (supervised)")
    parser.add_argument("--full", help="the METHOD with all labels, where there is one (supervised_all)")
    parser.add_argument("--vary", action="append", default=[], metavar="KEY", help="a setting rows may differ in")
    parser.add_argument("--scores", metavar="NAME.json", help="a file that tools/eval.py wrote into each run's folder")
    parser.add_argument("--steps", action="store_true", help="print the teachers at every evaluation too")
    parser.add_argument("--classes", action="store_true", help="print what the teachers score in each class too")
    parser.add_argument("--plot", metavar="FILE.svg", help="draw the table of methods too")
    parsed = parser.parse_args(arguments)
    return answer(lambda: _table(parsed))


def _table(parsed: argparse.Namespace) -> None:
    named = [_named(word) for word in parsed.folders]
    folders = [folder for _, folder in named]
    runs = [folder for folder in folders if (folder / "metrics.jsonl").exists()]
    if runs and len(runs) < len(folders):
        other = next(folder for folder in folders if folder not in runs)
        raise ValueError(f"{other}: no metrics.jsonl, so no run, as {runs[0]} is one; name runs alone, or comparisons")
    if parsed.plot and not parsed.plot.endswith(".svg"):
        raise ValueError(f"--plot {parsed.plot}: the picture is an SVG; name a file that ends in .svg")
    own = next((name for name in ("steps", "classes") if getattr(parsed, name)), None)
    if parsed.scores is not None and own:
        raise ValueError(
            f"--{own}: is of the runs' own evaluations, and --scores of one checkpoint each; leave one out"
        )
    if runs:
        _of_runs(parsed, named)
    else:
        _of_comparisons(parsed, folders)


def _named(word: str) -> tuple[str, Path]:
    """A run's method and folder: METHOD=RUN, or the folder alone, METHOD/SEED."""
    method, equals, folder = word.partition("=")
    if equals and not Path(word).exists():
        return method, Path(folder)
    return Path(word).absolute().parent.name, Path(word)


def _of_comparisons(parsed: argparse.Namespace, folders: Sequence[Path]) -> None:
    from mtseg.results.standings import standings
    from mtseg.results.tables import of_methods, over_seeds

    compared = all((folder / "comparison.json").is_file() for folder in folders)  # else what they are is told below
    for name in ("vary", "baseline", "full"):
        if compared and getattr(parsed, name) not in (None, []):
            raise ValueError(f"--{name}: is of runs named METHOD/SEED, and these are comparisons; leave it out")
    both = [(name, folder / name) for folder in folders for name in ("supervised", "method")]
    vary = ["batch.labelled"]  # which `supervised_only` may change
    if parsed.scores is None:
        print(over_seeds(folders))
    else:
        print(of_methods(standings(both, vary=vary, scores=parsed.scores)))
    if parsed.steps or parsed.classes or parsed.plot:
        _further(parsed, standings(both, vary=vary, scores=parsed.scores))


def _further(parsed: argparse.Namespace, found: "Standings") -> None:
    """What is asked for besides: tables on standard output, a picture in its file."""
    from mtseg.results.tables import over_classes, over_steps, plot_of_methods

    for wanted, table in ((parsed.steps, over_steps), (parsed.classes, over_classes)):
        if wanted:
            print("\n" + table(found))
    if parsed.plot:
        write_whole(Path(parsed.plot), plot_of_methods(found))
        print(f"{parsed.plot}: the table's picture", file=sys.stderr)  # tables are piped into files


def _of_runs(parsed: argparse.Namespace, named: Sequence[tuple[str, Path]]) -> None:
    from mtseg.results.standings import standings
    from mtseg.results.tables import of_methods

    of = {key: getattr(parsed, key) for key in ("baseline", "full", "vary", "scores")}
    found = standings(named, **{key: value for key, value in of.items() if value not in (None, [])})
    print(of_methods(found))
    _further(parsed, found)
