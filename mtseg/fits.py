"""Whether a run can learn from a data set: sound images, labels that its network is about, a batch to divide."""

import numpy as np
import torch
from torch import Tensor, nn

from mtseg.config import Config
from mtseg.data.apart import refuse_learnt_and_scored
from mtseg.data.damaged import Damaged
from mtseg.data.kinds import channels_of
from mtseg.data.sound import refuse_unsound
from mtseg.data.source import Splits, refuse_apart, refuse_blank, refuse_one_class
from mtseg.evaluate import source_of
from mtseg.lessons import refuse_other_lessons
from mtseg.memory import Memory
from mtseg.mix import ALONE, ALONG_BORDERS, NO_BORDERS
from mtseg.predictors import asked
from mtseg.schedules import Cosine
from mtseg.whiten import refuse_unread


def refuse_useless(config: Config, splits: Splits) -> None:
    """Raises ValueError for images that this config could not learn from, or be scored by. Reads few of them."""
    refuse_ended(config)
    said = channels_of(config.data)
    for pool in config.eval.pools:
        source_of(splits, pool)
    refuse_unsound(splits, config.eval.pools, ranged=said.scaled)
    if splits.channels != said.count:
        raise ValueError(
            f"data.kind: {config.data.kind} gives images of {splits.channels} channels, and its settings say "
            f"{said.count}: a kind whose images are not of red, green and blue has a field `channels: Channels`"
        )
    refuse_learnt_and_scored(splits)
    refuse_blank(splits, {"labelled": "learnt", config.eval.split: "scored"})
    refuse_unfit(config, splits)
    refuse_other_lessons(config, splits)
    if not config.model.dense:
        refuse_unanswerable(config, splits)
    refuse_one_class(splits)
    refuse_unmixed(config, splits)
    if config.batch.labelled == 0:
        refuse_apart(splits)


def refuse_ended(config: Config) -> None:
    """Raises ValueError where the learning rate is 0 for good before the run ends."""
    schedule = config.schedule
    if isinstance(schedule, Cosine) and schedule.length and schedule.length < config.steps:
        raise ValueError(
            f"schedule.length: {schedule.length} steps, after which nothing is learnt any more, and steps: "
            f"{config.steps}; give a length of as many steps or more, or null for as many"
        )


def refuse_unmixed(config: Config, splits: Splits) -> None:
    """Raises ValueError where images are mixed with the next unlabelled one of their batch, and there is none."""
    mixes = [branch.mix for branch in config.method.branches]
    mixed = next((mix for mix in mixes if mix.partner == "unlabelled" and not isinstance(mix, ALONE)), None)
    batch, pool = config.crops[1], len(splits.unlabelled)
    if mixed is not None and min(batch, pool) < 2:
        few = f"batch.unlabelled: {batch}" if batch < 2 else f"data: {pool} unlabelled image"
        raise ValueError(
            f"{few}, and mix.kind: {mixed.kind!r} takes a part of another unlabelled image of the batch, so nothing "
            "would be mixed; give two or more, or the mix partner: labelled"
        )


def refuse_unfit(config: Config, splits: Splits) -> None:
    """Raises ValueError where the network answers for pixels and images have a class each, or the other way round; and
    where a memory has room for the one and not for the other.

    Reads one label.
    """
    pool = next((pool for pool in (splits.labelled, splits.val, splits.test) if len(pool)), None)
    if pool is None:
        return
    dimensions, teacher = np.ndim(pool.label(0)), config.method.teacher
    if reason := unfit(config, dimensions=dimensions):
        raise ValueError(reason)
    if config.method.branches and isinstance(teacher, Memory) and len(teacher.size) != dimensions:
        raise ValueError(
            f"method.teacher.size: answers of {len(teacher.size)} dimensions and labels of {dimensions}; give [] for "
            "whole images, and height and width for maps"
        )


def unfit(config: Config, *, dimensions: int) -> str:
    """Why the network does not answer for labels of so many `dimensions`, 2 or 0, and what to do; empty: it does."""
    if (dimensions == 2) == config.model.dense:
        return ""
    model, data = f"model.kind: {config.model.kind} answers for", f"the labels of data.kind: {config.data.kind} are"
    if dimensions == 2:
        return f"{model} whole images, and {data} maps of classes; use model.kind=smp, or other data"
    return (
        f"{model} every pixel, and {data} one class an image; use model.kind=convnet13, shake26, resnext or timm, or "
        "data with masks"
    )


class _Stand(nn.Module):
    """In place of a network that answers for whole images: even logits (B, classes), for the sides it takes."""

    def __init__(self, config: Config, classes: int) -> None:
        super().__init__()
        self.kind, self.sides, self.classes = config.model.kind, getattr(config.model, "sides", 1), classes

    def forward(self, images: Tensor) -> Tensor:
        h, w = images.shape[2:]
        if h % self.sides or w % self.sides:
            raise ValueError(f"{h}x{w} pixels, and sides must be divisible by {self.sides} for model.kind: {self.kind}")
        return images.new_zeros((len(images), self.classes))


def refuse_unanswerable(config: Config, splits: Splits) -> None:
    """Raises ValueError where a network for whole images cannot be asked as the views, the mixes and the predictor do.

    It is not built. Reads one image of each scored pool, and a whitening.
    """
    if any(isinstance(branch.mix, ALONG_BORDERS) for branch in config.method.branches):
        raise ValueError(NO_BORDERS)
    refuse_unread(config.views.standard)
    ask = asked(_Stand(config, len(splits.classes)), config.views, torch.device("cpu"))
    try:
        ask(torch.zeros((1, *config.views.crop, config.views.channels), dtype=torch.uint8))
    except ValueError as error:
        raise ValueError(f"views.crop: {list(config.views.crop)}: {error}; choose another crop") from None
    for pool in config.eval.pools:
        source = source_of(splits, pool)
        try:
            pixels = torch.from_numpy(np.stack([source.image(0)]))
        except Damaged:  # whoever wants it says so
            continue
        try:
            list(config.eval.predictor(ask, pixels))
        except ValueError as error:
            raise ValueError(
                f"eval.predictor: {config.eval.predictor.sentence()}, asked about {source.name(0)} "
                f"({pixels.shape[1]}x{pixels.shape[2]}): {error}"
            ) from None


def refuse_uneven(config: Config, *, processes: int) -> None:
    """Raises ValueError where a step's images cannot be divided among the processes and their parts."""
    sizes, branches, pieces = config.batch, config.method.branches, processes * config.accumulate
    for key, images in {"labelled": sizes.labelled, "unlabelled": sizes.unlabelled if branches else 0}.items():
        if images % pieces:
            raise ValueError(
                f"batch.{key}: {images} images a step, over all processes, cannot be divided among {processes} "
                f"processes with accumulate={config.accumulate}; give a multiple of {pieces}, or other numbers"
            )
    if branches and sizes.consistency == "all" and sizes.labelled and pieces > 1:
        raise ValueError(
            "batch.consistency: 'all' of two streams is for one process with accumulate=1; where its step is too large "
            "for that one, recompute=true and precision=bf16 ask for less memory and leave the method as it is; or "
            "take all images from one stream, with batch.labelled=0 and data.unlabelled=all, or use "
            "consistency=unlabelled"
        )
