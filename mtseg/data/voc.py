"""PASCAL VOC 2012, 21 classes; official palette masks, or those augmented with SBD's (10,582 training images)."""

from pathlib import Path, PurePath
from typing import Literal

from mtseg.data.assemble import Which, assemble
from mtseg.data.files import OnBadImage, Pool
from mtseg.data.layout import Layout
from mtseg.data.lists import read_list
from mtseg.data.masks import in_order
from mtseg.data.palette import voc_colours
from mtseg.data.provenance import Expect, Expected
from mtseg.data.source import Splits
from mtseg.data.splits import Labels
from mtseg.data.tree import Tree, without_suffix
from mtseg.part import part

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
GUIDE = "datasets/voc/README.md"
WITHOUT_SBD = (
    "datasets/voc/prepare.py makes trainaug and SegmentationClassAug with SBD's masks, and without them "
    "data.train=train data.masks=SegmentationClass takes VOC's own"
)


@part
class Voc:
    """VOC 2012 under `root` (VOCdevkit/VOC2012).

    `train` is the list in ImageSets/Segmentation of all training images: `trainaug` (10,582, from prepare.py) or the
    official `train` (1,464). `masks` is the folder of the labelled images' masks; those of val are the official ones.
    """

    kind: Literal["voc"] = "voc"
    root: Path
    train: Literal["trainaug", "train"] = "trainaug"
    masks: Literal["SegmentationClassAug", "SegmentationClass"] = "SegmentationClassAug"
    labels: Labels = "all"
    split_seed: int = 0
    split: Path | None = None
    unlabelled: Which = "all"
    expect: Expect = Expected()
    on_bad_image: OnBadImage = "error"
    cache: Path | None = None
    allow_outside_root: bool = False

    def build(self) -> Splits:
        """Read the lists. Raises ValueError for lists or masks that are not there."""
        tree = Tree(self.root, outside=self.allow_outside_root)
        tree.need("JPEGImages", GUIDE)
        layout = Layout(
            name="voc",
            classes=CLASSES,
            palette=voc_colours(len(CLASSES)),
            values=in_order(len(CLASSES)),
            train=lambda: self._listed(self.train, self.masks),
            val=lambda: self._listed("val", "SegmentationClass"),
            remedy=f"unpack all of VOC's trainval; {WITHOUT_SBD} ({GUIDE})",
            known=lambda: self._named([PurePath(name).stem for name in tree.files("JPEGImages")], self.masks),
        )
        return assemble(self, layout, tree)

    def _listed(self, name: str, masks: str) -> Pool:
        path = self.root / "ImageSets" / "Segmentation" / f"{name}.txt"
        if not path.is_file():
            raise ValueError(f"data.root: no {path}; see {GUIDE} for the tree; {WITHOUT_SBD}")
        return self._named([without_suffix(entry.image.split("/")[-1]) for entry in read_list(path)], masks)

    def _named(self, ids: list[str], masks: str) -> Pool:
        return Pool([f"JPEGImages/{i}.jpg" for i in ids], [f"{masks}/{i}.png" for i in ids])
