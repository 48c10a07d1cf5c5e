"""Commands: one module each. Heavy libraries are imported where they are used: --help answers at once."""

import argparse
from collections.abc import Sequence
from importlib import import_module

COMMANDS = ("train", "eval", "predict", "compare", "table", "split", "doctor", "report", "export", "settings", "bench")


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script, `mtseg COMMAND ...`. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="mtseg", description="Semi-supervised semantic segmentation.")
    parser.add_argument("command", choices=COMMANDS, help="what to do; `mtseg COMMAND --help` says how")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="its words")
    parsed = parser.parse_args(arguments)
    return int(import_module(f"mtseg.cli.{parsed.command}").main(parsed.rest))
