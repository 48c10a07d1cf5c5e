"""CamVid, 11 classes, in the layout of the SegNet tutorial: lists of `image mask` lines beside their folders."""

from pathlib import Path
from typing import Literal

from mtseg.data.assemble import Which, assemble
from mtseg.data.files import OnBadImage, Pool
from mtseg.data.layout import Layout
from mtseg.data.masks import in_order
from mtseg.data.match import pairs
from mtseg.data.palette import inks
from mtseg.data.provenance import Expect, Expected
from mtseg.data.source import Splits
from mtseg.data.splits import Labels
from mtseg.data.tree import Tree
from mtseg.part import part

CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree"),
    *("sign", "fence", "car", "pedestrian", "bicyclist"),
)
VOID = 11
PALETTE = inks("808080 800000 c0c080 804080 3c28de 808000 c08080 404080 400080 404000 0080c0")
TUTORIAL = "/SegNet/CamVid/"  # with which the tutorial's own lists begin their names


@part
class Camvid:
    """CamVid under `root`; `labels` says how many of its 367 training images keep their masks."""

    kind: Literal["camvid"] = "camvid"
    root: Path
    labels: Labels = "all"
    split_seed: int = 0
    split: Path | None = None
    unlabelled: Which = "all"
    expect: Expect = Expected()
    on_bad_image: OnBadImage = "error"
    cache: Path | None = None
    allow_outside_root: bool = False

    def build(self) -> Splits:
        """Read the three lists. Raises ValueError where one is missing, or a line is not an image and a mask."""
        tree = Tree(self.root, outside=self.allow_outside_root)
        layout = Layout(
            name="camvid",
            classes=CLASSES,
            palette=PALETTE,
            values=in_order(len(CLASSES), void=VOID),
            train=lambda: _pool(tree, "train"),
            val=lambda: _pool(tree, "val"),
            test=lambda: _pool(tree, "test"),
        )
        return assemble(self, layout, tree)


def _pool(tree: Tree, split: str) -> Pool:
    path = tree.root / f"{split}.txt"
    if not path.is_file():
        raise ValueError(f"data.root: no {path}; see datasets/camvid/README.md for the expected tree")
    return pairs(tree, path, prefix=TUTORIAL)
