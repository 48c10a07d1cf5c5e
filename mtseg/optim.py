"""Optimizers: two parameter groups, encoder and the rest, whose learning rates are functions of the step alone."""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from mtseg.models.smp import split_parameters
from mtseg.part import part
from mtseg.schedules import fall

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


@part
class Sgd:
    """SGD with momentum. `decoder_lr` is the rate of all that is not the encoder; null: the same `lr`."""

    kind: Literal["sgd"] = "sgd"
    lr: Positive
    decoder_lr: Positive | None = None
    momentum: Fraction = 0.9
    nesterov: bool = False
    weight_decay: NonNegative = 1e-4

    def __post_init__(self) -> None:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov: true looks ahead along a momentum of 0; set momentum, such as 0.9, or drop it")

    def at(self, step: int, total: int) -> dict[str, Any]:
        """What of a parameter group, besides its rate, depends on the step: nothing."""
        return {}

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of the model's parameters, at the base learning rates."""
        groups = _groups(model, self.lr, self.decoder_lr)
        return torch.optim.SGD(
            groups, momentum=self.momentum, nesterov=self.nesterov, weight_decay=self.weight_decay, fused=True
        )


@part
class AdamW:
    """AdamW (Loshchilov & Hutter 2019). `decoder_lr` is the rate of all that is not the encoder; null: `lr`."""

    kind: Literal["adamw"] = "adamw"
    lr: Positive
    decoder_lr: Positive | None = None
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: NonNegative = 0.01

    def at(self, step: int, total: int) -> dict[str, Any]:
        """What of a parameter group, besides its rate, depends on the step: nothing."""
        return {}

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of the model's parameters, at the base learning rates."""
        groups = _groups(model, self.lr, self.decoder_lr)
        return torch.optim.AdamW(groups, betas=self.betas, weight_decay=self.weight_decay, fused=True)


@part
class Adam:
    """Adam (Kingma & Ba 2015), whose moments are averaged otherwise at the beginning and at the end (the paper's).

    The second moment's average is `early_beta2` for the first `early_steps`. Over the last `down` steps the first one's
    falls towards 0.5 along the ramp-down d of the rate: beta1 d + 0.5 (1 - d).
    """

    kind: Literal["adam"] = "adam"
    lr: Positive
    decoder_lr: Positive | None = None
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    early_beta2: Fraction | None = None
    early_steps: Annotated[int, Field(ge=0)] = 0
    down: Annotated[int, Field(ge=0)] = 0
    weight_decay: NonNegative = 0.0

    def __post_init__(self) -> None:
        if (self.early_beta2 is None) != (self.early_steps == 0):
            raise ValueError(
                f"early_beta2 ({self.early_beta2}) and early_steps ({self.early_steps}) go together; give both "
                "or neither"
            )

    def at(self, step: int, total: int) -> dict[str, Any]:
        """What of a parameter group is other than `build` left it at a step."""
        down = fall(step, self.down, total)
        early = self.early_beta2 is not None and step < self.early_steps
        return {"betas": (self.betas[0] * down + 0.5 * (1 - down), self.early_beta2 if early else self.betas[1])}

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of the model's parameters, at the base learning rates."""
        groups = _groups(model, self.lr, self.decoder_lr)
        return torch.optim.Adam(groups, betas=self.betas, weight_decay=self.weight_decay, fused=True)


Optimizer = Annotated[Sgd | AdamW | Adam, Field(discriminator="kind")]


def _groups(model: nn.Module, lr: float, decoder_lr: float | None) -> list[dict[str, object]]:
    """Of the encoder, empty where it is frozen, and of the rest."""
    groups = [[weight for weight in group if weight.requires_grad] for group in split_parameters(model)]
    rates = (lr, lr if decoder_lr is None else decoder_lr)
    return [{"params": group, "lr": rate, "base_lr": rate} for group, rate in zip(groups, rates, strict=True)]


def set_lr(optimizer: torch.optim.Optimizer, factor: float, **others: Any) -> None:
    """Every group's learning rate = its base rate * `factor`; `others` of its settings as they are given."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
        group.update(others)
