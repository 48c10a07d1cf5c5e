"""Where pydantic's errors are in the tree that was read: which key, and of a union which member was meant."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

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


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)


def bare(hint: Any) -> Any:
    """`hint` without Annotated and without `| None`: neither leaves a trace in pydantic's locations."""
    members = [m for m in get_args(hint) if m is not type(None)]
    peel = get_origin(hint) is Annotated or (_is_union(hint) and len(members) == 1)
    return bare(members[0]) if peel else hint


def _values(hint: Any) -> str:
    """What the values of a tuple are, as its annotation describes them; empty: nothing is said."""
    if get_origin(hint) is Annotated:
        told = [getattr(rule, "description", None) for rule in hint.__metadata__]
        return next(filter(None, told), "") or _values(get_args(hint)[0])
    members = [m for m in get_args(hint) if m is not type(None)] if _is_union(hint) else []
    return _values(members[0]) if len(members) == 1 else ""


def members_of(hint: Any) -> list[Any]:
    return [bare(m) for m in get_args(hint) if m is not type(None)] if _is_union(hint) else []


def fields_of(hint: Any) -> dict[str, Any]:
    return {name: Annotated[f.annotation, f] for name, f in getattr(hint, "__pydantic_fields__", {}).items()}


def choices_of(hint: Any) -> list[Any]:
    """The values of a Literal, or the kinds of a part or of a union of parts."""
    hint = bare(hint)
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    inner = members_of(hint) or ([fields_of(hint)["kind"]] if "kind" in fields_of(hint) else [])
    return [choice for member in inner for choice in choices_of(member)]


def _member(hint: Any, label: Any) -> Any:
    """The union's member that pydantic labels by its tag, its class or a schema (`tuple[int, int]`)."""
    for member in members_of(hint):
        name = "union" if members_of(member) else getattr(get_origin(member) or member, "__name__", "")
        schema = str(label).removeprefix("tagged-").startswith(f"{name}[")
        if label == name or schema or (fields_of(member) and label in choices_of(member)):
            return member
    return Any


def _child(hint: Any, key: int | str) -> Any:
    args = get_args(hint)
    if isinstance(key, str):
        return args[1] if get_origin(hint) is dict else fields_of(hint).get(key, Any)
    index = key if get_origin(hint) is tuple and args[-1] is not Ellipsis else 0
    return args[index] if index < len(args) else Any


@dataclass(frozen=True, eq=False)
class Problem:
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
        return f"{amount(len(get_args(self.hint)))} {self.values}".rstrip() if fixed else ""


def amount(count: int) -> str:
    return f"{count} value" if count == 1 else f"{count} values"


def join(path: str, key: int | str) -> str:
    if isinstance(key, int):
        return f"{path}[{key}]"
    name = key if key and key.isprintable() else repr(key)
    return f"{path}.{name}" if path else name


def place(cls: Any, loc: Loc, error: Any) -> Problem:
    hint, path, values, forks = bare(cls), "", "", []
    for index, key in enumerate(loc):
        if members_of(hint):
            forks.append(index)
            hint = bare(_member(hint, key))
        elif key != "[key]":
            path = join(path, key)
            child = _child(hint, key)
            hint, values = bare(child), _values(child)
    return Problem(loc, tuple(forks), path, hint, values, error)


def _unlikely(problems: list[Problem]) -> tuple[bool, int]:
    """Orders a union's members: a part of another kind is misread from `kind` on; then fewest problems."""
    return any(p.misfit and p.loc[-1] == "kind" for p in problems), len(problems)


def settle(cls: Any, problems: list[Problem]) -> list[Problem]:
    """Pydantic reports every member of a union: keep the one that was meant, or name all that could be.

    Inner unions first, so that a member is not blamed for the many lines of a union inside it.
    """
    for fork in sorted({p.loc[:i] for p in problems for i in p.forks}, key=len, reverse=True):
        size = len(fork)
        here = [p for p in problems if p.loc[:size] == fork and size in p.forks]
        members: dict[Any, list[Problem]] = {}
        for problem in here:
            members.setdefault(problem.loc[size], []).append(problem)
        misfits = [p for p in here if p.misfit and len(p.loc) == size + 1]
        for problem in misfits:
            members.pop(problem.loc[size], None)
        if members:
            kept = min(members.values(), key=_unlikely)
        else:
            nouns = " or ".join(dict.fromkeys(p.noun for p in misfits))
            kept = [place(cls, fork, {**misfits[0].error, "type": "union_type", "msg": nouns})]
        first = problems.index(here[0])
        problems = problems[:first] + kept + [p for p in problems[first:] if p not in here]
    return problems


def within(hint: Any, key: Any, path: str = "") -> Iterator[str]:
    """The dotted names of what is called `key` in the parts of a part, and in theirs."""
    for name, inner in fields_of(hint).items():
        for member in members_of(bare(inner)) or [bare(inner)]:
            for deep in fields_of(member):
                if deep == key:
                    yield join(join(path, name), deep)
            yield from within(member, key, join(path, name))
