"""What a run on a CPU takes of the machine: cores, and memory that it keeps."""

import ctypes
import os

import cv2
import torch

from mtseg.config import Config
from mtseg.device import pick_device

# mallopt's parameters and values: map from 1 GiB on only, never give the top back, and take it 256 MiB at a time.
MALLOC = ((-3, 2**30), (-1, 2**31 - 1), (-2, 2**28))


def share_cores(config: Config) -> str | None:
    """On a CPU, leave a core to each loading process, unless OMP_NUM_THREADS says otherwise; and `hold_memory`.

    OpenCV, whose pool knows nothing of that variable, gets no more threads than PyTorch. Returns what is to be known
    where other programs compute on the same cores.
    """
    if pick_device(config.device).type != "cpu":
        return None
    hold_memory()
    if "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores - config.workers))
    cv2.setNumThreads(min(cv2.getNumThreads(), torch.get_num_threads()))
    return crowded(torch.get_num_threads())


def crowded(threads: int) -> str | None:
    """That so many threads will wait for each other, where others keep the cores busy; None where they need not, or
    where OMP_NUM_THREADS was set. A thread that waits holds up all of a step's, and it holds its core while it does."""
    if "OMP_NUM_THREADS" in os.environ or not hasattr(os, "getloadavg"):
        return None
    busy, cores = os.getloadavg()[0], os.cpu_count() or 1
    if threads == 1 or busy + threads <= cores + 1:
        return None
    return (
        f"other programs kept {busy:.1f} of {cores} cores busy in the last minute: {threads} threads that wait for "
        "each other can be many times slower than one; if steps take long, stop it, and begin the command with "
        "OMP_NUM_THREADS=1"
    )


def hold_memory() -> bool:
    """Let the C library (glibc) keep what is freed: a step's tensors would be mapped, and cleared, anew each time.

    Returns whether it does. It is left as it is where a variable MALLOC_... or GLIBC_TUNABLES says how it should be.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return all([mallopt(parameter, value) for parameter, value in MALLOC])
