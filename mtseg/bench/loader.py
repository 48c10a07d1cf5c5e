"""From files to the tensors of a step: a pair is a labelled image in one view, and an unlabelled one in two."""

import random
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import cv2
import torch
from pydantic import JsonValue
from torch.utils.data import default_collate

from mtseg.bench.asked import Asked
from mtseg.bench.baselines import Albumentations, Open, Pil
from mtseg.bench.made import in_files, read
from mtseg.bench.paired import Group, Ratio, clock_of, timed
from mtseg.colour import Colour
from mtseg.data.batch import BatchSizes
from mtseg.data.files import Files
from mtseg.data.source import Splits
from mtseg.data.stream import Stream
from mtseg.geometry import Geometry
from mtseg.views import Policy, StudentPolicy, Views

CASES = {"500x375 to 321": ((375, 500), 321), "2048x1024 to 512": ((1024, 2048), 512)}
BATCH = 4  # pairs
FILES = 8  # of each kind
OURS, PIL, ALL, FIRST = "mtseg", "PIL and torchvision", "albumentations", "albumentations, crop first"
NORMAL, DECODED, KEPT = "mtseg, normalised on the CPU too", "mtseg, decoding alone", "mtseg, from data.cache"
RATIOS = (
    Ratio(PIL, OURS, at_least=5),
    Ratio(ALL, OURS, at_least=1.5),
    Ratio(FIRST, OURS),
    Ratio(DECODED, OURS),
    Ratio(PIL, KEPT),
    Ratio(ALL, KEPT),
)


def measure(asked: Asked) -> Iterator[Group]:
    """A group for each size of files; seconds are those of a pair, on one core, without loading processes."""
    cv2.setNumThreads(0)
    for name, (size, crop) in CASES.items():
        if asked.case in name:
            with tempfile.TemporaryDirectory() as place:
                splits = in_files(Path(place), FILES, size)
                kept = read(Path(place), Path(place) / "cache")
                seconds = timed(_cases(splits, kept, crop), rounds=asked.rounds, clock=clock_of(torch.device("cpu")))
            pairs = {case: [value / BATCH for value in taken] for case, taken in seconds.items()}
            yield Group(f"a pair, {name}", pairs, RATIOS)


def _cases(splits: Splits, kept: Splits, crop: int) -> dict[str, Callable[[], object]]:
    """`kept`: the same files with a cache, which is filled first."""
    views = _views(crop)
    sizes = BatchSizes(labelled=BATCH, unlabelled=BATCH)
    stream, cached = (Stream(of, views=views, sizes=sizes, students=1, seed=0) for of in (splits, kept))
    step = count()
    for source in (kept.labelled, kept.unlabelled):
        for index in range(len(source)):
            source.image(index)
    for index in range(len(kept.labelled)):
        kept.labelled.label(index)

    def normalised() -> None:
        batch = stream[next(step)]
        for crops in (batch.labelled, batch.teacher, *batch.students):
            assert crops is not None
            crops.view(views)

    labelled, unlabelled, turn = splits.labelled, splits.unlabelled, count()

    def decoded() -> None:
        for index in (next(turn) for _ in range(BATCH)):
            labelled.image(index % len(labelled))
            labelled.label(index % len(labelled))
            unlabelled.image(index % len(unlabelled))

    return {
        OURS: lambda: stream[next(step)],
        NORMAL: normalised,
        KEPT: lambda: cached[next(step)],
        DECODED: decoded,
        PIL: _batches(splits, Pil(crop)),
        ALL: _batches(splits, Albumentations(crop, first=False)),
        FIRST: _batches(splits, Albumentations(crop, first=True)),
    }


def _views(crop: int) -> Views:
    """Those of the baselines."""
    geometry = Geometry(scale=(0.5, 2.0), flip=0.5)
    jitter: dict[str, JsonValue] = {
        "brightness": [0.5, 1.5],
        "contrast": [0.5, 1.5],
        "saturation": [0.5, 1.5],
        "hue": [-0.25, 0.25],
    }
    colour = (
        Colour(name="ColorJitter", p=0.8, params=jitter),
        Colour(name="ToGray", p=0.2),
        Colour(name="GaussianBlur", p=0.5, params={"sigma_limit": [0.1, 2.0]}),
    )
    policy = Policy(geometry=geometry)
    return Views(
        crop=(crop, crop), labelled=policy, teacher=policy, student=StudentPolicy(geometry=geometry, colour=colour)
    )


def _batches(splits: Splits, opened: Open) -> Callable[[], object]:
    """What makes the next batch, of files drawn at random, with `opened`."""
    labelled, unlabelled = splits.labelled, splits.unlabelled
    assert isinstance(labelled, Files)
    assert isinstance(unlabelled, Files)
    pairs = [
        (labelled.root / labelled.name(i), labelled.root / str(labelled.mask_name(i))) for i in range(len(labelled))
    ]
    alone = [unlabelled.root / unlabelled.name(i) for i in range(len(unlabelled))]
    draw = random.Random(0)

    def batch() -> object:
        first = default_collate([opened(*draw.choice(pairs)) for _ in range(BATCH)])
        return first, default_collate([opened(draw.choice(alone), None) for _ in range(BATCH)])

    return batch
