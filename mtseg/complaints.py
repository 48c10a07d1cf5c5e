"""Pydantic's errors in the user's words: one line a problem, with the key's path and the nearest alternative."""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

FEW = 8  # keys of a mapping that are listed where something else stands in its place
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


def near(word: Any, names: Iterable[Any], lead: str) -> str:
    found = difflib.get_close_matches(str(word), [n for n in names if isinstance(n, str)], n=1)
    return f"{lead}did you mean {found[0]!r}?" if found else ""


def show(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)


def _bare(hint: Any) -> Any:
    """`hint` without Annotated and without `| None`: neither leaves a trace in pydantic's locations."""
    members = [m for m in get_args(hint) if m is not type(None)]
    peel = get_origin(hint) is Annotated or (_is_union(hint) and len(members) == 1)
    return _bare(members[0]) if peel else hint


def _members(hint: Any) -> list[Any]:
    return [_bare(m) for m in get_args(hint) if m is not type(None)] if _is_union(hint) else []


def _fields(hint: Any) -> dict[str, Any]:
    return {name: f.annotation for name, f in getattr(hint, "__pydantic_fields__", {}).items()}


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
    error: Any

    @property
    def misfit(self) -> bool:
        """The value has not even the shape that was asked for."""
        return self.error["type"].endswith(("_type", "literal_error"))

    @property
    def noun(self) -> str:
        return _NOUNS.get(self.error["type"]) or self.error["msg"].removeprefix("Input should be ")


def join(path: str, key: int | str) -> str:
    if isinstance(key, int):
        return f"{path}[{key}]"
    name = key if key and key.isprintable() else repr(key)
    return f"{path}.{name}" if path else name


def _place(cls: Any, loc: Loc, error: Any) -> _Problem:
    hint, path, forks = _bare(cls), "", []
    for index, key in enumerate(loc):
        if _members(hint):
            forks.append(index)
            hint = _bare(_member(hint, key))
        elif key != "[key]":
            path = join(path, key)
            hint = _bare(_child(hint, key))
    return _Problem(loc, tuple(forks), path, hint, error)


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
    path, error, names = problem.path, problem.error, list(_fields(problem.hint))
    key, value, choices = (error["loc"] or ("",))[-1], error["input"], _choices(problem.hint)
    allowed = ", ".join(show(c) for c in choices)
    kind, text = error["type"], ""
    if kind == "unexpected_keyword_argument":
        within = list(dict.fromkeys(_within(problem.hint, key, path)))[:3]
        nearest = f"; did you mean {' or '.join(map(repr, within))}?" if within else near(key, names, "; ") or ";"
        path = join(path, key)
        text = f"unknown key (value {show(value)}){nearest} known keys: {', '.join(names)}"
    elif kind == "missing":
        text = f"missing key {key!r}" if isinstance(key, str) else f"missing item [{key}]"
        text += f": {anew[path]}; give {join(path, key)} too" if path in anew else ""
    elif kind == "union_tag_not_found":
        text = f"missing key 'kind', one of {allowed}"
    elif kind == "union_tag_invalid" or (kind == "literal_error" and choices):
        path, value = (path, value) if kind == "literal_error" else (join(path, "kind"), value["kind"])
        text = f"{show(value)} is not one of {allowed}{near(value, choices, ', ')}"
    elif kind == "value_error":
        text = str(error["ctx"]["error"])
    elif problem.misfit and value in choices and problem.noun == "a mapping":
        text = f"{show(value)} is a kind; write {{kind: {value}}}, with its other keys beside it"
    elif problem.misfit:
        keys = f" of {', '.join(names)}" if problem.noun == "a mapping" and 0 < len(names) <= FEW else ""
        text = f"expected {problem.noun}{keys}, got {show(value)}{near(value, choices, '; ')}"
    elif error["msg"].startswith("Input should be "):
        text = f"{show(value)} must be {problem.noun}"
    else:
        text = f"{error['msg']}, got {show(value)}"
    return f"{path}: {text}" if path else text


def explain(cls: Any, errors: Sequence[Any], anew: Mapping[str, str]) -> list[str]:
    """A readable line for each of the errors that pydantic found in a tree meant for `cls`; `anew` as in `validate`."""
    # A key that is missing or unknown is a problem of the mapping around it.
    around = ("missing", "unexpected_keyword_argument")
    problems = [_place(cls, e["loc"][:-1] if e["type"] in around else e["loc"], e) for e in errors]
    lines, unsaid = [], dict(anew)
    for problem in _settle(cls, problems):
        lines.append(_line(problem, unsaid))
        if problem.error["type"] == "missing":
            unsaid.pop(problem.path, None)  # once is enough
    return lines
