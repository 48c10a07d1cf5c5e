"""IDD (India Driving Dataset) segmentation: 26 classes (level 3 ids) or 7 (level 1), in its own tree."""

from pathlib import Path
from typing import Literal

from mtseg.data.assemble import Which, assemble
from mtseg.data.files import OnBadImage, Pool
from mtseg.data.layout import Layout
from mtseg.data.masks import in_order
from mtseg.data.palette import inks
from mtseg.data.provenance import Expect, Expected
from mtseg.data.source import Splits
from mtseg.data.splits import Labels
from mtseg.data.tree import Tree, without_suffix
from mtseg.part import part

# Each id is called after the first label of its group in the data set's own table (AutoNUE, anue_labels).
LEVEL3 = (
    *("road", "parking", "sidewalk", "rail track", "person", "rider", "motorcycle", "bicycle", "autorickshaw"),
    *("car", "truck", "bus", "vehicle fallback", "curb", "wall", "fence", "guard rail", "billboard", "traffic sign"),
    *("traffic light", "pole", "obstacle", "building", "bridge", "vegetation", "sky"),
)
LEVEL1 = ("drivable", "non-drivable", "living thing", "vehicle", "roadside object", "far object", "sky")
PALETTES = {
    3: inks(
        "804080 faaaa0 f423e8 e6968c dc143c ff0000 0000e6 770b20 ffcc36 00008e 000046 003c64 888f99 "
        "dcbe28 66669c be9999 b4a5b4 ae4043 dcdc00 faaa1e 999999 a9bbd6 464646 966464 6b8e23 4682b4"
    ),
    1: inks("804080 f423e8 dc143c 00008e dcbe28 464646 4682b4"),
}
ENDING = "_leftImg8bit"


@part
class Idd:
    """IDD under `root`; `level` 3 reads gtFine's `labellevel3Ids` masks (26 classes), 1 `labellevel1Ids` (7)."""

    kind: Literal["idd"] = "idd"
    root: Path
    level: Literal[3, 1] = 3
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
        tree, classes = Tree(self.root, outside=self.allow_outside_root), LEVEL3 if self.level == 3 else LEVEL1
        layout = Layout(
            name=f"idd level {self.level}",
            classes=classes,
            palette=PALETTES[self.level],
            values=in_order(len(classes)),
            train=lambda: self._pool(tree, "train"),
            val=lambda: self._pool(tree, "val"),
            depth=2,  # frame numbers repeat from drive to drive
            endings=(ENDING, f"_gtFine_labellevel{self.level}Ids"),
        )
        return assemble(self, layout, tree)

    def _pool(self, tree: Tree, split: str) -> Pool:
        images = [name for name in tree.files(f"leftImg8bit/{split}") if without_suffix(name).endswith(ENDING)]
        if not images:
            raise ValueError(f"{self.root}/leftImg8bit/{split}: no DRIVE/*{ENDING}.png; see datasets/idd/README.md")
        stems = [without_suffix(name).removesuffix(ENDING).removeprefix("leftImg8bit/") for name in images]
        return Pool(images, [f"gtFine/{stem}_gtFine_labellevel{self.level}Ids.png" for stem in stems])
