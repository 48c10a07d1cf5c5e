"""One thread a process: tests run side by side, and results must not depend on the number of cores.

No waiting for the disk: no test pulls the plug. What is asked of it, and when, is tested (test_atomic.py). And the twin
without weights in which smp looks for a timm network's strides, each time that it builds one, is made once.
"""

import gc
import os
from functools import cache
from typing import Any

import cv2
import pytest
import torch
from segmentation_models_pytorch.encoders import timm_universal

from mtseg.run.machine import hold_memory

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # for the programs that tests start
os.fsync = lambda handle: None
torch.set_num_threads(1)
torch.ones(1, requires_grad=True).backward()  # starts a thread for each device: among fake tensors a GPU would be one
cv2.setNumThreads(0)
hold_memory()  # as the commands do: a tenth of the time

timm = timm_universal.timm
create = timm.create_model
looked_at = cache(create)


def created(name: str, **words: Any) -> Any:
    empty = words == {"features_only": True} and torch.get_default_device().type == "meta"
    return looked_at(name, **words) if empty else create(name, **words)


timm.create_model = created


def pytest_configure(config: pytest.Config) -> None:
    """A GPU is for `-m gpu` alone: with one in sight, a first backward starts threads that no forked process has."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_finish() -> None:
    """What is imported stays: from here on no collection looks at it again."""
    gc.collect()
    gc.freeze()
