"""Train one run, or continue the run in its folder; or take a captured step again."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mtseg.cli.common import WORDS, answer, read

if TYPE_CHECKING:
    from mtseg.config import Config


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="train", description=__doc__)
    parser.add_argument("words", nargs="*", help=WORDS)
    parser.add_argument("--replay", metavar="FILE", help="take the step in a run's capture-STEP.pt again, and report")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config and what follows from it")
    parsed = read(parser, arguments)
    if parsed.replay is not None:
        return answer(lambda: _replay(parsed.replay, parsed.words))
    if not parsed.words:
        parser.error("the following arguments are required: words")
    return answer(lambda: _train(parsed.words, parsed.dry_run))


def _train(words: Sequence[str], dry_run: bool) -> None:
    from mtseg.config import load, rate_for, written
    from mtseg.run.dry_run import facts
    from mtseg.run.machine import share_cores
    from mtseg.torchrun import first_launched
    from mtseg.trainer import fit

    config = load(words)
    crowded = share_cores(config)
    if not first_launched():  # of several processes one speaks
        if not dry_run:
            fit(config)
        return
    for sentence in filter(None, (crowded, rate_for(words), _elsewhere(words, config))):
        print(sentence)
    if dry_run:
        print(written(config))
        print("\n".join(f"{key:>22}: {value}" for key, value in facts(config).items()))
        return
    fit(config)
    print(f"done; score it with: python tools/eval.py {config.out}")


def _elsewhere(words: Sequence[str], config: "Config") -> str:
    """A sentence where a run's own config is named, and `out` leads out of its folder, as of a run that was moved."""
    for run in (Path(word).parent for word in words if Path(word).name == "config.yaml"):
        if (run / "checkpoints").is_dir() and run.resolve() != config.out.resolve():
            return f"look: {run} holds the run of this config, and out is {config.out}: give out={run} to continue it"
    return ""


def _replay(file: str, words: Sequence[str]) -> None:
    from mtseg.run.replay import replay

    print("\n".join(replay(Path(file), words)))
