"""Where a training step's time goes, measured within the real one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from mtseg.bench.paired import Clock, Seconds
from mtseg.state import State

PHASES = ("teacher's answer", "student forward", "backward", "optimizer", "EMA", "the rest")


def phases(state: State, step: Callable[[], object], *, rounds: int, clock: Clock) -> Seconds:
    """The seconds of each of PHASES in `rounds` steps, after one that is not counted.

    The rest is what is in no other: normalising, warping, mixing, losses and looking at the gradient.
    """
    step()
    seconds: Seconds = {name: [] for name in PHASES}
    for _ in range(rounds):
        spent = dict.fromkeys(PHASES, 0.0)
        with _watched(state, spent, clock):
            start = clock()
            step()
            spent["the rest"] = clock() - start - sum(spent.values())
        for name, taken in spent.items():
            seconds[name].append(taken)
    return seconds


@contextmanager
def _watched(state: State, spent: dict[str, float], clock: Clock) -> Iterator[None]:
    """Within, what the parts of a step take is added to `spent`; a part within a part counts as the outer one."""
    inside: list[str] = []

    def counting(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work`, whose time is added to that of `name`."""

        def counted(*given: Any, **named: Any) -> Any:
            if inside:
                return work(*given, **named)
            inside.append(name)
            start = clock()
            try:
                return work(*given, **named)
            finally:
                spent[name] += clock() - start
                inside.clear()

        return counted

    backward = torch.Tensor.backward
    for learner in state.learners:
        learner.teacher.answer = counting("teacher's answer", learner.teacher.answer)  # type: ignore[method-assign]
        learner.teacher.update = counting("EMA", learner.teacher.update)  # type: ignore[method-assign]
        learner.optimizer.step = counting("optimizer", learner.optimizer.step)  # type: ignore[method-assign]
        learner.student.forward = counting("student forward", learner.student.forward)
    torch.Tensor.backward = counting("backward", backward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.backward = backward  # type: ignore[method-assign]
        for learner in state.learners:
            del learner.teacher.answer, learner.teacher.update, learner.optimizer.step, learner.student.forward
