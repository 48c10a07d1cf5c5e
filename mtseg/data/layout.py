"""What a data set's files are, and which of them the lines of a list name."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtseg.data.channels import PLAIN, Channels
from mtseg.data.files import Pool
from mtseg.data.lists import Entry
from mtseg.data.masks import LabelMap
from mtseg.data.tree import Tree, composed, without_suffix


class Pair(NamedTuple):
    """An image and its mask, by their names."""

    image: str
    mask: str


@dataclass(frozen=True)
class Layout:
    """What a data set's files are: its classes, its pools, and the images that a list may name by their id.

    remedy: where masks are not there, how to get them
    extra: images without masks that join the unlabelled ones
    without: the pools whose images are no unlabelled ones
    channels: what an image consists of
    known: the images of the data set, with masks, among which a list's ids are looked up; None: those of `train`
    depth: of how many last parts of its path, without suffix and `endings`, an image's id is made
    """

    name: str
    classes: tuple[str, ...]
    palette: NDArray[np.uint8]
    values: LabelMap
    train: Callable[[], Pool]
    val: Callable[[], Pool]
    test: Callable[[], Pool] = lambda: Pool([], [])
    remedy: str = ""
    extra: tuple[str, ...] = ()
    without: tuple[Literal["val", "test"], ...] = ()
    channels: Channels = PLAIN
    known: Callable[[], Pool] | None = None
    depth: int = 1
    endings: tuple[str, ...] = ()

    def id_of(self, name: str) -> str:
        """`leftImg8bit/train/jena/jena_000078_000019_leftImg8bit.png` -> `jena_000078_000019`."""
        stem = without_suffix("/".join(name.split("/")[-self.depth :]))
        for ending in self.endings:
            stem = stem.removesuffix(ending)
        return stem


class Finder:
    """Finds what the lines of a list name: a file as it stands, or else the image with that id."""

    def __init__(self, layout: Layout, tree: Tree) -> None:
        self.layout, self.tree = layout, tree
        pool = (layout.known or layout.train)()
        self.masks = dict(zip(pool.images, pool.masks, strict=True))

    @cached_property  # lists of plain paths do without
    def by_id(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for image in self.masks:
            found.setdefault(composed(self.layout.id_of(image)), []).append(image)
        return found

    @cached_property
    def scored(self) -> dict[str, str]:
        pools = {"test": self.layout.test(), "val": self.layout.val()}
        return {image: name for name, pool in pools.items() for image in pool.images}

    def image(self, entry: Entry) -> str:
        """The image's name. Raises ValueError, with file and line, where there is none, or more than one."""
        name = self.tree.admit(entry.image, entry.where)
        if self.tree.has(name):
            return name
        found = self.by_id.get(composed(self.layout.id_of(name)), [])
        if len(found) > 1:
            raise ValueError(f"{entry.where}: {name!r} may be {' or '.join(found[:2])}; write the path from the root")
        if not found:
            raise ValueError(
                f"{entry.where}: {name!r} is neither a file under {self.tree.root} nor an image of {self.layout.name}; "
                "get the image, or the list that belongs to this data set"
            )
        return found[0]

    def labelled(self, entry: Entry) -> Pair:
        """The image with the data set's own mask, which must be the line's, where that names one."""
        image = self.image(entry)
        if pool := self.scored.get(image):
            raise ValueError(
                f"{entry.where}: {image!r} is a {pool} image of {self.layout.name}, on which the run is scored, so it "
                f"cannot be labelled; take it off the list, or name other {pool} images"
            )
        if not self.masks.get(image):
            raise ValueError(
                f"{entry.where}: {image!r} has no mask in {self.layout.name}, so it cannot be labelled; put its mask "
                "with the others, or take it off the list"
            )
        if entry.mask not in (None, self.masks[image]):
            mask = self.tree.admit(str(entry.mask), entry.where)
            if self.layout.id_of(mask) != self.layout.id_of(image):
                raise ValueError(f"{entry.where}: {mask!r} is not the mask of {image!r}; mend the list")
        return Pair(image, self.masks[image])
