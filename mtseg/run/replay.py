"""A captured step taken again, watched: its terms, and where the first number that is not finite comes from."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from mtseg.run import capture
from mtseg.step import train_step


def replay(path: Path, words: Sequence[str] = ()) -> list[str]:
    """Take the step in a capture file again, with settings `words` laid on its config; what was seen, in lines.

    The student itself is asked, neither compiled nor recomputed: its modules are those that are watched.
    """
    again = capture.read(path, words)
    student = again.state.student
    networks = {"student": student, "teacher": again.state.teacher.module}
    if again.state.peer is not None:
        networks["peer"] = again.state.peer.student
    for learner in again.state.learners:
        learner.asked = learner.student
    plain = " and ".join(key for key in ("compile", "recompute") if getattr(again.config, key))
    lines = [f"{path}: the step after {again.state.step} updates, again, on {next(student.parameters()).device}"]
    lines[0] += f"; of the student without {plain}" if plain else ""
    for name, network in networks.items():
        bad = [key for key, value in network.state_dict().items() if not _finite(value)]
        lines += [f"before the step, of the {name}: not finite are {_some(bad)}"] if bad else []
    with _watched(networks) as outputs:
        terms = train_step(again.config, again.state, again.batch, watch=True)
    numbers = {key: float(value) for key, value in terms.items() if not isinstance(value, Tensor) or value.ndim == 0}
    lines += ["  ".join(f"{key} {value:.4g}" for key, value in numbers.items())]
    lines += [f"first output that is not finite: {outputs[0]}" if outputs else "every module's output is finite"]
    bad = [key for key, value in student.named_parameters() if value.grad is not None and not _finite(value.grad)]
    lines += [f"gradients that are not finite: {_some(bad)}" if bad else "every gradient is finite"]
    return [*lines, "the update was skipped" if again.state.skipped_in_a_row else "the update was made"]


@contextmanager
def _watched(networks: dict[str, nn.Module]) -> Iterator[list[str]]:
    """Within, the yielded list is given each module whose output is not finite, in the order of computation."""
    found: list[str] = []

    def hook(name: str) -> object:
        def look(module: nn.Module, given: tuple[object, ...], output: object) -> None:
            if not _finite(output):
                come = "from finite input" if _finite(given) else "from input that is not finite either"
                found.append(f"{name} ({type(module).__name__}), {come}")

        return look

    hooks = [
        module.register_forward_hook(hook(f"{name}.{path}".rstrip(".")))
        for name, network in networks.items()
        for path, module in network.named_modules()
    ]
    try:
        yield found
    finally:
        for handle in hooks:
            handle.remove()


def _finite(values: object) -> bool:
    """Whether all floating-point numbers in a tensor, or in lists and tuples of tensors, are finite."""
    if isinstance(values, Tensor):
        return not values.is_floating_point() or bool(torch.isfinite(values).all())
    return all(_finite(value) for value in values) if isinstance(values, list | tuple) else True


def _some(names: Sequence[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
