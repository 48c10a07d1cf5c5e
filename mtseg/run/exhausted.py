"""Memory that ran out, in words: what was asked for, and what asks for less."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mtseg.config import Config
from mtseg.device import out_of_memory
from mtseg.distributed import world


@contextmanager
def memory_told(
    config: Config, device: torch.device, doing: str, error: type[ValueError] = ValueError
) -> Iterator[None]:
    """Within, running out of memory while `doing` something is raised as an `error` with the sizes that decide it."""
    try:
        yield
    except (MemoryError, RuntimeError) as cause:
        if not out_of_memory(cause):
            raise
        crop, batch, branches = config.views.crop, config.batch, len(config.method.branches)
        crops = -(-config.crops[0] // (world() * config.accumulate))
        raise error(
            f"memory ran out on {device} {doing}: {crops} crops of {crop[0]}x{crop[1]} in a forward "
            f"(batch.labelled {batch.labelled} + {branches} branches x batch.unlabelled {batch.unlabelled}, "
            f"divided among {world()} processes x accumulate {config.accumulate}), eval.batch {config.eval.batch}, "
            f"precision {config.precision}; give a higher accumulate or more processes, precision=bf16, "
            "recompute=true, a smaller views.crop, batch, eval.batch or model, or evaluate in windows, "
            f"eval.predictor={{kind: slide, window: [512, 512]}} ({' '.join(str(cause).split())[:160]})"
        ) from cause


@contextmanager
def evaluation_told(batch: int, device: torch.device) -> Iterator[None]:
    """Within, running out of memory in an evaluation of `batch` images at once is raised as a ValueError of that."""
    try:
        yield
    except (MemoryError, RuntimeError) as cause:
        if not out_of_memory(cause):
            raise
        raise ValueError(
            f"memory ran out on {device}, with the scores of eval.batch: {batch} images at once; give eval.batch=1, or "
            "ask in windows: 'eval.predictor={kind: slide, window: [512, 512]}' "
            f"({' '.join(str(cause).split())[:160]})"
        ) from cause
