"""What one branch asks of the student about a batch of images, and how tasks are taken apart, paired and pasted.

The batch is the whole one, over all processes: who is paired with whom does not depend on their number.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mtseg.distributed import gathered, taken
from mtseg.geometry import View


@dataclass(frozen=True)
class Task:
    """What one branch asks of the student.

    seen:   the student's input (B, 3, H, W), its geometry and what is known of it
    target: the probabilities it should give (B, K, *S), in the frame of comparison, and where they are known
    weight: (B, 1, *S) float32 in [0, 1], how much each pixel counts
    index:  (B,) int64 on the CPU, which image of its pool
    sure:   (B,) float32 in [0, 1], how sure the teacher is of each image (`sureness` of its answer), where a mix asks
    """

    seen: View
    target: View
    weight: Tensor
    index: Tensor
    sure: Tensor

    def partners(self) -> "Task":
        """The next other image of the batch for each; where there is no other, it stays the image itself."""
        index: list[int] = gathered(self.index).tolist()
        batch = len(index)

        def partner(i: int) -> int:
            return next((j % batch for j in range(i + 1, i + batch) if index[j % batch] != index[i]), i)

        wanted = [partner(i) for i in range(batch)]
        return self._each(lambda values: taken(values, wanted))

    def part(self, first: int, count: int) -> "Task":
        """`count` of its images, from `first` on."""
        return self._each(lambda values: values[first : first + count])

    def _each(self, chosen: Callable[[Tensor], Tensor]) -> "Task":
        def view(of: View) -> View:
            return View(chosen(of.data), chosen(of.warp), chosen(of.known))

        return Task(view(self.seen), view(self.target), chosen(self.weight), chosen(self.index), chosen(self.sure))


def sureness(answer: View) -> Tensor:
    """The highest probability, times 1 - entropy / log K, meaned over the known pixels (AugSeg, Zhao et al. 2023):
    (B,) in [0, 1]; 0 where nothing is known."""
    entropy = -torch.xlogy(answer.data, answer.data).sum(1, keepdim=True) / math.log(answer.data.shape[1])
    sure = answer.data.amax(1, keepdim=True) * (1 - entropy).clamp_min(0)
    sure = torch.where(answer.known, sure, 0).flatten(1).sum(1)
    return sure / answer.known.flatten(1).sum(1).clamp_min(1)


def paste(task: Task, other: Task, mask: Tensor) -> Task:
    """`task` with the pixels of `other` where `mask` (B, 1, H, W) holds; its warps hold for its own pixels only.

    What is said of images as wholes is mixed by the share of the area (Yun et al. 2019).
    """

    def pasted(one: Tensor, two: Tensor) -> Tensor:
        if one.dim() == 2:
            return torch.lerp(one, two, share_of(mask, like=one))
        return torch.where(mask, two, one)

    def mixed(one: View, two: View) -> View:
        if one.known.dim() > 2:
            return View(pasted(one.data, two.data), one.warp, pasted(one.known, two.known))
        share = share_of(mask, like=one.known)
        known = (one.known | (share == 1)) & (two.known | (share == 0))  # what is in the mixture must be known
        return View(pasted(one.data, two.data), one.warp, known)

    weight = pasted(task.weight, other.weight)
    return replace(task, seen=mixed(task.seen, other.seen), target=mixed(task.target, other.target), weight=weight)


def share_of(mask: Tensor, *, like: Tensor) -> Tensor:
    """`mask` (B, 1, H, W) as shares in [0, 1] of what `like` (B, C, *S) is about: each pixel, or the whole image."""
    return mask.flatten(1).float().mean(1, keepdim=True) if like.dim() == 2 else mask.float()
