"""What may stand at a key of a config, and what stands there by default, in words; from pydantic's JSON schema."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Schema = Mapping[str, Any]


def parts_of(schema: Schema) -> Iterator[str]:
    """The names of the parts that may stand at a key, or in the list there."""
    if "$ref" in schema:
        yield schema["$ref"].rpartition("/")[2]
    for inner in (*schema.get("oneOf", ()), *schema.get("anyOf", ()), *filter(None, [schema.get("items")])):
        yield from parts_of(inner)


@dataclass(frozen=True)
class Rules:
    """What may stand somewhere, in words. `places`: where each part is told of."""

    parts: Mapping[str, Schema]
    places: Mapping[str, str]

    def default_of(self, schema: Schema) -> str:
        """What stands at a key that is left out, as Markdown: `0.95`; of a part its kind, and what is not its own
        default there."""
        default, parts = schema.get("default", {}), [self.parts[name] for name in parts_of(schema)]
        if isinstance(default, dict) and parts:
            properties = [part.get("properties", {}) for part in parts]
            kinds = [own for own in properties if own.get("kind", {}).get("const") == default.get("kind")]
            own = kinds[0] if kinds else {}
            default = {
                key: v for key, v in default.items() if key == "kind" or own.get(key, {}).get("default", ...) != v
            }
            if not default:
                return "its own defaults"
        return "`''`" if default == "" else f"`{json.dumps(default, ensure_ascii=False)}`".replace('"', "")

    def takes(self, path: str, schema: Schema) -> str:
        """What the key `path` takes, as Markdown: limits, choices, kinds; of a part told of elsewhere, where."""
        if "$ref" in schema:
            return self._part(path, schema["$ref"].rpartition("/")[2])
        if several := schema.get("oneOf", schema.get("anyOf")):
            homes = {self.places.get(name, path) for name in parts_of(schema)}
            if "oneOf" in schema and homes != {path}:
                return f"as `{homes.pop()}`"
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
        return what if self.places[name] == path else f"{what}, as `{self.places[name]}`"

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
    found = {sign: schema[key] for key, sign in signs.items() if key in schema}
    said = [f"{sign} {bound if bound % 1 else int(bound)}" for sign, bound in found.items()]  # 0.0 of older pydantic's
    return f" {' and '.join(said)}" if said else ""
