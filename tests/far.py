"""An accelerator that is not there: its tensors say they are FAR, compute on the CPU, and refuse what a GPU would."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, return_and_correct_aliasing

from mtseg.models.classifiers import ConvNet13
from mtseg.models.smp import Smp

FAR = torch.device("meta")
ASKS = ("trainer", "run.capture", "inference.hub", "inference.restored", "inference.scoring")  # for a device
BETWEEN = ("aten::copy_", "aten::_to_copy", "aten::_local_scalar_dense")
INDEXED = ("aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_")  # takes places from a CPU


class Far(Tensor):
    """A tensor on FAR; `inner` is where its values are."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Far":
        place = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "layout": inner.layout}
        return Tensor._make_wrapper_subclass(cls, inner.size(), dtype=inner.dtype, device=FAR, **place)

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    def __repr__(self) -> str:
        return f"Far({self.inner})"

    def __format__(self, spec: str) -> str:
        return format(self.inner, spec)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Far":
        if id(self) not in memo:
            made = Far(self.inner.detach().clone())
            memo[id(self)] = nn.Parameter(made, self.requires_grad) if isinstance(self, nn.Parameter) else made
        return memo[id(self)]

    is_meta = False  # or weights would not be put into it

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.inner.__reduce_ex__(protocol)  # as what a GPU had is read: to the CPU

    def tolist(self) -> Any:
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class Pretending(TorchDispatchMode):
    """Within, tensors can be made on FAR."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name, asked = func._schema.name, kwargs.get("device")
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    far = any(isinstance(tensor, Far) for tensor in tensors)
    if far and name not in BETWEEN:
        places = args[1] if name in INDEXED and isinstance(args[0], Far) else ()
        near = [tensor for tensor in tensors if tensor.dim() > 0 and not isinstance(tensor, Far)]
        if any(all(tensor is not place for place in places) for tensor in near):
            raise RuntimeError(f"{name}: tensors of two devices, {[tuple(tensor.shape) for tensor in near]} on the CPU")
    if not far and (asked is None or torch.device(asked) != FAR):
        return func(*args, **kwargs)
    inner_args, inner_kwargs = pytree.tree_map_only(Far, lambda tensor: tensor.inner, (args, kwargs))
    result = func(*inner_args, **(inner_kwargs if asked is None else inner_kwargs | {"device": torch.device("cpu")}))
    if name == "aten::copy_" and not isinstance(args[0], Far):
        return args[0]
    if asked is not None and torch.device(asked) != FAR:
        return result
    result = pytree.tree_map_only(Tensor, Far, result)
    moved = name == "aten::_to_copy" and not isinstance(args[0], Far)
    return result if moved or not far else return_and_correct_aliasing(func, args, kwargs, result)


def _sent(module: nn.Module, *device: Any, **options: Any) -> nn.Module:
    """`Module.to`, of a module that is not there yet."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None and not isinstance(value, Far):
                part._parameters[name] = nn.Parameter(Far(value.detach()), value.requires_grad)
        for name, value in part._buffers.items():
            if value is not None and not isinstance(value, Far):
                part._buffers[name] = Far(value)
    return module


def _drawn_near(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """`build`, whose first weights are as without a mode."""

    def built(*args: Any, **kwargs: Any) -> nn.Module:
        with _disable_current_modes():
            return build(*args, **kwargs)

    return built


@contextmanager
def far_away() -> Iterator[None]:
    """Within, a run that is asked for any device is on FAR."""
    generator = torch.Generator
    with pytest.MonkeyPatch.context() as patch, Pretending():
        for asks in ASKS:
            patch.setattr(f"mtseg.{asks}.pick_device", lambda name: FAR)
        patch.setattr(nn.Module, "to", _sent)
        patch.setattr(nn.Module, "float", lambda module: module)
        for kind in (Smp, ConvNet13):
            patch.setattr(kind, "build", _drawn_near(kind.build))
        # What torch has for its own devices alone.
        patch.setattr(torch, "Generator", lambda device="cpu": generator())
        patch.setattr(torch, "autocast", lambda *of, **options: nullcontext())
        optimizer = sys.modules["torch.optim.optimizer"]
        patch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: [FAR.type])
        yield
