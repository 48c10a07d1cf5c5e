"""What settings there are: of every part its docstring, its keys, what they take and their defaults.

All of it is read from the parts, by way of pydantic's JSON schema.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from mtseg.complaints import join, near
from mtseg.config import Config

Schema = Mapping[str, Any]

HEAD = """# Every setting

What a config holds: YAML files, and `key.sub=value` words, which win. Of each part its keys, what they take, and their
defaults; a key without one must be given. Where a part has a `kind`, `kind` chooses which keys there are.

`python tools/settings.py method.target` prints a part of this page, `python tools/settings.py threshold` all parts that
have such a key, and `python tools/settings.py --page` all of it: it is read from the code.
"""


@dataclass(frozen=True)
class Section:
    """A part at its place in the config: `path` and, where there are several, its `kind`.

    `elsewhere`: of the keys whose parts are told of in other sections, the paths of those.
    """

    path: str
    kind: str
    text: str
    keys: dict[str, tuple[str, str]]  # what each takes, and its default; empty: it must be given
    elsewhere: dict[str, str]

    @property
    def title(self) -> str:
        path = self.path or "the run"
        return f"{path}: {self.kind}" if self.kind else path

    @property
    def names(self) -> list[str]:
        return [join(self.path, key) for key in self.keys]


def sections() -> list[Section]:
    """The whole config, part by part, from the outside in; what occurs at several places, at the first of them."""
    whole = TypeAdapter(Config).json_schema()
    parts: dict[str, Schema] = whole["$defs"]
    places: dict[str, str] = {}
    waiting: list[tuple[str, str]] = [("", "Config")]
    found: list[tuple[str, Schema]] = []
    parts["Config"] = whole
    while waiting:
        path, name = waiting.pop(0)
        found.append((path, parts[name]))
        for key, value in parts[name]["properties"].items():
            new = [of for of in _parts_of(value) if of not in places and "properties" in parts[of]]
            places.update(dict.fromkeys(new, join(path, key)))
            waiting.extend((join(path, key), of) for of in new)
    order = {path: n for n, (path, _) in reversed(list(enumerate(found)))}
    found.sort(key=lambda one: _outside_in(one[0], order))
    return [_section(path, schema, _Words(parts, places)) for path, schema in found]


def _outside_in(path: str, order: Mapping[str, int]) -> list[int]:
    """Where a path stands: after what is around it, and before what comes after that."""
    steps = path.split(".") if path else []
    around = [".".join(steps[: n + 1]) for n in range(len(steps))]
    return [order[place] for place in around if place in order]


def asked(words: list[str]) -> list[Section]:
    """The sections of paths (`method.target`), with what is in them, and of keys (`threshold`) wherever they are.

    Raises ValueError for what is neither, with the nearest that is.
    """
    found: list[Section] = []
    everything = sections()
    for word in [_home(word, everything) for word in words]:
        of = [one for one in everything if f"{one.path}.".startswith(f"{word}.")]
        of = of or [one for one in everything if word in one.names]
        of = of or [one for one in everything if word in one.keys or word == one.kind]
        if not of:
            known = {name: None for one in everything for name in (one.path, one.kind, *one.names, *one.keys)}
            raise ValueError(f"{word!r} is no setting{near(word, known, '; ')}; without words all are listed")
        found.extend(one for one in of if one not in found)
    return found


def _home(word: str, everything: list[Section]) -> str:
    """`views.teacher.noise` is told of as `views.labelled.noise`."""
    places = {join(one.path, key): home for one in everything for key, home in one.elsewhere.items()}
    for place in sorted(places, key=len):
        if f"{word}.".startswith(f"{place}."):
            return _home(places[place] + word[len(place) :], everything)
    return word


def page() -> str:
    """All settings in Markdown."""
    return "\n".join([HEAD, *map(markdown, sections())])


def markdown(section: Section) -> str:
    rows = [f"| `{key}` | {takes} | {default} |" for key, (takes, default) in section.keys.items() if key != "kind"]
    table = ["", "| key | takes | default |", "| --- | --- | --- |", *rows] if rows else []
    return "\n".join([f"## {section.title}", "", section.text, *table, ""])


def plain(section: Section) -> str:
    """A section for a terminal."""
    keys = {key: of for key, of in section.keys.items() if key != "kind"}
    wide = max(map(len, keys), default=0)
    lines = [f"  {key:{wide}}  {takes.replace('`', '')}{_told(default)}" for key, (takes, default) in keys.items()]
    return "\n".join([section.title, "", section.text, "", *lines, ""])


def _told(default: str) -> str:
    return f" (default {default.replace('`', '')})" if default else " (must be given)"


def _section(path: str, schema: Schema, words: "_Words") -> Section:
    required, properties = schema.get("required", ()), schema["properties"]
    keys = {
        key: (words.takes(join(path, key), value), "" if key in required else _default(value))
        for key, value in properties.items()
    }
    told = [of for of in schema.get("description", "").split("\n\n") if not of.startswith("Raises ")]
    homes = {
        key: words.places[of] for key, value in properties.items() for of in _parts_of(value) if of in words.places
    }
    elsewhere = {key: home for key, home in homes.items() if home != join(path, key)}
    return Section(path, str(properties.get("kind", {}).get("const", "")), "\n\n".join(told), keys, elsewhere)


def _default(schema: Schema) -> str:
    default = schema.get("default", {})
    if isinstance(default, dict) and list(_parts_of(schema)):
        return f"`{{kind: {default['kind']}}}`" if "kind" in default else "its own"
    return f"`{json.dumps(default, ensure_ascii=False)}`".replace('"', "")


def _parts_of(schema: Schema) -> Iterator[str]:
    """The names of the parts that may stand at a key, or in the list there."""
    if "$ref" in schema:
        yield schema["$ref"].rpartition("/")[2]
    for inner in (*schema.get("oneOf", ()), *schema.get("anyOf", ()), *filter(None, [schema.get("items")])):
        yield from _parts_of(inner)


@dataclass(frozen=True)
class _Words:
    """What may stand somewhere, in words. `places`: where each part is told of."""

    parts: Mapping[str, Schema]
    places: Mapping[str, str]

    def takes(self, path: str, schema: Schema) -> str:
        if "$ref" in schema:
            return self._part(path, schema["$ref"].rpartition("/")[2])
        if several := schema.get("oneOf", schema.get("anyOf")):
            return " or ".join(dict.fromkeys(self.takes(path, one) for one in several))
        if "const" in schema or "enum" in schema:
            return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
        kind = schema.get("type")
        if kind == "array":
            return self._list(path, schema)
        if kind in ("integer", "number"):
            return f"{'an integer' if kind == 'integer' else 'a number'}{_bounds(schema)}"
        plain = {"boolean": "`true` or `false`", "null": "`null`", "object": "a mapping"}
        return plain.get(str(kind), "a path" if schema.get("format") == "path" else "text")

    def _part(self, path: str, name: str) -> str:
        properties = self.parts[name].get("properties")
        if properties is None:
            return "any value"
        kind = properties.get("kind", {}).get("const")
        what = f"`{{kind: {kind}}}`" if kind else "a mapping"
        return what if self.places[name] == path else f"{what} (`{self.places[name]}`)"

    def _list(self, path: str, schema: Schema) -> str:
        if "prefixItems" in schema:
            values = [self.takes(path, one) for one in schema["prefixItems"]]
            which = f"`{schema['description']}`" if "description" in schema else f"a list of {len(values)}"
            return f"{which}, each {values[0]}" if len(set(values)) == 1 else f"{which}: {', '.join(values)}"
        if not schema.get("items"):
            return "an empty list"
        one = self.takes(path, schema["items"])
        return "a list of " + re.sub(r"^an? (\w+)", r"\1s", one)


def _bounds(schema: Schema) -> str:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    said = [f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema]
    return f" {' and '.join(said)}" if said else ""
