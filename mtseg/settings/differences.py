"""How two configs differ in what they compute, and what settings there are, by their dotted names."""

from collections.abc import Sequence
from typing import Any

from mtseg.settings.checked import dump

# What may differ between a run and its continuation: where and how it is computed, not what.
PLACE_AND_PACE = (
    *("out", "workers", "prefetch", "loader_timeout", "device", "resume", "accept_changes", "log_every"),
    *("checkpoint_every", "keep", "max_skipped", "data.root", "data.cache", "eval.gallery", "boards"),
    *("data.allow_outside_root", "compile", "recompute"),
)


def differences(before: Any, after: Any) -> list[str]:
    """A line `key: before -> after` for each setting that decides what is computed and is not the same."""
    old, new = _flat(dump(before)), _flat(dump(after))
    keys = [key for key in {**old, **new} if key not in PLACE_AND_PACE]
    return [f"{key}: {old.get(key)} -> {new.get(key)}" for key in keys if old.get(key) != new.get(key)]


def under(key: str, names: Sequence[str]) -> bool:
    """Whether a setting is one of `names`, or held by one."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def names_of_settings(config: Any) -> list[str]:
    """The dotted names of all settings, and of what holds them: `batch`, `batch.labelled`."""
    return _names(dump(config))


def _names(tree: Any, prefix: str = "") -> list[str]:
    inner = tree.items() if isinstance(tree, dict) else ()
    names = [(f"{prefix}{key}", value) for key, value in inner]
    return [name for name, _ in names] + [deep for name, value in names for deep in _names(value, f"{name}.")]


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return flat
