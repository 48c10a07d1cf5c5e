"""Measure a part of the program against a baseline of the same run."""

import argparse
import json
from collections.abc import Sequence

from mtseg.cli.common import answer


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("what", help="what is measured: names (long lists of files), cache (of decoded files)")
    parser.add_argument("--size", type=int, help="how much of it, such as the number of names")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parsed = parser.parse_args(arguments)
    return answer(lambda: _bench(parsed.what, parsed.size, parsed.json))


def _bench(what: str, size: int | None, as_json: bool) -> None:
    from mtseg.bench import BENCHES, SIZES

    if what not in BENCHES:
        raise ValueError(f"bench: {what!r} is not measured; choose from {', '.join(BENCHES)}")
    if size is not None and size < 1:
        raise ValueError(f"bench: --size {size}; give at least 1")
    facts = BENCHES[what](size or SIZES[what])
    print(json.dumps(facts, indent=1) if as_json else "\n".join(f"{key:>32}: {value}" for key, value in facts.items()))
