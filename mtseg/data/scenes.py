"""Procedural scenes: the embedded data set, drawn from a seed, without files."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from numpy.random import SeedSequence, default_rng

from mtseg.data.drawing import SCENE_CLASSES, Image, Size, draw_scene
from mtseg.data.source import Source, Splits, Subset
from mtseg.data.splits import Labels, wanted
from mtseg.part import HEIGHT_WIDTH, part

POOLS = ("train", "val", "test")
SMALLEST_SIDE = 64  # the classes cannot be told apart in fewer pixels
_INKS = "262c3a 569cd6 ecb24b 6ab787 de6b5e a07dc8 f0e2aa"
PALETTE = np.array([list(bytes.fromhex(ink)) for ink in _INKS.split()], np.uint8)  # (K, 3)


@dataclass(frozen=True)
class SceneSource:
    """Scenes 0 to `count` - 1 of one pool; scene i depends on (seed, pool, i, size) alone.

    Scenes are drawn when first read and kept: `count` * H * W * 4 bytes once all were read.
    A pickled source travels without them.
    """

    seed: int
    count: int
    size: Size  # (H, W), each >= 64
    pool: Literal["train", "val", "test"] = "train"
    _drawn: dict[int, tuple[Image, Image]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return self.count

    def __reduce__(self) -> tuple[Any, ...]:
        return SceneSource, (self.seed, self.count, self.size, self.pool)

    def name(self, index: int) -> str:
        return f"scene-{self.pool}-{self.seed}-{index:06d}"

    def image(self, index: int) -> Image:  # (H, W, 3) RGB
        return self._scene(index)[0].copy()

    def label(self, index: int) -> Image:  # (H, W) in [0, K) or IGNORE
        return self._scene(index)[1].copy()

    def _scene(self, index: int) -> tuple[Image, Image]:
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        if index not in self._drawn:
            stream = SeedSequence(self.seed, spawn_key=(POOLS.index(self.pool), index))
            # Taking turns in front puts every class into any run of K - 1 scenes, hence into few labels.
            front = 1 + index % (len(SCENE_CLASSES) - 1)
            self._drawn[index] = draw_scene(default_rng(stream), self.size, front)
        return self._drawn[index]


@part
class Scenes:
    """The embedded data set: scenes of `size` that the program draws, by `seed`; no files are needed.

    Of its `images` training scenes the first `labels` (a number, a share, `all`) are labelled; `unlabelled` are `all`
    of them, or the `rest`. `val` and `test` further ones are for scores.
    """

    kind: Literal["scenes"] = "scenes"
    size: Annotated[tuple[int, int], HEIGHT_WIDTH] = (64, 96)
    images: int = 400
    labels: Labels = 16
    val: int = 50
    test: int = 100
    seed: int = 0
    unlabelled: Literal["all", "rest"] = "all"  # rest: without the labelled scenes

    def __post_init__(self) -> None:
        if min(self.size) < SMALLEST_SIDE:
            raise ValueError(f"size: {self.size} has a side under {SMALLEST_SIDE}: choose larger sides (H, W)")
        for key in ("images", "val", "test"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}: {getattr(self, key)} is not at least 1: choose a positive number")
        wanted(self.images, self.labels)
        if self.seed < 0:
            raise ValueError(f"seed: {self.seed} is negative: choose 0 or more")
        if self.unlabelled == "rest" and wanted(self.images, self.labels) == self.images:
            raise ValueError(f"unlabelled: rest of {self.images} images is empty: lower labels or choose all")

    def build(self) -> Splits:
        """The four pools; no scene is drawn yet."""
        labels = wanted(self.images, self.labels)
        train = SceneSource(self.seed, self.images, self.size, "train")
        rest: Source = Subset(train, range(labels, self.images))
        return Splits(
            classes=SCENE_CLASSES,
            palette=PALETTE.copy(),
            labelled=Subset(train, range(labels)),
            unlabelled=train if self.unlabelled == "all" else rest,
            val=SceneSource(self.seed, self.val, self.size, "val"),
            test=SceneSource(self.seed, self.test, self.size, "test"),
            name=f"scenes {labels} of {self.images} seed {self.seed}",
        )
