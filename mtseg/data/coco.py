"""COCO with 81 classes as the semi-supervised field uses it: 80 things, and everything else as class 0."""

from pathlib import Path
from typing import Literal

from mtseg.data.assemble import Which, assemble
from mtseg.data.files import OnBadImage, Pool
from mtseg.data.layout import Layout
from mtseg.data.masks import in_order
from mtseg.data.palette import voc_colours
from mtseg.data.provenance import Expect, Expected
from mtseg.data.source import Splits
from mtseg.data.splits import Labels
from mtseg.data.tree import Tree
from mtseg.part import part

CLASSES = tuple(
    """background, person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant,
    stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack,
    umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove,
    skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich,
    orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv,
    laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase,
    scissors, teddy bear, hair drier, toothbrush""".replace("\n    ", " ").split(", ")
)


@part
class Coco:
    """COCO 2017 under `root`: train2017, val2017, and masks/ID.png for both; void is class 0, 255 is ignored."""

    kind: Literal["coco"] = "coco"
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
        """List the folders. Raises ValueError for folders, lists or masks that are not there."""
        tree = Tree(self.root, outside=self.allow_outside_root)
        layout = Layout(
            name="coco",
            classes=CLASSES,
            palette=voc_colours(len(CLASSES)),
            values=in_order(len(CLASSES)),
            train=lambda: _pool(tree, "train2017"),
            val=lambda: _pool(tree, "val2017"),
        )
        return assemble(self, layout, tree)


def _pool(tree: Tree, split: str) -> Pool:
    images = tree.files(split)
    if not images:
        raise ValueError(f"{tree.root}/{split}: no image; see datasets/coco/README.md")
    return Pool(images, [f"masks/{name.removeprefix(f'{split}/').removesuffix('.jpg')}.png" for name in images])
