"""What is recorded of the images predicted into a folder, a line of JSON each; and what that amounts to, as CSV."""

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mtseg.atomic import naming
from mtseg.inference.inputs import Item
from mtseg.inference.score_table import as_csv

RECORDED = {"name", "image", "size", "uncertainty", "named", "shares"}  # of each image, at the least


def ranking(out: Path) -> str:
    """All images predicted into `out` as CSV, the least sure first: what to label next."""
    rows = sorted(recorded(out).values(), key=lambda line: (-line["uncertainty"], line["name"]))
    return as_csv([{"image": line["image"], "uncertainty": round(line["uncertainty"], 6)} for line in rows])


def shares(out: Path, classes: Sequence[str]) -> str:
    """All images predicted into `out` as CSV, with the percentage of its pixels that each class has."""
    lines = sorted(recorded(out).values(), key=lambda line: line["name"])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", *classes])
    writer.writerows([line["image"], *(f"{100 * share:.3f}" for share in line["shares"])] for line in lines)
    return text.getvalue()


def classified(out: Path) -> str:
    """All images predicted into `out` as CSV, with the class of each as a whole and how probable it is."""
    lines = sorted(recorded(out).values(), key=lambda line: line["name"])
    rows = [
        {"image": line["image"], "class": line["class"], "confidence": round(line["confidence"], 6)} for line in lines
    ]
    return as_csv(rows)


def recorded(out: Path) -> dict[str, dict[str, Any]]:
    """What is recorded of the images predicted into `out`, of whatever part, by name; the newest of each."""
    lines = [line for path in sorted(out.glob("predictions*.jsonl")) for line in _lines(path)]
    in_order = sorted(lines, key=lambda line: line.get("time", 0))  # of equal ones, the later in its file
    return {line["name"]: line for line in in_order if line.keys() >= RECORDED}


def refuse_twice(before: Mapping[str, dict[str, Any]], wanted: Sequence[Item], out: Path) -> None:
    """Raises ValueError for files that are in `out` under another name already, and would be listed twice."""
    known: dict[str, set[str]] = {}
    for name, line in before.items():
        known.setdefault(line.get("origin", ""), set()).add(name)
    known.pop("", None)
    twice = [item for item in wanted if item.name not in known.get(item.origin, {item.name})]
    if twice:
        one, called = twice[0], min(known[twice[0].origin])
        raise ValueError(
            f"{out} has predictions of {len(twice)} of these images under other names ({one.origin} as {called!r}, now "
            f"{one.name!r}), and would list them twice; name them as before (--pool, or the same files and folders), "
            "or choose another --out"
        )


def append(path: Path, line: dict[str, Any]) -> None:
    """Add a line to a file of records."""
    with naming(path), path.open("a+b") as file:
        cut_off = file.tell() > 0 and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n"  # by a crash
        file.write(b"\n" * cut_off + json.dumps(line).encode() + b"\n")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a file; one that a crash cut off is none."""
    if path.is_file():
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, TypeError):
                yield dict(json.loads(text))
