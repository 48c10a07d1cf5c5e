"""Train supervised-only, then the method, on the same labels, model and steps; end with a table and a picture."""

import argparse
from collections.abc import Sequence

from mtseg.cli.common import WORDS, answer, share_cores


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="compare", description=__doc__)
    parser.add_argument("words", nargs="+", help=WORDS)
    parsed = parser.parse_args(arguments)
    return answer(lambda: _compare(parsed.words))


def _compare(words: Sequence[str]) -> None:
    from mtseg.compare import compare as run_both
    from mtseg.config import load

    config = load(words)
    share_cores(config)
    run_both(config)
