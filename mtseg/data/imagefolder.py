"""Images in a folder a class: ImageNet as it is unpacked, and anybody's own."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mtseg.data.choose import drawn, listed, refuse_two_ways
from mtseg.data.decode import read_image
from mtseg.data.palette import colours
from mtseg.data.provenance import Expect, Expected, checked
from mtseg.data.source import UNKNOWN, Label, Pixels, Splits, Subset
from mtseg.data.tree import Tree, first
from mtseg.part import part

Count = Annotated[int, Field(ge=1)]


@part
class ImageFolder:
    """Images under `root`/train/CLASS and `root`/val/CLASS, and `root`/test/CLASS where there is that.

    Images that nobody has labelled lie under `root`/unlabelled, at any depth, and join the unlabelled pool. That also
    has `all` training images, or the `rest` of them, those that are not labelled.
    `labels` of the training images are labelled: a number, the same of each class, or `all`; or `per_class` of each; or
    those of the list `split`, or of labelled.txt in that folder, a line CLASS/FILE, or `file class`, each. `side`:
    validation and test images are scaled so that their shorter side is that (`eval.predictor: {kind: centre}` then asks
    about their centre).
    """

    kind: Literal["image_folder"] = "image_folder"
    root: Path
    labels: Count | Literal["all"] = "all"
    per_class: Count | None = None
    split_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    split: Path | None = None
    unlabelled: Literal["all", "rest"] = "all"
    side: Count | None = None
    expect: Expect = Expected()
    allow_outside_root: bool = False

    def __post_init__(self) -> None:
        refuse_two_ways(self.labels, self.per_class, self.split)

    def build(self) -> Splits:
        """List the folders. Raises ValueError for those that are missing, empty, or of other classes."""
        classes = _folders(self.root / "train")
        tree = Tree(self.root, outside=self.allow_outside_root)
        train, val = (_pictures(tree, side, classes) for side in ("train", "val"))
        test = _pictures(tree, "test", classes) if (self.root / "test").is_dir() else Pictures(self.root, [], [])
        chosen = self._chosen(train, classes)
        whole = _with(train, sorted(tree.files("unlabelled")) if (self.root / "unlabelled").is_dir() else [])
        every = np.arange(len(whole))
        pool = every if self.unlabelled == "all" else np.setdiff1d(every, chosen)
        if not len(pool):
            raise ValueError(
                "data.unlabelled: 'rest' leaves nothing where every image is labelled; use 'all', or put others into "
                f"{self.root / 'unlabelled'}"
            )
        splits = Splits(
            classes=classes,
            palette=colours(len(classes)),
            labelled=Subset(whole, chosen),
            unlabelled=Subset(whole, pool),
            val=Pictures(val.root, val.names, val.classes, self.side),
            test=Pictures(test.root, test.names, test.classes, self.side),
            labelled_to_score=Subset(replace(train, side=self.side), chosen),
            name=f"{self.root.name} {self.split or self._choice(len(chosen), len(train))}",
        )
        return checked(splits, self.expect)

    def _choice(self, labelled: int, every: int) -> str:
        return "all" if labelled == every else f"{labelled} seed {self.split_seed}"

    def _chosen(self, train: "Pictures", classes: tuple[str, ...]) -> NDArray[np.int64]:
        labels = np.array(train.classes, np.int64)
        if self.split is not None:
            return listed(self.root / self.split, labels, classes, train.names)
        random = np.random.RandomState(self.split_seed)
        return drawn(self.labels, labels, random, classes, per_class=self.per_class)


@dataclass(frozen=True, eq=False)
class Pictures:
    """The images `names` under `root`, each of one of the `classes`, scaled to a shorter `side` where one is given."""

    root: Path
    names: list[str]
    classes: list[int]
    side: int | None = None

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def file(self, index: int) -> Path:
        return self.root / self.names[index]

    def bytes(self, index: int) -> tuple[int, ...]:
        return (self.file(index).stat().st_size,)

    def image(self, index: int) -> NDArray[np.uint8]:
        return scaled(read_image(self.file(index)), self.side)

    def label(self, index: int) -> Label:
        return np.array(self.classes[index], np.int64)


def scaled(image: Pixels, side: int | None) -> Pixels:
    """An image (H, W, C) whose shorter side is `side`; as it is where that is so, or where it is None."""
    h, w = image.shape[:2]
    if side is None or min(h, w) == side:
        return image
    scale = side / min(h, w)
    size = (max(side, round(w * scale)), max(side, round(h * scale)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=how), image.dtype)


def _with(train: Pictures, unlabelled: list[str]) -> Pictures:
    """The training images, and after them those of which no class is known."""
    return replace(train, names=train.names + unlabelled, classes=train.classes + [UNKNOWN] * len(unlabelled))


def _folders(root: Path) -> tuple[str, ...]:
    inside = root.iterdir() if root.is_dir() else ()
    names = tuple(sorted(inner.name for inner in inside if inner.is_dir() and not inner.name.startswith(".")))
    if len(names) < 2:
        raise ValueError(f"data.root: {root} has no two folders of classes; put images into {root}/CLASS/")
    return names


def _pictures(tree: Tree, side: str, classes: tuple[str, ...]) -> Pictures:
    """The images of a side, class by class, in the order of their paths."""
    root = tree.root
    if side != "train" and (here := _folders(root / side)) != classes:
        missing, more = (sorted({*one} - {*other}) for one, other in ((classes, here), (here, classes)))
        lacks = [f"lacks {first(missing)}"] if missing else []
        has = [f"has {first(more)}, which {root}/train has not"] if more else []
        raise ValueError(
            f"data.root: {root / side} has other folders of classes than {root}/train: it {' and '.join(lacks + has)}; "
            "give both the same (a folder may be empty)"
        )
    found = [
        (name, number)
        for number, folder in enumerate(classes)
        for name in sorted(tree.files(f"{side}/{folder}"), key=lambda name: name.split("/"))
    ]
    tree.refuse_links([name for name, _ in found])
    empty = [name for number, name in enumerate(classes) if number not in {place for _, place in found}]
    if empty and side == "train":
        raise ValueError(f"data.root: {root / side / empty[0]} has no image; put some into it, or take it away")
    return Pictures(root, [name for name, _ in found], [number for _, number in found])
