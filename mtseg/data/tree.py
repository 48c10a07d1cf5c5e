"""The files under a root, each folder listed once: what is there, and what leads out of it."""

import os
from pathlib import Path

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
            real = os.path.realpath(self.root / plain)
            raise ValueError(f"{where}: {name!r} is a link to {real}, which lies outside of {self.root}; copy it there")
        return plain

    def files(self, folder: str) -> list[str]:
        """The names of all images under `folder`, at any depth, sorted. Raises ValueError where it is no folder."""
        if not (self.root / folder).is_dir():
            raise ValueError(f"{self.root / folder}: no such folder")
        found = []
        for place, folders, names in os.walk(self.root / folder):
            folders.sort()
            prefix = Path(place).relative_to(self.root).as_posix()
            prefix = "" if prefix == "." else f"{prefix}/"
            found += [prefix + name for name in names if is_image(name) and not name.startswith(".")]
        return sorted(found)

    def missing(self, names: list[str], what: str) -> None:
        """Raises ValueError with the count and the first five of the `names` that are not there."""
        gone = [name for name in names if not self.has(name)]
        if gone:
            raise ValueError(f"{self.root}: {len(gone)} of {len(names)} {what} are not there: {first(gone)}")

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
        real = os.path.realpath(f"{self._real}/{name}")
        return real == self._real or real.startswith(self._real.rstrip("/") + "/")


def first(names: list[str], count: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
