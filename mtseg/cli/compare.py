"""Train supervised-only, then the method, on the same labels, model and steps; end with a table and a picture."""

import argparse
from collections.abc import Sequence

from mtseg.cli.common import WORDS, answer, read


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="compare", description=__doc__)
    parser.add_argument("words", nargs="+", help=WORDS)
    parser.add_argument("--dry-run", action="store_true", help="print what follows from the config for both runs")
    parsed = read(parser, arguments)
    return answer(lambda: _compare(parsed.words, parsed.dry_run))


def _compare(words: Sequence[str], dry_run: bool) -> None:
    from mtseg.config import load, rate_for, written
    from mtseg.results.compare import compare as run_both
    from mtseg.results.compare import runs
    from mtseg.run.dry_run import facts
    from mtseg.run.machine import share_cores
    from mtseg.torchrun import first_launched

    config = load(words)
    crowded = share_cores(config)
    if not first_launched():  # of several processes one speaks
        if not dry_run:
            run_both(config)
        return
    for sentence in filter(None, (crowded, rate_for(words))):
        print(sentence)
    if not dry_run:
        run_both(config)
        return
    both = runs(config)
    print(written(config))
    for heading, run in both.items():
        print(heading + "\n" + "\n".join(f"{key:>22}: {value}" for key, value in facts(run).items()))
