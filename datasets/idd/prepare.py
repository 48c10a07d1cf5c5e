"""Check an IDD tree for masks of one level."""

import argparse
import sys
from pathlib import Path

from mtseg.data.prepare import answer, counted


def work(words: argparse.Namespace) -> bool:
    masks = f"*_gtFine_labellevel{words.level}Ids.png"
    images = {f"leftImg8bit/{split}/*/*_leftImg8bit.*": n for split, n in (("train", 6993), ("val", 981))}
    return counted(
        words.root, images | {f"gtFine/{split}/*/{masks}": n for split, n in (("train", 6993), ("val", 981))}
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="the folder that holds leftImg8bit and gtFine")
    parser.add_argument("--level", type=int, choices=(1, 3), default=3, help="26 classes (3) or 7 (1)")
    parsed = parser.parse_args()
    sys.exit(answer(lambda: work(parsed)))
