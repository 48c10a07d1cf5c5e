"""Whether a network answers for what the labels of a data set are about: every pixel, or whole images."""

import numpy as np

from mtseg.config import Config
from mtseg.data.source import Splits
from mtseg.models import Smp


def refuse_unfit(config: Config, splits: Splits) -> None:
    """Raises ValueError where the network answers for pixels and images have a class each, or the other way round.

    Reads one label.
    """
    pool = next((pool for pool in (splits.labelled, splits.val, splits.test) if len(pool)), None)
    if pool is not None and (reason := unfit(config, dimensions=np.ndim(pool.label(0)))):
        raise ValueError(reason)


def unfit(config: Config, *, dimensions: int) -> str:
    """Why the network does not answer for labels of so many `dimensions`, 2 or 0, and what to do; empty: it does."""
    if (dimensions == 2) == isinstance(config.model, Smp):
        return ""
    model, data = f"model.kind: {config.model.kind} answers for", f"the labels of data.kind: {config.data.kind} are"
    if dimensions == 2:
        return f"{model} whole images, and {data} maps of classes; use model.kind=smp, or other data"
    return (
        f"{model} every pixel, and {data} one class an image; use model.kind=convnet13, shake26, resnext or timm, or "
        "data with masks"
    )
