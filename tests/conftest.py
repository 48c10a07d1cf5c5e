"""One thread a process: tests run side by side, and results must not depend on the number of cores.

And no waiting for the disk: no test pulls the plug. What is asked of it, and when, is tested (test_atomic.py).
"""

import gc
import os

import cv2
import pytest
import torch

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # for the programs that tests start
os.fsync = lambda handle: None
torch.set_num_threads(1)
cv2.setNumThreads(0)


def pytest_configure(config: pytest.Config) -> None:
    """A GPU is for `-m gpu` alone: with one in sight, a first backward starts threads that no forked process has."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_finish() -> None:
    """What is imported stays: from here on no collection looks at it again."""
    gc.collect()
    gc.freeze()
