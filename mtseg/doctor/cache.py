"""What the folder of decoded files holds, what it will hold, and whether there is room."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mtseg.data.cache import Cache
from mtseg.data.files import MASK, Files
from mtseg.doctor.finding import Finding, megabytes
from mtseg.doctor.survey import POOLS, Survey


@dataclass(frozen=True)
class Kept:
    """Bytes: `there` in all, `ours` of them of this data set as it is now, `coming` until all of it is kept."""

    folder: Path
    there: int
    ours: int
    coming: int
    free: int

    def sentence(self) -> str:
        """The line of the report."""
        return (
            f"{megabytes(self.there)} in {self.folder}, of which {megabytes(self.there - self.ours)} are of other data "
            f"or of files since changed; {megabytes(self.coming)} to come, {megabytes(self.free)} free"
        )


def kept(survey: Survey) -> Kept | None:
    """What `data.cache` holds of the survey's files; None without one."""
    sources = {pool: source for pool in POOLS if isinstance(source := getattr(survey.splits, pool), Files)}
    caches = [source.cache for source in sources.values() if source.cache is not None]
    if not caches:
        return None
    wanted: dict[Path, int] = {}
    for pool, source in sources.items():
        wanted |= dict(_places(caches[0], source, survey, pool))
    there = {place: place.stat().st_size for place in wanted if place.is_file()}
    coming = sum(size for place, size in wanted.items() if place not in there)
    folder = caches[0].folder
    above = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    return Kept(folder, caches[0].size(), sum(there.values()), coming, shutil.disk_usage(above).free)


def of_cache(found: Kept) -> Iterator[Finding]:
    """The findings."""
    if found.free < found.coming:
        text = (
            f"data.cache: {megabytes(found.coming)} will be written to {found.folder}, and {megabytes(found.free)} are "
            "free; what finds no room is decoded each time: choose another folder, or leave it out"
        )
        yield Finding("warning", "cache-full", text)


def _places(cache: Cache, source: Files, survey: Survey, pool: str) -> Iterator[tuple[Path, int]]:
    """Where each image and mask of a pool is kept, and how many bytes its values take."""
    wide = 4 if any(layer.range for layer in source.channels.layers) else 1
    for index, entry in enumerate(survey.of(pool)):
        area = entry.image.size[0] * entry.image.size[1]
        files = [(source.sources(index), source.how, area * source.channels.count * wide)]
        mask = source.mask_name(index)
        files += [([source.root / mask], MASK, area)] if mask else []
        for paths, how, size in files:
            place = cache.place(paths, how)
            if place is not None:
                yield place, size
