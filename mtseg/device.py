"""Where a run computes."""

import re
from typing import Annotated

import torch
from pydantic import AfterValidator

from mtseg.torchrun import local_rank


def _known_device(name: str) -> str:
    if re.fullmatch(r"auto|cpu|cuda(:\d{1,2})?", name) is None:  # torch counts higher numbers round
        raise ValueError(f"{name!r} is no device; use auto, cpu, cuda, or cuda:1 for the second GPU")
    return name


Device = Annotated[str, AfterValidator(_known_device)]


def pick_device(name: str) -> torch.device:
    """`auto` is the GPU where there is one; of several processes on a machine, each has its own.

    Raises ValueError for a GPU that is not there, and for one that several processes would share.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device, own = torch.device(name), local_rank()
    if device.type == "cuda" and own is not None:
        if device.index is not None:
            raise ValueError(f"device: {name} would be shared by several processes; use device=cuda")
        device = torch.device("cuda", own)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device: {name} is not on this machine ({torch.cuda.device_count()} GPUs); use device=cpu")
    return device


def out_of_memory(error: BaseException) -> bool:
    """Whether that is what an error says: CUDA has a type for it, the allocator of the CPU a sentence."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def of_compiling(error: BaseException) -> bool:
    """Whether PyTorch's compiler raised it, whose own types are in a module that takes a second to import."""
    return any(kind.__name__ == "TorchDynamoException" for kind in type(error).__mro__)
