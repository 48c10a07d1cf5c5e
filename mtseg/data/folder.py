"""Anybody's own images: folders, globs or lists, with masks for some of them."""

import os
import zlib
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mtseg.data.assemble import Which, assemble
from mtseg.data.channels import PLAIN, Channels
from mtseg.data.files import OnBadImage, Pool
from mtseg.data.layout import Layout
from mtseg.data.masks import NO_CLASS, LabelMap, by_words
from mtseg.data.match import Images, Labelled, Masked, masked, unmasked
from mtseg.data.palette import check_named, distinct, inks
from mtseg.data.provenance import Expect, Expected
from mtseg.data.source import IGNORE, Splits
from mtseg.data.splits import Labels, number_of
from mtseg.data.tree import Tree
from mtseg.part import part
from mtseg.randomness import generator

Share = Annotated[float, Field(gt=0, lt=1)]
WHITE = 0xFFFFFF
Raw = Annotated[int, Field(ge=0, le=65535)]


@part
class Folder:
    """Images of one's own under `root`; all paths are relative to it.

    `labelled` have masks, of which `labels` are used (the others join the unlabelled images); `unlabelled` have none.
    `val` names images with masks, or is a share of `labelled` that is kept apart, drawn by their names and
    `split_seed`; `test` may be left out. A mask holds class indices and `ignore`, or what `mask_map` maps to a
    class: raw values or colours (`"#804080"`, `"128, 64, 128"`), to the index or the name of a class, or to
    `ignore`. What else stands in a mask is an error, or ignored with `other: ignore`. `channels` says what an image
    consists of where it is not one file of red, green and blue. `palette` has a colour for each class, for
    pictures; without it they are those of `mask_map`, where it has one for each class, none white, or well-spaced
    ones, class 0 black.
    """

    kind: Literal["folder"] = "folder"
    root: Path
    classes: Annotated[tuple[str, ...], Field(min_length=1, max_length=IGNORE)]
    labelled: Labelled
    unlabelled: Images | None = None
    val: Masked | Share
    test: Masked | None = None
    ignore: Raw | None = IGNORE
    mask_map: dict[str, int | str] = Field(default_factory=dict)
    other: Literal["error", "ignore"] = "error"
    channels: Channels = PLAIN
    palette: tuple[str, ...] = ()
    labels: Labels = "all"
    split_seed: Annotated[int, Field(ge=0)] = 0
    split: Path | None = None
    expect: Expect = Expected()
    on_bad_image: OnBadImage = "error"
    cache: Path | None = None
    allow_outside_root: bool = False

    def __post_init__(self) -> None:
        check_named(self.classes, self.palette or ["000000"] * len(self.classes))
        if not self.mask_map and self.ignore is not None and self.ignore < len(self.classes):
            raise ValueError(
                f"ignore: {self.ignore} is the value of class {self.classes[self.ignore]!r} too; set ignore: null, or "
                "say in mask_map what each value is"
            )
        self.values()

    def build(self) -> Splits:
        """List the folders. Raises ValueError for images without masks, masks without images, and empty folders."""
        tree = Tree(self.root, outside=self.allow_outside_root)
        test = masked(tree, self.test, "test") if self.test else Pool([], [])
        named = {"test": test} | ({"val": masked(tree, self.val, "val")} if isinstance(self.val, Masked) else {})
        apart = {name for pool in self.labelled.without if pool in named for name in named[pool].images}
        whole = _left(masked(tree, self.labelled, "labelled"), apart)
        train, val = (whole, named["val"]) if "val" in named else self._parted(whole)
        others = self._others(tree, {*whole.masks, *val.masks, *test.masks})
        layout = Layout(
            name=self.root.name or "folder",
            classes=self.classes,
            palette=inks(" ".join(self.palette)) if self.palette else self._colours(),
            values=self.values(),
            train=lambda: train,
            val=lambda: val,
            test=lambda: test,
            extra=tuple(others),
            without=self.unlabelled.without if self.unlabelled else (),
            endings=(self.labelled.ending,),
            channels=self.channels,
        )
        every = self.split is None and number_of(len(train.images), self.labels, "data.labels") == len(train.images)
        which: Which = "all" if every and not others else "rest"
        keys = (self.root, self.labels, self.split_seed, self.split, which, self.expect, self.on_bad_image, self.cache)
        return assemble(_Chosen(*keys), layout, tree)

    def values(self) -> LabelMap:
        """What each raw value or colour of a mask means. Raises ValueError for keys and classes that mean nothing."""
        return by_words(
            self.classes, self.mask_map, void=self.ignore, other=IGNORE if self.other == "ignore" else NO_CLASS
        )

    def _colours(self) -> NDArray[np.uint8]:
        """Those of the masks, where `mask_map` has one for each class, and white, which means void in pictures, for
        none; else ones that are well told apart."""
        values, count = self.values(), len(self.classes)
        own = {int(kind): code for kind, code in zip(values.inks, values.colours.tolist(), strict=True) if kind < count}
        each = sorted(kind for kind in values.inks.tolist() if kind < count) == list(range(count))
        if not each or WHITE in own.values():
            return distinct(count)
        return inks(" ".join(f"{own[kind]:06x}" for kind in range(count)))

    def _others(self, tree: Tree, masks: Set[str]) -> list[str]:
        """The images of `unlabelled`, none of which is a mask."""
        pools = {"labelled": self.labelled, "val": self.val, "test": self.test}
        named = {key: pool for key, pool in pools.items() if isinstance(pool, Masked)}
        return unmasked(tree, self.unlabelled, masks, named) if self.unlabelled else []

    def _parted(self, whole: Pool) -> tuple[Pool, Pool]:
        """Training and validation images: a share of the labelled ones, rounded, at least one of each.

        Each name has a number of its own, drawn by the seed, and the lowest are validation images: where images are
        added or taken away, few others change sides, and all of these to the same one.
        """
        assert isinstance(self.val, float)
        count = len(whole.images)
        wanted = max(1, round(count * self.val))
        if wanted >= count:
            raise ValueError(f"data.val: {self.val} of {count} labelled images leaves none to train on; lower it")
        drawn = [self._drawn(name) for name in whole.images]
        apart = set(sorted(range(count), key=drawn.__getitem__)[:wanted])
        return tuple(  # type: ignore[return-value]
            Pool([whole.images[i] for i in side], [whole.masks[i] for i in side])
            for side in ([i for i in range(count) if i not in apart], sorted(apart))
        )

    def _drawn(self, name: str) -> float:
        return generator(self.split_seed, "validation images", zlib.crc32(os.fsencode(name))).random()


def _left(pool: Pool, apart: Set[str]) -> Pool:
    """The images of `pool` that are not `apart`, and their masks. Raises ValueError where none is."""
    kept = [(name, mask) for name, mask in zip(pool.images, pool.masks, strict=True) if name not in apart]
    if pool.images and not kept:
        raise ValueError(
            f"data.labelled.without: it leaves none of {len(pool.images)} labelled images; name fewer pools"
        )
    return Pool([name for name, _ in kept], [mask for _, mask in kept])


@dataclass(frozen=True)
class _Chosen:
    """A folder's keys as `assemble` wants them: its unlabelled images are those without masks, and the rest."""

    root: Path
    labels: Labels
    split_seed: int
    split: Path | None
    unlabelled: Which
    expect: Expected
    on_bad_image: OnBadImage
    cache: Path | None
