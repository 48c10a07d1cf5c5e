"""How the student is asked in a step: compiled, recomputing its activations, its gradients summed over processes.

Each is done to a twin that has the student's own weights and buffers: the student itself stays a plain module, which
is evaluated, averaged and saved.
"""

import copy
import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from mtseg.device import of_compiling
from mtseg.distributed import world


def running(student: nn.Module, images: Tensor, *, compiled: bool, recompute: bool) -> nn.Module:
    """What a step asks in place of `student`. `images` (B, C, *S) tell which weights get a gradient.

    Raises ValueError for a network without stages whose activations could be recomputed.
    """
    asked = _twin(student) if compiled or recompute else student
    if recompute:
        for stage in stages(asked, images):
            stage.forward = partial(
                checkpoint, stage.forward, use_reentrant=False, context_fn=partial(_contexts, stage)
            )
    if compiled:  # the forwards alone: hooks on the parts stay outside, and may come and go
        for part in getattr(asked, "network", asked).children():
            part.forward = torch.compile(part.forward)
    if world() == 1:
        return asked
    known = inspect.signature(DistributedDataParallel).parameters
    words: dict[str, Any] = {"init_sync": False} if "init_sync" in known else {}  # since 2.7; all are alike
    words["forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"] = False  # since 2.13
    return DistributedDataParallel(asked, find_unused_parameters=_leaves_weights_out(student, images), **words)


@contextmanager
def compiling_told() -> Iterator[None]:
    """Within, what a compilation raises is raised as a ValueError that says what to do."""
    try:
        yield
    except RuntimeError as error:
        if not of_compiling(error):
            raise
        raise ValueError(
            f"compile: true, and PyTorch does not compile this network ({' '.join(str(error).split())[:200]}); give "
            "compile=false. Where it names a file that is too short, an earlier compilation was cut off: delete the "
            "folder torchinductor_USER that the file is in"
        ) from error


def summing(asked: nn.Module, now: bool) -> AbstractContextManager[None]:
    """Within, a backward sums the gradients over the processes, `now`; else they gather here."""
    return asked.no_sync() if isinstance(asked, DistributedDataParallel) and not now else nullcontext()


def _twin(student: nn.Module) -> nn.Module:
    """Other modules with the very same weights and buffers."""
    shared = [*student.parameters(), *student.buffers()]
    return copy.deepcopy(student, {id(tensor): tensor for tensor in shared})


def stages(network: nn.Module, images: Tensor) -> list[nn.Module]:
    """The outermost sequences of the encoder (of a network without one: of the whole) that it asks for their answer to
    `images` (B, C, *S), and the parts of those that it slices or goes through itself.

    Raises ValueError for a network without any, of which nothing could be recomputed.
    """
    inner = getattr(network, "network", network)
    found = list(_sequences(getattr(inner, "encoder", inner), _asked_by(network, images)))
    if not found:
        raise ValueError("recompute: this network's encoder has no stages to recompute; use recompute=false")
    return found


def _asked_by(network: nn.Module, images: Tensor) -> set[nn.Module]:
    """The modules whose forward is called in that of `network`, which stays as it is."""
    asked: set[nn.Module] = set()
    hooks = [module.register_forward_pre_hook(lambda module, _: asked.add(module)) for module in network.modules()]
    try:
        with torch.no_grad():
            _forward_aside(network, images)
    finally:
        for hook in hooks:
            hook.remove()
    return asked


def _sequences(module: nn.Module, asked: set[nn.Module], within: bool = False) -> Iterator[nn.Module]:
    """Of `module`'s children, and of theirs; `within` a sequence or a list, all that are asked."""
    for child in module.children():
        if child in asked and (within or isinstance(child, nn.Sequential)):
            yield child
        else:
            yield from _sequences(child, asked, isinstance(child, nn.Sequential | nn.ModuleList))


def _contexts(stage: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _statistics_as_they_are(stage)


@contextmanager
def _statistics_as_they_are(stage: nn.Module) -> Iterator[None]:
    """Within, batch normalisation leaves its running statistics alone: the first forward has moved them."""
    norms = [module for module in stage.modules() if isinstance(module, _BatchNorm)]
    before: list[tuple[_BatchNorm, Any, Any]] = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, tracked in before:
            norm.momentum, norm.num_batches_tracked = momentum, tracked


def _forward_aside(student: nn.Module, images: Tensor) -> Any:
    """Its answer in train mode, of both heads where there are two; what that writes into buffers goes into copies."""
    buffers = {name: buffer.clone() for name, buffer in student.named_buffers()}
    both = {"both": True} if getattr(student, "second", None) is not None else {}
    return functional_call(student.train(), buffers, (images,), both)


def _leaves_weights_out(student: nn.Module, images: Tensor) -> bool:
    """Whether some weights get no gradient, as parts of some decoders: to look for them at each step costs time."""
    said = _forward_aside(student, images)
    cost = sum(values.sum() for values in (said if isinstance(said, tuple) else (said,)))
    weights = [weight for weight in student.parameters() if weight.requires_grad]
    return any(gradient is None for gradient in torch.autograd.grad(cost, weights, allow_unused=True))
