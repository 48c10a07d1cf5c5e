"""Test-time augmentation: a network is asked about an image at several scales, mirrored too, and its answers meaned."""

from collections.abc import Callable
from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mtseg.part import part

Ask = Callable[[Tensor], Tensor]  # images (B, C, h, w) -> logits (B, K, *S), S = (h, w) or ()
Average = Literal["softmax", "logits"]
LEAST_SCALE = 0.1  # at which an image is asked about


@part
class Augment:
    """Each image, or window of it, is asked about at all `scales`, and mirrored too with `flip`."""

    scales: Annotated[tuple[Annotated[float, Field(ge=LEAST_SCALE, le=8)], ...], Field(min_length=1)] = (1.0,)
    flip: bool = False

    @property
    def forwards(self) -> int:
        """How often the network is asked about a pixel."""
        return len(self.scales) * (2 if self.flip else 1)

    @property
    def cost(self) -> float:
        """How many times as many pixels the network sees."""
        return sum(scale**2 for scale in self.scales) * (2 if self.flip else 1)

    def __call__(self, ask: Ask, images: Tensor, average: Average) -> Tensor:
        """The scores (B, K, *S) of `images` (B, C, h, w), summed over all forwards: `average` says of what."""
        total: Tensor | None = None
        for scale in self.scales:
            scaled = images if scale == 1 else _resized(images.float(), scale)
            for mirrored in (False, True) if self.flip else (False,):
                logits = ask(scaled.flip(3) if mirrored else scaled)
                logits = logits.flip(3) if mirrored and logits.dim() > 2 else logits
                if logits.dim() > 2 and logits.shape[-2:] != images.shape[-2:]:
                    logits = F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)
                scores = logits.softmax(1) if average == "softmax" else logits
                if total is None:
                    total = scores.clone() if self.forwards > 1 else scores  # the network's own answer stays as it is
                else:
                    total += scores
        assert total is not None
        return total


ONCE = Augment()  # as the image is


def _resized(images: Tensor, scale: float) -> Tensor:
    size = [max(1, round(side * scale)) for side in images.shape[-2:]]
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
