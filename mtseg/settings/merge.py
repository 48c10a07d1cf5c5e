"""Settings laid on settings: mappings key by key, and files in the order in which they are named."""

from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any

FEW = 8  # dropped keys that are named
STANDING = ("shared",)  # texts that stand for a mapping, of which a key below them would leave nothing


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Lay `over` on `base`: mappings merge key by key, anything else replaces. Neither argument is changed.

    Where both have a `kind` and it differs, `over` replaces `base` wholly: a new kind starts from its own
    defaults; and so do `options` where the `arch` differs that they are of. What is not merged is shared with the
    arguments, not copied.
    """
    if _differ("kind", base, over):
        return dict(over)
    other = _differ("arch", base, over)
    merged = {key: value for key, value in base.items() if key != "options" or not other}
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _differ(key: str, base: dict[str, Any], over: dict[str, Any]) -> bool:
    return key in base and key in over and base[key] != over[key]


def begun_anew(layers: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Where one of `layers`, laid on each other in order, drops keys for another kind: by path, a sentence of it."""
    found: dict[str, str] = {}
    for place, over in enumerate(layers):
        base: dict[str, Any] = reduce(merge, layers[:place], {})
        found |= dict(_dropped(base, over, ""))
    return found


def _dropped(base: dict[str, Any], over: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    keys = [key for key in base if key != "kind"]
    if _differ("kind", base, over):
        if keys:
            named = ", ".join(keys[:FEW]) + (", ..." if len(keys) > FEW else "")
            kinds = f"kind {over['kind']} in place of {base['kind']} begins anew"
            yield path, f"{kinds}, without the keys of {base['kind']} ({named})"
        return
    for key, inner in over.items():
        old = base.get(key)
        if isinstance(old, dict) and isinstance(inner, dict):
            yield from _dropped(old, inner, f"{path}.{key}" if path else key)


def text_above(keys: Sequence[str], base: dict[str, Any], over: dict[str, Any]) -> int:
    """How many of `keys` lead to a text of STANDING in `base` that the others would reach below; 0: none is there.

    What `over`, laid on `base`, begins anew is not there any more.
    """
    here: Any = base
    laid: Any = over
    for depth, key in enumerate(keys[:-1], 1):
        if not isinstance(here, dict) or (isinstance(laid, dict) and _differ("kind", here, laid)):
            return 0
        here, laid = here.get(key), laid.get(key) if isinstance(laid, dict) else None
        if here in STANDING:
            return depth
    return 0


def in_order(files: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """The trees of `files`, each with its name, laid on each other in order.

    Raises ValueError for one that is covered: a recipe, or another file that says more, comes after it and leaves
    nothing of it, and at the end it would have changed something.
    """
    trees = [tree for _, tree in files]
    whole: dict[str, Any] = reduce(merge, trees, {})
    for place, (name, tree) in enumerate(files):
        covers = [other for other, over in files[place + 1 :] if set(over) > set(tree)]
        without: dict[str, Any] = reduce(merge, trees[:place] + trees[place + 1 :], {})
        if covers and without == whole and merge(whole, tree) != whole:
            raise ValueError(
                f"{name} changes nothing where it stands: {covers[-1]}, which comes after it, sets all that it sets; "
                f"name {name} after it"
            )
    return whole
