"""Where a run is asked to stop: it ends after the same step in all processes, saved."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from mtseg.config import Config
from mtseg.distributed import anywhere
from mtseg.run import keeping
from mtseg.run.log import Log
from mtseg.run.mute import Mute
from mtseg.signals import Stopped
from mtseg.state import State


def stop_if_asked(config: Config, state: State, log: Log | Mute, asked_by: Callable[[], str]) -> None:
    """Raises Stopped, the state saved, where a signal has come to any of the processes."""
    if anywhere(bool(asked_by())):
        whole = keeping.is_saved(config, state) or keeping.saved(config, state, log)
        done = f"saved at step {state.step}" if whole else f"step {state.step} NOT saved"
        asked = asked_by() or "a signal to another process"
        raise Stopped(f"{config.out} stopped on {asked}, {done}; the same command continues it")


class _Asked(Exception):
    pass


@contextmanager
def ended_if_asked(
    networks: Sequence[nn.Module], asked_by: Callable[[], str], stop: Callable[[], None]
) -> Iterator[None]:
    """Within, a signal ends the work of `networks` before their next forward, by `stop`, in all processes."""

    def look(*_: object) -> None:
        if asked_by():
            raise _Asked

    hooks = [network.register_forward_pre_hook(look) for network in networks]
    try:
        yield
    except Exception:
        stop()
        raise
    finally:
        for hook in hooks:
            hook.remove()
