"""Perturbations beyond the view: of the student's input by an adversary, of its features by dropped channels."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mtseg.distributed import Rows, rows
from mtseg.ema import probabilities
from mtseg.geometry import Probability
from mtseg.part import part

Features = list[Tensor]  # of an encoder, finest first; each (B, C_i, H_i, W_i)
Positive = Annotated[float, Field(gt=0)]


@part
class ChannelDropout:
    """Whole channels of the encoder's features are dropped, at every level, and the rest scaled up.

    With probability `p` each (UniMatch, Yang et al. 2023). `half`: of a pair of branches, the `first` keeps a random
    half of the channels, doubled, and the `second` the other half, the same at all levels of as many channels, as a
    transformer's are (UniMatch V2, Yang et al. 2025); `share` is the share of the images that are perturbed at all:
    where it is no whole number of them, on average.
    """

    kind: Literal["channel_dropout"] = "channel_dropout"
    p: Annotated[float, Field(ge=0, lt=1)] = 0.5
    half: Literal["first", "second"] | None = None
    share: Probability = 1.0

    def gains(
        self, shape: Sequence[int], rng: np.random.Generator, images: np.random.Generator, rows: Rows | None = None
    ) -> Tensor:
        """(B, C, 1, 1) float32: what features of `shape` (B, C, H, W) are multiplied by.

        `images` says which images are perturbed: the same ones for its like at every level. `rows` are those of
        `shape` in the whole batch; None: it is the whole.
        """
        rows = Rows(0, shape[0], shape[0]) if rows is None else rows
        batch, channels = rows.whole, shape[1]
        if self.half is None:
            gains = np.where(rng.random((batch, channels)) < self.p, 0.0, 1 / (1 - self.p))
        else:
            doubled = np.where(rng.random((batch, channels)) < 0.5, 0.0, 2.0)
            gains = doubled if self.half == "first" else 2 - doubled
        whole = images.permutation(batch) >= math.floor(self.share * batch + images.random())
        gains[whole] = 1
        return torch.from_numpy(rows.of(gains)).float()[:, :, None, None]


@part
class Vat:
    """The small change of the input that changes the answer most (virtual adversarial training, Miyato et al. 2018).

    `size` is the root mean square of the change over the values of a normalised image (the paper's epsilon, an L2
    norm, is sqrt(C H W) times that: its 8 for 32x32x3 is 0.144); its direction is found by `iterations` of the power
    method from random noise, by finite differences of root mean square `step`.
    """

    kind: Literal["vat"] = "vat"
    size: Positive = 0.15
    step: Positive = 1e-2
    iterations: Annotated[int, Field(ge=1)] = 1

    def __call__(self, network: nn.Module, images: Tensor, rng: np.random.Generator) -> Tensor:
        """`images` (B, C, H, W), normalised, each with its change; no gradient passes, statistics are left alone."""
        training = network.training
        here = rows(len(images))
        drawn = np.random.default_rng(rng.integers(2**63))
        noise = drawn.standard_normal((here.whole, *images.shape[1:]), dtype=np.float32)
        direction = _unit(torch.from_numpy(here.of(noise)).to(images.device))
        with torch.no_grad(), _same_noise(images.device):
            clean = probabilities(network, images, mode="train", aside=True)
        for _ in range(self.iterations):
            direction.requires_grad_()
            with _same_noise(images.device):
                changed = probabilities(network, images + self.step * direction, mode="train", aside=True)
            divergence = F.kl_div(changed.clamp_min(1e-20).log(), clean, reduction="sum")
            direction = _unit(torch.autograd.grad(divergence, direction)[0].detach())
        network.train(training)
        return images + self.size * direction


def _same_noise(device: torch.device) -> AbstractContextManager[None]:
    """Within, dropout is what it would be after it: answers differ by what they are asked about, and not by it."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def _unit(direction: Tensor) -> Tensor:
    """`direction` with root mean square 1 for each image; where it is zero it stays."""
    largest = direction.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-30)  # squares of tiny gradients would be 0
    direction = direction / largest
    return direction / direction.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-30)


def disturbance(
    parts: Sequence[tuple[ChannelDropout | None, int, Callable[[int], np.random.Generator]]],
    rows: Rows | None = None,
) -> Callable[[Features], Features] | None:
    """What is done to the features of one batch; None where nothing is.

    The batch consists of `parts` in order: what disturbs each, its number of images, and its generator of a level,
    whose 0 says which images. `rows`: see `ChannelDropout.gains`.
    """
    if all(perturbation is None for perturbation, _, _ in parts):
        return None

    def disturb(features: Features) -> Features:
        disturbed = [features[0]] if len(features) > 1 else []  # level 0 is the image itself
        first_of: dict[int, int] = {}
        for level, maps in enumerate(features[len(disturbed) :], start=1):
            gains = []
            for perturbation, count, draw in parts:
                shape = (count, maps.shape[1])
                if perturbation is None:
                    gains.append(torch.ones((*shape, 1, 1)))
                    continue
                alike = first_of.setdefault(shape[1], level) if perturbation.half else level
                gains.append(perturbation.gains(shape, draw(alike), draw(0), rows))
            disturbed.append(maps * torch.cat(gains).to(maps.device, maps.dtype, non_blocking=True))
        return disturbed

    return disturb
