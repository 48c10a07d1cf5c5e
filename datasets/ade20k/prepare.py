"""Check an ADE20K tree; with --splits fetch the published lists."""

import argparse
import sys
from pathlib import Path

from mtseg.data.prepare import answer, counted, fetch

COUNTS = {
    "images/training/*.jpg": 20210,
    "images/validation/*.jpg": 2000,
    "annotations/training/*.png": 20210,
    "annotations/validation/*.png": 2000,
}
BASE = "https://raw.githubusercontent.com/LiheYoung/UniMatch-V2/main/splits/ade20k"
SPLITS = {"1_64": 316, "1_32": 631, "1_16": 1263, "1_8": 2526, "1_4": 5052}  # labelled images of 20210


def work(words: argparse.Namespace) -> bool:
    if words.splits:
        counts = {f"{name}/labeled.txt": number for name, number in SPLITS.items()}
        counts |= {f"{name}/unlabeled.txt": 20210 - number for name, number in SPLITS.items()}
        fetch(words.base, {path: path for path in counts}, words.root / "splits", counts=counts)
    return counted(words.root, COUNTS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="ADEChallengeData2016")
    parser.add_argument("--splits", action="store_true", help="fetch the published lists into ROOT/splits")
    parser.add_argument("--base", default=BASE, help="where the lists are published")
    parsed = parser.parse_args()
    sys.exit(answer(lambda: work(parsed)))
