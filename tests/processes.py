"""Processes for a test, forked: they begin with the libraries imported, which takes a new one seconds.

Several that train together, joined by gloo through a file, each with a result; or one that runs a program.
"""

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import torch
import torch.distributed as dist


def each(processes: int, folder: Path, work: Callable[[], Any], *, seconds: int = 120) -> list[Any]:
    """What `work` gives in each of several processes that train together, by rank."""
    folder.mkdir(parents=True)
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=_run, args=(rank, processes, folder, work)) for rank in range(processes)]
    for process in started:
        process.start()
    for process in started:
        process.join(seconds)
    hung = [process for process in started if process.exitcode is None]
    for process in hung:
        process.kill()
    errors = [path.read_text() for path in sorted(folder.glob("error-*"))]
    errors += [f"{process.name} hung" for process in hung]
    assert not errors, "\n".join(errors)
    return [torch.load(folder / f"result-{rank}", weights_only=False) for rank in range(processes)]


def _run(rank: int, processes: int, folder: Path, work: Callable[[], Any]) -> None:
    try:
        meeting = f"file://{folder / 'meeting'}"
        dist.init_process_group(
            "gloo", init_method=meeting, rank=rank, world_size=processes, timeout=timedelta(seconds=60)
        )
        torch.save(work(), folder / f"result-{rank}")
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        (folder / f"error-{rank}").write_text(traceback.format_exc())
        raise


class Program:
    """What `work` does in a process of its own, in the folder `cwd`: what it says and its exit code."""

    def __init__(self, work: Callable[[], int | None], cwd: Path | None = None) -> None:
        pipes = [os.pipe(), os.pipe()]
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=_program, args=(work, pipes, cwd or Path.cwd()))
        self._process.start()
        self._said: tuple[list[bytes], list[bytes]] = ([], [])
        self._readers = [Thread(target=_read, args=of, daemon=True) for of in zip(pipes, self._said, strict=True)]
        for reader in self._readers:
            reader.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def stdout(self) -> str:
        return b"".join(self._said[0]).decode()

    @property
    def stderr(self) -> str:
        return b"".join(self._said[1]).decode()

    def until(self, word: str, seconds: float = 60) -> None:
        """Wait until it has said `word`."""
        latest = time.monotonic() + seconds
        while word not in self.stdout:
            assert self._process.is_alive(), self.stderr
            assert time.monotonic() < latest, self.stdout
            time.sleep(0.01)

    def ended(self, seconds: float = 120) -> int:
        """Its exit code, when it has ended."""
        latest = time.monotonic() + seconds  # of its own: `join` would wait for what it started, too
        while (code := self._process.exitcode) is None and time.monotonic() < latest:
            time.sleep(0.01)
        if code is None:
            self._process.kill()
        for reader in self._readers if code is not None and code >= 0 else ():
            reader.join(2)  # else it was killed, and a process that it started may hold the pipe for long
        assert code is not None, f"it hung: {self.stdout}{self.stderr}"
        return code


def _read(pipe: tuple[int, int], said: list[bytes]) -> None:
    reading, writing = pipe
    os.close(writing)
    with os.fdopen(reading, "rb", buffering=0) as file:
        while some := file.read(1 << 16):
            said.append(some)


def _program(work: Callable[[], int | None], pipes: list[tuple[int, int]], cwd: Path) -> None:
    for number, (reading, writing) in enumerate(pipes, 1):
        os.dup2(writing, number)
        os.close(reading)
        os.close(writing)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    try:
        code = work() or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    sys.exit(code)
