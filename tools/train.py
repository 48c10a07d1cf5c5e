"""The command `mtseg train`, from a clone."""

import sys

from mtseg.cli import train

if __name__ == "__main__":
    sys.exit(train())
