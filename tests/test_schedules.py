"""Schedules: the paper's ramp, torch's own schedulers, and what holds of all: within [0, 1], monotonic, clipped."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import tiny
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, PolynomialLR

from mtseg.schedules import Constant, Cosine, Poly, Rampup, RampupShare, rise
from mtseg.trainer import fit

STEPS = st.integers(0, 500)
EXAMPLES = settings(max_examples=60, deadline=None)


def torch_factors(make: Any, total: int) -> list[float]:
    """The learning rates of one of torch's schedulers, from a base rate of 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler: LRScheduler = make(optimizer)
    factors = []
    for _ in range(total + 1):
        factors.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return factors


def test_rampup_takes_the_values_the_authors_code_prints() -> None:
    """A ramp of 5 epochs in CuriousAI/mean-teacher: 0.0067, 0.041, 0.165, 0.449, 0.819, then 1."""
    values = [Rampup(steps=5)(step, 100) for step in range(8)]
    assert values == pytest.approx([0.0067, 0.041, 0.165, 0.449, 0.819, 1, 1, 1], abs=5e-4)


@pytest.mark.parametrize("steps", [1, 7, 40_000])
def test_rampup_is_the_papers_sigmoid(steps: int) -> None:
    for step in {0, 1, steps // 3, steps // 2, steps - 1, steps, steps + 1, 10 * steps}:
        x = min(max(step / steps, 0), 1)
        assert Rampup(steps=steps)(step, 10 * steps) == pytest.approx(math.exp(-5 * (1 - x) ** 2), rel=1e-12)
        assert rise(step, steps) == Rampup(steps=steps)(step, 10 * steps)


def test_rampup_of_no_steps_is_full_from_the_first() -> None:
    assert Rampup(steps=0)(0, 10) == 1


@pytest.mark.parametrize("total", [1, 7, 100, 40_000])
def test_a_ramp_of_a_share_is_the_sigmoid_over_that_share_of_any_run(total: int) -> None:
    half, ramp = RampupShare(share=0.5), RampupShare(share=0.3)
    for step in {0, total // 5, total // 4, total // 3, total // 2, total - 1, total}:
        x = min(step / total / 0.3, 1)
        assert ramp(step, total) == pytest.approx(math.exp(-5 * (1 - x) ** 2), rel=1e-9)
        assert half(2 * step, 4 * total) == pytest.approx(half(step, 2 * total), rel=1e-9)
    assert {RampupShare(share=0)(step, 10) for step in range(11)} == {1.0}


def test_constant_is_one_at_every_step() -> None:
    assert {Constant()(step, 10) for step in range(20)} == {1.0}


@pytest.mark.parametrize("power", [0.5, 0.9, 1.0, 2.0])
def test_poly_is_torchs_polynomial_schedule(power: float) -> None:
    expected = torch_factors(lambda o: PolynomialLR(o, total_iters=50, power=power), 50)
    assert [Poly(power=power)(step, 50) for step in range(51)] == pytest.approx(expected, abs=1e-9)


def test_cosine_is_torchs_cosine_schedule() -> None:
    expected = torch_factors(lambda o: CosineAnnealingLR(o, T_max=50), 50)
    assert [Cosine()(step, 50) for step in range(51)] == pytest.approx(expected, abs=1e-9)


def test_a_cosine_that_ends_before_the_run_is_refused(tmp_path) -> None:
    """Where it ends the rate is 0, for all steps that are left."""
    assert [Cosine(length=4)(step, 9) for step in range(4, 9)] == [0.0] * 5
    cosine = "schedule={kind: cosine, length: 2}"
    fit(tiny(tmp_path, cosine, "steps=2"), quiet=True)
    with pytest.raises(ValueError, match=r"schedule\.length: 2 .* steps: 3; give a length of as many"):
        fit(tiny(tmp_path, cosine, "steps=3", "accept_changes=[steps]"), quiet=True)


@pytest.mark.parametrize("schedule", [Poly, Cosine])
def test_warmup_rises_linearly_from_above_zero_to_the_schedule_itself(schedule: Any) -> None:
    warm, cold = schedule(warmup=10), schedule()
    shares = [warm(step, 1000) / cold(step, 1000) for step in range(30)]
    assert shares == pytest.approx([min((step + 1) / 11, 1) for step in range(30)], rel=1e-12)
    assert shares[0] > 0  # the first update is not wasted


def test_a_warmup_may_start_above_zero() -> None:
    """ImageNet's rate in the paper: from 0.1 to 0.25, linearly."""
    warm, cold = Cosine(warmup=9, start=0.4), Cosine()
    rates = [0.25 * warm(step, 1000) / cold(step, 1000) for step in range(12)]
    assert rates == pytest.approx([*(0.1 + 0.15 * (step + 1) / 10 for step in range(9)), 0.25, 0.25, 0.25], rel=1e-12)


@EXAMPLES
@given(step=STEPS, steps=STEPS, total=st.integers(1, 400), power=st.floats(0, 4))
def test_every_schedule_stays_in_0_to_1_also_past_the_end(step: int, steps: int, total: int, power: float) -> None:
    ramps = (Rampup(steps=steps), RampupShare(share=steps / 500))
    for schedule in (Constant(), *ramps, Poly(power=power, warmup=steps), Cosine(warmup=steps)):
        assert 0 <= schedule(step, total) <= 1


@EXAMPLES
@given(steps=STEPS, total=st.integers(1, 400))
def test_ramp_never_falls_and_learning_rates_never_rise_after_warmup(steps: int, total: int) -> None:
    ramp = [Rampup(steps=steps)(step, total) for step in range(600)]
    assert ramp == sorted(ramp)
    for schedule in (Poly(warmup=steps), Cosine(warmup=steps)):
        rates = [schedule(step, total) for step in range(steps, 600)]
        assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("schedule", [Poly(), Cosine()])
def test_learning_rate_starts_at_its_base_and_ends_at_zero(schedule: Any) -> None:
    assert schedule(0, 30) == 1
    assert schedule(30, 30) == pytest.approx(0, abs=1e-15)
    assert schedule(29, 30) > 0


@pytest.mark.parametrize("make", [lambda: Rampup(steps=-1), lambda: Poly(warmup=-1), lambda: Poly(power=-1)])
def test_negative_lengths_and_powers_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        make()
