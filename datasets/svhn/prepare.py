"""Count the files of SVHN; with --download get them by torchvision."""

import argparse
import sys
from pathlib import Path

from mtseg.data.prepare import answer
from mtseg.data.small import svhn

COUNTS = {"train": 73257, "test": 26032, "extra": 531131}


def work(words: argparse.Namespace) -> bool:
    sides = [side for side in COUNTS if side != "extra" or words.extra]
    if words.download:
        import torchvision

        for side in sides:
            torchvision.datasets.SVHN(str(words.root), split=side, download=True)
    found = {side: len(svhn(words.root, side)[0]) for side in sides}
    for side, count in found.items():
        print(f"{side}: {count} images ({COUNTS[side]} are expected)")
    return all(COUNTS[side] == count for side, count in found.items())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="the folder of the .mat files, such as data/svhn")
    parser.add_argument("--download", action="store_true", help="get the files that are missing")
    parser.add_argument("--extra", action="store_true", help="the extra images too")
    parsed = parser.parse_args()
    sys.exit(answer(lambda: work(parsed)))
