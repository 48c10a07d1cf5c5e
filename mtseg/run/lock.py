"""One run a folder: one that can be made, and a lock that its process holds, and that goes with the process."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

FILE = "lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within, `folder` is this process's: it is made where it is not there, and again removed where it stays empty.

    Raises ValueError where it cannot be made or written to, and, naming the other process, where another one holds it.
    The lock is POSIX's, of the process: unlike flock's it is not handed down to loading processes, which may outlive a
    killed run by seconds. What a dead process leaves is the file alone, which locks nothing. Where a file system has no
    locks, nothing is locked.
    """
    try:
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        file = _taken(folder / FILE)
    except OSError as error:
        raise _unusable(folder, error.strerror or str(error)) from error
    try:
        yield
    finally:
        if made and folder.is_dir() and [path.name for path in folder.iterdir()] == [FILE]:
            (folder / FILE).unlink()
            folder.rmdir()
        file.close()


def refuse_unwritable(folder: Path) -> None:
    """Raises ValueError where a run's `folder` could not be made or written to, as far as is seen without trying."""
    place = folder
    try:
        while not _is_there(place):
            place = place.parent
        if not place.is_dir():
            raise _unusable(folder, os.strerror(errno.EEXIST))
        if not os.access(place, os.W_OK | os.X_OK):
            raise _unusable(folder, f"{place}: {os.strerror(errno.EACCES)}")
    except OSError as error:
        raise _unusable(folder, error.strerror or str(error)) from error


def _is_there(path: Path) -> bool:
    """Whether `path`, or a link of that name, is there. Raises OSError where it could not be."""
    try:
        path.lstat()
    except FileNotFoundError:
        return path == path.parent
    return True


def _unusable(folder: Path, reason: str) -> ValueError:
    return ValueError(f"out: {folder} cannot be made or written to ({reason}); choose another folder")


def _taken(path: Path) -> IO[str]:
    """The open, locked file, with this process's id in it."""
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            if fcntl is not None:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder = path.read_text(encoding="utf-8", errors="replace").strip() or "another process"
            file.close()
            raise ValueError(
                f"out: {path.parent} is being written to by {holder}; wait for that run or stop it, or choose another "
                "out="
            ) from None
        except OSError:  # a file system without locks
            pass
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            return file
        file.close()  # its holder has removed it in between
        path.parent.mkdir(parents=True, exist_ok=True)
