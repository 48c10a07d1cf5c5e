"""Loading processes: batches in order, and why there is none where one of them fails, is killed or hangs."""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar, cast

import cv2
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from mtseg.data.in_hand import InHand, Reading
from mtseg.data.resident import Resident
from mtseg.signals import leave_to_parent

T = TypeVar("T")
SIGCHLD: Any = getattr(signal, "SIGCHLD", None)  # Windows has none
HINTS = {
    "SIGKILL": "the system kills so when memory runs out: give fewer workers, or a smaller batch",
    "SIGBUS": "mostly shared memory that is full: give /dev/shm more room (docker: --shm-size), or workers=0",
    "SIGSEGV": "mostly a file that crashes its decoder, or broken libraries: look at the image with workers=0",
}


@dataclass(frozen=True)
class Failure:
    """What went wrong in making a batch, in one line; and the traceback, for developers."""

    text: str
    trace: str


class _Answers(Dataset[T | Failure], Generic[T]):
    """A stream whose errors are values, so that a worker's reaches the reader in one line, its cause in it."""

    def __init__(self, stream: Dataset[T]) -> None:
        self.stream = stream

    def __getitem__(self, step: int) -> T | Failure:
        try:
            return self.stream[step]
        except ValueError as error:
            return Failure(str(error), traceback.format_exc())
        except Exception as error:  # of any type: a reader of images may raise what it likes
            return Failure(f"{_at(self.stream, os.getpid())}{type(error).__name__}: {error}", traceback.format_exc())


def loader(
    stream: Dataset[T] | Resident,
    steps: range,
    *,
    workers: int,
    pin: bool,
    timeout: int = 300,
    prefetch: int = 4,
) -> Generator[T, None, None]:
    """The batches of `steps` in order, made by `workers` processes (0: in this one), each at most `prefetch` ahead.

    One iterator makes them all, so the workers live from the first batch to the last.

    Raises ValueError, with the image in hand where it is known: for what making a batch raised, for a worker that died,
    and for one that took `timeout` seconds. No worker is left behind.
    """
    if isinstance(stream, Resident):  # no worker could hold what lies on the device
        yield from (cast(T, stream[step]) for step in steps)
        return
    if isinstance(stream, Reading):
        stream.in_hand = InHand(workers)
    others = set(multiprocessing.active_children())
    with _own_deaths():
        answers = iter(
            DataLoader(
                _Answers(stream),
                batch_size=None,
                sampler=steps,
                num_workers=workers,
                pin_memory=pin,
                worker_init_fn=as_worker,
                prefetch_factor=prefetch if workers else None,
                timeout=timeout if workers else 0,
                generator=torch.Generator(),  # or it would draw a number of the program's
            )
        )
    processes = [process for process in multiprocessing.active_children() if process not in others]
    try:
        for _ in steps:
            yield _taken(answers, processes, stream, timeout)
    except BaseException as error:
        if isinstance(error, GeneratorExit) and not any(process.exitcode for process in processes):
            del answers  # closed: they are asked to end, and waited for
        elif processes:
            _abandon(answers)
        for process in processes:  # one that hangs would not go when asked to
            process.kill()
        raise


def _abandon(answers: Any) -> None:
    """Keep DataLoader's iterator from asking its workers to end when it is collected: for a lock that one of them held
    when it was killed it would wait for good."""
    answers._shutdown = True
    signal_handling._remove_worker_pids(id(answers))
    for queue in answers._index_queues:
        queue.cancel_join_thread()
        queue.close()


def _taken(answers: Iterator[Any], processes: list[BaseProcess], stream: Dataset[T], timeout: int) -> T:
    """The next batch."""
    try:
        with _deaths_told(processes):
            answer = next(answers)
    except (RuntimeError, OSError) as error:  # DataLoader's, of its workers
        raise ValueError(_why(stream, processes, error, timeout)) from error
    if isinstance(answer, Failure):
        failed = ValueError(answer.text)
        failed.add_note(answer.trace)
        raise failed
    return cast(T, answer)


@contextmanager
def _own_deaths() -> Iterator[None]:
    """Takes back the handler that DataLoader sets, by which a worker's death raises anywhere, and tears a step."""
    before = signal.getsignal(SIGCHLD) if _can_listen() else None
    yield
    if before is not None:
        signal.signal(SIGCHLD, before)


@contextmanager
def _deaths_told(processes: list[BaseProcess]) -> Iterator[None]:
    """Within, which is where a batch is waited for, the death of one of `processes` raises RuntimeError."""

    def look(*_: object) -> None:
        if any(process.exitcode for process in processes):
            raise RuntimeError("a loading process died")

    if not processes or not _can_listen():
        yield
        return
    before = signal.signal(SIGCHLD, look)
    try:
        look()  # it may have died in the step before
        yield
    finally:
        signal.signal(SIGCHLD, before)


def _can_listen() -> bool:
    return SIGCHLD is not None and threading.current_thread() is threading.main_thread()


def _why(stream: Dataset[T], processes: list[BaseProcess], error: Exception, timeout: int) -> str:
    """What happened to the loading processes, in one line."""
    for process in processes:
        if process.exitcode:
            code = -process.exitcode
            name = signal.Signals(code).name if code in list(signal.Signals) else f"exit code {process.exitcode}"
            hint = HINTS.get(name, "look at the image with workers=0")
            return f"{_at(stream, process.pid)}a loading process died ({name}); {hint}"
    if "timed out" in str(error):
        return (
            f"{_at(stream, None)}no batch came within {timeout} seconds (loader_timeout); look whether the disk or the "
            "network under it hangs, or give more time"
        )
    return f"loading failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _at(stream: Dataset[T], process: int | None) -> str:
    """The image that a process has in hand (None: the one in any hand for longest), as the beginning of a sentence."""
    if not isinstance(stream, Reading):
        return ""
    found = stream.in_hand.of(process)
    return f"at {stream.pool(found[0]).name(found[1])} ({found[0]}): " if found else ""


def as_worker(worker: int) -> None:
    """Workers run side by side, so each keeps to one thread; and signals are for the training process."""
    if SIGCHLD is not None:
        signal.signal(SIGCHLD, signal.SIG_DFL)
    leave_to_parent()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
