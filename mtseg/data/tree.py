"""The files under a root, each folder listed once: what is there, and what leads out of it."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePath

from mtseg.data.search import fits, search

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".npy")


def is_image(name: str) -> bool:
    """Whether a file name ends as an image's does, in any case."""
    return name.lower().endswith(SUFFIXES)


def without_suffix(name: str) -> str:
    """A name without its image suffix; any other dot stays."""
    stem, _, suffix = name.rpartition(".")
    return stem if stem and f".{suffix.lower()}" in SUFFIXES else name


class Tree:
    """Questions about names under `root`; names use `/` and are relative to it. Each folder is read once."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise ValueError(f"data.root: {root} is not a folder; name the one that holds the data set")
        self.root = root
        self._real = os.path.realpath(root)
        self._folders: dict[str, dict[str, bool]] = {}  # folder -> file name -> whether it is a link
        self._within: dict[str, bool] = {}  # folder -> whether it lies in the root

    def has(self, name: str) -> bool:
        """Whether `name` is a file under the root, a link included."""
        folder, _, last = name.rpartition("/")
        return last in self._listed(folder)

    def admit(self, name: str, where: str) -> str:
        """`name` without its leading slash, as which some published lists write the root.

        Raises ValueError, beginning with `where`, for a name that contains `..`, is empty, or leads out of the root
        through a link.
        """
        plain = name.lstrip("/")
        if not plain or "\0" in plain or (".." in plain and ".." in plain.split("/")):
            raise ValueError(f"{where}: {name!r} is refused: a name is relative to {self.root}, without `..`")
        folder, _, last = plain.rpartition("/")
        if folder not in self._within:
            self._within[folder] = self._inside(folder)
        leads_out = self._listed(folder).get(last, False) and not self._inside(plain)
        if leads_out or not self._within[folder]:
            raise self._leading_out(plain, where)
        return plain

    def files(self, folder: str) -> list[str]:
        """The names of all images under `folder`, at any depth, sorted, without hidden files and folders.

        Links to folders are followed within the root, and within `folder` where that itself leads elsewhere. Raises
        ValueError where it is no folder, and for links that lead out.
        """
        top = self.root / folder
        if not top.is_dir():
            raise ValueError(f"{top}: no such folder")
        prefix, ground = "".join(f"{part}/" for part in PurePath(folder).parts), os.path.realpath(top)

        def admit(link: str) -> None:
            real = os.path.realpath(top / link)
            if not _within(real, ground) and not _within(real, self._real):
                raise self._leading_out(prefix + link, "data.root")

        return sorted(prefix + name for name in search(top, admit=admit) if is_image(name))

    def glob(self, pattern: str) -> list[str]:
        """The names of the images that fit `pattern`, sorted; `**` searches as `files` does. Raises ValueError as it.

        Hidden files and folders are left out where the pattern does not name them.
        """
        parts = PurePath(pattern).parts
        if "**" not in parts:
            return sorted(filter(is_image, self._fitting(parts)))
        tops = self._fitting(parts[: parts.index("**")]) if parts[0] != "**" else [""]
        names = {name for top in tops if (self.root / top).is_dir() for name in self.files(top)}
        return sorted(name for name in names if fits(name.split("/"), parts))

    def _fitting(self, parts: Sequence[str]) -> list[str]:
        """What fits a glob without `**`, files and folders."""
        found = (path.relative_to(self.root).as_posix() for path in self.root.glob("/".join(parts)))
        return [name for name in found if fits(name.split("/"), parts)]

    def missing(self, names: list[str], what: str) -> None:
        """Raises ValueError with the count and the first five of the `names` that are not there."""
        gone = [name for name in names if not self.has(name)]
        if gone:
            raise ValueError(f"{self.root}: {len(gone)} of {len(names)} {what} are not there: {first(gone)}")

    def _leading_out(self, name: str, where: str) -> ValueError:
        real = os.path.realpath(self.root / name)
        return ValueError(f"{where}: {name!r} is a link to {real}, which lies outside of {self.root}; copy it there")

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
        return _within(os.path.realpath(f"{self._real}/{name}"), self._real)


def _within(real: str, folder: str) -> bool:
    return real == folder or real.startswith(folder.rstrip("/") + "/")


def first(names: list[str], count: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
