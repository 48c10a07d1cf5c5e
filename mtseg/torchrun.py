"""The processes that torchrun started: which of them this one is, the group that they join, and the loss of one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from mtseg.distributed import Elsewhere, world


def launched() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def first_launched() -> bool:
    """Whether this is the process that speaks for all, also where they are no group (yet, or any more)."""
    return launched() == 1 or os.environ["RANK"] == "0"


def local_rank() -> int | None:
    """Which of the processes of this machine this one is, as torchrun says; None without torchrun."""
    return int(os.environ["LOCAL_RANK"]) if launched() > 1 and "LOCAL_RANK" in os.environ else None


@contextmanager
def joined(device: torch.device, timeout: int) -> Iterator[None]:
    """Within, the processes that torchrun started are a group: NCCL between GPUs, gloo between CPUs.

    Who waits for another one longer than `timeout` seconds ends with an error. In one process, and where there is a
    group already, nothing is done. Raises ValueError for a group that is of NCCL alone.
    """
    if dist.is_initialized() and world() > 1 and dist.get_backend() == "nccl":
        raise ValueError(
            "the program's process group is of nccl alone, and numbers on the CPU are added up too; begin it with "
            'init_process_group("cpu:gloo,cuda:nccl"), or leave it to torchrun'
        )
    if launched() == 1 or dist.is_initialized():
        yield
        return
    # Defaults of its functions are the group that there is when it is imported, which DistributedDataParallel does (by
    # way of torch._dynamo): imported later it would hold the group, and its threads, after that is destroyed.
    import torch.distributed.nn.functional

    place, waiting = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])), timedelta(seconds=timeout)
    here = int(os.environ["RANK"])
    serves = here == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    server = dist.TCPStore(*place, launched(), is_master=serves, timeout=waiting, multi_tenant=True)
    # A name of its own for each start: what a process that died left in the store must not be met again.
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.PrefixStore(f"start {start}.{server.add(f'start {start} of {here}', 1)}", server)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=here, world_size=launched(), timeout=waiting)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def losses_told() -> Iterator[None]:
    """Within, what a collective call raises because another process has ended, or hangs, becomes `Elsewhere`."""
    try:
        yield
    except RuntimeError as error:
        if max(launched(), world()) == 1 or not _is_loss(error):  # a group that an error has ended has one process
            raise
        raise Elsewhere(
            "another process of this run has ended or hangs; look at its messages, and give the same command again "
            f"({' '.join(str(error).split())[:160]})"
        ) from error


def _is_loss(error: RuntimeError) -> bool:
    """NCCL and the store have types for it; gloo has sentences."""
    words = ("gloo", "Connection closed by peer", "Connection reset by peer", "Timed out waiting")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)
