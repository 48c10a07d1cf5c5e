"""Pydantic's errors in the user's words: one line a problem, with the key's path and the nearest alternative."""

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, get_args

from mtseg.settings.elsewhere import BOTH, called_here
from mtseg.settings.problems import Problem, amount, bare, choices_of, fields_of, join, place, settle, within

# Keys by which other tools let a file take in another one.
INCLUDING = ("base", "_base", "_base_", "defaults", "extends", "include", "includes", "inherit", "inherits", "parent")
FEW = 8  # keys of a mapping that are listed where something else stands in its place
NOWHERE: Mapping[str, str] = {}

_BOUNDS = {"min_length": "at least", "max_length": "at most"}
# Of what Python gives, pydantic tries to make the type that is wanted.
_SAME = {
    "int_parsing": "int_type",
    "int_from_float": "int_type",
    "float_parsing": "float_type",
    "bool_parsing": "bool_type",
}


def near(word: Any, names: Iterable[Any], lead: str) -> str:
    found = difflib.get_close_matches(str(word), [n for n in names if isinstance(n, str)], n=1)
    return f"{lead}did you mean {found[0]!r}?" if found else ""


def show(value: Any) -> str:
    try:
        text = repr(value) if isinstance(value, str) else json.dumps(value)
    except (TypeError, ValueError):  # only Python can have given it
        text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def _line(problem: Problem, anew: Mapping[str, str]) -> str:
    path, text = problem.path, _of_keys(problem, anew) or _of_number(problem) or _of_value(problem)
    if problem.error["type"] == "unexpected_keyword_argument":
        path = join(path, problem.error["loc"][-1])
    elif problem.error["type"] == "union_tag_invalid":
        path = join(path, "kind")
    return f"{path}: {text}" if path else text


def _of_keys(problem: Problem, anew: Mapping[str, str]) -> str:
    """What is said of keys that are unknown or missing; empty for another problem."""
    path, kind, names = problem.path, problem.error["type"], list(fields_of(problem.hint))
    key, value = (problem.error["loc"] or ("",))[-1], problem.error["input"]
    if kind == "unexpected_keyword_argument":
        unknown = f"unknown key (value {show(value)})"
        if not path and key in INCLUDING and isinstance(value, str | list):
            return f"{unknown}; no file names another one: name all of them on the command line, one after another"
        places = meant(problem.hint, key, path)
        nearest = f"; did you mean {' or '.join(map(repr, places))}?" if places else near(key, names, "; ") or ";"
        return f"{unknown}{nearest} known keys: {', '.join(names)}"
    if kind == "missing" and isinstance(key, str):
        return f"missing key {key!r}" + (f": {anew[path]}; give {join(path, key)} too" if path in anew else "")
    if kind == "union_tag_not_found":
        return f"missing key 'kind', one of {', '.join(map(show, choices_of(problem.hint)))}"
    if kind == "unexpected_positional_argument":
        name = problem.hint.__name__
        return f"{name} takes its values by name, as in {name}({names[0]}=...), got {show(value)}"
    return ""


def meant(hint: Any, word: str, path: str = "") -> list[str]:
    """The dotted name, in a part at `path`, of what is called `word` here or in other tools.

    Where the part itself has no such key, those in its parts, three at most.
    """
    for key in (word, called_here(word)):
        if key in fields_of(hint):
            return [join(path, key)]
        if found := list(dict.fromkeys(within(hint, key, path))):
            return found[:3]
    return []


def _of_number(problem: Problem) -> str:
    """What is said of a list of too few or too many values; empty for another problem."""
    kind, ctx = problem.error["type"], problem.error.get("ctx", {})
    if kind not in ("missing", "too_short", "too_long"):
        return ""
    bounds = [f"{word} {amount(ctx[key])}" for key, word in _BOUNDS.items() if key in ctx]
    return f"expected {problem.count or bounds[0]}, got {len(problem.error['input'])}"


def _of_value(problem: Problem) -> str:
    """What is said of a value that is not what it should be."""
    error, names, choices = problem.error, list(fields_of(problem.hint)), choices_of(problem.hint)
    kind, value = error["type"], error["input"]
    if kind == "union_tag_invalid" or (kind == "literal_error" and choices):
        if kind == "union_tag_invalid":
            value = value["kind"] if isinstance(value, dict) else getattr(value, "kind", None)
        return f"{show(value)} is not one of {', '.join(map(show, choices))}{near(value, choices, ', ')}"
    if kind == "value_error":
        return str(error["ctx"]["error"])
    if problem.misfit and isinstance(value, str) and value in choices and problem.noun == "a mapping":
        return f"{show(value)} is a kind; write {{kind: {value}}}, with its other keys beside it"
    if problem.misfit:
        keys = f" of {', '.join(names)}" if problem.noun == "a mapping" and 0 < len(names) <= FEW else ""
        return f"expected {problem.noun}{keys}, got {show(value)}{near(value, choices, '; ') or _as_meant(problem)}"
    if error["msg"].startswith("Input should be "):
        return f"{show(value)} must be {problem.noun}"
    return f"{error['msg']}, got {show(value)}"


def _as_meant(problem: Problem) -> str:
    """How a number is written that stands where something else should; empty where that is not plain."""
    value, path, hint = problem.error["input"], problem.path, problem.hint
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    if problem.noun == "an integer" and value == int(value):
        return f"; write {int(value)}"
    if problem.noun == "an integer or a string" and 0 < value < 1:
        return f"; a share is written as {Fraction(value).limit_denominator(1000)}"
    if problem.count and all(bare(inner) in (int, float) for inner in get_args(hint)):
        return f"; write [{', '.join([show(value)] * len(get_args(hint)))}]"
    keys = BOTH.get(path.rpartition(".")[2], ()) if problem.noun == "a mapping" else ()
    return f"; say {' '.join(f'{path}.{key}={show(value)}' for key in keys)}" if keys else ""


def explain(cls: Any, errors: Sequence[Any], anew: Mapping[str, str] = NOWHERE) -> list[str]:
    """A readable line for each of the errors that pydantic found in a tree meant for `cls`; `anew` as in `validate`."""
    # A key that is missing or unknown is a problem of the mapping around it.
    around = ("missing", "unexpected_keyword_argument", "unexpected_positional_argument")
    told = [{**error, "type": _SAME.get(error["type"], error["type"])} for error in errors]
    problems = [place(cls, e["loc"][:-1] if e["type"] in around else e["loc"], e) for e in told]
    lines, unsaid = [], dict(anew)
    for problem in settle(cls, problems):
        lines.append(_line(problem, unsaid))
        if problem.error["type"] == "missing":
            unsaid.pop(problem.path, None)  # once is enough
    return list(dict.fromkeys(lines))
