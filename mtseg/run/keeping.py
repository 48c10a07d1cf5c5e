"""Which checkpoints a run keeps: the newest, and those whose teacher was best. The first process decides."""

from functools import partial
from typing import Any

from mtseg.config import Config
from mtseg.distributed import from_first, same_everywhere
from mtseg.run import checkpoint
from mtseg.run.capture import Broken
from mtseg.run.log import Log
from mtseg.run.mute import Mute
from mtseg.saved import save
from mtseg.state import State
from mtseg.tally import headline

Scores = dict[str, dict[str, Any]]  # of the "student" and the "teacher"
Found = dict[str, Scores]  # by the images that are scored: eval.split, and "holdout"


def saved(config: Config, state: State, log: Log | Mute) -> bool:
    """Save; a disk that does not take it is said, and what was saved before stays.

    Raises Broken where the processes no longer hold the same weights.
    """
    if not same_everywhere([network for learner in state.learners for network in learner.networks]):
        raise Broken(
            f"the processes' weights differ after step {state.step}, which is an error of the program or of a machine; "
            "give the same command again: it continues from the checkpoint before"
        )
    return from_first(lambda: _saved(config, state, log))


def _saved(config: Config, state: State, log: Log | Mute) -> bool:
    try:
        save(config, state, log.length())
    except checkpoint.Unpruned as error:
        log.warn([str(error)])
    except OSError as error:
        log.warn([f"the checkpoint of step {state.step} is NOT written, those before it stay: {error}"])
        return False
    return True


def amend(config: Config, state: State, log: Log | Mute) -> None:
    """The checkpoint of this step, which is there, is from now on of what was logged after it too: an evaluation that
    was made when the run continued is not made again. A disk that does not take the note is said."""

    def amended() -> None:
        place = config.out / "checkpoints" / checkpoint.name_of(state.step)
        try:
            checkpoint.amend(place, {"metrics_bytes": log.length()})
        except OSError as error:
            log.warn([f"the evaluation of step {state.step} is NOT noted, so it may be made again: {error}"])

    from_first(amended)


def is_saved(config: Config, state: State) -> bool:
    return from_first((config.out / "checkpoints" / checkpoint.name_of(state.step)).exists)


def is_better(config: Config, found: Found) -> bool:
    """Whether the checkpoint of this evaluation would be the best, or the choice of the images held out."""
    return bool(_better(config, found))


def choose(config: Config, state: State, log: Log | Mute, found: Found | None, *, again: bool = False) -> None:
    """Note whose choice the checkpoint of this step is, where it is there and is one; a disk that does not take the
    note is said.

    `again`: these are scores of before the run was stopped, which may have been asked for otherwise than now.
    """
    if found is None or not is_saved(config, state):
        return
    for by, score in _better(config, found, again=again).items():
        from_first(partial(_noted, config, state, log, by, score))


def _noted(config: Config, state: State, log: Log | Mute, by: str, score: float) -> None:
    folder, asked = config.out / "checkpoints", config.eval.predictor.sentence()
    try:
        split = config.eval.chosen_on[by]
        checkpoint.choose(folder, by, state.step, score=score, split=split, asked=asked, keep=config.keep)
    except checkpoint.Unpruned as error:
        log.warn([str(error)])
    except OSError as error:
        log.warn([f"the checkpoint of step {state.step} is NOT noted as the {by}, the one before stays it: {error}"])


def _better(config: Config, found: Found, *, again: bool = False) -> dict[str, float]:
    """The choices (`best`, `holdout`) for which the teacher's score on their images is the highest, and that score.

    Scores that were asked for otherwise, or of other images, are none to compare with: the first of a kind is highest,
    but for one from before the run was stopped (`again`).
    """
    better, asked = {}, config.eval.predictor.sentence()
    for by, pool in config.eval.chosen_on.items():
        score = found[pool]["teacher"][headline(found[pool]["teacher"])]
        before = from_first(partial(checkpoint.chosen, config.out / "checkpoints", by))
        if before is None:
            higher = True
        elif before.split == pool and before.asked in ("", asked):
            higher = score is not None and score > before.score
        else:
            higher = not again
        if score is not None and higher:
            better[by] = score
    return better
