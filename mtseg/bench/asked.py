"""What a measurement is asked for, the machine that it is made on, and how its outcome is told."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from mtseg.bench.paired import Group

LIBRARIES = (
    *("torch", "torchvision", "segmentation-models-pytorch", "albumentations", "opencv-python-headless"),
    *("numpy", "pillow"),
)
WALL = ("startup", "waiting")  # what is measured until it is there, whoever computes


@dataclass(frozen=True)
class Asked:
    """`words` are settings for those that train; `case` is a part of the names of the cases that are wanted."""

    words: tuple[str, ...] = ()
    case: str = ""
    size: int | None = None
    rounds: int = 7
    device: str = "cpu"


def machine(what: str, device: torch.device, load: Sequence[float]) -> dict[str, Any]:
    """Where `what` was measured, in general terms. `load`: how many processes wanted to run, before it and after it."""
    clock = "wall, synchronised" if device.type == "cuda" else "wall" if what in WALL else "process CPU time"
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cores": os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "load": [round(value, 1) for value in load],
        "clock": clock,
        "versions": {name: found for name in LIBRARIES if (found := _version(name))},
    }


def load() -> float:
    """The mean number of processes that wanted to run in the last minute; NaN where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


def table(group: Group) -> str:
    """A group as Markdown: a line a case, then a line a ratio, each with median and quartiles."""
    facts = group.facts()
    lines = [f"**{group.name}** ({facts['rounds']} rounds)", "", "| | median | quartiles | target |"]
    lines.append("| --- | ---: | ---: | ---: |")
    for case, value in facts["ms"].items():
        lines.append(f"| {case}, ms | {_said(value['median'])} | {_range(value)} | |")
    for ratio, value in facts["ratios"].items():
        lines.append(f"| {ratio} | **{_said(value['median'])}** | {_range(value)} | {value['target']} |")
    return "\n".join(lines)


def heading(facts: dict[str, Any]) -> str:
    """The machine in a line."""
    names = ", ".join(f"{name} {found}" for name, found in facts["versions"].items())
    load = " to ".join(map(str, facts["load"]))
    return (
        f"{facts['device']}, {facts['cores']} cores, {facts['instructions']}, {facts['threads']} thread(s), "
        f"load {load}, {facts['clock']}; {names}"
    )


def _range(value: dict[str, float]) -> str:
    return f"{_said(value['low'])} to {_said(value['high'])}"


def _said(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
