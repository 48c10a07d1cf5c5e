"""Which checkpoints a run keeps: the newest, and the one in which the teacher was best."""

from typing import Any

from mtseg import checkpoint
from mtseg.config import Config
from mtseg.evaluate import headline
from mtseg.log import Log
from mtseg.state import State, save

Scores = dict[str, dict[str, Any]]  # of the "student" and the "teacher"


def saved(config: Config, state: State, log: Log) -> bool:
    """Save; a disk that does not take it is said, and what was saved before stays."""
    try:
        save(config, state, log.length())
    except OSError as error:
        log.warn([f"the checkpoint of step {state.step} is NOT written, those before it stay: {error}"])
        return False
    return True


def is_saved(config: Config, state: State) -> bool:
    return (config.out / "checkpoints" / checkpoint.name_of(state.step)).exists()


def is_better(config: Config, found: Scores) -> bool:
    """Whether the teacher's score is above that of the best checkpoint on this split."""
    score, best = found["teacher"][headline(found["teacher"])], checkpoint.best(config.out / "checkpoints")
    return score is not None and (best is None or best[2] != config.eval.split or score > best[1])


def point_to_best(config: Config, state: State, found: Scores | None) -> None:
    """Note that the checkpoint of this step is the best, where it is there and is that."""
    if found is not None and is_saved(config, state) and is_better(config, found):
        folder, score = config.out / "checkpoints", found["teacher"][headline(found["teacher"])]
        checkpoint.point_to_best(folder, state.step, score, config.eval.split, keep=config.keep)
