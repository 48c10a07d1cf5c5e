"""The command `mtseg bench`, from a clone."""

import sys

from mtseg.cli import bench

if __name__ == "__main__":
    sys.exit(bench())
