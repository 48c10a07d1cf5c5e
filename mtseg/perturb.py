"""Perturbations beyond the view: of the student's features, and of its input by an adversary."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mtseg.distributed import Rows, rows
from mtseg.ema import probabilities
from mtseg.geometry import Probability
from mtseg.part import LOW_HIGH, part

Features = list[Tensor]  # of an encoder, finest first; each (B, C_i, H_i, W_i)
Positive = Annotated[float, Field(gt=0)]


@part
class ChannelDropout:
    """Whole channels of the encoder's features are dropped, at every level, and the rest scaled up, of a `share` of the
    images.

    With probability `p` each (UniMatch, Yang et al. 2023). `half`: of a pair of branches, the `first` keeps a random
    half of the channels, doubled, and the `second` the other half, the same at all levels of as many channels, as a
    transformer's are (UniMatch V2, Yang et al. 2025).
    """

    kind: Literal["channel_dropout"] = "channel_dropout"
    p: Annotated[float, Field(ge=0, lt=1)] = 0.5
    half: Literal["first", "second"] | None = None
    share: Probability = 1.0

    @property
    def paired(self) -> bool:
        return self.half is not None

    def gains(self, maps: Tensor, rng: np.random.Generator, rows: Rows) -> Tensor:
        """(B, C, 1, 1) float32, on the CPU: 0, or what keeps the mean over the draws."""
        drawn = rng.random((rows.whole, maps.shape[1]))
        if self.half is None:
            gains = np.where(drawn < self.p, 0.0, 1 / (1 - self.p))
        else:
            doubled = np.where(drawn < 0.5, 0.0, 2.0)
            gains = doubled if self.half == "first" else 2 - doubled
        return torch.from_numpy(rows.of(gains)).float()[:, :, None, None]


@part
class FeatureNoise:
    """Every value of the encoder's features is multiplied by 1 + n, n uniform in [-size, size], at every level,
    of a `share` of the images.

    F-Noise of CCT (Ouali et al. 2020), whose code has the same n for all images of a batch; here each has its own.
    They are drawn where the features are, and are other ones on another kind of device. Each costs 5 ns on a CPU: 0.2 s
    for eight images of 321x321 at the five levels of a ResNet-50, 40 million, which a GPU would have to wait for.
    """

    kind: Literal["noise"] = "noise"
    size: Annotated[float, Field(gt=0, le=1)] = 0.3
    share: Probability = 1.0
    paired: ClassVar[bool] = False

    def gains(self, maps: Tensor, rng: np.random.Generator, rows: Rows) -> Tensor:
        """(B, C, H, W) float32 in [1 - size, 1 + size], where `maps` are."""
        gains = torch.empty(maps.shape, dtype=torch.float32, device=maps.device)
        # A generator for each image: one for all would draw, in every process and part of a batch, the whole batch's.
        for seed, image in zip(rows.of(rng.integers(2**63, size=rows.whole)).tolist(), gains, strict=True):
            image.uniform_(1 - self.size, 1 + self.size, generator=torch.Generator(maps.device).manual_seed(seed))
        return gains


@part
class FeatureDropout:
    """The most active regions of the encoder's features are blank, in all channels, at every level, of a `share` of the
    images.

    F-Drop of CCT (Ouali et al. 2020): those whose activity, the mean over the channels, is at least a share of the
    image's highest, drawn for each image and level uniformly in `threshold` (the authors' code has had both these
    bounds and [0.6, 0.9]). It is meant for features that are not negative, as after a ReLU: of an image whose activity
    is nowhere above 0 nothing is dropped.
    """

    kind: Literal["feature_dropout"] = "feature_dropout"
    threshold: Annotated[tuple[float, float], LOW_HIGH] = (0.7, 0.9)
    share: Probability = 1.0
    paired: ClassVar[bool] = False

    def __post_init__(self) -> None:
        low, high = self.threshold
        if not 0 < low <= high <= 1:
            raise ValueError(f"threshold: [{low}, {high}] is no range of shares; give 0 < low <= high <= 1")

    def gains(self, maps: Tensor, rng: np.random.Generator, rows: Rows) -> Tensor:
        """(B, 1, H, W) float32, 0 or 1, where `maps` are."""
        drawn = torch.from_numpy(rows.of(rng.uniform(*self.threshold, size=rows.whole)))
        threshold = drawn.to(maps.device, torch.float32, non_blocking=True)[:, None, None, None]
        activity = maps.mean(1, keepdim=True, dtype=torch.float32)
        highest = activity.amax((2, 3), keepdim=True).clamp_min(1e-30)
        return (activity < threshold * highest).float()


# All that the rest of the program asks of a perturbation of features:
#   share   which share of the images is perturbed at all: where it is no whole number of them, on average
#   paired  whether all branches with such draw alike, and all levels of as many channels; others draw each their own
#   gains   what the features `maps` (B, C, H, W), without gradient, are multiplied by: in a shape that broadcasts to
#           theirs, on their device or the CPU; drawn from `rng` for the whole batch, of which `rows` are here
Perturbation = Annotated[ChannelDropout | FeatureNoise | FeatureDropout, Field(discriminator="kind")]


@part
class Vat:
    """The small change of the input that changes the answer most (virtual adversarial training, Miyato et al. 2018).

    `size` is the root mean square of the change over the values of a normalised image (the paper's epsilon, an L2
    norm, is sqrt(C H W) times that: its 8 for 32x32x3 is 0.144); its direction is found by `iterations` of the power
    method from random noise, by finite differences of root mean square `step`; in full precision, since a difference
    so small is mostly rounding in half of it. A change of nothing costs nothing where the student's images are
    normalised as the teacher's are, with `bn: separate` or without batch statistics, and nothing is dropped out.
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
        direction = _unit(torch.from_numpy(here.of(noise)).to(images.device, non_blocking=True))
        with torch.autocast(images.device.type, enabled=False):
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
    parts: Sequence[tuple[Perturbation | None, int]],
    draw: Callable[[int, int], np.random.Generator],
    rows: Rows | None = None,
) -> Callable[[Features], Features] | None:
    """What is done to the features of one batch; None where nothing is.

    The batch consists of `parts` in order: what disturbs each, and its number of images. `draw` makes the generator
    of a part's position, 0 for all that are paired, and of a level, 0 for which images. `rows` are those of each part
    in the whole batch; None: they are the whole.
    """
    if all(perturbation is None for perturbation, _ in parts):
        return None

    def gains(position: int, maps: Tensor, level: int, alike: int) -> Tensor:
        perturbation, count = parts[position]
        if perturbation is None:
            return maps.new_ones((count, 1, 1, 1))
        of, at = (0, alike) if perturbation.paired else (position, level)
        here = rows or Rows(0, count, count)
        drawn = perturbation.gains(maps, draw(of, at), here)
        spared = _spared(perturbation.share, draw(of, 0), here).to(drawn.device, non_blocking=True)
        return drawn.masked_fill(spared, 1).to(maps.device, maps.dtype, non_blocking=True)

    def disturb(features: Features) -> Features:
        disturbed = [features[0]] if len(features) > 1 else []  # level 0 is the image itself
        first_of: dict[int, int] = {}
        for level, maps in enumerate(features[len(disturbed) :], start=1):
            alike = first_of.setdefault(maps.shape[1], level)
            each = enumerate(maps.detach().split([count for _, count in parts]))
            disturbed.append(maps * _joined([gains(position, own, level, alike) for position, own in each]))
        return disturbed

    return disturb


def _spared(share: float, rng: np.random.Generator, rows: Rows) -> Tensor:
    """(B, 1, 1, 1) bool: the images that are not of the `share` of all."""
    batch = rows.whole
    spared = rng.permutation(batch) >= math.floor(share * batch + rng.random())
    return torch.from_numpy(rows.of(spared))[:, None, None, None]


def _joined(gains: list[Tensor]) -> Tensor:
    """The gains of a batch's parts, in the smallest shape that has room for all."""
    shape = torch.broadcast_shapes(*(of.shape[1:] for of in gains))
    return torch.cat([of.expand(-1, *shape) for of in gains])
