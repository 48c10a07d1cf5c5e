"""Check a CamVid tree."""

import argparse
import sys
from pathlib import Path

from mtseg.data.prepare import answer, counted

COUNTS = {
    f"{split}{kind}/*.*": n for split, n in (("train", 367), ("val", 101), ("test", 233)) for kind in ("", "annot")
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="the folder that holds train.txt, train and trainannot")
    parsed = parser.parse_args()
    sys.exit(answer(lambda: counted(parsed.root, COUNTS)))
