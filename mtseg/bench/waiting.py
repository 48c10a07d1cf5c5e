"""How long the steps of a run wait for their batches, by the wall clock, with loading processes beside them."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from mtseg.bench.asked import Asked
from mtseg.bench.made import CLASSES, in_files
from mtseg.bench.paired import Group, Ratio, Seconds
from mtseg.bench.step import configs
from mtseg.config import Config
from mtseg.data.loading import loader
from mtseg.data.source import Splits
from mtseg.data.stream import Stream
from mtseg.state import sized
from mtseg.step import train_step

SIZE, FILES, FIRST = (375, 500), 16, 3  # of the images; of each kind; steps that do not count
WAITING, WHOLE = "waiting for the batch", "a step and its waiting"


def measure(asked: Asked) -> Iterator[Group]:
    """A group for each case of `step`; `rounds` are steps, and `workers=N` among the words says how many load."""
    for name, config in configs(asked):
        with tempfile.TemporaryDirectory() as place:
            seconds = _waited(config, in_files(Path(place), FILES, SIZE), asked.rounds)
        yield Group(f"{name}, wall, {config.workers} loading", seconds, (Ratio(WAITING, WHOLE),))


def _waited(config: Config, splits: Splits, steps: int) -> Seconds:
    device = torch.device(config.device)
    state = sized(config, len(CLASSES), len(splits.unlabelled), device=device, pretrained=False)
    students = config.method.views_of_student if config.method.branches else None
    stream = Stream(splits, views=config.views, sizes=config.batch, students=students, seed=config.seed)
    batches = loader(stream, range(FIRST + steps), workers=config.workers, pin=device.type == "cuda")
    seconds: Seconds = {WAITING: [], WHOLE: []}
    for _ in range(FIRST + steps):
        start = time.perf_counter()
        batch = next(batches)
        seconds[WAITING].append(time.perf_counter() - start)
        float(train_step(config, state, batch.to(device))["loss"])  # done, on a GPU too
        seconds[WHOLE].append(time.perf_counter() - start)
    batches.close()
    return {case: taken[FIRST:] for case, taken in seconds.items()}
