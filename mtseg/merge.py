"""Settings laid on settings: mappings key by key, and files in the order in which they are named."""

from collections.abc import Sequence
from functools import reduce
from typing import Any


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Lay `over` on `base`: mappings merge key by key, anything else replaces. Neither argument is changed.

    Where both have a `kind` and it differs, `over` replaces `base` wholly: a new kind starts from its own
    defaults; and so do `options` where the `arch` differs that they are of. What is not merged is shared with the
    arguments, not copied.
    """
    other = [key for key in ("kind", "arch") if key in base and key in over and base[key] != over[key]]
    if "kind" in other:
        return dict(over)
    merged = {key: value for key, value in base.items() if key != "options" or not other}
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


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
