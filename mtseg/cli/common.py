"""What the commands share: how words are written, which exit code an error has, which checkpoint is meant."""

import argparse
import shlex
import signal
import sys
from collections.abc import Callable, Sequence

WORDS = "YAML files, merged in order, then key.sub=value words (strings, numbers, [lists], {maps: as in YAML})"


def answer(work: Callable[[], int | None]) -> int:
    """Run `work`; its exit code, 0 for None. What a user or the machine got wrong becomes one message and exit code 1.

    A run that was asked to stop is saved and ends with RESUMABLE.
    """
    from mtseg.signals import RESUMABLE, Stopped

    try:
        return work() or 0
    except (ValueError, OSError) as error:
        print(f"mtseg: {error}", file=sys.stderr)
        return 1
    except Stopped as stop:
        print(f"mtseg: {stop}", file=sys.stderr)
        return RESUMABLE
    except KeyboardInterrupt:
        print("mtseg: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT


def read(parser: argparse.ArgumentParser, arguments: Sequence[str] | None, *, before: str = "") -> argparse.Namespace:
    """Words and options, in any order. A setting that is written like an option is answered with its word.

    `before`: what stands before settings, where that is not nothing.
    """
    parsed, left = parser.parse_known_intermixed_args(arguments)
    if left:
        words = " or ".join(map(shlex.quote, _as_words(left)))
        remedy = f"; settings are words without dashes: {before}{words}" if words else ""
        parser.error(f"unrecognized arguments: {' '.join(left)}{remedy}")
    return parsed


def _as_words(left: Sequence[str]) -> list[str]:
    """What may be meant by `--steps 60`, `--steps=60`."""
    from mtseg.config import Config
    from mtseg.settings.complaints import meant

    found: list[str] = []
    for option, after in zip(left, [*left[1:], "--"], strict=True):
        if option.startswith("--"):
            name, equals, text = option[2:].partition("=")
            value = text if equals else "..." if after.startswith("--") else after
            name = name.replace("-", "_")
            paths = meant(Config, name.rpartition(".")[2])
            found += [f"{path}={value}" for path in ([name] if name in paths else paths)]
    return found


def one_of(*choices: str) -> Callable[[str], str]:
    """The type of an option with these choices, which is answered with the nearest where it is none of them."""

    def taken(word: str) -> str:
        from mtseg.settings.complaints import near

        if word not in choices:
            raise argparse.ArgumentTypeError(f"{word!r} is not one of {', '.join(choices)}{near(word, choices, ', ')}")
        return word

    return taken


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Which checkpoint, and which network of it."""
    parser.add_argument(
        "--at", default="last", help="last (default), best (of the evaluations while it trained), holdout, or a step"
    )
    parser.add_argument("--network", type=one_of("student", "teacher"), metavar="{student,teacher}", default="teacher")
