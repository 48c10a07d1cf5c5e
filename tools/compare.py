"""The command `mtseg compare`, from a clone."""

import sys

from mtseg.cli import compare

if __name__ == "__main__":
    sys.exit(compare())
