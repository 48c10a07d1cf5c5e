"""Memory that ran out, in words: what was asked for, and what asks for less."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mtseg.config import Config
from mtseg.distributed import world


@contextmanager
def memory_told(
    config: Config, device: torch.device, doing: str, error: type[ValueError] = ValueError
) -> Iterator[None]:
    """Within, running out of memory while `doing` something is raised as an `error` with the sizes that decide it."""
    try:
        yield
    except (MemoryError, RuntimeError) as cause:
        if not _is_memory(cause):
            raise
        crop, batch, branches = config.views.crop, config.batch, len(config.method.branches)
        crops = -(-config.crops[0] // (world() * config.accumulate))
        raise error(
            f"memory ran out on {device} {doing}: {crops} crops of {crop[0]}x{crop[1]} in a forward "
            f"(batch.labelled {batch.labelled} + {branches} branches x batch.unlabelled {batch.unlabelled}, "
            f"divided among {world()} processes x accumulate {config.accumulate}), eval.batch {config.eval.batch}, "
            f"precision {config.precision}; give a higher accumulate or more processes, precision=bf16, "
            f"recompute=true, a smaller views.crop, batch, eval.batch or model ({' '.join(str(cause).split())[:160]})"
        ) from cause


def _is_memory(error: Exception) -> bool:
    """CUDA has a type for it; the allocator of the CPU has a sentence."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
