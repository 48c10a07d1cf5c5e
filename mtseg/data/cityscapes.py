"""Cityscapes, 19 classes of the 34 labels, in its own tree: leftImg8bit and gtFine."""

from pathlib import Path
from typing import Literal

from mtseg.data.assemble import Which, assemble
from mtseg.data.files import OnBadImage, Pool
from mtseg.data.layout import Layout
from mtseg.data.masks import by_value, in_order
from mtseg.data.palette import inks
from mtseg.data.provenance import Expect, Expected
from mtseg.data.source import IGNORE, Splits
from mtseg.data.splits import Labels
from mtseg.data.tree import Tree
from mtseg.part import part

CLASSES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)  # of the classes, in order
TRAIN_ID = dict.fromkeys(range(34), IGNORE) | {raw: train for train, raw in enumerate(LABEL_IDS)}  # labelId -> class
PALETTE = inks(
    "804080 f423e8 464646 66669c be9999 999999 faaa1e dcdc00 6b8e23 98fb98 "
    "4682b4 dc143c ff0000 00008e 000046 003c64 005064 0000e6 770b20"
)
IMAGE = "_leftImg8bit.png"
GUIDE = "datasets/cityscapes/README.md"
REMEDY = {
    "labelIds": "unpack all of gtFine_trainvaltest.zip into data.root",
    "labelTrainIds": "datasets/cityscapes/prepare.py --train-ids makes them; or say data.masks=labelIds",
}


@part
class Cityscapes:
    """Cityscapes under `root`; `masks` are the official `labelIds`, mapped here, or ready `labelTrainIds`."""

    kind: Literal["cityscapes"] = "cityscapes"
    root: Path
    masks: Literal["labelIds", "labelTrainIds"] = "labelIds"
    labels: Labels = "all"
    split_seed: int = 0
    split: Path | None = None
    unlabelled: Which = "all"
    expect: Expect = Expected()
    on_bad_image: OnBadImage = "error"
    cache: Path | None = None
    allow_outside_root: bool = False

    def build(self) -> Splits:
        """List the folders. Raises ValueError for folders, lists or masks that are not there."""
        tree = Tree(self.root, outside=self.allow_outside_root)
        tree.need("leftImg8bit", GUIDE)
        layout = Layout(
            name="cityscapes",
            classes=CLASSES,
            palette=PALETTE,
            values=by_value(TRAIN_ID) if self.masks == "labelIds" else in_order(len(CLASSES)),
            train=lambda: self._pool(tree, "train"),
            val=lambda: self._pool(tree, "val"),
            remedy=f"{REMEDY[self.masks]} ({GUIDE})",
            endings=("_leftImg8bit", "_gtFine_labelTrainIds", "_gtFine_labelIds", "_gtFine"),
        )
        return assemble(self, layout, tree)

    def _pool(self, tree: Tree, split: str) -> Pool:
        tree.need(f"leftImg8bit/{split}", GUIDE)
        images = [name for name in tree.files(f"leftImg8bit/{split}") if name.endswith(IMAGE)]
        if not images:
            raise ValueError(f"{self.root}/leftImg8bit/{split}: no CITY/*{IMAGE}; see {GUIDE}")
        stems = [name.removesuffix(IMAGE).removeprefix("leftImg8bit/") for name in images]
        return Pool(images, [f"gtFine/{stem}_gtFine_{self.masks}.png" for stem in stems])
