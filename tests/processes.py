"""Several processes for a test: forked, joined by gloo through a file, each with a result."""

import multiprocessing
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def each(processes: int, folder: Path, work: Callable[[], Any], *, seconds: int = 120) -> list[Any]:
    """What `work` gives in each of several processes that train together, by rank."""
    folder.mkdir(parents=True)
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=_run, args=(rank, processes, folder, work)) for rank in range(processes)]
    for process in started:
        process.start()
    for process in started:
        process.join(seconds)
    hung = [process for process in started if process.exitcode is None]
    for process in hung:
        process.kill()
    errors = [path.read_text() for path in sorted(folder.glob("error-*"))]
    errors += [f"{process.name} hung" for process in hung]
    assert not errors, "\n".join(errors)
    return [torch.load(folder / f"result-{rank}", weights_only=False) for rank in range(processes)]


def _run(rank: int, processes: int, folder: Path, work: Callable[[], Any]) -> None:
    try:
        meeting = f"file://{folder / 'meeting'}"
        dist.init_process_group(
            "gloo", init_method=meeting, rank=rank, world_size=processes, timeout=timedelta(seconds=60)
        )
        torch.save(work(), folder / f"result-{rank}")
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        (folder / f"error-{rank}").write_text(traceback.format_exc())
        raise
