"""Strict settings: YAML files and `key.sub=value` words -> tree of plain values -> checked part, and back.

Nothing is guessed: what is not plainly a number, `true`, `false` or null stays a string, and a part refuses
a string where it wants a number. A user's mistake is a ValueError that names the place and the remedy.
"""

import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from mtseg.complaints import NOWHERE, explain, join, near, show
from mtseg.merge import begun_anew, in_order, merge, text_above

T = TypeVar("T")

MAX_BYTES = 1_000_000
MAX_DEPTH = 50
SUFFIXES = (".yaml", ".yml")

_KEY = re.compile(r"\w[\w-]*(\.\w[\w-]*)*")
_ITEM = re.compile(rf"({_KEY.pattern})\[[^\]]*\][^=]*=")  # of a list, which no word can set
_COMMENT = re.compile(r"(^|[\s,\[\]{}])#")
_HASH = (
    "; `#` begins a comment in YAML: put a colour into double quotes, and the whole word into single ones, which the "
    """shell takes away, as in 'data.palette=["#804080"]'"""
)
_NULL = ("null", "Null", "NULL", "~")
_DIGITS = r"(?:0|[1-9][0-9]*)"
_POWER = r"[eE][-+]?[0-9]+"
_SCALARS = {
    "null": r"(?:null|Null|NULL|~|)",
    "bool": r"(?:true|false)",
    "int": rf"[-+]?{_DIGITS}",
    "float": rf"(?:[-+]?(?:(?:{_DIGITS}\.[0-9]*|\.[0-9]+)(?:{_POWER})?|{_DIGITS}{_POWER}|\.inf)|\.nan)",
}


class _Loader(yaml.SafeLoader):
    """YAML with one spelling for one meaning, and no reference from one place to another."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        for name, rule in (("anchor", "anchors and aliases are refused"), ("tag", "tags (!...) are refused")):
            if getattr(event, name, None) is not None:
                raise yaml.MarkedYAMLError(problem=rule, problem_mark=event.start_mark)
        if self.depth >= MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"nested over {MAX_DEPTH} deep", problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            problem = None
            if key.tag != "tag:yaml.org,2002:str":
                problem = f"the key {getattr(key, 'value', '')!r} is not a string: put it in quotes"
            elif key.value in seen:
                problem = f"the key {key.value!r} is there twice"
            if problem:
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, data: str) -> Any:
        # PyYAML loses U+0085 and its like outside double quotes, where they are escaped.
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=None if data.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.represent_str)
for _side in (_Loader, _Dumper):
    # PyYAML's own resolvers read 010 as 8, 12:30 as 750, `no` as false and 1e-3 as text.
    _side.yaml_implicit_resolvers = {}
    for _tag, _pattern in _SCALARS.items():
        _side.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"{_pattern}\Z"), None)


def _load(text: str, source: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        why = "; ".join(part for part in (error.context, error.problem) if part)
        raise ValueError(f"{source}{line}: {why}") from None
    except yaml.reader.ReaderError as error:
        line_number = text.count("\n", 0, error.position) + 1
        raise ValueError(f"{source}, line {line_number}: {error.reason}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ValueError(f"{source}: {error}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one settings file: UTF-8 YAML whose top level is a mapping; an empty file is an empty mapping.

    Only `true` and `false` are booleans, only plain decimals (`3`, `-0.5`, `1e-3`) and `.inf`, `.nan` are
    numbers; `010`, `0x10`, `1_000`, `12:30`, dates and `yes` stay strings.

    Raises ValueError, with the file and where possible the line: no such file, too big, not YAML, not a
    mapping, a key twice, a key that is not a string, anchors, aliases, tags, too deep.
    """
    if not path.is_file():
        there = [p.name for p in path.parent.glob("*") if p.suffix in SUFFIXES] if path.parent.is_dir() else []
        raise ValueError(f"{path}: no such file{near(path.name, there, '; ')}")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes, too big for settings")
        text = path.read_bytes().decode("utf-8")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
    tree = _load(text, str(path))
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: expected `key: value` lines, got {show(tree)}")
    return tree


def parse_word(word: str) -> tuple[tuple[str, ...], Any]:
    """Read `a.b=value` into (("a", "b"), value), the value by the rules of `read_yaml`: `[1, 2]`, `{c: 1}`.

    Raises ValueError for a malformed key or value, and for no value (None is written `null`).
    """
    key, equals, text = word.partition("=")
    if not equals or not _KEY.fullmatch(key):
        raise ValueError(f"{word!r}: expected key.sub=value; a list is given whole, as in key=[1, 2]")
    try:
        value = _load(text, repr(word))
        if value is None and text.strip() not in _NULL:
            raise ValueError(f"{word!r}: no value after `=`; write {key}=null for none, {key}=\"''\" for empty text")
    except ValueError as error:
        raise ValueError(f"{error}{_HASH if _COMMENT.search(text) else ''}") from None
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
    for word in words:
        if _KEY.fullmatch(word.partition("=")[0]) and "=" in word:
            given.append(_Word(word, *parse_word(word)))
        elif word.endswith(SUFFIXES):
            files.append((word, read_yaml(Path(word))))
        else:
            item = _ITEM.match(word)
            lists = f"; lists are written whole, as in '{item[1]}=[...]'" if item else ""
            raise ValueError(f"{word!r}: expected a settings file ({', '.join(SUFFIXES)}) or key.sub=value{lists}")
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
        path, value = ".".join(word.keys[:depth]), word.text.partition("=")[2]
        for key in reversed(word.keys[depth:]):
            value = f"{{{key}: {value}}}"
        text = reduce(lambda inner, key: inner[key], word.keys[:depth], before)
        raise ValueError(
            f"{word.text!r}: {path} is set to {show(text)}, of which a key below it would leave nothing; write it "
            f"whole, as in {shlex.quote(f'{path}={value}')}"
        )


def _odd(value: Any, path: str) -> Iterator[str]:
    """What JSON cannot carry."""
    if isinstance(value, dict):
        yield from (f"{path}: the key {key!r} is not a string" for key in value if not isinstance(key, str))
        for key, inner in value.items():
            yield from _odd(inner, join(path, str(key)))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _odd(inner, join(path, index))
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{path}: {value} is not a finite number"
    elif isinstance(value, str) and not value.isprintable() and any("\ud800" <= c <= "\udfff" for c in value):
        yield f"{path}: {value!r} is not Unicode text"
    elif not isinstance(value, bool | int | float | str | None):
        yield f"{path}: {value!r} is not a setting"


def _at_home(value: Any, path: str) -> Any:
    """`value`, in whose paths a leading `~` is the home folder. Raises ValueError for a home that is not known."""
    if isinstance(value, Path):
        try:
            return value.expanduser()
        except RuntimeError:
            raise ValueError(f"{path}: {str(value)!r}: no such home folder; write the path from / on") from None
    if is_dataclass(value) and not isinstance(value, type):
        inner: dict[Any, Any] = {field.name: getattr(value, field.name) for field in fields(value)}
    else:
        inner = value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, tuple) else {}
    found = {key: _at_home(old, join(path, key)) for key, old in inner.items()}
    if all(found[key] is old for key, old in inner.items()):
        return value
    if isinstance(value, tuple):
        return tuple(found.values())
    return found if isinstance(value, dict) else replace(value, **found)


def validate(cls: type[T], tree: dict[str, Any], *, origin: str = "", anew: Mapping[str, str] = NOWHERE) -> T:
    """Build the part `cls` from `tree`, strictly: only int -> float, list -> tuple, str -> Path convert.

    The `~` or `~name` with which a path begins becomes that home folder, as in a shell.

    Raises one ValueError with a line for each problem: the path of the key (`branches[0].weight`), the rule, the
    nearest known key or choice. Where `origin` is given, a first line says it. `anew`: by the path of a mapping, why
    keys of it may be missing.
    """
    lines = list(_odd(tree, ""))
    try:
        if not lines:
            return _at_home(TypeAdapter(cls).validate_json(json.dumps(tree, allow_nan=False), strict=True), "")
    except ValidationError as refusal:
        lines = explain(cls, refusal.errors(include_url=False), anew)
    except ValueError as refusal:
        lines = [str(refusal)]
    raise ValueError(f"{origin}:\n  " + "\n  ".join(lines) if origin else "\n".join(lines))


def takes(hint: Any, value: Any) -> bool:
    """Whether a key of type `hint` takes `value`."""
    try:
        TypeAdapter(hint).validate_python(value)
    except ValidationError:
        return False
    return True


def dump(part: Any) -> dict[str, Any]:
    """The part as plain JSON values, defaults written out: `validate(type(part), dump(part)) == part`."""
    return TypeAdapter(type(part)).dump_python(part, mode="json", warnings="error")


def to_yaml(tree: dict[str, Any]) -> str:
    """YAML text of `tree`, keys in its order, that `read_yaml` reads back to an equal tree."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
