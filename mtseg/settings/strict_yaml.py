"""Strict YAML: one spelling for one meaning. What is not plainly a number, `true`, `false` or null stays a string."""

import copy
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from mtseg.settings.complaints import near, show

MAX_BYTES = 1_000_000
MAX_DEPTH = 50
SUFFIXES = (".yaml", ".yml")

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


class _Dumper(yaml.CSafeDumper if yaml.__with_libyaml__ else yaml.SafeDumper):  # type: ignore[misc]
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


def parsed(text: str, source: str) -> Any:
    """What YAML `text` says. Raises ValueError, beginning with `source`, as `read_yaml` does."""
    try:
        return copy.deepcopy(_tree(text))
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


@lru_cache(maxsize=256)
def _tree(text: str) -> Any:
    # Tables and pages ask the folder of each run many times, and a config takes ten milliseconds to parse.
    return yaml.load(text, _Loader)


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
    tree = parsed(text, str(path))
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: expected `key: value` lines, got {show(tree)}")
    return tree


def to_yaml(tree: dict[str, Any]) -> str:
    """YAML text of `tree`, keys in its order, that `read_yaml` reads back to an equal tree."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
