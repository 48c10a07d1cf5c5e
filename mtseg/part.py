"""@part: the one kind of configuration object.

A part is a frozen, keyword-only dataclass whose fields pydantic validates; unknown keys are errors.
"""

from dataclasses import field
from functools import wraps
from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from mtseg.settings.complaints import explain

T = TypeVar("T")

# What the values of a pair are, for who gives another number of them.
HEIGHT_WIDTH: Any = Field(description="[height, width]")
LOW_HIGH: Any = Field(description="[low, high]")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def part(cls: type[T]) -> type[T]:
    """Make `cls` a part.

    A rule that spans several fields belongs in `__post_init__` as a `ValueError` that says the rule,
    the values and the remedy. Parts nest: a field may be another part, or a union of parts told apart
    by their `kind`. Made in Python, a part raises the ValueError that `settings.validate` would.
    """
    made: Any = dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))(cls)
    checked = made.__init__

    @wraps(checked)
    def in_words(self: T, /, *args: Any, **values: Any) -> None:
        try:
            checked(self, *args, **values)
        except ValidationError as refusal:
            raise ValueError("\n".join(explain(made, refusal.errors(include_url=False)))) from None

    made.__init__ = in_words
    return made
