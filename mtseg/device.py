"""Where a run computes."""

import torch

from mtseg.torchrun import local_rank


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
