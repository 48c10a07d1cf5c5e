"""Seconds from a command to its first answer, each in a process of its own."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from mtseg.bench.asked import Asked
from mtseg.bench.paired import Group, Ratio, Seconds

DEMO = Path("configs/demo.yaml")
PATIENCE = 600.0  # seconds
AT_ONCE, FIRST = {"half a second": 0.5}, {"fifteen seconds": 15.0}
HELP = "from mtseg.cli import main; main(['{}', '--help'])"


def measure(asked: Asked) -> Iterator[Group]:
    """Commands that should answer at once; and, from a clone, the demo's first step, as its line of metrics tells."""
    cases = {
        "python": "pass",
        "import mtseg": "import mtseg",
        "train --help": HELP.format("train"),
        "bench --help": HELP.format("bench"),
    }
    if any(asked.case in name for name in cases):
        seconds = _in_turn({name: partial(_python, "-c", code) for name, code in cases.items()}, asked.rounds)
        yield _group("wall seconds", seconds, AT_ONCE, list(cases)[1:])
    if DEMO.is_file() and asked.case in "the demo's first step":
        seconds = _in_turn({"the demo's first step": _first_step}, min(asked.rounds, 3))
        yield _group("wall seconds from the command", seconds, FIRST, list(seconds))


def _group(name: str, seconds: Seconds, limit: dict[str, float], those: list[str]) -> Group:
    ((said, most),) = limit.items()
    rounds = len(next(iter(seconds.values())))
    ratios = tuple(Ratio(case, said, at_most=1) for case in those)
    return Group(name, seconds | {said: [most] * rounds}, ratios)


def _in_turn(cases: dict[str, Callable[[], float]], rounds: int) -> Seconds:
    seconds: Seconds = {name: [] for name in cases}
    for _ in range(rounds):
        for name, work in cases.items():
            seconds[name].append(work())
    return seconds


def _python(*arguments: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def _first_step() -> float:
    """Raises OSError where no step is made in PATIENCE seconds."""
    with tempfile.TemporaryDirectory() as place:
        words = ["train", str(DEMO), f"out={place}/demo", "log_every=1"]
        code = f"import sys; from mtseg.cli import main; sys.exit(main({words!r}))"
        start = time.perf_counter()
        run = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            metrics = Path(place) / "demo" / "metrics.jsonl"
            while not (metrics.is_file() and metrics.stat().st_size):
                if run.poll() is not None or time.perf_counter() - start > PATIENCE:
                    raise OSError("bench: the demo made no step; look with: python tools/train.py configs/demo.yaml")
                time.sleep(0.01)
            return time.perf_counter() - start
        finally:
            run.kill()
            run.wait()
