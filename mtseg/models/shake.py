"""ResNet-26 2x96d with Shake-Shake (Gastaldi 2017), as the PyTorch code of Tarvainen & Valpola (2017) has it."""

import math
from typing import Any

import torch
from torch import Tensor, nn

BLOCKS = 4  # of each of three stages


class _Shaken(torch.autograd.Function):
    """gate a + (1 - gate) b, whose gradient comes back through another gate."""

    @staticmethod
    def forward(ctx: Any, one: Tensor, two: Tensor, gate: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return two + gate * (one - two)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (back,) = ctx.saved_tensors
        return back * gradient, (1 - back) * gradient, None, None


class Block(nn.Module):
    """skip + gate a + (1 - gate) b of two branches; gates are U(0, 1) an image, 1/2 in evaluation."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.one, self.two = _branch(inputs, outputs, stride), _branch(inputs, outputs, stride)
        self.skip: nn.Module = nn.Identity()
        if stride == 1 and inputs != outputs:
            self.skip = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        elif stride == 2:
            self.skip = Halved(inputs, outputs)

    def forward(self, maps: Tensor) -> Tensor:
        one, two = self.one(maps), self.two(maps)
        if not self.training:
            return self.skip(maps) + (one + two) / 2
        gate, back = torch.rand(2, len(maps), 1, 1, 1, device=maps.device, dtype=one.dtype)
        return self.skip(maps) + _Shaken.apply(one, two, gate, back)


class Halved(nn.Module):
    """Every second pixel, from (0, 0) and from (1, 1), side by side; ReLU, a 1x1 convolution of each, BN."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * inputs, outputs, 1, groups=2)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, maps: Tensor) -> Tensor:
        both = torch.cat([maps[:, :, 0::2, 0::2], maps[:, :, 1::2, 1::2]], 1)
        return self.norm(self.conv(both.relu()))


def _branch(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
    )


def shake26(width: int) -> list[nn.Module]:
    """The layers from images to maps of 4 `width` channels, a quarter as high and wide."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False)]
    inputs = 16
    for stage in range(3):
        for block in range(BLOCKS):
            layers.append(Block(inputs, width * 2**stage, stride=2 if stage and not block else 1))
            inputs = width * 2**stage
    for module in (inner for layer in layers for inner in layer.modules()):
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels)))
    return layers
