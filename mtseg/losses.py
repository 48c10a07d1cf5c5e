"""Losses: the supervised one, and the distances between student and teacher. All in float32, one value a pixel.

A distance maps the student's logits and the teacher's probabilities, (B, K, *S) each, to (B, *S). Its reduction
over the K classes is part of its definition, since the consistency weight is stated for it. The paper's rule
for the weight: `squared` with `over_classes: mean` wants K to K^2. `over_classes: sum` is K times the mean and
lies in [0, 2] whatever K is: a weight chosen for 2 classes fits 150. `cross_entropy` with hard targets wants about
1, the weight of the supervised cross-entropy that it looks like. Which were tried, and did well: docs/methods.md.

A mean is a sum over the pixels here divided by their number in the whole batch: the losses of all processes, and of
the parts of a batch whose gradients are accumulated, sum to the loss of the whole batch.
"""

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mtseg.data.source import IGNORE
from mtseg.distributed import gathered, part_of, total, with_others
from mtseg.part import part


def one_hot(label: Tensor, classes: int) -> Tensor:
    """Labels (B, *S) -> (B, K, *S) float32; all zero where there is no class."""
    index = label.long().clamp(0, classes - 1).unsqueeze(1)
    shape = (len(label), classes, *label.shape[1:])
    return torch.zeros(shape, device=label.device).scatter_(1, index, has_class(label, classes).unsqueeze(1).float())


def average(values: Tensor, counted: Tensor, over: Tensor | None = None) -> Tensor:
    """Sum of `values` where `counted` (bool, same shape) holds, divided by `over`; 0, with zero gradient, without any.

    `over` is how many count in the whole batch, or what their weights sum to; None: in the values of all processes.
    Raises ValueError where the shapes differ, which would be broadcast.
    """
    if values.shape != counted.shape:
        raise ValueError(
            f"values of shape {tuple(values.shape)} and counted of {tuple(counted.shape)}: give the same, as in "
            "average(distance, known[:, 0])"
        )
    over = total(counted.sum()) if over is None else over
    return torch.where(counted, values, 0).sum() / torch.where(over > 0, over, 1).to(values.dtype)


def has_class(label: Tensor, classes: int | None = None) -> Tensor:
    """Where `label` (B, *S) is a class in [0, classes), and not IGNORE or UNKNOWN; bool. None: any class."""
    if classes is None and label.dim() > 1:
        classes = IGNORE
    return label >= 0 if classes is None else (label >= 0) & (label < classes)


def _entropies(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The cross-entropy of each pixel (B, *S), where it counts, and the class there (int64; 0 elsewhere)."""
    counted = has_class(label, logits.shape[1])
    classes = torch.where(counted, label, 0).long()
    return F.cross_entropy(logits.float(), classes, reduction="none"), counted, classes


def _weighed(values: Tensor, classes: Tensor, weights: Tensor | None) -> Tensor:
    """Values of pixels times their classes' weights (K,); None: all 1."""
    return values if weights is None else values * weights[classes]


@part
class CrossEntropy:
    """Cross-entropy over the labelled pixels; what has no class counts nowhere. A batch without labels gives 0."""

    kind: Literal["cross_entropy"] = "cross_entropy"

    def __call__(
        self, logits: Tensor, label: Tensor, over: Tensor | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """logits (B, K, *S) any float, label (B, *S) integer -> scalar; `over`: labelled pixels of the whole batch.

        `weights` (K,): what a pixel of each class counts; the sum is divided by the pixels, whatever they count.
        """
        values, counted, classes = _entropies(logits, label)
        return average(_weighed(values, classes, weights), counted, over)


@part
class Ohem:
    """Cross-entropy over the hard labelled pixels alone (online hard example mining, Shrivastava et al. 2016).

    Counted is a pixel whose class has a probability under `threshold`, and at least the `keep` hardest pixels of
    the batch (all, where there are fewer). Which are hard is a matter of their probabilities alone.
    """

    kind: Literal["ohem"] = "ohem"
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.7
    keep: Annotated[int, Field(ge=1)] = 200_000

    def __call__(
        self, logits: Tensor, label: Tensor, over: Tensor | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """logits (B, K, *S) any float, label (B, *S) integer -> scalar; `weights` (K,) as of `CrossEntropy`."""
        values, counted, classes = _entropies(logits, label)
        ranked = torch.where(counted, values.detach(), -1).flatten()  # the ignored are easier than the easiest
        ranked = gathered(ranked.topk(min(self.keep, ranked.numel())).values)  # the hardest of all are among these
        hardest = ranked.topk(min(self.keep, ranked.numel())).values[-1]
        limit = hardest.clamp(min=0, max=-math.log(self.threshold))
        return average(_weighed(values, classes, weights), counted & (values >= limit))


@part
class Dice:
    """1 - soft Dice, meaned over the classes that the batch's labels hold, plus `cross_entropy` times that loss.

    Dice of a class = 2 sum p y / (sum p + sum y) over the labelled pixels of the batch (Milletari et al. 2016, with
    sums in place of squares). For classes of few pixels.
    """

    kind: Literal["dice"] = "dice"
    cross_entropy: Annotated[float, Field(ge=0)] = 1.0

    def __call__(
        self, logits: Tensor, label: Tensor, over: Tensor | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """logits (B, K, *S) any float, label (B, *S) integer -> scalar; `weights` (K,): of the cross-entropy."""
        classes = logits.shape[1]
        counted = has_class(label, classes).unsqueeze(1)
        truth = one_hot(label, classes)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        given = torch.where(counted, logits.softmax(1), 0)
        axes = (0, *range(2, logits.dim()))
        size = total(truth.sum(axes))
        dice = 2 * with_others((given * truth).sum(axes)) / (with_others(given.sum(axes)) + size).clamp_min(1e-6)
        loss = part_of(average(1 - dice, size > 0, (size > 0).sum()))
        return loss + self.cross_entropy * CrossEntropy()(logits, label, over, weights)


Supervised = Annotated[CrossEntropy | Ohem | Dice, Field(discriminator="kind")]
AT_ONCE = (Ohem, Dice)  # those that compare the pixels of a batch with each other


@part
class Squared:
    """|softmax(student) - teacher|^2, meaned (Tarvainen & Valpola 2017, eq. 1) or summed over classes."""

    kind: Literal["squared"] = "squared"
    over_classes: Literal["mean", "sum"]

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        squared = (logits.float().softmax(1) - target).square()
        return squared.mean(1) if self.over_classes == "mean" else squared.sum(1)


@part
class Kl:
    """KL(teacher || student), summed over classes as a divergence is; gradient to the student only."""

    kind: Literal["kl"] = "kl"

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        return _kl(target, logits.float().log_softmax(1))


@part
class Tau:
    """The paper's family between MSE (tau = 0) and KL (tau = 1), appendix C.

    C_tau = Z KL(p_tau || q_tau), p_tau = tau p + (1 - tau) / K with p the teacher and q the student,
    Z = 2 / (K tau)^2, so that C_0 is the squared difference meaned over classes and C_1 is 2 / K^2 KL.
    """

    kind: Literal["tau"] = "tau"
    tau: Annotated[float, Field(ge=0, le=1)]

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        if self.tau < 1e-5:  # nearer to its limit than doubles can tell
            return Squared(over_classes="mean")(logits, target)
        classes = logits.shape[1]
        # Doubles, normalised as doubles: the divergence shrinks with tau^2, and so would its digits.
        sums = target.double().sum(1, keepdim=True).clamp_min(1e-30)  # 0 where the teacher has said nothing
        teacher = target.double() / sums
        mixed = self.tau * teacher + (1 - self.tau) / classes
        uniform = mixed.new_full((), (1 - self.tau) / classes).log()
        log_student = torch.logaddexp(logits.double().log_softmax(1) + math.log(self.tau), uniform)
        return (2 / (classes * self.tau) ** 2 * _kl(mixed, log_student)).float()


@part
class SoftCrossEntropy:
    """-sum target log softmax(student): the pseudo-label loss of hard targets, and of soft ones too."""

    kind: Literal["cross_entropy"] = "cross_entropy"

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        return -(target * logits.float().log_softmax(1)).sum(1)


@part
class Entropy:
    """The student's own entropy, whatever the target: entropy minimisation (Grandvalet & Bengio 2005)."""

    kind: Literal["entropy"] = "entropy"

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        logs = logits.float().log_softmax(1)
        return -(logs.exp() * logs).sum(1)


Distance = Annotated[Squared | Kl | Tau | SoftCrossEntropy | Entropy, Field(discriminator="kind")]


def _kl(target: Tensor, log_student: Tensor) -> Tensor:
    return (torch.xlogy(target, target) - target * log_student).sum(1)
