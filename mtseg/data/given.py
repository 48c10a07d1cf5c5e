"""Images that a program gives to `fit`: what a run's config says of them."""

from collections import Counter
from typing import Literal

import numpy as np

from mtseg.data.channels import COLOURS, Channels, Layer
from mtseg.data.provenance import POOLS
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


def given(splits: Splits, said: Channels) -> Given:
    """The record of such images. Reads one. Raises ValueError for a name that is twice in a pool.

    What the settings have `said` of channels stays where the images are such. Else nothing is known of files but how
    many channels they must have: of other than 8 bits, they are refused.
    """
    pools = {name: getattr(splits, name) for name in POOLS}
    for name, pool in pools.items():
        often = Counter(pool.name(index) for index in range(len(pool)))
        twice = next((called for called, count in often.items() if count > 1), None)
        if twice is not None:
            raise ValueError(
                f"splits.{name}: two images are called {twice!r}, and labels, memories and scores go by names; give "
                "each a name of its own"
            )
    first = next((pool.image(0) for pool in pools.values() if len(pool)), None)
    floats, rgb = getattr(first, "dtype", np.uint8) == np.float32, splits.rgb and splits.channels >= COLOURS
    if (said.count, said.scaled, said.rgb) == (splits.channels, floats, rgb):
        return Given(channels=said)
    every = tuple(range(splits.channels)) if floats else None  # not PLAIN, which is of 8 bits
    return Given(channels=Channels(layers=(Layer(count=splits.channels, take=every),), rgb=rgb))
