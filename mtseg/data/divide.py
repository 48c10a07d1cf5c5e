"""Seeded splits of a data set's labelled images, written as lists: random, class-balanced, or by whole sequences.

All three are nested: for one seed, a smaller rung of the ladder lies inside a larger one.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from mtseg.atomic import write_whole
from mtseg.data.provenance import names_of
from mtseg.data.source import IGNORE, Source, Splits, Subset
from mtseg.data.splits import Labels, choose, wanted
from mtseg.randomness import generator

How = Literal["random", "balanced", "sequence"]
FOLDER = r"(.*)/"  # an image's sequence, where no other pattern is given: the folder it lies in


def presence(source: Source, classes: int, *, seen: Callable[[], None] = lambda: None) -> NDArray[np.bool_]:
    """Which classes occur in which image, (N, K). Reads every mask once; calls `seen` after each."""
    found = np.zeros((len(source), classes), bool)
    for index in range(len(source)):
        label = np.asarray(source.label(index))
        values = np.unique(label)
        found[index, values[(values != IGNORE) if label.ndim else (values >= 0)]] = True  # of wholes 255 is a class
        seen()
    return found


def balanced(present: NDArray[np.bool_], count: int, seed: int) -> list[int]:
    """`count` images in the order of their choice, so that each class occurs in about as many of them.

    present: (N, K). Each choice is the image that has the class with the fewest images so far (of those classes that
    an image is left of), and of such images the one with the most of the other rare classes: a class that k chosen
    images have counts 1 / (k + 1). What is then equal is decided by the seed.
    """
    order = generator(seed, "labelled images").permutation(len(present))
    left, here = np.ones(len(present), bool), present[order]
    have = np.zeros(present.shape[1])
    chosen: list[int] = []
    for _ in range(count):
        on_offer = here[left].any(0)
        scores = here @ (1 / (have + 1))
        if on_offer.any():
            rarest = np.where(on_offer, have, np.inf).argmin()
            scores = np.where(here[:, rarest], scores, -1)
        pick = int(np.where(left, scores, -2).argmax())
        left[pick] = False
        have += here[pick]
        chosen.append(int(order[pick]))
    return chosen


def by_sequence(names: Sequence[str], pattern: str, seed: int) -> list[list[int]]:
    """The images of each sequence, sequences in seeded order. A sequence is what the pattern's first group finds.

    Raises ValueError for a pattern without a group, and for a name that it does not fit.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"--sequence: {pattern!r} is no regular expression: {error}") from None
    if not compiled.groups:
        raise ValueError(f"--sequence: {pattern!r} has no (group); put brackets round what names a sequence")
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        match = compiled.search(name)
        if match is None or match.group(1) is None:
            raise ValueError(f"--sequence: {pattern!r} does not fit {name!r}; every image must belong to a sequence")
        groups.setdefault(match.group(1), []).append(index)
    ordered = [groups[key] for key in sorted(groups)]
    return [ordered[i] for i in generator(seed, "labelled sequences").permutation(len(ordered))]


def ladder(
    source: Source, rungs: Sequence[Labels], *, how: How, seed: int, present: NDArray[np.bool_] | None, pattern: str
) -> list[list[int]]:
    """The labelled images of each rung, ascending indices; `present` is needed for `balanced` alone.

    Whole sequences are taken as long as they stay within a rung's count, so that it may hold fewer images.
    Raises ValueError for a rung that is more than there are, or less than the first sequence.
    """
    counts = [wanted(len(source), rung) for rung in rungs]
    if how == "random":
        return [choose(len(source), count, seed) for count in counts]
    if how == "balanced":
        assert present is not None
        order = balanced(present, max(counts), seed)
        return [sorted(order[:count]) for count in counts]
    sequences = by_sequence([source.name(i) for i in range(len(source))], pattern, seed)
    ends = np.cumsum([len(sequence) for sequence in sequences])
    if min(counts) < ends[0]:
        raise ValueError(
            f"--labels: {min(counts)} images are fewer than the first of {len(sequences)} sequences has ({ends[0]}); "
            "ask for more, try another --seed, or give --sequence a pattern of shorter sequences"
        )
    return [sorted(i for group in sequences[: int((ends <= count).sum())] for i in group) for count in counts]


def write(folder: Path, source: Source, chosen: Sequence[int], facts: dict[str, Any]) -> dict[str, Any]:
    """Write labelled.txt, unlabelled.txt (the rest) and split.json into `folder`; returns what split.json says.

    Raises ValueError for a name that is no line.
    """
    known = set(chosen)
    pools = {"labelled": list(chosen), "unlabelled": [i for i in range(len(source)) if i not in known]}
    names = {pool: [source.name(i) for i in indices] for pool, indices in pools.items()}
    broken = next((name for of in names.values() for name in of if len(name.splitlines()) != 1), None)
    if broken is not None:
        raise ValueError(
            f"data: the image {broken!r} has a line break in its name, and a list has a line an image; rename it"
        )
    said = facts | {pool: asdict(names_of(Subset(source, indices))) for pool, indices in pools.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "split.json", json.dumps(said, indent=1))
    for pool in ("unlabelled", "labelled"):  # the one by which the folder is a split comes last
        write_whole(folder / f"{pool}.txt", "".join(f"{name}\n" for name in names[pool]))
    return said


def divide(
    splits: Splits, rungs: Sequence[str], out: Path, *, how: How = "random", seed: int = 0, pattern: str = FOLDER
) -> list[dict[str, Any]]:
    """Write a folder of lists under `out` for each rung (`1/8` -> `1_8`); returns what each split.json says."""
    source, classes = splits.labelled, len(splits.classes)
    present = None
    if how == "balanced":
        with Progress(console=Console(stderr=True)) as progress:
            task = progress.add_task("reading masks", total=len(source))
            present = presence(source, classes, seen=lambda: progress.advance(task))
    labels = [int(rung) if rung.isdecimal() else rung for rung in rungs]
    found = []
    for rung, chosen in zip(
        rungs, ladder(source, labels, how=how, seed=seed, present=present, pattern=pattern), strict=True
    ):
        facts: dict[str, Any] = {"of": splits.name, "labels": rung, "how": how, "seed": seed}
        if how == "sequence":
            facts["sequence"] = pattern
        if present is not None:
            counts = present[chosen].sum(0).tolist()
            facts["images of class"] = dict(zip(splits.classes, counts, strict=True))
        found.append(write(out / rung.replace("/", "_"), source, chosen, facts))
    return found
