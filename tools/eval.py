"""The command `mtseg eval`, from a clone."""

import sys

from mtseg.cli import evaluate

if __name__ == "__main__":
    sys.exit(evaluate())
