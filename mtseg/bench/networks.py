"""The floor of a training step: the very forwards that it makes, and the backwards of those that have a gradient."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mtseg.ensemble import Panel
from mtseg.state import State


@dataclass(frozen=True)
class Forward:
    """A forward as it was made: of `network`, in train mode or not, with a gradient or not, cast to `dtype` or not."""

    network: nn.Module
    given: tuple[Any, ...]
    named: dict[str, Any]
    training: bool
    gradient: bool
    dtype: torch.dtype | None

    def again(self) -> Any:
        """What the network answers."""
        self.network.train(self.training)
        kind = next(self.network.parameters()).device.type
        with (
            torch.set_grad_enabled(self.gradient),
            torch.autocast(kind, self.dtype or torch.bfloat16, enabled=self.dtype is not None),
        ):
            return self.network(*self.given, **self.named)


def forwards(state: State, step: Callable[[], object]) -> list[Forward]:
    """Those that `step` asks of `state`'s networks."""
    made: list[Forward] = []

    def note(network: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        kind = next(network.parameters()).device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        kept = tuple(value.detach() if isinstance(value, Tensor) else value for value in given)
        made.append(Forward(network, kept, named, network.training, torch.is_grad_enabled(), dtype))

    networks = [network for learner in state.learners for network in learner.networks]
    single = [
        member for network in networks for member in (network.members if isinstance(network, Panel) else [network])
    ]
    hooks = [network.register_forward_pre_hook(note, with_kwargs=True) for network in single]
    try:
        step()
    finally:
        for hook in hooks:
            hook.remove()
    return made


def floor(made: list[Forward]) -> Callable[[], None]:
    """What makes these forwards again, and a backward from each that has a gradient, of given gradients."""
    gradients = [1e-3 * torch.randn_like(forward.again()) if forward.gradient else None for forward in made]

    def run() -> None:
        for forward, gradient in zip(made, gradients, strict=True):
            answer = forward.again()
            if gradient is not None:
                forward.network.zero_grad(set_to_none=True)
                answer.backward(gradient)

    return run
