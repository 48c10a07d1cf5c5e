"""Folders searched at any depth: links to folders are followed, hidden ones left out, unreadable ones told."""

import os
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

RECOVERED = "lost+found"  # of a file system, at the top of a disk: its owner's alone, and nobody's images


def search(top: Path, seen: set[str], *, admit: Callable[[str], object] = str, strict: bool = True) -> Iterator[str]:
    """The names, relative to `top`, of all files below it, without hidden files and folders; in no order.

    A folder whose real path was `seen` is passed over, and others are added to that; links to folders come last, and
    `admit` is asked about each before it is followed, and may raise. Raises ValueError for a folder that cannot be
    read, and, where `strict`, for a link to none.
    """
    links = [""]
    while links:
        at_hand, links = sorted(links), []
        for link in at_hand:
            if link:
                admit(link)
            yield from _below(top, link, seen, links, strict)


def _below(top: Path, folder: str, seen: set[str], links: list[str], strict: bool) -> Iterator[str]:
    """The files below `folder`, but for those in folders that were `seen`; links to folders are added to `links`."""
    folders = [(folder, os.path.realpath(top / folder))]
    while folders:
        place, real = folders.pop()
        if real in seen:
            continue
        seen.add(real)
        for entry in _entries(top / place):
            name = f"{place}/{entry.name}" if place else entry.name
            if not _is_folder(entry, strict):
                yield name
            elif entry.is_symlink():
                links.append(name)
            else:
                folders.append((name, f"{real}/{entry.name}"))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, and not hidden."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".") and entry.name != RECOVERED]
    except OSError as error:
        raise ValueError(
            f"{folder}: this folder cannot be read ({error.strerror}); allow it, or keep it elsewhere"
        ) from None


def _is_folder(entry: os.DirEntry[str], strict: bool) -> bool:
    """Whether it is a folder, or a link to one. Raises ValueError, where `strict`, for a link to nothing that has no
    suffix."""
    try:
        if entry.is_dir():
            return True
        lost = entry.is_symlink() and "." not in entry.name and not Path(entry.path).exists()
    except OSError:  # a link to itself
        lost = True
    if lost and strict:
        target = Path(entry.path).readlink()
        raise ValueError(f"{entry.path}: a link to {str(target)!r}, where nothing is; mend it, or take it away")
    return False


def fits(name: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a file's path fit those of a glob, in which `**` is any number of folders.

    What is hidden fits only a part that begins with a dot too.
    """
    if not name or not pattern:
        return not name and not pattern
    if pattern[0] == "**":
        shown = next((at for at, part in enumerate(name) if part.startswith(".")), len(name) - 1)
        return any(fits(name[start:], pattern[1:]) for start in range(shown + 1))
    shown = pattern[0].startswith(".") or not name[0].startswith(".")
    return shown and fnmatchcase(name[0], pattern[0]) and fits(name[1:], pattern[1:])
