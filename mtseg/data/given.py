"""Images that a program gives to `fit`: what a run's config says of them."""

from typing import Literal

import numpy as np

from mtseg.data.channels import COLOURS, Channels, Layer
from mtseg.data.source import Splits
from mtseg.part import part


@part
class Given:
    """Images that a program gave to `fit(config, splits=...)`, and that nothing else can read.

    `fit` writes it into the run's config in the place of any other data; `channels` is what it found them to be, and
    what files must be that the run's network is asked about.
    """

    kind: Literal["given"] = "given"
    channels: Channels = Channels()

    def build(self) -> Splits:
        """Raises ValueError: the images are the program's."""
        raise ValueError(
            "data.kind: given: the images are those that a program gives to fit(config, splits=...), and no file says "
            "where they are; run that program, or name images in files, as in configs/data/own.yaml data.root=PATH"
        )


def given(splits: Splits) -> Given:
    """The record of such images. Reads one."""
    pools = (splits.labelled, splits.val, splits.unlabelled, splits.test)
    first = next((pool.image(0) for pool in pools if len(pool)), np.zeros((1, 1, splits.channels), np.uint8))
    scale = None if first.dtype == np.uint8 else (0.0, 255.0)
    layer = Layer(count=splits.channels, range=scale)
    return Given(channels=Channels(layers=(layer,), rgb=splits.rgb and splits.channels >= COLOURS))
