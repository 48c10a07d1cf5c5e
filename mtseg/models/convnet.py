"""The 13-layer ConvNet of small-image papers (Laine & Aila 2017; Tarvainen & Valpola 2017, table 5)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SPREAD = 0.05  # standard deviation of the initial directions of weights
KEPT = 0.999  # of a running mean, at each step


class NormedConv(nn.Module):
    """A convolution with weight normalisation and mean-only batch normalisation (Salimans & Kingma 2016).

    y = conv(x, g V / |V|) - m + b, with |V| of each output channel; m is the mean of the convolution over batch and
    pixels, in evaluation its running average, from 0. A linear layer is one of maps of one pixel.
    """

    mean: Tensor

    def __init__(self, inputs: int, outputs: int, *, kernel: int, padding: int = 0) -> None:
        super().__init__()
        self.direction = nn.Parameter(SPREAD * torch.randn(outputs, inputs, kernel, kernel))
        self.gain = nn.Parameter(torch.ones(outputs))
        self.shift = nn.Parameter(torch.zeros(outputs))
        self.padding = padding
        self.register_buffer("mean", torch.zeros(outputs))

    def reset_parameters(self) -> None:
        """Directions of its own; the gain stays."""
        nn.init.normal_(self.direction, std=SPREAD)

    def forward(self, maps: Tensor) -> Tensor:
        raw = F.conv2d(maps, self._weight(), padding=self.padding)
        mean = self.mean
        if self.training:
            mean = raw.mean((0, 2, 3))
            with torch.no_grad():
                self.mean.lerp_(mean.detach().to(self.mean.dtype), 1 - KEPT)
        return raw + (self.shift - mean).to(raw.dtype)[:, None, None]  # in half precision the maps stay so

    def settle(self, maps: Tensor) -> None:
        """Set the gain so that the outputs for `maps` have variance 1 in each channel."""
        raw = F.conv2d(maps, self._weight(), padding=self.padding) / self.gain[:, None, None]
        self.gain.copy_((raw.var((0, 2, 3), correction=0) + 1e-8).rsqrt())

    def _weight(self) -> Tensor:
        length = self.direction.flatten(1).norm(dim=1)
        return self.direction * (self.gain / length)[:, None, None, None]


Norm = Literal["weight", "batch"]


def conv13(width: int, dropout: float, norm: Norm) -> list[nn.Module]:
    """The layers from images to maps of `width` channels, 6x6 for 32x32."""

    def block(inputs: int, outputs: int, kernel: int = 3, padding: int = 1) -> list[nn.Module]:
        if norm == "weight":
            layers: list[nn.Module] = [NormedConv(inputs, outputs, kernel=kernel, padding=padding)]
        else:
            conv = nn.Conv2d(inputs, outputs, kernel, padding=padding, bias=False)
            layers = [conv, nn.BatchNorm2d(outputs, momentum=0.01)]
        return [*layers, nn.LeakyReLU(0.1)]

    rest = [nn.MaxPool2d(2), nn.Dropout(dropout)]
    wide, widest = 2 * width, 4 * width
    return [
        *(*block(3, width), *block(width, width), *block(width, width), *rest),
        *(*block(width, wide), *block(wide, wide), *block(wide, wide), nn.MaxPool2d(2), nn.Dropout(dropout)),
        *(*block(wide, widest, padding=0), *block(widest, wide, 1, 0), *block(wide, width, 1, 0)),
    ]


def settles(network: nn.Module) -> bool:
    """Whether `network` has layers that the first batch initialises."""
    return any(isinstance(layer, NormedConv) for layer in network.modules())


@torch.no_grad()
def settle(network: nn.Module, images: Tensor) -> None:
    """Data-dependent initialisation: every `NormedConv`, in turn, by what reaches it of the first batch `images`."""
    layers = [layer for layer in network.modules() if isinstance(layer, NormedConv)]

    def first(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        layer.settle(given[0])  # type: ignore[operator]

    hooks = [layer.register_forward_pre_hook(first) for layer in layers]
    network.train()
    network(images, both=True)
    for hook in hooks:
        hook.remove()
    for layer in layers:
        layer.mean.zero_()
