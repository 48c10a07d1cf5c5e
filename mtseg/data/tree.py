"""The files under a root, each folder listed once: what is there, and what leads out of it."""

import os
import unicodedata
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

from mtseg.data.search import fits, search

ARRAY = "0.npy"  # as what the cache keeps may be called
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".npy")


def is_image(name: str) -> bool:
    """Whether a file name ends as an image's does, in any case."""
    return name.lower().endswith(SUFFIXES)


def without_suffix(name: str) -> str:
    """A name without its image suffix; any other dot stays."""
    stem, _, suffix = name.rpartition(".")
    return stem if stem and f".{suffix.lower()}" in SUFFIXES else name


def composed(name: str) -> str:
    """A name in Unicode's composed form: two that look the same are then equal."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


class Tree:
    """Questions about names under `root`; names use `/` and are relative to it. Each folder is read once.

    `outside`: links may lead anywhere.
    """

    def __init__(self, root: Path, *, outside: bool = False) -> None:
        if not root.is_dir():
            raise ValueError(f"data.root: {root} is not a folder; name the one that holds the data set")
        self.root = root
        self._real = os.path.realpath(root)
        self._outside = outside
        self._folders: dict[str, dict[str, bool]] = {}  # folder -> file name -> whether it is a link
        self._within: dict[str, bool] = {}  # folder -> whether it lies in the root
        self._forms: dict[str, dict[str, str]] = {}  # folder -> names in Unicode's composed form -> as they are there
        self._searched: set[str] = set()  # the real folders in which any array would have been found
        self._globs: list[tuple[str, ...]] = []  # those without `**`

    def has(self, name: str) -> bool:
        """Whether `name` is a file under the root, a link included."""
        folder, _, last = name.rpartition("/")
        return last in self._listed(folder)

    def admit(self, name: str, where: str) -> str:
        """`name` as it is under the root: without the leading slash, as which some published lists write that.

        Letters with marks are composed as the file's or folder's are, where it has no other. Raises ValueError,
        beginning with `where`, for a name that contains `..`, is empty, or leads out of the root through a link, where
        links may not lead outside.
        """
        plain = name.lstrip("/")
        if not plain or "\0" in plain or (".." in plain and ".." in plain.split("/")):
            raise ValueError(f"{where}: {name!r} is refused: a name is relative to {self.root}, without `..`")
        if not plain.isascii():
            plain = self._spelt(plain)
        folder, _, last = plain.rpartition("/")
        if folder not in self._within:
            self._within[folder] = self._inside(folder)
        leads_out = self._listed(folder).get(last, False) and not self._inside(plain)
        if leads_out or not self._within[folder]:
            raise self._leading_out(plain, where)
        return plain

    def files(self, folder: str) -> list[str]:
        """The names of all images under `folder`, at any depth, sorted, without hidden files and folders.

        Links to folders are followed: within the root, within `folder` where that itself leads elsewhere, and further
        where links may lead outside. Raises ValueError where it is no folder, and for links that lead out.
        """
        found, searched = self._below(folder)
        self._searched |= searched
        return found

    def refuse_links(self, names: Sequence[str]) -> None:
        """Raises ValueError for a file of `names` that is a link out of the root, and out of its folder where that
        itself leads elsewhere, where links may not."""
        for name in names:
            folder, _, last = name.rpartition("/")
            linked = self._listed(folder).get(last, False) and not self._inside(name)
            if linked and not _within(os.path.realpath(self.root / name), os.path.realpath(self.root / folder)):
                raise self._leading_out(name, "data.root")

    def glob(self, pattern: str) -> list[str]:
        """The names of the images that fit `pattern`, sorted; `**` searches as `files` does. Raises ValueError as it.

        Hidden files and folders are left out where the pattern does not name them.
        """
        parts = PurePath(pattern).parts
        if "**" not in parts:
            self._globs.append(parts)
            return sorted(filter(is_image, self._fitting(parts)))
        tops = self._fitting(parts[: parts.index("**")]) if parts[0] != "**" else [""]
        found: set[str] = set()
        for top in tops:
            if (self.root / top).is_dir():
                names, searched = self._below(top)
                found.update(name for name in names if fits(name.split("/"), parts))
                self._searched |= searched if fnmatchcase(ARRAY, parts[-1]) else set()
        return sorted(found)

    def would_find(self, folder: Path) -> bool:
        """Whether arrays that the cache keeps in `folder` would have been found by the searches made so far."""
        real = Path(os.path.realpath(folder))
        there = next(place for place in (real, *real.parents) if place.exists())
        shown = not any(part.startswith(".") for part in real.relative_to(there).parts)
        if shown and str(there) in self._searched:
            return True
        name = (*PurePath(os.path.relpath(real, self._real)).parts, "00", ARRAY)
        return any(fits(name, glob) for glob in self._globs)

    def _below(self, folder: str) -> tuple[list[str], set[str]]:
        """What `files` answers, and the real paths of the folders that it lies in, or might."""
        top = self.root / folder
        if not top.is_dir():
            raise ValueError(f"{top}: no such folder; name one that is there, relative to data.root")
        prefix, ground = "".join(f"{part}/" for part in PurePath(folder).parts), os.path.realpath(top)

        def admit(link: str) -> None:
            real = os.path.realpath(top / link)
            if not (self._outside or _within(real, ground) or _within(real, self._real)):
                raise self._leading_out(prefix + link, "data.root")

        seen: set[str] = set()
        return sorted(prefix + name for name in search(top, seen, admit=admit) if is_image(name)), seen

    def _fitting(self, parts: Sequence[str]) -> list[str]:
        """What fits a glob without `**`, files and folders."""
        found = (path.relative_to(self.root).as_posix() for path in self.root.glob("/".join(parts)))
        return [name for name in found if fits(name.split("/"), parts)]

    def need(self, folder: str, guide: str) -> None:
        """Raises ValueError where `folder` is not in the root, with the root that is meant, where one above or below it
        has that folder; `guide` shows the tree."""
        if (self.root / folder).is_dir():
            return
        below = (place for pattern in ("*/", "*/*/") for place in sorted(self.root.glob(f"{pattern}{folder}")))
        inside = (place.parents[folder.count("/")] for place in below)
        others = (place for place in (*self.root.parents[:2], *inside) if (place / folder).is_dir())
        meant = next(others, None)
        raise ValueError(
            f"{self.root / folder}: no such folder; data.root is the one that holds {folder.partition('/')[0]}"
            + (f": say data.root={meant} ({guide})" if meant else f"; {guide} shows the tree, and where to get it")
        )

    def missing(self, names: list[str], what: str, remedy: str = "") -> None:
        """Raises ValueError with the count and the first five of the `names` that are not there, and the `remedy`."""
        gone = [name for name in names if not self.has(name)]
        if gone:
            told = f"{self.root}: {len(gone)} of {len(names)} {what} are not there: {first(gone)}"
            raise ValueError(f"{told}; {remedy}" if remedy else told)

    def _spelt(self, name: str) -> str:
        """`name`, each part in the Unicode form that is there; from the first part that is in no form, as it is."""
        folder, _, last = name.rpartition("/")
        if self.has(name) or os.path.exists(self.root / name):  # noqa: PTH110 - of a name too long it says no
            return name
        folder = folder and self._spelt(folder)
        if folder not in self._forms:
            there = (self.root / folder).iterdir() if os.path.isdir(self.root / folder) else ()  # noqa: PTH112
            self._forms[folder] = {composed(other.name): other.name for other in there if not other.name.isascii()}
        return f"{folder}/{self._forms[folder].get(composed(last), last)}".lstrip("/")

    def _leading_out(self, name: str, where: str) -> ValueError:
        real = os.path.realpath(self.root / name)
        return ValueError(
            f"{where}: {name!r} is a link to {real}, which lies outside of {self.root}; copy it there, or, where "
            "the link is your own, say data.allow_outside_root=true"
        )

    def _listed(self, folder: str) -> dict[str, bool]:
        listed = self._folders.get(folder)
        if listed is None:
            try:
                with os.scandir(self.root / folder) as entries:
                    listed = {e.name: e.is_symlink() for e in entries if not e.is_dir()}
            except OSError:
                listed = {}
            self._folders[folder] = listed
        return listed

    def _inside(self, name: str) -> bool:
        return self._outside or _within(os.path.realpath(f"{self._real}/{name}"), self._real)


def _within(real: str, folder: str) -> bool:
    return real == folder or real.startswith(folder.rstrip("/") + "/")


def first(names: list[str], count: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
