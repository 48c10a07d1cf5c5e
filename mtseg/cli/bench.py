"""Measure a part of the program against a baseline of the same run: Markdown tables of ratios, or JSON."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtseg.atomic import write_whole
from mtseg.bench import WHAT
from mtseg.cli.common import WORDS, answer, read


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    listed = "\n".join(f"  {name:<10} {said}" for name, said in WHAT.items())
    parser = argparse.ArgumentParser(
        prog="bench",
        description=f"{__doc__}\n\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", help="what is measured, one of these")
    parser.add_argument("words", nargs="*", help=f"settings of the run that is measured (step): {WORDS}")
    parser.add_argument("--case", default="", help="only the cases whose name holds this, such as resnet50")
    parser.add_argument("--rounds", type=int, default=7, help="how often each case is measured, in turn (7)")
    parser.add_argument("--size", type=int, help="how much of it, such as the number of names")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (1)")
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON there, too")
    parsed = read(parser, arguments)
    return answer(lambda: _bench(parsed))


def _bench(wanted: argparse.Namespace) -> None:
    from mtseg.device import pick_device

    if wanted.what not in WHAT:
        raise ValueError(f"bench: {wanted.what!r} is not measured; choose from {', '.join(WHAT)}")
    for key in ("size", "rounds", "threads"):
        if (value := getattr(wanted, key)) is not None and value < 1:
            raise ValueError(f"bench: --{key} {value}; give at least 1")
    pick_device(wanted.device)
    facts = _files(wanted) if wanted.what in ("names", "cache") else _groups(wanted)
    if wanted.out is not None:
        wanted.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(wanted.out, json.dumps(facts, indent=1) + "\n")
    if wanted.json:
        print(json.dumps(facts, indent=1))


def _files(wanted: argparse.Namespace) -> dict[str, Any]:
    from mtseg.bench.names import cache, names

    facts = names(wanted.size or 100_000) if wanted.what == "names" else cache(wanted.size or 20)
    if not wanted.json:
        print("\n".join(f"{key:>32}: {value}" for key, value in facts.items()))
    return facts


def _groups(wanted: argparse.Namespace) -> dict[str, Any]:
    """Measures and prints group by group; the whole as plain values."""
    from importlib import import_module

    import torch

    from mtseg.bench.asked import Asked, heading, load, machine, table
    from mtseg.run.machine import hold_memory

    torch.set_num_threads(wanted.threads)
    if wanted.device == "cpu":
        hold_memory()
    asked = Asked(tuple(wanted.words), wanted.case, wanted.size, wanted.rounds, wanted.device)
    before, found = load(), []
    for group in import_module(f"mtseg.bench.{wanted.what}").measure(asked):
        found.append(group.facts())
        if not wanted.json:
            print(table(group), end="\n\n", flush=True)
    if not found:
        raise ValueError(f"bench: --case {wanted.case!r} is in no name of a case; leave it out to see them all")
    here = machine(wanted.what, torch.device(wanted.device), [before, load()])
    if not wanted.json:
        print(heading(here))
    return {"bench": wanted.what, "machine": here, "groups": found}
