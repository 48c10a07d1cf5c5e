"""ADE20K's scene parsing benchmark, 150 classes: ADEChallengeData2016."""

from pathlib import Path
from typing import Literal

from mtseg.data.assemble import Which, assemble
from mtseg.data.files import OnBadImage, Pool
from mtseg.data.layout import Layout
from mtseg.data.masks import by_value
from mtseg.data.palette import voc_colours
from mtseg.data.provenance import Expect, Expected
from mtseg.data.source import IGNORE, Splits
from mtseg.data.splits import Labels
from mtseg.data.tree import Tree
from mtseg.part import part

CLASSES = tuple(
    """wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door,
    table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, armchair,
    seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers,
    counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table,
    pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench,
    countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel,
    light, truck, tower, chandelier, awning, streetlight, booth, television receiver, airplane, dirt track, apparel,
    pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt,
    canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball,
    food, step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood,
    sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator,
    glass, clock, flag""".replace("\n    ", " ").split(", ")
)
VALUES = {0: IGNORE} | {raw: raw - 1 for raw in range(1, 151)}


@part
class Ade20k:
    """ADE20K under `root` (ADEChallengeData2016); a mask's 0 is ignored, its 1 to 150 are the classes."""

    kind: Literal["ade20k"] = "ade20k"
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
            name="ade20k",
            classes=CLASSES,
            palette=voc_colours(len(CLASSES) + 1)[1:],
            values=by_value(VALUES),
            train=lambda: _pool(tree, "training"),
            val=lambda: _pool(tree, "validation"),
        )
        return assemble(self, layout, tree)


def _pool(tree: Tree, split: str) -> Pool:
    images = tree.files(f"images/{split}")
    if not images:
        raise ValueError(f"{tree.root}/images/{split}: no image; see datasets/ade20k/README.md")
    return Pool(images, [f"annotations/{name.removeprefix('images/').removesuffix('.jpg')}.png" for name in images])
