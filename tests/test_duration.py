"""How long a run takes: what is tried of a network, and how it is counted."""

import pytest
import torch

from mtseg.run import duration


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


def test_a_fast_forward_is_tried_some_times_and_not_for_half_a_second(monkeypatch):
    tries = []
    monkeypatch.setattr(torch.nn.Identity, "forward", lambda _, images: tries.append(images) or images)
    duration.tried(torch.nn.Identity(), (16, 24), channels=3)
    assert len(tries) == 1 + duration.TRIES
