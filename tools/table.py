"""The command `mtseg table`, from a clone."""

import sys

from mtseg.cli import table

if __name__ == "__main__":
    sys.exit(table())
