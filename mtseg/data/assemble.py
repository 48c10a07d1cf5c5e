"""From the keys that all readers of files share to pools: which images are labelled, which are not."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mtseg.data.cache import Cache
from mtseg.data.channels import PLAIN, Channels
from mtseg.data.files import Files, OnBadImage, Pool, files
from mtseg.data.lists import Entry, read_list
from mtseg.data.masks import LabelMap
from mtseg.data.provenance import Expected, checked
from mtseg.data.source import Splits
from mtseg.data.splits import Labels, choose
from mtseg.data.tree import Tree, composed, without_suffix

Which = Literal["all", "rest"]  # of the training images, for the unlabelled pool: all of them, or the others
SPELLINGS = {"labelled": ("labelled.txt", "labeled.txt"), "unlabelled": ("unlabelled.txt", "unlabeled.txt")}


class Choice(Protocol):
    """The keys that every reader of files has.

    `root` is the data set's folder. `labels` of the training images keep their labels: a number, a share such as `1/8`
    (rounded down), or `all`; which, `split_seed` draws. `split` names them instead: it is a folder of split lists
    (labelled.txt and, where it has one, unlabelled.txt, in either spelling), or a list of the labelled images, relative
    to `root`, or absolute. `unlabelled` images are `all` training images, the labelled ones too, or the `rest`. A pool
    that has not as many images as `expect` says is refused.

    `on_bad_image`: a training image that cannot be read is an `error`, or is passed over (`skip`), up to 1 % of them.
    `cache` is a folder in which decoded files are kept; it changes no pixel. Links may lead out of `root` with
    `allow_outside_root`.
    """

    @property
    def root(self) -> Path: ...
    @property
    def labels(self) -> Labels: ...
    @property
    def split_seed(self) -> int: ...
    @property
    def split(self) -> Path | None: ...
    @property
    def unlabelled(self) -> Which: ...
    @property
    def expect(self) -> Expected: ...
    @property
    def on_bad_image(self) -> OnBadImage: ...
    @property
    def cache(self) -> Path | None: ...


class Pair(NamedTuple):
    """An image and its mask, by their names."""

    image: str
    mask: str


@dataclass(frozen=True)
class Layout:
    """What a data set's files are: its classes, its pools, and the images that a list may name by their id.

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


def assemble(choice: Choice, layout: Layout, tree: Tree) -> Splits:
    """The pools that a reader's keys ask for; masks of training images that are labelled must be there.

    Raises ValueError for lists that name what is not there, for counts other than the expected, and for empty pools.
    """
    labelled, unlabelled, name = (_by_list if choice.split else _by_seed)(choice, layout, tree)
    unlabelled = list(dict.fromkeys([*unlabelled, *layout.extra]))
    val, test = layout.val(), layout.test()
    for pool, what in ((labelled, "masks of labelled images"), (val, "masks of val"), (test, "masks of test")):
        tree.missing(pool.masks, what)
    if not unlabelled:
        raise ValueError("data.unlabelled: 'rest' leaves nothing where every image is labelled; use 'all'")
    unlabelled = _left(unlabelled, {"val": val, "test": test}, layout.without)
    for names in (labelled.images, unlabelled, val.images, test.images):
        _complete(layout, tree, names)

    cache = None if choice.cache is None else _cache(choice.cache, tree)

    def source(pool: Pool, on_bad_image: OnBadImage = "error") -> Files:
        found = files(choice.root, pool, layout.values, on_bad_image)
        return replace(found, channels=layout.channels, cache=cache)

    splits = Splits(
        classes=layout.classes,
        palette=layout.palette.copy(),
        labelled=source(labelled, choice.on_bad_image),
        unlabelled=source(Pool(unlabelled, []), choice.on_bad_image),
        val=source(val),
        test=source(test),
        name=name,
        channels=layout.channels.count,
        rgb=layout.channels.rgb,
    )
    return checked(splits, choice.expect)


def _left(unlabelled: list[str], scored: Mapping[str, Pool], without: Sequence[str]) -> list[str]:
    """The unlabelled images that are in none of the pools `without`. Raises ValueError where that is none."""
    apart = {name for key in without for name in scored[key].images}
    left = [name for name in unlabelled if name not in apart]
    if not left:
        raise ValueError(
            f"data.unlabelled: all of its {len(unlabelled)} images are those of {', '.join(without)}, which it is "
            "without; name others, or null where there are none"
        )
    return left


def _cache(folder: Path, tree: Tree) -> Cache:
    """The cache, swept. Raises ValueError for one that would be among the images."""
    if tree.would_find(folder):
        raise ValueError(
            f"data.cache: {folder} lies in a folder that is searched for images, so a next run would take what is kept "
            f"there for some; put it elsewhere, or into a hidden folder ({folder.parent / f'.{folder.name}'})"
        )
    cache = Cache(folder)
    cache.sweep()
    return cache


def _complete(layout: Layout, tree: Tree, images: list[str]) -> None:
    """Raises ValueError for images of which a further layer is not there, or leads out of the root."""
    for layer in layout.channels.layers[1:]:
        names = [tree.admit(layer.name_of(name), "data.channels") for name in images]
        tree.missing(names, "further files of images (data.channels)")


def _by_seed(choice: Choice, layout: Layout, tree: Tree) -> tuple[Pool, list[str], str]:
    train = layout.train()
    indices = choose(len(train.images), choice.labels, choice.split_seed)
    labelled = Pool([train.images[i] for i in indices], [train.masks[i] for i in indices])
    everything = choice.labels == "all"
    name = f"{layout.name} all" if everything else f"{layout.name} {choice.labels} seed {choice.split_seed}"
    return labelled, _pool(choice.unlabelled, labelled.images, train.images), name


def _by_list(choice: Choice, layout: Layout, tree: Tree) -> tuple[Pool, list[str], str]:
    assert choice.split is not None
    if choice.labels != "all":
        raise ValueError(
            f"data.labels: {choice.labels!r} and data.split both choose the labelled images; data.labels=all takes "
            "those of the list, data.split=null the share"
        )
    finder = _Finder(layout, tree)
    split = choice.root / choice.split
    if not split.exists():
        raise ValueError(
            f"data.split: no {split}; fetch published lists with the data set's prepare.py, or write an absolute path"
        )
    path = _list_of(split, "labelled")
    assert path is not None
    pairs = [finder.labelled(entry) for entry in read_list(path)]
    labelled = Pool([pair.image for pair in pairs], [pair.mask for pair in pairs])
    others = _list_of(split, "unlabelled")
    rest = [finder.image(entry) for entry in read_list(others)] if others else layout.train().images
    whole = rest if set(labelled.images) <= set(rest) else labelled.images + rest
    return labelled, _pool(choice.unlabelled, labelled.images, whole), f"{layout.name} {split.name}"


def _pool(which: Which, labelled: list[str], everything: list[str]) -> list[str]:
    if which == "all":
        return everything
    known = set(labelled)
    return [name for name in everything if name not in known]


def _list_of(split: Path, pool: str) -> Path | None:
    """The list of a pool in a folder of lists; a single list is that of the labelled images.

    Raises ValueError where there is no list of labelled images, and where there are two of a pool.
    """
    if not split.is_dir():
        return split if pool == "labelled" else None
    there = [split / name for name in SPELLINGS[pool] if (split / name).is_file()]
    if len(there) > 1:
        raise ValueError(f"{split}: holds both {' and '.join(p.name for p in there)}; take one away")
    if not there and pool == "labelled":
        raise ValueError(
            f"{split}: holds no {' or '.join(SPELLINGS[pool])}; name a folder with one, or the list itself"
        )
    return there[0] if there else None


class _Finder:
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
