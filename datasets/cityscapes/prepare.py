"""Check a Cityscapes tree; with --train-ids make labelTrainIds masks; with --splits fetch the published lists."""

import argparse
import sys
from pathlib import Path

from mtseg.data.prepare import answer, counted, fetch, train_ids

COUNTS = {
    "leftImg8bit/train/*/*_leftImg8bit.png": 2975,
    "leftImg8bit/val/*/*_leftImg8bit.png": 500,
    "gtFine/train/*/*_gtFine_labelIds.png": 2975,
    "gtFine/val/*/*_gtFine_labelIds.png": 500,
}
BASE = "https://raw.githubusercontent.com/LiheYoung/UniMatch/main/splits/cityscapes"
SPLITS = {"1_16": 186, "1_8": 372, "1_4": 744, "1_2": 1488}  # folder, here and there -> labelled images of 2975


def work(words: argparse.Namespace) -> bool:
    if words.train_ids:
        print(f"labelTrainIds: {train_ids(words.root)} masks made")
    if words.splits:
        counts = {f"{name}/labeled.txt": number for name, number in SPLITS.items()}
        counts |= {f"{name}/unlabeled.txt": 2975 - number for name, number in SPLITS.items()}
        fetch(words.base, {path: path for path in counts}, words.root / "splits", counts=counts)
    return counted(words.root, COUNTS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="the folder that holds leftImg8bit and gtFine")
    parser.add_argument("--train-ids", action="store_true", help="write labelTrainIds masks beside labelIds")
    parser.add_argument("--splits", action="store_true", help="fetch the published lists into ROOT/splits")
    parser.add_argument("--base", default=BASE, help="where the lists are published")
    parsed = parser.parse_args()
    sys.exit(answer(lambda: work(parsed)))
