"""What settings there are: of every part its docstring, its keys, what they take and their defaults.

All of it is read from the parts, by way of pydantic's JSON schema.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from inspect import getdoc

from pydantic import TypeAdapter

from mtseg.config import Config
from mtseg.data.assemble import Choice
from mtseg.rules import Rules, Schema, parts_of
from mtseg.settings.complaints import near
from mtseg.settings.elsewhere import called_here
from mtseg.settings.problems import join

HEAD = """# Every setting

What a config holds: YAML files, and `key.sub=value` words, which win. Of each part its keys, what they take, and their
defaults; a key without one must be given. Where a part has a `kind`, `kind` chooses which keys there are.

`python tools/settings.py method.target` prints a part of this page, `python tools/settings.py threshold` that key in
all parts that have it, and `python tools/settings.py --page` all of it: it is read from the code.
"""
ROOT = "run"


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
        path = self.path or ROOT
        return f"{path}: {self.kind}" if self.kind else path

    def narrowed(self, key: str) -> "Section":
        """That key alone, and the sentences that name it."""
        told = re.split(r"(?<=\.)\s+", self.text)
        about = [sentence for sentence in told if re.search(rf"`{key}\b", sentence)] or told[:1]
        return replace(self, text="\n".join(about), keys={name: self.keys[name] for name in self.keys if name == key})

    def names(self, key: str) -> bool:
        """Whether it has that key, or is what stands above parts that have it."""
        return key in self.keys or (not (self.keys or self.kind) and f"`{key}`" in self.text)


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
            new = [of for of in parts_of(value) if of not in places and "properties" in parts[of]]
            places.update(dict.fromkeys(new, join(path, key)))
            waiting.extend((join(path, key), of) for of in new)
    order = {path: n for n, (path, _) in reversed(list(enumerate(found)))}
    found.sort(key=lambda one: _outside_in(one[0], order))
    told = [_section(path, schema, Rules(parts, places)) for path, schema in found]
    first = next(n for n, one in enumerate(told) if one.path == "data")
    return [*told[:first], Section("data", "", getdoc(Choice) or "", {}, {}), *told[first:]]


def _outside_in(path: str, order: Mapping[str, int]) -> list[int]:
    """Where a path stands: after what is around it, and before what comes after that."""
    steps = path.split(".") if path else []
    around = [".".join(steps[: n + 1]) for n in range(len(steps))]
    return [order[place] for place in around if place in order]


def asked(words: list[str]) -> list[Section]:
    """What is told of paths (`method.target`, `views.crop`), with what is in them, of kinds (`cutmix`,
    `method.target.hard`), and of keys (`threshold`), wherever they are.

    Raises ValueError for what is none of these, with the nearest that is.
    """
    found: list[Section] = []
    everything = sections()
    for word in words:
        of = _of_root(everything) if word == ROOT else [*_of_key(word, everything), *_of_part(word, everything)]
        if not of:
            names = {name for one in everything for name in (one.kind, *one.keys) if name}
            paths = {join(one.path, key) for one in everything for key in (*one.keys, one.kind) if key}
            here = called_here(word)
            nearest = (
                f"; here it is {here!r}" if here else near(word.lower(), sorted(paths if "." in word else names), "; ")
            )
            raise ValueError(f"{word!r} is no setting{nearest}; without words all are listed")
        found.extend(one for one in of if one not in found)
    return found


def _of_root(everything: list[Section]) -> list[Section]:
    return [one for one in everything if not one.path]


def _of_key(word: str, everything: list[Section]) -> list[Section]:
    """The parts that have such a key, narrowed to it; by its path, or, without one, wherever it is."""
    around, _, key = word.rpartition(".")
    home = _home(around, everything)
    return [one.narrowed(key) for one in everything if one.names(key) and (one.path == home or word == key)]


def _of_part(word: str, everything: list[Section]) -> list[Section]:
    """The part of a path or a kind, and all parts in it."""
    home, (around, _, kind) = _home(word, everything), word.rpartition(".")
    place = _home(around, everything)
    inside = [one for one in everything if word and f"{one.path}.".startswith(f"{home}.")]
    return inside or [one for one in everything if kind and one.kind == kind and (one.path == place or word == kind)]


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


def _section(path: str, schema: Schema, words: Rules) -> Section:
    required, properties = schema.get("required", ()), schema["properties"]
    keys = {
        key: (words.takes(join(path, key), value), "" if key in required else words.default_of(value))
        for key, value in properties.items()
    }
    told = [of for of in schema.get("description", "").split("\n\n") if not of.startswith("Raises ")]
    homes = {key: words.places[of] for key, value in properties.items() for of in parts_of(value) if of in words.places}
    elsewhere = {key: home for key, home in homes.items() if home != join(path, key)}
    return Section(path, str(properties.get("kind", {}).get("const", "")), "\n\n".join(told), keys, elsewhere)
