"""Asking a run to stop: a signal is noted, the step is finished, the run is saved, the program ends with 75."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from types import FrameType

RESUMABLE = 75  # exit code: stopped on request, saved, to be continued by the same command (EX_TEMPFAIL)
ASKING = (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))


class Stopped(Exception):
    """A run has stopped on request, after `step` updates, and is saved."""


@contextmanager
def listening() -> Iterator[Callable[[], str]]:
    """Within, SIGINT (Ctrl-C), SIGTERM and SIGUSR1 are noted: the yielded call names the one that came, or is "".

    A second Ctrl-C interrupts at once. Elsewhere than in the main thread signals cannot be had, and none is noted.
    """
    came: list[str] = []

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and came:
            raise KeyboardInterrupt
        came.append(signal.Signals(number).name)

    before: dict[signal.Signals, object] = {}
    try:
        for number in ASKING:
            before[number] = signal.signal(number, note)
    except ValueError:  # not the main thread
        pass
    try:
        yield lambda: came[0] if came else ""
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


def leave_to_parent() -> None:
    """For a loading process: what asks the whole group to stop is the training process's to answer.

    A second SIGTERM ends it all the same, so that a process without a parent cannot stay.
    """

    def once(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)

    for number in ASKING:
        signal.signal(number, once if number == signal.SIGTERM else signal.SIG_IGN)
    parent = parent_process()  # whose number says nothing: in a container the training process may be the first
    if parent is not None and not parent.is_alive():  # it died before this was set
        os._exit(1)
