"""The whole network that an encoder is cut from: which tensors a file of its weights may hold, and their names."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

WRAPPERS = ("model", "body")  # smp and timm put these before a network's names, up to two of them


@dataclass(frozen=True)
class Whole:
    """The names of a network's tensors before anything is cut from it, and of its `parameters` where they are known.

    `heads`: what the names of its classifiers begin with.
    """

    name: str
    tensors: frozenset[str]
    heads: frozenset[str] = frozenset()
    parameters: tuple[str, ...] = ()

    def foreign(self, names: Iterable[str]) -> list[str]:
        """Those of `names` in modules that this network has not, beside such as it has: of blocks more than it has.

        Other heads are none of these, nor is what a module of this network has in other versions, such as a buffer.
        """
        trunk = self._parts - self.heads
        return [
            name
            for name, plain in ((name, self.plain(name)) for name in names)
            if plain not in self.tensors
            and plain.partition(".")[0] in trunk
            and plain.rpartition(".")[0] not in self._modules
        ]

    def lacking(self, names: Iterable[str]) -> list[str]:
        """The parameters that are not among `names`, in parts of the network that are; none without a head.

        A file without a head may be of an encoder, from which stages were cut.
        """
        there = {self.plain(name) for name in names}
        parts = {name.partition(".")[0] for name in there}
        wanted = parts - self.heads if parts & self.heads else set()
        return [name for name in self.parameters if name.partition(".")[0] in wanted and name not in there]

    def plain(self, name: str) -> str:
        """The network's own name of a tensor that an encoder calls `name`: `stages.0.norm` of `model.stages_0.norm`."""
        while (first := name.partition(".")[0]) in WRAPPERS and first not in self._parts:
            name = name.partition(".")[2]
        return self._flat.get(first, first) + name.removeprefix(first)

    @cached_property
    def _flat(self) -> dict[str, str]:
        """What timm makes one part of the names where it takes a network apart: `stages_0` of `stages.0`."""
        return {module.replace(".", "_"): module for module in self._modules if module.count(".") == 1}

    @cached_property
    def _parts(self) -> set[str]:
        return {name.partition(".")[0] for name in self.tensors}

    @cached_property
    def _modules(self) -> set[str]:
        """The modules of the tensors, and those that these are in; '' is the network."""
        modules = {""}
        for name in self.tensors:
            while name := name.rpartition(".")[0]:
                modules.add(name)
        return modules


def whole_of(encoder: nn.Module, name: str) -> Whole:
    """What smp's `encoder` of that `name` is cut from. Its own encoders keep all tensors, at every depth."""
    from segmentation_models_pytorch.encoders import TimmUniversalEncoder, TimmViTEncoder

    if isinstance(encoder, TimmUniversalEncoder | TimmViTEncoder):
        return whole_of_timm(encoder.name)
    return Whole(name, frozenset(nn.Module.state_dict(encoder)))


def whole_of_timm(name: str) -> Whole:
    """timm's network of that name with its head, built without values where it can be: some milliseconds."""
    import timm

    with torch.random.fork_rng(devices=()):  # what is drawn after it stays as it would be
        try:
            with torch.device("meta"):
                network = timm.create_model(name, pretrained=False)
        except Exception:  # of any type: some compute with their values
            network = timm.create_model(name, pretrained=False)
    found = network.pretrained_cfg.get("classifier") or ()
    heads = (found,) if isinstance(found, str) else found
    return Whole(
        name,
        frozenset(network.state_dict()),
        frozenset(head.partition(".")[0] for head in heads),
        tuple(parameter for parameter, _ in network.named_parameters()),
    )
