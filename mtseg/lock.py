"""One run a folder: a lock that its process holds, and that goes with the process, however that ends."""

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

    Raises ValueError, naming the other process, where another one holds it. The lock is POSIX's, of the process:
    unlike flock's it is not handed down to loading processes, which may outlive a killed run by seconds. What a dead
    process leaves is the file alone, which locks nothing. Where a file system has no locks, nothing is locked.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    file = _taken(folder / FILE)
    try:
        yield
    finally:
        if made and folder.is_dir() and [path.name for path in folder.iterdir()] == [FILE]:
            (folder / FILE).unlink()
            folder.rmdir()
        file.close()


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
