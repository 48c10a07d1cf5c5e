"""Which checkpoints a run keeps: the newest, and the one in which the teacher was best. The first process decides."""

from typing import Any

from mtseg import checkpoint
from mtseg.capture import Broken
from mtseg.config import Config
from mtseg.distributed import from_first, same_everywhere
from mtseg.log import Log, Mute
from mtseg.state import State, save

Scores = dict[str, dict[str, Any]]  # of the "student" and the "teacher"


def saved(config: Config, state: State, log: Log | Mute) -> bool:
    """Save; a disk that does not take it is said, and what was saved before stays.

    Raises Broken where the processes no longer hold the same weights.
    """
    if not same_everywhere([state.student, state.teacher.module]):
        raise Broken(
            f"the processes' weights differ after step {state.step}, which is an error of the program or of a machine; "
            "give the same command again: it continues from the checkpoint before"
        )
    return from_first(lambda: _saved(config, state, log))


def _saved(config: Config, state: State, log: Log | Mute) -> bool:
    try:
        save(config, state, log.length())
    except OSError as error:
        log.warn([f"the checkpoint of step {state.step} is NOT written, those before it stay: {error}"])
        return False
    return True


def is_saved(config: Config, state: State) -> bool:
    return from_first((config.out / "checkpoints" / checkpoint.name_of(state.step)).exists)


def is_better(config: Config, found: Scores) -> bool:
    """Whether the teacher's mIoU is above that of the best checkpoint on this split."""
    score = found["teacher"]["mIoU"]
    best = from_first(lambda: checkpoint.best(config.out / "checkpoints"))
    return score is not None and (best is None or best[2] != config.eval.split or score > best[1])


def point_to_best(config: Config, state: State, found: Scores | None) -> None:
    """Note that the checkpoint of this step is the best, where it is there and is that."""
    if found is not None and is_saved(config, state) and is_better(config, found):
        folder, score, split = config.out / "checkpoints", found["teacher"]["mIoU"], config.eval.split
        from_first(lambda: checkpoint.point_to_best(folder, state.step, score, split, keep=config.keep))
