"""A share of a step's batch: what one forward and backward of the student is about."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mtseg.distributed import Rows, rows
from mtseg.task import Task


@dataclass(frozen=True)
class Share:
    """Labelled images (B, C, H, W), and the same share of every task; `label` (B', *S) is of the first B' of all these.

    rows: the tasks' images in the whole batch, over all processes
    """

    labelled: Tensor
    label: Tensor
    tasks: list[Task]
    rows: Rows


def shares(labelled: Tensor, label: Tensor, tasks: list[Task], count: int) -> list[Share]:
    """What this process has of a batch, in `count` equal shares."""
    whole = rows(len(tasks[0].index) if tasks else 0)
    if count == 1:
        return [Share(labelled, label, tasks, whole)]
    size, asked = len(labelled) // count, whole.here // count
    own, further = label[: len(labelled)], label[len(labelled) :]  # the rest is of the first task's images
    return [
        Share(
            labelled[n * size : (n + 1) * size],
            torch.cat([own[n * size : (n + 1) * size], further[n * asked : (n + 1) * asked]]),
            [task.part(n * asked, asked) for task in tasks],
            Rows(whole.first + n * asked, asked, whole.whole),
        )
        for n in range(count)
    ]
