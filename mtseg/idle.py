"""Settings that change nothing in a run: said, for whoever gave them expects something of them."""

import math

from mtseg.config import Config
from mtseg.ensemble import Ensemble
from mtseg.losses import Ohem

LOW = 0.5  # of a learning rate, which no step has


def idle(config: Config) -> list[str]:
    """A sentence on each, with what would make it act."""
    method, student, said = config.method, config.views.student, []
    if isinstance(method.supervised, Ohem):
        area = math.prod(config.views.crop) if config.model.dense else 1
        counted, keep = (config.batch.labelled or config.batch.unlabelled) * area, method.supervised.keep
        if keep >= counted:
            said.append(
                f"method.supervised.keep: {keep} hardest pixels are all {counted} that a batch can hold, so easy ones "
                f"count as hard ones do, as with cross_entropy; lower it, to {max(1, counted // 16)} say"
            )
    said += _of_pixels(config)
    if (highest := max(_rates(config))) < LOW:
        said.append(
            f"optimizer.lr: in {config.steps} steps the rate never comes over {100 * highest:.2g} % of it, for which "
            f"schedule: {config.schedule.kind} wants a longer run; shorten its steps by as much as the run's"
        )
    if not method.branches:
        return said
    if not method.views_of_student and (student.colour or student.noise):
        said.append(
            "views.student: its colours and noise are shown to nobody, for every branch asks the student about the "
            "teacher's view (sees: teacher)"
        )
    if config.bn == "separate" and config.norm in ("group", "frozen"):
        said.append(
            f"bn: separate costs a second forward and changes nothing, for with norm: {config.norm} no image's answer "
            "depends on another's; use bn=joint"
        )
    if isinstance(method.teacher, Ensemble):
        turns = math.ceil(config.steps / method.teacher.every)
        if turns < method.teacher.count:
            said.append(
                f"method.teacher.every: {method.teacher.every} steps, of the run's {config.steps}, give {turns} of the "
                f"{method.teacher.count} averages a turn; the others are the student itself; lower it"
            )
    return said


def _of_pixels(config: Config) -> list[str]:
    """On what is done to labelled views by the classes of their pixels, where those have none."""
    together = config.batch.consistency == "all" and config.method.branches
    if config.model.dense and not together:
        return []
    why = "a whole image has one class" if not config.model.dense else "batch.consistency: all has no labelled views"
    keys = {"oversample": "no pixel that a view could be placed on", "copy_paste": "no labelled pixel to paste"}
    given = {key: what for key, what in keys.items() if getattr(config.views, key)}
    return [f"views.{key}: there is {what}, for {why}; use 0" for key, what in given.items()]


def _rates(config: Config) -> list[float]:
    """What the schedule makes of the learning rate, at 201 steps from first to last."""
    last = config.steps - 1
    return [config.schedule(round(last * n / 200), config.steps) for n in range(201)]
