"""In which numbers the networks compute. Weights, averages and losses are float32 always."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["fp32", "bf16", "fp16"]
LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}
FIRST, GROWS_AFTER = 2.0**16, 2000  # of the loss's scale, as torch.amp's


@contextmanager
def casting(precision: Precision, device: torch.device) -> Iterator[None]:
    """Within, convolutions and matrix products compute in `precision`.

    A network's weights, once cast, are kept to the end of the context, also where that is within another one: where
    some forwards have a gradient and others have none, each kind needs a context of its own.
    """
    with torch.autocast(device.type, LOW.get(precision, torch.bfloat16), enabled=precision in LOW):
        try:
            yield
        finally:
            torch.clear_autocast_cache()  # which torch does at the end of the outermost alone


def memory_format(precision: Precision, device: torch.device) -> torch.memory_format:
    """How weights lie in memory: channels last where half-precision convolutions of a GPU want them so."""
    last = precision in LOW and device.type == "cuda"
    return torch.channels_last if last else torch.contiguous_format


@dataclass
class Scale:
    """What the loss is multiplied by for float16, whose smallest gradients would be 0; 1 for the others.

    A `dynamic` one is halved where a gradient overflows, and doubled after GROWS_AFTER updates without; `good` counts
    these.
    """

    value: float = 1.0
    good: int = 0
    dynamic: bool = False

    def undone(self, gradients: list[Tensor]) -> None:
        """Divide `gradients` by it, in place."""
        if self.value != 1 and gradients:
            torch._foreach_mul_(gradients, 1 / self.value)

    def fits(self) -> None:
        """An update was made."""
        if self.dynamic:
            self.good = (self.good + 1) % GROWS_AFTER
            self.value *= 2 if self.good == 0 else 1

    def overflows(self) -> bool:
        """A gradient was not finite. Whether that may be the scale's doing: it is lower now."""
        if not self.dynamic:
            return False
        lowered = self.value > 1
        self.value, self.good = max(1.0, self.value / 2), 0
        return lowered


def scale_for(precision: Precision) -> Scale:
    """That of a run's first step."""
    return Scale(FIRST, dynamic=True) if precision == "fp16" else Scale()
