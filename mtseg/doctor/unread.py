"""Findings about files that lie where images are searched, and are passed over because of what they are."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mtseg.data.folder import Folder
from mtseg.data.imagefolder import ImageFolder
from mtseg.data.match import LISTS, Images, Masked
from mtseg.data.search import search
from mtseg.data.unread import REMEDY, sentence, unread
from mtseg.doctor.finding import Finding, amount


def of_unread(data: Any) -> Iterator[Finding]:
    """The findings for data whose files anybody put there; it need not be such that it can be built."""
    for key, words in _searched(data).items():
        try:
            counts = unread(name for word in words for name in _names(data.root, word))
        except (ValueError, OSError):  # which is told where the data is built
            continue
        if total := counts.total():
            text = f"{amount(total, 'file')} in {key} {'is' if total == 1 else 'are'} not read: {sentence(counts)}"
            yield Finding("warning", "not-read", f"{text}; {REMEDY}")


def _searched(data: Any) -> dict[str, list[str]]:
    """The folders and globs that each key names."""
    if isinstance(data, ImageFolder):
        return {f"data.root, {side}": [side] for side in ("train", "val", "test")}
    found: dict[str, list[str]] = {}
    for pool in ("labelled", "unlabelled", "val", "test") if isinstance(data, Folder) else ():
        named = getattr(data, pool)
        for key in (
            ("images", "masks") if isinstance(named, Masked) else ("images",) if isinstance(named, Images) else ()
        ):
            words = getattr(named, key) or ()
            found[f"data.{pool}.{key}"] = [words] if isinstance(words, str) else list(words)
    return found


def _names(root: Path, word: str) -> Iterator[str]:
    place = root / word.strip("/")
    if place.is_dir():
        yield from search(place, set())
    elif not word.lower().endswith(LISTS) and word.strip("/"):
        yield from (path.name for path in root.glob(word.strip("/")) if not path.name.startswith("."))
