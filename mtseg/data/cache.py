"""Decoded files kept on a disk: read once from their own format, and after that from memory that processes share."""

import hashlib
import json
import os
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNFINISHED = "unfinished"  # the folder of what is being written, and of what died doing so
ABANDONED = 3600  # seconds after which what is there is of no process that lives


@dataclass(frozen=True)
class Cache:
    """Arrays in .npy files under `folder`, named by the hash of what they were decoded from, and how.

    That is the path, size and time of change of every file, and the settings of decoding; so what has changed is
    decoded again, and what it was before stays until the folder is deleted. Not noticed is another file of the same
    size and time (in nanoseconds), as from an archive unpacked anew with all times alike: then the folder must be
    deleted. Neither inode nor time of status change is asked, since copies of a data set on several machines, which
    may share one cache, differ in both. A file gets its name when it is whole and on the disk, so that processes may
    share the folder and may die. Where it cannot be written, it is said once, and reading goes on.
    """

    folder: Path
    _told: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def get(self, sources: Sequence[Path], how: str, decode: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """What `decode` makes of the files `sources` in the way `how`; mapped, and its own: writing changes no file."""
        place = self.place(sources, how)
        if place is None:
            return decode()
        try:
            return np.asarray(np.load(place, mmap_mode="c", allow_pickle=False))
        except Exception:  # it is not there yet, or not whole: what that raises is up to its reader
            values = decode()
        self._keep(place, values)
        return values

    def place(self, sources: Sequence[Path], how: str) -> Path | None:
        """Where it is kept, or will be; None where a source is not there."""
        try:
            files = [(str(path.absolute()), path.stat()) for path in sources]
        except OSError:
            return None
        facts = [how, *((name, found.st_size, found.st_mtime_ns) for name, found in files)]
        key = hashlib.blake2b(json.dumps(facts).encode("utf-8", "surrogateescape"), digest_size=20).hexdigest()
        return self.folder / key[:2] / f"{key[2:]}.npy"

    def size(self) -> int:
        """The bytes of all that is kept."""
        total = 0
        for path in self.folder.glob("*/*"):
            with suppress(FileNotFoundError):  # another process has just given it its name
                total += path.stat().st_size
        return total

    def sweep(self) -> None:
        """Delete what processes that died have left unfinished."""
        for path in (self.folder / UNFINISHED).glob("*"):
            with suppress(FileNotFoundError):  # another process has just given it its name
                if time.time() - path.stat().st_mtime > ABANDONED:
                    path.unlink()

    def _keep(self, place: Path, values: NDArray[Any]) -> None:
        # Processes of several machines, or containers, may have one number.
        aside = self.folder / UNFINISHED / f"{secrets.token_hex(8)}-{place.name}"
        try:
            for folder in (place.parent, aside.parent):
                folder.mkdir(parents=True, exist_ok=True)
            try:
                with aside.open("wb") as file:
                    np.save(file, values, allow_pickle=False)
                    file.flush()
                    os.fsync(file.fileno())
                aside.replace(place)
            finally:
                aside.unlink(missing_ok=True)
        except OSError as error:
            if not self._told:
                print(f"mtseg: data.cache: {place} is not kept: {error}; reading goes on without", file=sys.stderr)
            self._told.add(str(error))
