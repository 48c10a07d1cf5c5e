"""From the keys that all readers of files share to pools: which images are labelled, which are not."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol

from mtseg.data.cache import Cache
from mtseg.data.files import Files, OnBadImage, Pool, files
from mtseg.data.layout import Finder, Layout
from mtseg.data.lists import read_list
from mtseg.data.provenance import Expected, checked
from mtseg.data.source import Splits
from mtseg.data.splits import Labels, choose
from mtseg.data.tree import Tree

Which = Literal["all", "rest"]  # of the training images, for the unlabelled pool: all of them, or the others
SPELLINGS = {"labelled": ("labelled.txt", "labeled.txt"), "unlabelled": ("unlabelled.txt", "unlabeled.txt")}


class Choice(Protocol):
    """The keys that every reader of files has.

    `root` is the data set's folder. `labels` of the training images keep their labels: a number, a share such as `1/8`
    (rounded down), or `all`; which, `split_seed` draws. `split` names them instead: it is a folder of split lists
    (labelled.txt and, where it has one, unlabelled.txt, in either spelling), or a list of the labelled images, relative
    to `root`, or absolute. `unlabelled` images are `all` training images, the labelled ones too, or the `rest`. A pool
    that has not as many images as `expect` says is refused; null expects nothing.

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


def assemble(choice: Choice, layout: Layout, tree: Tree) -> Splits:
    """The pools that a reader's keys ask for; masks of training images that are labelled must be there.

    Raises ValueError for lists that name what is not there, for counts other than the expected, and for empty pools.
    """
    labelled, unlabelled, name = (_by_list if choice.split else _by_seed)(choice, layout, tree)
    unlabelled = list(dict.fromkeys([*unlabelled, *layout.extra]))
    val, test = layout.val(), layout.test()
    for pool, what in ((labelled, "masks of labelled images"), (val, "masks of val"), (test, "masks of test")):
        tree.missing(pool.masks, what, layout.remedy)
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
    finder = Finder(layout, tree)
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
