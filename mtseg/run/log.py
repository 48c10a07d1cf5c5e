"""What a run tells: lines or a progress bar on the console, metrics.jsonl, timings.jsonl, TensorBoard."""

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mtseg.run.boards import Board, Name, begun
from mtseg.run.logged import TIMINGS, read
from mtseg.tally import HEADLINES, NETWORKS, headline

T = TypeVar("T")
Scalars = dict[str, float]
SHOWN = ("loss", "loss_sup", "loss_cons", "weight", "known", "kept", "lr")  # of a step's values, on the console


class _Lines:
    """A file that lines are added to. What a full disk does not take waits in memory, and goes before the next line."""

    def __init__(self, path: Path) -> None:
        self._file, self._waiting = path.open("ab", buffering=0), b""
        self.length = self._file.tell()  # of all lines, those that wait too

    def add(self, line: str) -> None:
        self._waiting += line.encode()
        self.length += len(line.encode())
        self.write()

    def write(self) -> None:
        while self._waiting:
            self._waiting = self._waiting[self._file.write(self._waiting) :]

    def close(self) -> None:
        self._file.close()


class Log:
    """The record of a run from step `start` on. Use as a context manager.

    `length` is how many bytes of metrics.jsonl belong to the steps before `start`; what a stopped run wrote
    after its last checkpoint is cut off, so that no step stands there twice. What cannot be written ends no run: it is
    said, once.
    """

    def __init__(
        self,
        folder: Path,
        *,
        total: int,
        start: int = 0,
        length: int = 0,
        boards: Sequence[Name] = ("tensorboard",),
        quiet: bool = False,
    ) -> None:
        path = folder / "metrics.jsonl"
        path.touch()
        whole = path.stat().st_size
        os.truncate(path, min(length, whole))
        self._boards = {name: begun(name, folder, start) for name in boards}  # before a file is opened: it may refuse
        self._folder, self._lines = folder, _Lines(path)
        self._timings = _Lines(folder / TIMINGS)  # apart: metrics are the same, to the bit, however long they took
        self._refused: set[str] = set()
        self._console = Console(quiet=quiet)
        self._live = self._console.is_terminal and not quiet
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[shown]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._live,
        )
        self._task = self._progress.add_task(folder.name, total=total, completed=start, shown="")
        self._total = total
        self._begin(start)
        if whole < length:
            self.say(f"{path} lost its last {length - whole} bytes since the checkpoint: those lines are gone")

    def __enter__(self) -> "Log":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        self._on_boards(lambda board: board.close())
        for name, lines in (("metrics.jsonl", self._lines), (TIMINGS, self._timings)):
            self.attempt(name, lines.write)
            lines.close()

    def say(self, text: str) -> None:
        """A line for the reader of the console."""
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def scalars(self, step: int, values: Scalars, *, aside: dict[str, Any] | None = None) -> None:
        """Record `values` at `step`; those of `aside` go to metrics.jsonl alone. NaN is written as null."""
        line = {"step": step} | {key: _plain(value) for key, value in (values | (aside or {})).items()}
        self.attempt("metrics.jsonl", lambda: self._lines.add(json.dumps(line) + "\n"))
        for key, value in values.items():
            self._show(key, value, step)

    def warn(self, sentences: list[str]) -> None:
        """Lines that ask for the reader's attention."""
        for sentence in sentences:
            self.say(f"look: {sentence}")

    def awaited(self, batches: Iterable[T]) -> Iterator[T]:
        """`batches`; the time that each is waited for is counted."""
        coming = iter(batches)
        while True:
            asked = time.perf_counter()
            try:
                batch = next(coming)
            except StopIteration:
                return
            self._waited += time.perf_counter() - asked
            yield batch

    def train(self, step: int, values: dict[str, Any], *, images_per_step: int) -> None:
        """Record a training step's `values`, numbers and lists of numbers, and show some.

        Shown beside them, and not in metrics.jsonl, because no two runs agree in it: the images a second, and the share
        of the time since the last record that batches were waited for.
        """
        lists = {key: value for key, value in values.items() if isinstance(value, list)}
        values = {key: value for key, value in values.items() if key not in lists}
        self.scalars(step, values, aside=lists)
        before, then = self._since
        passed = max(time.perf_counter() - then, 1e-9)
        speed, waiting = (step - before) * images_per_step / passed, self._waited / passed
        self._begin(step)
        self._show("train/images_per_second", speed, step)
        self._time(step, images_per_second=speed, waiting=waiting)
        self._show("train/waiting", waiting, step)
        shown = "  ".join(f"{key} {values[f'train/{key}']:.4g}" for key in SHOWN if f"train/{key}" in values)
        shown += f"  skipped {values['train/skipped']}" if values.get("train/skipped") else ""
        shown += f"  {speed:{'.0f' if speed >= 10 else '.2g'}} images/s  waiting {waiting:.0%}"
        self._progress.update(self._task, completed=step, shown=shown)
        if not self._live:
            left = lasting((self._total - step) * passed / max(1, step - before))
            self.say(f"step {step}/{self._total}  {shown}  left {left}")

    def evaluated(self, step: int, split: str, found: dict[str, dict[str, Any]], *, asked: str = "") -> None:
        """Record and show the scores of the networks in `found`, by name, and how they were `asked`."""
        name = headline(found["teacher"])
        ahead = _number(found["teacher"][name]) - _number(found["student"][name])
        self.scalars(
            step,
            {f"{split}_{network}/{name}": _number(scores[name]) for network, scores in found.items()}
            | {f"{split}/teacher_ahead": ahead},
            aside={f"{split}_{network}": scores for network, scores in found.items()}
            | ({"asked": asked} if asked else {}),
        )
        for network, scores in found.items():
            kind = "IoU" if "IoU" in scores else "accuracy"
            for key, value in scores.get(kind, {}).items():
                self._show(f"{split}_{network}/{kind}/{key}", _number(value), step)
        self.say(f"step {step}/{self._total}  {summary(split, found)}")

    def pictures(self, step: int, found: dict[str, NDArray[np.uint8]]) -> None:
        """Show pictures (h, w, 3) by their names, on the board alone."""
        for key, picture in found.items():
            self._on_boards(lambda board, key=key, picture=picture: board.picture(key, picture, step))  # type: ignore[misc]

    def paused(self, step: int, *, since: float) -> None:
        """What was done since `time.perf_counter()` was `since`, an evaluation, is not the training's time."""
        self._begin(step)
        self._time(step, evaluation_seconds=time.perf_counter() - since)

    def scores(self, step: int, pools: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]] | None:
        """What `evaluated` recorded of both networks on each of `pools` at `step`; None where any is missing."""
        found = {}
        for line in reversed(read(self._folder)):
            for pool in pools:
                if line.get("step") == step and f"{pool}_student" in line:
                    found[pool] = {name: line[f"{pool}_{name}"] for name in NETWORKS}
        return found if len(found) == len(pools) else None

    def length(self) -> int:
        """Bytes of metrics.jsonl so far."""
        return self._lines.length

    def _begin(self, step: int) -> None:
        self._since, self._waited = (step, time.perf_counter()), 0.0

    def _show(self, key: str, value: float, step: int) -> None:
        self._on_boards(lambda board: board.number(key, value, step))

    def _on_boards(self, show: Callable[[Board], None]) -> None:
        for name, board in self._boards.items():
            self.attempt(name, partial(show, board), errors=Exception)

    def _time(self, step: int, **seen: float) -> None:
        self.attempt(TIMINGS, lambda: self._timings.add(json.dumps({"step": step, **seen}) + "\n"))

    def attempt(self, what: str, write: Callable[[], object], *, errors: type[Exception] = OSError) -> None:
        """`write` to the run's file or folder `what`; of these `errors` the first is said, and the run goes on."""
        try:
            write()
        except errors as error:
            if what not in self._refused:
                self.warn([f"{self._folder / what} cannot be written: {error}; the run goes on, and this is said once"])
            self._refused.add(what)


def summary(split: str, found: dict[str, dict[str, Any]]) -> str:
    """The scores of the networks in `found`, by name, in one line, in percent; of how many classes a mean is, where it
    is not of all."""
    name = headline(found["teacher"])
    of = {network: _counted(scores) for network, scores in found.items()}
    alike = of["teacher"] if len(set(of.values())) == 1 else ""
    shown = ", ".join(
        f"{network} {100 * _number(scores[name]):.2f}{'' if alike else of[network]}"
        for network, scores in found.items()
    )
    return f"{split} {HEADLINES[name]}{alike}: {shown}"


def _counted(scores: dict[str, Any]) -> str:
    """Of how many classes a mean is; empty where it is of all, and where none is reported."""
    counted, classes = scores.get("classes_counted"), len(scores.get("IoU", ()))
    return "" if counted is None or counted >= classes else f" ({counted} of {classes} classes)"


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def lasting(seconds: float) -> str:
    """A time in two digits or three: `45 s`, `12 min`, `3.5 h`, `4.9 days`."""
    for unit, length in (("days", 86400), ("h", 3600)):
        if seconds >= length * 1.5:
            return f"{seconds / length:.{1 if seconds < 10 * length else 0}f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
