"""The answer to an image of any size, gathered band by band, as rows that may lie in a file."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mtseg.data.source import IGNORE, Pixels
from mtseg.inference.rows import Rows
from mtseg.inference.trained import Trained
from mtseg.predictors import Canvas, Predictor, Slide, Whole

LARGE = 16_000_000  # pixels of an image from which on windows of WINDOW are asked about, where it would be the whole
WINDOW = (512, 512)


class Answered(NamedTuple):
    """classes, IGNORE where there is none, and confidence in parts of 255, of an image of `size` (H, W); uncertainty:
    mean of 1 - p; named: the share of the pixels that have a class; shares: those of each class."""

    size: tuple[int, int]
    classes: Rows
    confidence: Rows
    uncertainty: float
    named: float
    shares: list[float]


def answered(
    trained: Trained, image: Canvas, min_confidence: float, aside: Path, *, empty: Pixels | None = None
) -> Answered:
    """The answer to an image (1, H, W, C), gathered band by band; of large ones no scores are held but a band's, and
    the rows lie in a file without a name in the folder `aside`. Pixels that are `empty` (C,) have no class."""
    size = (image.shape[1], image.shape[2])
    classes, confidence = Rows(size[1], aside), Rows(size[1], aside)
    doubt, count, found = 0.0, 0, np.zeros(256, np.int64)
    with torch.no_grad():
        for band in asking(trained.predictor, size)(trained.answer, image):
            sure = band.confidence[0].cpu()
            said = band.classes[0].cpu().byte().masked_fill(sure < min_confidence, IGNORE).numpy()
            if empty is not None:
                rows, columns = (
                    slice(at, at + side) for at, side in zip((band.top, band.left), said.shape, strict=True)
                )
                there = (image[:, rows, columns][0] != torch.from_numpy(empty)).any(-1)
                said[~there.numpy()] = IGNORE
                sure = sure * there
                doubt, count = doubt - float((~there).sum()), count - int((~there).sum())
            classes.add(said, top=band.top, left=band.left, around=IGNORE)
            confidence.add((sure * 255).round().byte().numpy(), top=band.top, left=band.left, around=0)
            doubt, count = doubt + float((1 - sure).double().sum()), count + sure.numel()
            found += np.bincount(said.ravel(), minlength=256)
    classes.end(size[0], around=IGNORE)
    confidence.end(size[0], around=0)
    shares = found[: len(trained.classes)] / (size[0] * size[1])
    return Answered(size, classes, confidence, doubt / max(1, count), float(shares.sum()), shares.tolist())


def asking(predictor: Predictor, size: tuple[int, ...]) -> Predictor:
    """`predictor`, or windows, one by one, where it would ask about a whole image of LARGE pixels or more."""
    if isinstance(predictor, Whole) and size[0] * size[1] >= LARGE:
        return Slide(window=WINDOW, batch=1, augment=predictor.augment, average=predictor.average)
    return predictor
