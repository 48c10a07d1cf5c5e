"""What the student is asked in a step: labelled images and tasks, in one forward or two, with features disturbed."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mtseg import perturb
from mtseg.distributed import Rows
from mtseg.method import Method
from mtseg.perturb import Features
from mtseg.randomness import generator
from mtseg.share import Share
from mtseg.targets import Moment
from mtseg.task import Task


def answers(
    method: Method, student: nn.Module, images: Tensor, disturb: Callable[[Features], Features] | None
) -> tuple[Tensor, Tensor]:
    """The student's logits of its class head, and of the head that answers the consistency: the same, of one."""
    if method.logit_distance is None:
        logits: Tensor = student(images) if disturb is None else student(images, disturb)
        return logits, logits
    first, second = student(images, disturb, both=True)
    return first, second


def asked(method: Method, student: nn.Module, share: Share, moment: Moment, *, separate: bool) -> tuple[Tensor, Tensor]:
    """`answers` to a share's labelled images and, after them, to those of its tasks.

    One forward for all: its batch normalisation sees labelled and unlabelled images together; `separate`: two.
    """
    images = [task.seen.data for task in share.tasks]
    apart = separate and bool(images)
    after = 0 if apart else len(share.labelled)
    disturb = disturbance(method, share.tasks, after=after, moment=moment, rows=share.rows)
    if not apart:
        return answers(method, student, torch.cat([share.labelled, *images]), disturb)
    both = answers(method, student, share.labelled, None), answers(method, student, torch.cat(images), disturb)
    logits, agreeing = (torch.cat(side) for side in zip(*both, strict=True))
    return logits, agreeing


def disturbance(
    method: Method, tasks: Sequence[Task], *, after: int, moment: Moment, rows: Rows | None = None
) -> Callable[[Features], Features] | None:
    """What is done to the features of a batch of `after` labelled images and the tasks' images; None: nothing.

    `rows` are the tasks' in the whole batch; None: they are the whole.
    """
    branches = zip(method.branches, tasks, strict=False)
    parts = [(None, after), *((branch.features, len(task.weight)) for branch, task in branches)]

    def draw(position: int, level: int) -> np.random.Generator:
        return generator(moment.seed, "features", moment.step, position, level)

    return perturb.disturbance(parts, draw, rows)
