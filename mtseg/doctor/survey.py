"""A data set and what is in its files: each is looked at once, by several processes."""

import multiprocessing
import sys
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from rich.console import Console
from rich.progress import Progress

from mtseg.data.files import Files
from mtseg.data.source import Source, Splits
from mtseg.doctor.facts import Entry, look

POOLS = ("labelled", "val", "test", "holdout", "unlabelled")  # all but the last have masks


@dataclass(frozen=True)
class Survey:
    """A data set and what is in its files."""

    splits: Splits
    pools: dict[str, tuple[Entry, ...]]  # of POOLS; those of the labelled images lack no mask

    def of(self, *pools: str) -> list[Entry]:
        """The entries of some pools, one after the other; an image of several pools is there several times."""
        return [entry for pool in pools for entry in self.pools[pool]]

    def distinct(self) -> list[Entry]:
        """All entries, each image once; with its mask, where a pool has one for it."""
        found: dict[str, Entry] = {}
        for entry in self.of(*POOLS):
            found.setdefault(entry.image.name, entry)
        return list(found.values())


def survey(splits: Splits, *, workers: int) -> Survey:
    """Read everything in `splits`, files by `workers` processes (0: this one), with a progress bar on a terminal.

    A file that is in several pools is read once. Sources that are not `Files` are read in this process.
    """
    jobs: dict[Hashable, tuple[Source, int]] = {}
    first: dict[Hashable, Hashable] = {}  # image -> as what it is read, if a pool without masks has it too
    keys: dict[str, list[Hashable]] = {pool: [] for pool in POOLS}
    for pool in POOLS:
        source: Source = getattr(splits, pool)
        for index in range(len(source)):
            image, mask, job = _job(source, index, pool)
            key = (image, mask) if mask else first.get(image, (image, mask))
            first.setdefault(image, key)
            jobs.setdefault(key, job)
            keys[pool].append(key)
    seen = dict(zip(jobs, _looked(list(jobs.values()), workers), strict=True))
    masked = {pool: tuple(seen[key] for key in keys[pool]) for pool in POOLS[:-1]}
    return Survey(splits, masked | {"unlabelled": tuple(Entry(seen[key].image) for key in keys["unlabelled"])})


def _job(source: Source, index: int, pool: str) -> tuple[Hashable, str | None, tuple[Source, int]]:
    """What tells an image from others, its mask's name, and what `look` is to be asked."""
    if isinstance(source, Files):
        return (source.root, source.name(index)), source.mask_name(index), (source.only([index]), 0)
    return (pool, index), None, (source, index)


def _looked(jobs: Sequence[tuple[Source, int]], workers: int) -> list[Entry]:
    if not sys.stderr.isatty():  # where rich before 15 ends a bar that it does not show with a blank line
        return list(_looking(jobs, workers))
    with Progress(console=Console(stderr=True), transient=True) as progress:
        return list(progress.track(_looking(jobs, workers), description="reading", total=len(jobs)))


def _looking(jobs: Sequence[tuple[Source, int]], workers: int) -> Iterator[Entry]:
    if not workers or not jobs or not all(isinstance(source, Files) for source, _ in jobs):
        yield from (look(*job) for job in jobs)
        return
    # Spawned: a fork of a process whose libraries run threads may hang. The child imports no torch for this.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
        try:
            yield from pool.map(look, *zip(*jobs, strict=True), chunksize=max(1, min(16, len(jobs) // workers)))
        except BrokenProcessPool:
            raise ValueError(
                "a reading process died: for want of memory (try workers=1), or because the script that asked for it "
                'begins again when it is imported (put its work under `if __name__ == "__main__":`, or set workers=0)'
            ) from None
