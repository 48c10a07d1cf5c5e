"""Read every file of a config's data set and say what is wrong with it; exit code 1 where there are errors."""

import argparse
from collections.abc import Sequence

from mtseg.cli.common import WORDS, answer, read


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="doctor", description=__doc__)
    parser.add_argument("words", nargs="+", help=f"{WORDS}; as for train, but out= may be left out")
    parser.add_argument("--json", action="store_true", help="print all findings, with all files, as JSON")
    parser.add_argument("--out", metavar="DIR", help="write doctor.html, findings.json and the pictures there")
    parsed = read(parser, arguments)
    return answer(lambda: _doctor(parsed))


def _doctor(parsed: argparse.Namespace) -> int:
    from mtseg.doctor.machine import machine

    here = machine()  # before anything that a broken installation would break
    try:
        from mtseg.doctor.show import answer
    except Exception as error:
        from mtseg.doctor.machine import of_installation

        said = [finding.text for finding in of_installation(here)]
        raise ValueError("\n".join([f"the installation is broken: {type(error).__name__}: {error}", *said])) from error
    return answer(parsed.words, here, to_json=parsed.json, out=parsed.out)
