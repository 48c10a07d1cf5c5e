"""What a run says of its data: the split's name, and the number and hash of the images in each pool."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from mtseg.atomic import write_whole
from mtseg.data.held import held_classes
from mtseg.data.palette import check_named, inks
from mtseg.data.source import Source, Splits, bytes_of, identity
from mtseg.part import part
from mtseg.settings.checked import validate

POOLS = ("labelled", "unlabelled", "val", "test")
LEARNT = ("labelled", "unlabelled")  # whose order is recorded too: batches and memories go by places in the pool
SCORED = {"val", "test", "holdout"}  # whose files' sizes are recorded too: other images may have their names
LABELLED = SCORED | {"labelled"}  # whose classes are, where the images lie in memory: nothing else tells of them
FILE = "splits.json"
CLASSES = "classes.json"
Count = Annotated[int, Field(ge=0)] | None


@part
class Expected:
    """How many images each pool must have; null: any number. Recipes state the counts of published splits."""

    labelled: Count = None
    unlabelled: Count = None
    val: Count = None
    test: Count = None


Expect = Annotated[Expected, BeforeValidator(lambda given: {} if given is None else given)]  # null: any numbers


@dataclass(frozen=True)
class Names:
    """How many images, and the SHA-256 of their sorted names, or what else tells them apart, one a line, in UTF-8; and
    that of the names as they lie, which runs of before have not."""

    images: int
    sha256: str
    order: str = field(default="", compare=False)


@dataclass(frozen=True)
class Provenance:
    """A split's name and its pools. The same images have the same hash, whatever their order or the list's format."""

    name: str
    labelled: Names
    unlabelled: Names
    val: Names
    test: Names
    holdout: Names

    def pools(self) -> dict[str, Names]:
        """The pools by their names; that of the images held out where there are such."""
        found = {pool: getattr(self, pool) for pool in POOLS}
        return found | ({"holdout": self.holdout} if self.holdout.images else {})

    def sentence(self) -> str:
        """One line for the console and for `--dry-run`."""
        return f"{self.name}: " + ", ".join(
            f"{of.images} {pool} ({of.sha256[:12]})" for pool, of in self.pools().items()
        )


def provenance(splits: Splits) -> Provenance:
    """What `splits` consists of. Reads names, and of images only those that lie in memory."""
    pools = (splits.labelled, splits.unlabelled, splits.val, splits.test, splits.holdout)
    return Provenance(splits.name, *(names_of(source) for source in pools))


def names_of(source: Source) -> Names:
    """How many images a source has, and their hash."""
    names = [identity(source, index) for index in range(len(source))]
    return Names(len(names), digest(names), _hash(names))


def files_of(source: Source) -> str:
    """The hash of the names and sizes of a source's files, or of the classes of images in memory, which other data of
    the same names have not. Empty where there are neither."""
    if (classes := held_classes(source)) is not None:
        return digest([f"{source.name(index)} is {number}" for index, number in enumerate(classes.tolist())])
    sizes = [bytes_of(source, index) for index in range(len(source))]
    return digest([f"{source.name(index)} {size}" for index, size in enumerate(sizes)]) if any(sizes) else ""


def digest(names: list[str]) -> str:
    """The SHA-256, in hexadecimal digits, of the sorted names, one a line."""
    return _hash(sorted(names))


def _hash(names: list[str]) -> str:
    return hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()


def checked(splits: Splits, expect: Expected) -> Splits:
    """`splits`, whose counts are those expected. Raises ValueError with both numbers for one that is not."""
    for pool in POOLS:
        said, found = getattr(expect, pool), len(getattr(splits, pool))
        if said is not None and said != found:
            raise ValueError(
                f"data.expect.{pool}: {splits.name} has {found} {pool} images, and {said} are expected; "
                "take the list that the number belongs to, correct the number, or say data.expect=null to take any"
            )
    return splits


def record(folder: Path, splits: Splits, *, continued: bool) -> Provenance:
    """Write the provenance of a run's data into its folder, and the names and colours of the classes.

    Raises ValueError where a run would be continued with other images or classes than it was begun with.
    """
    here, path = provenance(splits), folder / FILE
    if continued:
        refuse_others(folder, splits, here)
    pools = {pool: asdict(names) for pool, names in here.pools().items()}
    for pool in pools.keys() & LABELLED:
        source = getattr(splits, pool)
        if (pool in SCORED or held_classes(source) is not None) and (files := files_of(source)):
            pools[pool]["files"] = files
    write_whole(path, json.dumps({"name": here.name} | pools, indent=1))
    colours = [bytes(colour.tolist()).hex() for colour in splits.palette]
    write_whole(folder / CLASSES, json.dumps({"classes": splits.classes, "palette": colours}))
    return here


class Recorded(NamedTuple):
    """What a run recorded of a pool: the split's name, the hash of the images, that of their files; empty: nothing."""

    name: str = ""
    sha256: str = ""
    files: str = ""


def recorded(folder: Path, pool: str) -> Recorded:
    """What the run in `folder` recorded of a pool."""
    try:
        said = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return Recorded(str(said["name"]), str(said[pool]["sha256"]), str(said[pool].get("files", "")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Recorded()


def refuse_others(folder: Path, splits: Splits, here: Provenance) -> None:
    """Raises ValueError where the run in `folder` was begun with other images or classes than `splits`, whose `here`
    is."""
    path = folder / FILE
    if not path.is_file():
        return
    if (learnt := learnt_classes(folder, otherwise=splits.classes)) != splits.classes:
        raise ValueError(
            f"{folder / CLASSES}: the run was begun with other classes ({', '.join(learnt)} -> "
            f"{', '.join(splits.classes)}); restore them, in the same order, or choose another out="
        )
    before = _read(path)
    unlike = [pool for pool, names in before.items() if names != getattr(here, pool)]
    changed = [pool for pool in unlike if before[pool] != _by_name(getattr(splits, pool))]
    if changed:
        numbers = ", ".join(f"{p}: {before[p].images} -> {getattr(here, p).images}" for p in changed)
        raise ValueError(
            f"{path}: the run was begun with other images ({numbers}); restore them, or choose another out="
        )
    relabelled = [pool for pool in LABELLED if _relabelled(recorded(folder, pool), getattr(splits, pool))]
    if relabelled:
        raise ValueError(
            f"{path}: the run was begun with other classes of the {' and '.join(sorted(relabelled))} images; restore "
            "their labels as they were, or choose another out="
        )
    scored = [pool for pool in sorted(SCORED) if _rewritten(recorded(folder, pool), getattr(splits, pool))]
    if scored:
        raise ValueError(
            f"{path}: the files of the {' and '.join(scored)} images, or their masks, are not those that the run was "
            "begun with, so its scores before and after would not be of the same; restore them, score it with "
            "tools/eval.py, or choose another out="
        )
    moved = [pool for pool in LEARNT if before[pool].order not in ("", getattr(here, pool).order)]
    if moved:
        raise ValueError(
            f"{path}: the run was begun with its {' and '.join(moved)} images in another order, by which batches are "
            "drawn and a teacher remembers; restore the list as it was, or choose another out="
        )


def _relabelled(before: Recorded, source: Source) -> bool:
    return bool(before.files) and held_classes(source) is not None and before.files != files_of(source)


def _rewritten(before: Recorded, source: Source) -> bool:
    return "" not in (before.files, now := files_of(source)) and before.files != now


def learnt_classes(folder: Path, *, otherwise: tuple[str, ...]) -> tuple[str, ...]:
    """The classes that the run in `folder` learnt; `otherwise` for one that has not said. Raises as `named` does."""
    path = folder / CLASSES
    return named(path)[0] if path.is_file() else otherwise


def named(path: Path) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """The classes that a run's classes.json names, and their colours (K, 3). Raises ValueError for another file."""
    try:
        said = validate(_Named, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: not a list of classes and their colours ({error}); copy it again, or take it away where the data "
            "of the run is at hand"
        ) from None
    return said.classes, inks(" ".join(said.palette))


@part
class _Named:
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    palette: tuple[str, ...]

    def __post_init__(self) -> None:
        check_named(self.classes, self.palette)


def _by_name(source: Source) -> Names:
    """What runs recorded of any source before images in memory were told by their pixels."""
    names = [source.name(index) for index in range(len(source))]
    return Names(len(names), digest(names))


def _read(path: Path) -> dict[str, Names]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        nothing = asdict(Names(0, digest([])))
        pools = {pool: found[pool] for pool in POOLS} | {"holdout": found.get("holdout", nothing)}
        return {pool: Names(of["images"], of["sha256"], of.get("order", "")) for pool, of in pools.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ValueError(
            f"{path}: damaged, so the run's images cannot be compared with those it was begun with; restore it, or "
            "delete it where you know that they are the same"
        ) from None
