"""Settings from a command line: files and `key.sub=value` words -> one tree of plain values."""

import json
import re
import shlex
from collections.abc import Sequence
from functools import reduce
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from mtseg.settings.complaints import show
from mtseg.settings.merge import begun_anew, in_order, merge, text_above
from mtseg.settings.strict_yaml import SUFFIXES, parsed, read_yaml

_KEY = re.compile(r"\w[\w-]*(\.\w[\w-]*)*")
_ITEM = re.compile(rf"({_KEY.pattern})\[[^\]]*\][^=]*=")  # of a list, which no word can set
_COMMENT = re.compile(r"(^|[\s,\[\]{}])#")
_HASH = (
    "; `#` begins a comment in YAML: put a colour into double quotes, and the whole word into single ones, which the "
    """shell takes away, as in 'data.palette=["#804080"]'"""
)
_CUT = """; is it cut at a blank? Put the whole word into quotes, as in "views.crop=[160, 224]\""""
_NULL = ("null", "Null", "NULL", "~")


def parse_word(word: str) -> tuple[tuple[str, ...], Any]:
    """Read `a.b=value` into (("a", "b"), value), the value by the rules of `read_yaml`: `[1, 2]`, `{c: 1}`.

    Raises ValueError for a malformed key or value, and for no value (None is written `null`).
    """
    key, equals, text = word.partition("=")
    if not equals or not _KEY.fullmatch(key):
        raise ValueError(f"{word!r}: expected key.sub=value; a list is given whole, as in key=[1, 2]")
    try:
        value = parsed(text, repr(word))
        if value is None and text.strip() not in _NULL:
            raise ValueError(f"{word!r}: no value after `=`; write {key}=null for none, {key}=\"''\" for empty text")
    except ValueError as error:
        cut = text.count("[") > text.count("]") or text.count("{") > text.count("}")
        raise ValueError(f"{error}{_HASH if _COMMENT.search(text) else _CUT if cut else ''}") from None
    return tuple(key.split(".")), value


def gather(words: Sequence[str]) -> dict[str, Any]:
    """One tree from command-line words: files (.yaml, .yml) in order, then `key.sub=value` words in order.

    Words win over files wherever they stand. They are merged with each other first, so that in
    `teacher.decay=0.9 teacher.kind=ema` the new kind does not drop the decay. A file whose path reads like a
    word (`lr=1/run.yaml`) is named `./lr=1/run.yaml`.

    Raises ValueError for any other word, for one that reaches below a text, and all that `read_yaml`, `parse_word` and
    `in_order` raise.
    """
    return gathered(words)[0]


def gathered(words: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The tree that `gather` gives, and where another kind began it anew, in words: the `anew` of `validate`."""
    files: list[tuple[str, dict[str, Any]]] = []
    given: list[_Word] = []
    for word, after in zip_longest(words, words[1:], fillvalue=""):
        if _KEY.fullmatch(word.partition("=")[0]) and "=" in word:
            given.append(_Word(word, *parse_word(word)))
        elif word.endswith(SUFFIXES):
            files.append((word, read_yaml(Path(word))))
        else:
            item = _ITEM.match(word)
            remedy = f"; lists are written whole, as in '{item[1]}=[...]'" if item else ""
            if _KEY.fullmatch(word) and after:
                remedy = f"; a key and its value are one word, as in {shlex.quote(f'{word}={after}')}"
            raise ValueError(f"{word!r}: expected a settings file ({', '.join(SUFFIXES)}) or key.sub=value{remedy}")
    tree, overrides = in_order(files), _together(given)
    for place, told in enumerate(given):
        _refuse_below_text(told, merge(tree, _together(given[:place])), overrides)
    return merge(tree, overrides), begun_anew([*(tree for _, tree in files), overrides])


class _Word(NamedTuple):
    """A word `a.b=value`, and what `parse_word` reads in it."""

    text: str
    keys: tuple[str, ...]
    value: Any

    @property
    def tree(self) -> dict[str, Any]:
        return reduce(lambda inner, key: {key: inner}, reversed(self.keys), self.value)


def _together(given: Sequence[_Word]) -> dict[str, Any]:
    return reduce(merge, (word.tree for word in given), {})


def _refuse_below_text(word: _Word, before: dict[str, Any], overrides: dict[str, Any]) -> None:
    """Raises ValueError where `word` sets a key below what is a text in the tree `before` it; see `text_above`."""
    if depth := text_above(word.keys, before, overrides):
        path, keys = ".".join(word.keys[:depth]), word.keys[:depth]
        text, asked = (reduce(lambda inner, key: inner[key], keys, tree) for tree in (before, overrides))
        raise ValueError(
            f"{word.text!r}: {path} is set to {show(text)}, of which a key below it would leave nothing; write it "
            f"whole, as in {shlex.quote(f'{path}={json.dumps(asked)}')}"
        )
