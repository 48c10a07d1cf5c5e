"""How long a run takes: what is tried of a network, and how it is counted."""

import pytest
import torch
from runs import tiny
from test_trainer import begin

from mtseg.run import duration
from mtseg.step import train_step


def test_a_network_that_fails_on_a_crop_is_said_with_the_crop():
    with pytest.raises(ValueError, match="fails on a crop of 16 x 24"):
        duration.tried(torch.nn.Conv2d(4, 1, 1), (16, 24), channels=3)
    duration.tried(torch.nn.Conv2d(3, 1, 1), (16, 24), channels=3)
    assert torch.is_grad_enabled()


def test_a_forwards_time_is_the_median_of_half_a_second_without_the_first(monkeypatch):
    clock, takes = [0.0], iter([7.0, 0.2, 0.1, 0.125, 0.1, 9.0])  # over half a second after the fifth

    def slow(_: object, images: torch.Tensor) -> torch.Tensor:
        clock[0] += next(takes)
        return images

    monkeypatch.setattr(duration.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(torch.nn.Identity, "forward", slow)
    assert duration.tried(torch.nn.Identity(), (16, 24), channels=3) == pytest.approx((0.1 + 0.125) / 2)
    assert next(takes) == 9.0


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("method.branches=[]",),
        ("method.branches=[{adversary: {kind: vat, iterations: 3}}]",),
        ("method.teacher={kind: itself, gradient: both}",),
        ("method.teacher={kind: itself}", "method.branches=[{}, {adversary: {kind: vat}}]"),
        ("method.teacher={kind: ema, augment: {flip: true}}",),
        ("method.teacher={kind: peer}", "method.branches=[{}, {adversary: {kind: vat}}]"),
    ],
    ids=" ".join,
)
def test_what_a_step_asks_of_networks_is_counted_with_its_backwards(words, tmp_path):
    """By hooks on every network: a crop is one, and one more for each of the two halves of a backward through it."""
    config = tiny(tmp_path, *words)
    state, stream = begin(config)
    seen = []

    def count(_: object, given: tuple[torch.Tensor]) -> None:
        seen.append(len(given[0]) * (1 + duration.BACKWARD * torch.is_grad_enabled()))

    for network in {network for learner in state.learners for network in learner.networks}:
        network.register_forward_pre_hook(count)
    train_step(config, state, stream[0])
    assert sum(seen) == duration.forwards(config)


def test_a_fast_forward_is_tried_some_times_and_not_for_half_a_second(monkeypatch):
    tries = []
    monkeypatch.setattr(torch.nn.Identity, "forward", lambda _, images: tries.append(images) or images)
    duration.tried(torch.nn.Identity(), (16, 24), channels=3)
    assert len(tries) == 1 + duration.TRIES
