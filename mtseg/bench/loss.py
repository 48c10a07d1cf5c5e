"""The consistency loss, forward and backward, against reading both its inputs and writing one gradient."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mtseg.bench.asked import Asked
from mtseg.bench.made import CLASSES
from mtseg.bench.paired import Group, Ratio, clock_of, timed
from mtseg.losses import CrossEntropy, Kl, SoftCrossEntropy, Squared, average

SHAPE = (4, len(CLASSES), 321, 321)


def measure(asked: Asked) -> Iterator[Group]:
    """One group, of SHAPE."""
    device = torch.device(asked.device)
    logits = torch.randn(SHAPE, device=device).requires_grad_()
    target = torch.randn(SHAPE, device=device).softmax(1)
    label = target.argmax(1)
    known = torch.ones_like(label, dtype=torch.bool)
    written = torch.empty_like(target)

    def of(values: Tensor) -> None:
        torch.autograd.grad(average(values, known), logits)

    cases = {
        "squared": lambda: of(Squared(over_classes="sum")(logits, target)),
        "KL": lambda: of(Kl()(logits, target)),
        "cross-entropy, soft": lambda: of(SoftCrossEntropy()(logits, target)),
        "cross-entropy, labels": lambda: torch.autograd.grad(CrossEntropy()(logits, label), logits),
        "read two, write one": lambda: torch.add(logits.detach(), target, out=written),
    }
    seconds = timed(cases, rounds=asked.rounds, clock=clock_of(device))
    ratios = (Ratio("squared", "read two, write one"), Ratio("squared", "cross-entropy, labels"))
    yield Group(f"logits {'x'.join(map(str, SHAPE))}", seconds, ratios)
