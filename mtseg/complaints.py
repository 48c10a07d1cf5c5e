"""Pydantic's errors in the user's words: one line a problem, with the key's path and the nearest alternative."""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

# Keys by which other tools let a file take in another one.
INCLUDING = ("base", "_base", "_base_", "defaults", "extends", "include", "includes", "inherit", "inherits", "parent")
FEW = 8  # keys of a mapping that are listed where something else stands in its place
NOWHERE: Mapping[str, str] = {}
Loc = tuple[int | str, ...]

_NOUNS = {
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a string",
    "path_type": "a path",
    "dict_type": "a mapping",
    "dataclass_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
}

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


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)


def _bare(hint: Any) -> Any:
    """`hint` without Annotated and without `| None`: neither leaves a trace in pydantic's locations."""
    members = [m for m in get_args(hint) if m is not type(None)]
    peel = get_origin(hint) is Annotated or (_is_union(hint) and len(members) == 1)
    return _bare(members[0]) if peel else hint


def _values(hint: Any) -> str:
    """What the values of a tuple are, as its annotation describes them; empty: nothing is said."""
    if get_origin(hint) is Annotated:
        told = [getattr(rule, "description", None) for rule in hint.__metadata__]
        return next(filter(None, told), "") or _values(get_args(hint)[0])
    members = [m for m in get_args(hint) if m is not type(None)] if _is_union(hint) else []
    return _values(members[0]) if len(members) == 1 else ""


def _members(hint: Any) -> list[Any]:
    return [_bare(m) for m in get_args(hint) if m is not type(None)] if _is_union(hint) else []


def _fields(hint: Any) -> dict[str, Any]:
    return {name: Annotated[f.annotation, f] for name, f in getattr(hint, "__pydantic_fields__", {}).items()}


def _choices(hint: Any) -> list[Any]:
    """The values of a Literal, or the kinds of a part or of a union of parts."""
    hint = _bare(hint)
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    inner = _members(hint) or ([_fields(hint)["kind"]] if "kind" in _fields(hint) else [])
    return [choice for member in inner for choice in _choices(member)]


def _member(hint: Any, label: Any) -> Any:
    """The union's member that pydantic labels by its tag, its class or a schema (`tuple[int, int]`)."""
    for member in _members(hint):
        name = "union" if _members(member) else getattr(get_origin(member) or member, "__name__", "")
        schema = str(label).removeprefix("tagged-").startswith(f"{name}[")
        if label == name or schema or (_fields(member) and label in _choices(member)):
            return member
    return Any


def _child(hint: Any, key: int | str) -> Any:
    args = get_args(hint)
    if isinstance(key, str):
        return args[1] if get_origin(hint) is dict else _fields(hint).get(key, Any)
    index = key if get_origin(hint) is tuple and args[-1] is not Ellipsis else 0
    return args[index] if index < len(args) else Any


@dataclass(frozen=True, eq=False)
class _Problem:
    """One of pydantic's errors, placed. `forks`: where its `loc` names a member of a union and not a key."""

    loc: Loc
    forks: tuple[int, ...]
    path: str
    hint: Any  # of what stands at `path`
    values: str  # what its values are, where it has a fixed number
    error: Any

    @property
    def misfit(self) -> bool:
        """The value has not even the shape that was asked for."""
        return self.error["type"].endswith(("_type", "literal_error"))

    @property
    def noun(self) -> str:
        noun = _NOUNS.get(self.error["type"]) or self.error["msg"].removeprefix("Input should be ")
        if noun == "a list" and get_origin(self.hint) is tuple and not get_args(self.hint):
            return "an empty list"
        return f"a list of {self.count}" if noun == "a list" and self.count else noun

    @property
    def count(self) -> str:
        """How many values there should be, and what they are; empty where any number may be."""
        fixed = get_origin(self.hint) is tuple and Ellipsis not in get_args(self.hint)
        return f"{_amount(len(get_args(self.hint)))} {self.values}".rstrip() if fixed else ""


def _amount(count: int) -> str:
    return f"{count} value" if count == 1 else f"{count} values"


def join(path: str, key: int | str) -> str:
    if isinstance(key, int):
        return f"{path}[{key}]"
    name = key if key and key.isprintable() else repr(key)
    return f"{path}.{name}" if path else name


def _place(cls: Any, loc: Loc, error: Any) -> _Problem:
    hint, path, values, forks = _bare(cls), "", "", []
    for index, key in enumerate(loc):
        if _members(hint):
            forks.append(index)
            hint = _bare(_member(hint, key))
        elif key != "[key]":
            path = join(path, key)
            child = _child(hint, key)
            hint, values = _bare(child), _values(child)
    return _Problem(loc, tuple(forks), path, hint, values, error)


def _unlikely(problems: list[_Problem]) -> tuple[bool, int]:
    """Orders a union's members: a part of another kind is misread from `kind` on; then fewest problems."""
    return any(p.misfit and p.loc[-1] == "kind" for p in problems), len(problems)


def _settle(cls: Any, problems: list[_Problem]) -> list[_Problem]:
    """Pydantic reports every member of a union: keep the one that was meant, or name all that could be.

    Inner unions first, so that a member is not blamed for the many lines of a union inside it.
    """
    for fork in sorted({p.loc[:i] for p in problems for i in p.forks}, key=len, reverse=True):
        size = len(fork)
        here = [p for p in problems if p.loc[:size] == fork and size in p.forks]
        members: dict[Any, list[_Problem]] = {}
        for problem in here:
            members.setdefault(problem.loc[size], []).append(problem)
        misfits = [p for p in here if p.misfit and len(p.loc) == size + 1]
        for problem in misfits:
            members.pop(problem.loc[size], None)
        if members:
            kept = min(members.values(), key=_unlikely)
        else:
            nouns = " or ".join(dict.fromkeys(p.noun for p in misfits))
            kept = [_place(cls, fork, {**misfits[0].error, "type": "union_type", "msg": nouns})]
        first = problems.index(here[0])
        problems = problems[:first] + kept + [p for p in problems[first:] if p not in here]
    return problems


def _within(hint: Any, key: Any, path: str = "") -> Iterator[str]:
    """The dotted names of what is called `key` in the parts of a part, and in theirs."""
    for name, inner in _fields(hint).items():
        for member in _members(_bare(inner)) or [_bare(inner)]:
            for deep in _fields(member):
                if deep == key:
                    yield join(join(path, name), deep)
            yield from _within(member, key, join(path, name))


def _line(problem: _Problem, anew: Mapping[str, str]) -> str:
    path, text = problem.path, _of_keys(problem, anew) or _of_number(problem) or _of_value(problem)
    if problem.error["type"] == "unexpected_keyword_argument":
        path = join(path, problem.error["loc"][-1])
    elif problem.error["type"] == "union_tag_invalid":
        path = join(path, "kind")
    return f"{path}: {text}" if path else text


def _of_keys(problem: _Problem, anew: Mapping[str, str]) -> str:
    """What is said of keys that are unknown or missing; empty for another problem."""
    path, kind, names = problem.path, problem.error["type"], list(_fields(problem.hint))
    key, value = (problem.error["loc"] or ("",))[-1], problem.error["input"]
    if kind == "unexpected_keyword_argument":
        unknown = f"unknown key (value {show(value)})"
        if not path and key in INCLUDING and isinstance(value, str | list):
            return f"{unknown}; no file names another one: name all of them on the command line, one after another"
        within = list(dict.fromkeys(_within(problem.hint, key, path)))[:3]
        nearest = f"; did you mean {' or '.join(map(repr, within))}?" if within else near(key, names, "; ") or ";"
        return f"{unknown}{nearest} known keys: {', '.join(names)}"
    if kind == "missing" and isinstance(key, str):
        return f"missing key {key!r}" + (f": {anew[path]}; give {join(path, key)} too" if path in anew else "")
    if kind == "union_tag_not_found":
        return f"missing key 'kind', one of {', '.join(map(show, _choices(problem.hint)))}"
    if kind == "unexpected_positional_argument":
        name = problem.hint.__name__
        return f"{name} takes its values by name, as in {name}({names[0]}=...), got {show(value)}"
    return ""


def _of_number(problem: _Problem) -> str:
    """What is said of a list of too few or too many values; empty for another problem."""
    kind, ctx = problem.error["type"], problem.error.get("ctx", {})
    if kind not in ("missing", "too_short", "too_long"):
        return ""
    bounds = [f"{word} {_amount(ctx[key])}" for key, word in _BOUNDS.items() if key in ctx]
    return f"expected {problem.count or bounds[0]}, got {len(problem.error['input'])}"


def _of_value(problem: _Problem) -> str:
    """What is said of a value that is not what it should be."""
    error, names, choices = problem.error, list(_fields(problem.hint)), _choices(problem.hint)
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
        return f"expected {problem.noun}{keys}, got {show(value)}{near(value, choices, '; ')}"
    if error["msg"].startswith("Input should be "):
        return f"{show(value)} must be {problem.noun}"
    return f"{error['msg']}, got {show(value)}"


def explain(cls: Any, errors: Sequence[Any], anew: Mapping[str, str] = NOWHERE) -> list[str]:
    """A readable line for each of the errors that pydantic found in a tree meant for `cls`; `anew` as in `validate`."""
    # A key that is missing or unknown is a problem of the mapping around it.
    around = ("missing", "unexpected_keyword_argument", "unexpected_positional_argument")
    told = [{**error, "type": _SAME.get(error["type"], error["type"])} for error in errors]
    problems = [_place(cls, e["loc"][:-1] if e["type"] in around else e["loc"], e) for e in told]
    lines, unsaid = [], dict(anew)
    for problem in _settle(cls, problems):
        lines.append(_line(problem, unsaid))
        if problem.error["type"] == "missing":
            unsaid.pop(problem.path, None)  # once is enough
    return list(dict.fromkeys(lines))
