"""The command `mtseg split`, from a clone."""

import sys

from mtseg.cli import split

if __name__ == "__main__":
    sys.exit(split())
