"""The trees of data sets in miniature: their true file names, folders, lists, palettes and label values."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE = (66, 96)


def blocks(values: Sequence[int], seed: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    """A mask of 3 x 4 blocks, each of one of `values`."""
    drawn = np.random.default_rng(seed).choice(np.array(values), (3, 4))
    return np.kron(drawn, np.ones((size[0] // 3, size[1] // 4), int)).astype(np.uint8)


def image(path: Path, seed: int, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def mask(path: Path, values: NDArray[np.uint8] | NDArray[np.uint16], palette: list[int] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values)
    if palette:
        picture.putpalette(palette)
    picture.save(path)


def camvid(root: Path, *, images: int = 34, size: tuple[int, int] = (90, 120)) -> Path:
    for split, count in (("train", images), ("val", 2), ("test", 3)):
        lines = []
        for kind in (split, f"{split}annot"):
            (root / kind).mkdir(parents=True)
        for i in range(count):
            name = f"0001TP_{6690 + 30 * i:06d}"
            image(root / split / f"{name}.jpg", i, size)
            mask(root / f"{split}annot" / f"{name}.png", blocks(range(12), i, size))
            lines.append(f"{split}/{name}.jpg {split}annot/{name}.png")
        (root / f"{split}.txt").write_text("\n".join(lines))
    return root


VOC_TRAIN = [f"2007_{i:06d}" for i in (32, 39, 63, 68)]
VOC_VAL = ["2007_000033", "2007_000042"]
SBD_ONLY = [f"2008_{i:06d}" for i in range(2, 32)]
PALETTE = [c for i in range(256) for c in (i, 255 - i, 7 * i % 256)]


def voc(root: Path, *, augmented: bool = True) -> Path:
    """VOCdevkit/VOC2012 with 4 + 2 images that VOC has masks of, and 30 that SBD has; palette masks, void borders."""
    sets = root / "ImageSets" / "Segmentation"
    sets.mkdir(parents=True)
    for seed, name in enumerate([*VOC_TRAIN, *VOC_VAL, *SBD_ONLY]):
        image(root / "JPEGImages" / f"{name}.jpg", seed)
        values = blocks([*range(21), 255], seed)
        if name not in SBD_ONLY:
            mask(root / "SegmentationClass" / f"{name}.png", values, PALETTE)
        if augmented:
            mask(root / "SegmentationClassAug" / f"{name}.png", values)
    (sets / "train.txt").write_text("".join(f"{name}\n" for name in VOC_TRAIN))
    (sets / "val.txt").write_text("".join(f"{name}\n" for name in VOC_VAL))
    if augmented:
        (sets / "trainaug.txt").write_text("".join(f"{name}\n" for name in sorted(VOC_TRAIN + SBD_ONLY)))
    return root


def sbd(root: Path) -> Path:
    """SBD's `dataset`: .mat files of GTcls for its own images, and for two of VOC's, one of train and one of val."""
    from scipy.io import savemat

    (root / "cls").mkdir(parents=True)
    names = [*SBD_ONLY, VOC_TRAIN[0], VOC_VAL[0]]
    for seed, name in enumerate(names):
        boundaries = np.zeros((20, 1), object)
        savemat(
            root / "cls" / f"{name}.mat",
            {
                "GTcls": {
                    "Boundaries": boundaries,
                    "Segmentation": blocks(range(21), seed + 100),
                    "CategoriesPresent": np.arange(3),
                }
            },
        )
    (root / "train.txt").write_text("".join(f"{name}\n" for name in names[:20]))
    (root / "val.txt").write_text("".join(f"{name}\n" for name in names[20:]))
    return root


def cityscapes(root: Path, *, train_ids: bool = False) -> Path:
    """34 training images of three cities, 2 of validation, and an extra city without masks."""
    for split, cities in (
        ("train", ("aachen", "jena", "zurich")),
        ("val", ("lindau",)),
        ("train_extra", ("bayreuth",)),
    ):
        for i in range({"train": 34, "val": 2, "train_extra": 3}[split]):
            city = cities[i % len(cities)]
            stem = f"{split}/{city}/{city}_{i:06d}_000019"
            image(root / "leftImg8bit" / f"{stem}_leftImg8bit.png", i)
            if split != "train_extra":
                mask(root / "gtFine" / f"{stem}_gtFine_labelIds.png", blocks(range(34), i))
            if train_ids and split != "train_extra":
                mask(root / "gtFine" / f"{stem}_gtFine_labelTrainIds.png", blocks([*range(19), 255], i))
    return root


def ade20k(root: Path) -> Path:
    for split, short, count in (("training", "train", 34), ("validation", "val", 2)):
        for i in range(1, count + 1):
            image(root / "images" / split / f"ADE_{short}_{i:08d}.jpg", i)
            mask(root / "annotations" / split / f"ADE_{short}_{i:08d}.png", blocks(range(151), i))
    return root


def coco(root: Path) -> Path:
    for split, numbers in (("train2017", range(9, 9 + 34)), ("val2017", range(139, 141))):
        for i in numbers:
            image(root / split / f"{i:012d}.jpg", i)
            mask(root / "masks" / f"{i:012d}.png", blocks(range(81), i))
    return root


def idd(root: Path) -> Path:
    """Two drives whose frames have the same numbers; .png and, as in part II, .jpg images."""
    for split, count in (("train", 34), ("val", 2)):
        for i in range(count):
            stem, suffix = f"{split}/{i % 2}/frame{i // 2:04d}", ".png" if i < 30 else ".jpg"
            image(root / "leftImg8bit" / f"{stem}_leftImg8bit{suffix}", i)
            for level, classes in ((3, 26), (1, 7)):
                mask(root / "gtFine" / f"{stem}_gtFine_labellevel{level}Ids.png", blocks([*range(classes), 255], i))
    return root


def own(root: Path) -> Path:
    """The folders of configs/data/own.yaml."""
    for i in range(8):
        image(root / "labelled/images" / f"photo_{i}.jpg", i)
        mask(root / "labelled/masks" / f"photo_{i}.png", blocks([0, 1, 2, 255], i))
        image(root / "unlabelled" / f"snap_{i}.png", 100 + i)
    return root


def rgbd(root: Path) -> Path:
    """The folders of configs/data/rgbd.yaml: beside each picture its depth, 16 bits."""
    for pool, count in (("labelled", 8), ("unlabelled", 8)):
        for i in range(count):
            image(root / pool / "images" / f"{pool}_{i}.jpg", i + 100 * len(pool))
            depth = np.random.default_rng(i).integers(500, 9000, SIZE, dtype=np.uint16)
            mask(root / pool / "depth" / f"{pool}_{i}.png", depth)
            if pool == "labelled":
                mask(root / pool / "masks" / f"{pool}_{i}.png", blocks([0, 1, 2, 255], i))
    return root


def grey(root: Path) -> Path:
    """The folders of configs/data/grey.yaml: one channel of 16 bits."""
    for pool, count in (("labelled", 8), ("unlabelled", 8)):
        for i in range(count):
            values = np.random.default_rng(i + count * len(pool)).integers(0, 60000, SIZE, dtype=np.uint16)
            mask(root / pool / "images" / f"{pool}_{i}.png", values)
            if pool == "labelled":
                mask(root / pool / "masks" / f"{pool}_{i}.png", blocks([0, 1, 255], i))
    return root


BY_KIND = {
    "camvid": camvid,
    "voc": voc,
    "cityscapes": cityscapes,
    "ade20k": ade20k,
    "coco": coco,
    "idd": idd,
    "folder": own,
}
