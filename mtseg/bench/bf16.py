"""The networks of a training step in bfloat16 against float32. It pays where the processor multiplies it natively."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch

from mtseg.bench.asked import Asked
from mtseg.bench.made import CLASSES
from mtseg.bench.networks import floor, forwards
from mtseg.bench.paired import Group, Ratio, clock_of, timed
from mtseg.bench.step import batches, configs
from mtseg.state import sized
from mtseg.step import train_step


def measure(asked: Asked) -> Iterator[Group]:
    """A group for each case of `step`: its forwards and backwards, without what a step does around them."""
    device = torch.device(asked.device)
    for name, config in configs(asked):
        state = sized(config, len(CLASSES), 8, device=device, pretrained=False)
        (batch,) = batches(config, 1, device)
        made = forwards(state, partial(train_step, config, state, batch))
        cases = {
            kind: floor([replace(forward, dtype=dtype) for forward in made])
            for kind, dtype in (("float32", None), ("bfloat16", torch.bfloat16))
        }
        seconds = timed(cases, rounds=asked.rounds, clock=clock_of(device))
        yield Group(name, seconds, (Ratio("float32", "bfloat16", at_least=1.6),))
