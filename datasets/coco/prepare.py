"""Check a COCO tree; with --splits fetch the published lists."""

import argparse
import sys
from pathlib import Path

from mtseg.data.prepare import answer, counted, fetch

COUNTS = {"train2017/*.jpg": 118287, "val2017/*.jpg": 5000, "masks/*.png": 123287}
BASE = "https://raw.githubusercontent.com/LiheYoung/UniMatch/main/splits/coco"
SPLITS = {"1_512": 232, "1_256": 463, "1_128": 925, "1_64": 1849, "1_32": 3697}  # labelled images


def work(words: argparse.Namespace) -> bool:
    if words.splits:
        counts = {f"{name}/labeled.txt": number for name, number in SPLITS.items()}
        names = {f"{name}/{pool}.txt": f"{name}/{pool}.txt" for name in SPLITS for pool in ("labeled", "unlabeled")}
        fetch(words.base, names, words.root / "splits", counts=counts)
    return counted(words.root, COUNTS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="the folder that holds train2017, val2017 and masks")
    parser.add_argument("--splits", action="store_true", help="fetch the published lists into ROOT/splits")
    parser.add_argument("--base", default=BASE, help="where the lists are published")
    parsed = parser.parse_args()
    sys.exit(answer(lambda: work(parsed)))
