"""Strict settings: a tree of plain values -> a checked part, and back.

Nothing is guessed: a part refuses a string where it wants a number. A user's mistake is a ValueError that names the
place and the remedy.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from mtseg.settings.complaints import NOWHERE, explain
from mtseg.settings.problems import join

T = TypeVar("T")


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
