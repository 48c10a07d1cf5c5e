"""Split lists as they are published: pairs, bare ids, tab pairs, images alone, `image None`, JSON."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from mtseg.data.tree import is_image

# A blank after an image's suffix parts image from mask: so names may contain blanks, as long as it is the only one.
_BORDER = re.compile(r"(?<=\.jpg|\.png|\.bmp|\.tif|\.npy)[ ]+|(?<=\.jpeg|\.tiff|\.webp)[ ]+", re.IGNORECASE)


class Entry(NamedTuple):
    """One line of a list. `image` is a path or a bare id, `mask` None where the line names none."""

    where: str  # file and line, for messages
    image: str
    mask: str | None = None


def read_list(path: Path) -> list[Entry]:
    """The entries of a list, in its order. Formats are told apart line by line:

    `image mask` and `image<TAB>mask` (UniMatch, CorrMatch, CPS, CCT), `image` (U2PL's Cityscapes), a bare id (U2PL's
    and CPS's VOC), `image None` (UniMatch V2's extra images). JSON is a list of images or of `[image, mask]`, or an
    object with an image or id for each key and its mask, null, or image-level classes (CCT), which are not read, as
    its value. Text is UTF-8, with or without a byte-order mark; line ends of any kind; blank lines are passed over.

    Raises ValueError, with file and line, for what is neither, for an image named twice, and for an empty list.
    """
    if not path.is_file():
        raise ValueError(
            f"{path}: no such list; name one that is there (prepare.py of a data set fetches published ones)"
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8; save the list as UTF-8 text") from None
    entries = _json(path, text) if path.suffix.lower() == ".json" else _lines(path, text)
    if not entries:
        raise ValueError(f"{path}: names no image")
    if re.search(r"//|\./", text):
        entries = [Entry(where, _spelt(image), mask and _spelt(mask)) for where, image, mask in entries]
    _once(entries)
    return entries


def _spelt(name: str) -> str:
    """A path without empty parts and `.`; those with `..` are refused elsewhere."""
    plain = "/".join(part for part in name.split("/") if part not in ("", ".")) or name
    return f"/{plain}" if name.startswith("/") and plain != name else plain


def _lines(path: Path, text: str) -> list[Entry]:
    lines = re.split(r"\r\n|\r|\n", text)  # not splitlines: it also cuts names at U+0085 and its like
    name = str(path)
    if text.split() == [line for line in lines if line]:  # no blank of any kind, as in most long lists
        return [Entry(f"{name}, line {n}", line) for n, line in enumerate(lines, start=1) if line]
    return [_entry(f"{name}, line {n}", line.strip(" ")) for n, line in enumerate(lines, start=1) if line.strip()]


def _entry(where: str, line: str) -> Entry:
    fields = line.split("\t") if "\t" in line else _BORDER.split(line)
    fields = [field.strip() for field in fields]
    blank = " " in line and "\t" not in line
    if len(fields) > 2 or not all(fields) or (len(fields) == 1 and blank and not is_image(line)):
        raise ValueError(f"{where}: {line!r} is not `image mask`, an image, or an id; part names with blanks by a tab")
    return _made(where, *fields)


def _made(where: str, image: str, mask: str | None = None) -> Entry:
    return Entry(where, image, None if mask in (None, "None") else mask)


def _json(path: Path, text: str) -> list[Entry]:
    try:
        tree = json.loads(text, object_pairs_hook=list)  # pairs, so that no key is lost that is there twice
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: {error.msg}; the list is not JSON") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets in brackets
        raise ValueError(f"{path}: {error}; the list is no list of names") from None
    items = tree if isinstance(tree, list) else [tree]
    return [_item(f"{path}, entry {n}", item) for n, item in enumerate(items, start=1)]


def _item(where: str, item: Any) -> Entry:
    fields = [item] if isinstance(item, str) else item
    if isinstance(item, tuple):  # a key of an object, and what stands there
        fields = [item[0], item[1] if isinstance(item[1], str) else None]
    texts = isinstance(fields, list) and len(fields) in (1, 2) and isinstance(fields[0], str) and fields[0]
    if not texts or not isinstance(fields[-1], str | None):
        raise ValueError(f"{where}: {json.dumps(item)[:80]} is not an image, an id, or [image, mask]")
    return _made(where, *fields)


def _once(entries: list[Entry]) -> None:
    if len({entry.image.lstrip("/") for entry in entries}) == len(entries):  # some lists so write the root
        return
    seen: dict[str, str] = {}
    for entry in entries:
        name = entry.image.lstrip("/")
        if name in seen:
            before = seen[name].rpartition(", ")[2]
            raise ValueError(f"{entry.where}: {entry.image!r} is there already, at {before}; take one off")
        seen[name] = entry.where
