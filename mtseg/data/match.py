"""Which images and which masks a user's folders, globs and lists name, and which mask belongs to which image."""

import os
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

from mtseg.data.files import Pool
from mtseg.data.lists import Entry, read_list
from mtseg.data.search import search
from mtseg.data.tree import Tree, composed, first, without_suffix
from mtseg.data.unread import REMEDY, sentence, unread
from mtseg.part import part

NAMING = "; name a folder, a glob or a list"
LISTS = (".txt", ".tsv", ".json")


@part
class Images:
    """Images without masks: one or several of a folder (searched at any depth), a glob or a list, under the root. A
    list (.txt, .tsv, .json) may lie elsewhere, by its whole path; what it names is under the root.

    Hidden ones are left out, and so are images of the pools `without`: where the images of val or test lie among the
    others. Links to folders are followed within the root; those that lead out of it are refused.
    """

    images: str | tuple[str, ...]
    without: tuple[Literal["val", "test"], ...] = ()


@part
class Masked:
    """Images and their masks: both as folders (or `images` as a glob or a list), or `pairs`, a list of both.

    A mask has its image's path in the folder `masks`, with `ending` between name and suffix (`_mask`), and any image
    suffix but JPEG's. Letters with marks are the same however they are composed, which on a Mac is in another way.
    """

    images: str | tuple[str, ...] | None = None
    masks: str | None = None
    pairs: str | None = None
    ending: str = ""

    def __post_init__(self) -> None:
        if (self.pairs is None) == (self.images is None) or (self.images is None) != (self.masks is None):
            rule = "name either `images` and `masks`, or `pairs`, a list of `image mask` lines"
            away = "; null takes away what a file has named, as in data.labelled.images=null data.labelled.masks=null"
            raise ValueError(rule if self.pairs is None else rule + away)


@part
class Labelled(Masked):
    """Those that are learnt from. Images of the pools `without` are left out, with their masks: where those of val or
    test lie among the others.
    """

    without: tuple[Literal["val", "test"], ...] = ()


def images(tree: Tree, wanted: str | tuple[str, ...], key: str, *, without: Collection[str] = frozenset()) -> list[str]:
    """The images that folders and globs, `without` some files, and lists name, each once.

    Raises ValueError for one that names none.
    """
    names: list[str] = []
    for entry in (wanted,) if isinstance(wanted, str) else wanted:
        path = _relative(entry, f"data.{key}.images")
        listed = path.lower().endswith(LISTS)
        if (tree.root / path).is_dir():
            found = tree.files(path)
        elif listed:
            found = [tree.admit(line.image, line.where) for line in _listed(tree.root / path)]
            tree.missing(found, f"images of {path}")
        else:
            found = tree.glob(path)
        if not listed:
            found = [name for name in found if name not in without]
        if not found:
            there = unread(search(tree.root / path, set())) if (tree.root / path).is_dir() else None
            held = f", and {sentence(there)} there is not read: {REMEDY}" if there else ""
            raise ValueError(f"data.{key}.images: {entry!r} names no image under {tree.root}{held or NAMING}")
        names += found
    return list(dict.fromkeys(names))


def unmasked(tree: Tree, wanted: Images, masks: Collection[str], pools: Mapping[str, Masked]) -> list[str]:
    """The images of data.unlabelled. Folders and globs are without the masks that the `ending` of `pools` tells.

    Raises ValueError for those that are `masks` of the data set all the same.
    """
    ending = {key: pool for key, pool in pools.items() if pool.masks is not None and pool.ending}
    told = {name for key, pool in ending.items() for name in _masks(tree, pool, key)}
    found = images(tree, wanted.images, "unlabelled", without=told)
    known = told.union(masks)
    if wrong := [name for name in found if name in known]:
        raise ValueError(
            f"data.unlabelled.images: {len(wrong)} of {len(found)} are masks of this data set: {first(wrong)}; name "
            "the photographs alone, by their folder, a glob such as '**/*.jpg', or a list"
        )
    return found


def masked(tree: Tree, wanted: Masked, key: str) -> Pool:
    """The images of `wanted`, each with its mask. Raises ValueError for an image or a mask that is left alone."""
    if wanted.pairs is not None:
        return pairs(tree, tree.root / _relative(wanted.pairs, f"data.{key}.pairs"))
    assert wanted.images is not None
    assert wanted.masks is not None
    folder = _relative(wanted.masks, f"data.{key}.masks")
    found = images(tree, wanted.images, key)
    masks = _masks(tree, wanted, key)
    if wanted.ending:
        found = sorted(set(found) - set(masks))  # both may lie in one folder
    by_key = _keyed(sorted(set(masks) - set(found)), folder, wanted.ending)
    whole = isinstance(wanted.images, str) and (tree.root / wanted.images).is_dir()
    base = _relative(str(wanted.images), f"data.{key}.images") if whole else None
    keys = [_key(name, base, by_key) for name in found]
    _one_to_one(dict(zip(found, keys, strict=True)), by_key, key, tree.root / folder, whole=whole)
    return Pool(found, [by_key[at] for at in keys])


def _masks(tree: Tree, wanted: Masked, key: str) -> list[str]:
    """What may be masks in their folder."""
    folder = _relative(str(wanted.masks), f"data.{key}.masks")
    return [name for name in tree.files(folder) if without_suffix(name).endswith(wanted.ending)]


def _one_to_one(key_of: dict[str, str], masks: dict[str, str], key: str, folder: Path, *, whole: bool) -> None:
    """Raises ValueError for images without a mask, masks without an image, and a mask of several images."""
    lone = [name for name, at in key_of.items() if at not in masks]
    if lone:
        raise ValueError(
            f"data.{key}: {len(lone)} of {len(key_of)} images have no mask of their name in {folder}: {first(lone)}; "
            + _remedy(key_of, masks, lone[0], key)
        )
    spare = sorted(set(masks) - set(key_of.values())) if whole else []  # a glob or a list may well name a part
    if spare:
        raise ValueError(
            f"data.{key}: {len(spare)} of {len(masks)} masks have no image of their name: "
            f"{first([masks[at] for at in spare])}; put the images there, or take the masks away"
        )
    shared = {at for at, number in Counter(key_of.values()).items() if number > 1}
    if shared:
        names = [name for name, at in key_of.items() if at in shared]
        raise ValueError(f"data.{key}: one mask for several images: {first(names)}; give each image its own")


def _remedy(key_of: Mapping[str, str], masks: Mapping[str, str], image: str, key: str) -> str:
    """What to do about an `image` without a mask, by the masks that have no image."""
    at, spare = key_of[image], sorted(set(masks) - set(key_of.values()))
    if longer := next((other for other in spare if other.startswith(at)), None):
        ending = without_suffix(masks[longer]).rpartition(at)[2]
        return f"if {masks[longer]} is that of {image}, say data.{key}.ending={ending}"
    if other := next((other for other in spare if other.lower() == at.lower()), None):
        return f"{masks[other]} differs from {image} in case; give both one name"
    listed = f"or list the pairs, and name the list: data.{key}: {{pairs: FILE}}"
    if other := next((other for other in spare if Path(other).name == Path(at).name), None):
        return (
            f"{masks[other]} has the name of {image}, in another folder: below theirs, masks lie as images do; move "
            f"it, {listed}"
        )
    there = f", and {first([masks[other] for other in spare])} have no image; give each pair one name" if spare else ""
    return f"images without masks belong to data.unlabelled{there}; {listed}"


def _key(image: str, base: str | None, masks: Mapping[str, str]) -> str:
    """An image's path in the folder `base`, without suffix; else the longest end of its path that is a mask's."""
    if base is not None:
        return composed(os.path.relpath(without_suffix(image), base or "."))
    stem = composed(without_suffix(image))
    parts = stem.split("/")
    ends = ["/".join(parts[start:]) for start in range(len(parts))]
    return next((end for end in ends if end in masks), stem)


def _keyed(masks: list[str], folder: str, ending: str) -> dict[str, str]:
    """Masks by their path in `folder`, without suffix and `ending`. Raises ValueError where two have the same."""
    keyed: dict[str, str] = {}
    for name in masks:
        key = composed(without_suffix(os.path.relpath(name, folder or ".")).removesuffix(ending))
        if key in keyed:
            raise ValueError(f"{keyed[key]} and {name} are both the mask of {key}; take one away")
        keyed[key] = name
    return keyed


def pairs(tree: Tree, path: Path, *, prefix: str = "") -> Pool:
    """The images and masks of a list of `image mask` lines, names without `prefix`.

    Raises ValueError, with file and line, for a line without a mask and for files that are not there.
    """
    pool = Pool([], [])
    for entry in _listed(path):
        if entry.mask is None:
            comma = ", with a blank or a tab between, not a comma" if "," in entry.image else ""
            raise ValueError(f"{entry.where}: {entry.image!r} has no mask beside it; a line is `image mask`{comma}")
        for names, name in ((pool.images, entry.image), (pool.masks, entry.mask)):
            names.append(tree.admit(name.removeprefix(prefix), entry.where))
            if not tree.has(names[-1]):
                raise ValueError(f"{entry.where}: no {tree.root / names[-1]}; names are relative to data.root")
    return pool


def _listed(path: Path) -> list[Entry]:
    """The entries of a list. Raises ValueError where it is not there, and as `read_list`."""
    if not path.is_file():
        raise ValueError(
            f"{path}: no such list; name one that is there, relative to data.root; where the data's own file says its "
            "root, as that of pseudo-labels does, leave data.root= out of the words"
        )
    return read_list(path)


def _relative(path: str, key: str) -> str:
    """A place in the root; of a list, which names what is there, any whole path too.

    Raises ValueError for others.
    """
    if path.lower().endswith(LISTS) and path.startswith("/"):
        return path
    if path.startswith("/") or ".." in path.split("/"):
        raise ValueError(
            f"{key}: {path!r} is refused: it is relative to data.root, which must hold all, without `..`; a list of "
            f"names ({', '.join(LISTS)}) may lie elsewhere, by its whole path"
        )
    return path.strip("/").removeprefix("./")
