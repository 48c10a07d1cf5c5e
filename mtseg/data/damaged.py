"""Files that are not whole: how they are told, and from which size on a file is taken for one."""

from pathlib import Path

MAX_PIXELS = 150_000_000  # of a decoded file; under the 179 million at which PIL itself refuses


class Damaged(ValueError):
    """A file that is missing, truncated, too large or no image, as against a whole one that is of no use here."""


def damaged(path: Path, error: Exception) -> Damaged:
    """What to say of a file whose reader raised `error`."""
    if isinstance(error, FileNotFoundError):
        return Damaged(f"{path}: no such file; put it there or take it off the list")
    return Damaged(f"{path}: not a whole image ({error}); fetch it again or take it off the list")


def remedy() -> str:
    """What to do about a file of more than MAX_PIXELS."""
    return f"at most {MAX_PIXELS // 10**6} million are decoded: cut it into tiles"
