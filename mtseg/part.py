"""@part: the one kind of configuration object.

A part is a frozen, keyword-only dataclass whose fields pydantic validates; unknown keys are errors.
"""

from dataclasses import field
from typing import TypeVar, dataclass_transform

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def part(cls: type[T]) -> type[T]:
    """Make `cls` a part.

    A rule that spans several fields belongs in `__post_init__` as a `ValueError` that says the rule,
    the values and the remedy. Parts nest: a field may be another part, or a union of parts told apart
    by their `kind`.
    """
    return dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))(cls)  # type: ignore[return-value]
