"""Check a VOC 2012 tree; with --sbd make the augmented training set; with --splits fetch the published lists."""

import argparse
import sys
from pathlib import Path

from mtseg.data.prepare import answer, counted, fetch, merge_sbd

COUNTS = {
    "JPEGImages/*.jpg": 17125,
    "SegmentationClass/*.png": 2913,
    "ImageSets/Segmentation/train.txt": 1,
    "ImageSets/Segmentation/val.txt": 1,
    "SegmentationClassAug/*.png": 12031,
    "ImageSets/Segmentation/trainaug.txt": 1,
}
BASE = "https://raw.githubusercontent.com/LiheYoung/UniMatch/main/splits/pascal"
# our folder -> theirs, and its labelled and unlabelled images
SPLITS = {str(n): (str(n), n, 10582 - n) for n in (92, 183, 366, 732, 1464)} | {
    f"{variant}_1_{share}": (f"{prefix}1_{share}", count, 10582 - count)
    for variant, prefix in (("cps", ""), ("u2pl", "u2pl_"))
    for share, count in ((16, 662), (8, 1323), (4, 2646))
}


def work(words: argparse.Namespace) -> bool:
    if words.sbd:
        print(f"trainaug: {merge_sbd(words.root, words.sbd)} training images (10582 are expected)")
    if words.splits:
        names, counts = {}, {}
        for name, (theirs, labelled, unlabelled) in SPLITS.items():
            for pool, number in (("labeled", labelled), ("unlabeled", unlabelled)):
                names[f"{name}/{pool}.txt"] = f"{theirs}/{pool}.txt"
                counts[f"{name}/{pool}.txt"] = number
        fetch(words.base, names, words.root / "splits", counts=counts)
    return counted(words.root, COUNTS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="VOCdevkit/VOC2012")
    parser.add_argument("--sbd", type=Path, help="the folder `dataset` of SBD (benchmark_RELEASE/dataset)")
    parser.add_argument("--splits", action="store_true", help="fetch the published lists into ROOT/splits")
    parser.add_argument("--base", default=BASE, help="where the lists are published")
    parsed = parser.parse_args()
    sys.exit(answer(lambda: work(parsed)))
