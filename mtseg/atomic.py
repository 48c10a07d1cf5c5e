"""Files that are whole: written under another name, and given their own when nothing is missing."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """Within, a name to write to, with the suffix of `path`; it becomes `path` where nothing goes wrong, and else is
    gone. A program that is killed leaves `path` as it was, and `.tmp-*` beside it."""
    name = f".tmp-{os.getpid()}-{path.name}".encode("utf-8", "surrogateescape")[-200:]  # of 255 bytes that there may be
    place = path.with_name(name.decode("utf-8", "ignore"))
    try:
        with naming(path):
            yield place
            place.replace(path)
    finally:
        with suppress(OSError):
            place.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Within, an OSError of the system that says of no file what it is about, as where a disk is full, is of `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_whole(path: Path, text: str) -> None:
    """Write a small text file so that a crash, of the machine too, leaves the old one or the new one, never a part.

    Raises OSError where the disk does not take it, and leaves nothing of it.
    """
    with aside(path) as place:
        place.write_text(text, encoding="utf-8")
        flush(place)


def flush(path: Path) -> None:
    """Wait until the disk has what was written to a file, or which names a folder has."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def digest_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
