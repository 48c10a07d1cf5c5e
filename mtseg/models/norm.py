"""Batch normalisation, and what stands in its place: over which images its statistics are.

`process`: those of the process's forward, as the network has it. `sync`: those of all processes (GPUs only).
`group`: none, but those of groups of channels of each image (GroupNorm, Wu & He 2018). `frozen`: in the encoder the
running statistics and the scale as they were loaded, for good; after it, where nothing was loaded, groups. With
`frozen` and `group` a step is the same for any number of processes and accumulated parts; with `sync` for any number of
processes. An encoder that is never trained (`model.frozen`) keeps the statistics that its weights are for.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mtseg.distributed import world
from mtseg.models.convnet import NormedConv

Norm = Literal["process", "sync", "frozen", "group"]
GROUPS, SMALLEST = 32, 8  # at most so many groups, of at least so many channels: one value would be normalised to 0


class _InPlace(nn.Module):
    """What takes the place of a batch normalisation, with what timm puts into one: dropout and activation."""

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        self.eps = norm.eps
        self.drop, self.act = (getattr(norm, name, nn.Identity()) for name in ("drop", "act"))


class Frozen(_InPlace):
    """A batch normalisation whose statistics and scale are fixed."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm)
        ones, zeros = torch.ones(norm.num_features), torch.zeros(norm.num_features)
        for name, fallback in (("weight", ones), ("bias", zeros), ("running_mean", zeros), ("running_var", ones)):
            value = getattr(norm, name)
            self.register_buffer(name, (fallback if value is None else value).detach().clone())

    def forward(self, maps: Tensor) -> Tensor:
        maps = F.batch_norm(maps, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return self.act(self.drop(maps))


class Grouped(_InPlace):
    """A group normalisation with a batch normalisation's scale."""

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__(norm)
        most = max(1, min(GROUPS, norm.num_features // SMALLEST))
        self.groups = next(count for count in range(most, 0, -1) if norm.num_features % count == 0)
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, maps: Tensor) -> Tensor:
        grouped = F.group_norm(maps, self.groups, self.weight, self.bias, self.eps)
        return self.act(self.drop(grouped.to(maps.dtype)))  # which autocast of a GPU makes single precision


def normed(network: nn.Module, norm: Norm, device: torch.device) -> nn.Module:
    """`network`, its batch normalisations replaced in place as `norm` says. Raises ValueError for sync on a CPU."""
    if norm == "sync" and world() > 1:
        if device.type != "cuda":
            raise ValueError("norm: 'sync' is for GPUs only; use norm=group or norm=frozen, or process")
        from timm.layers import convert_sync_batchnorm  # torch's would drop the activations that timm puts into them

        converted: nn.Module = convert_sync_batchnorm(network)
        return converted
    if norm == "frozen":
        _replace(getattr(getattr(network, "network", None), "encoder", network), Frozen)
    if norm in ("frozen", "group"):
        _replace(network, Grouped)
    return network


def _replace(network: nn.Module, other: Callable[[_BatchNorm], nn.Module]) -> None:
    for name, child in network.named_children():
        if isinstance(child, _BatchNorm):
            if child.weight is None or child.weight.requires_grad:
                setattr(network, name, other(child))
        else:
            _replace(child, other)


@torch.no_grad()
def level(networks: Sequence[nn.Module]) -> None:
    """Mean the running statistics of `networks` over the processes: all then hold, evaluate and save the same."""
    if world() == 1:
        return
    layers = [module for network in networks for module in network.modules()]
    norms = [layer for layer in layers if isinstance(layer, _BatchNorm)]
    running = [of for norm in norms for of in (norm.running_mean, norm.running_var) if of is not None]
    running += [layer.mean for layer in layers if isinstance(layer, NormedConv)]
    if running:
        flat = torch.cat([of.flatten() for of in running])
        dist.all_reduce(flat)
        for of, mean in zip(running, (flat / world()).split([of.numel() for of in running]), strict=True):
            of.copy_(mean.view_as(of))
