"""The command `mtseg doctor`, from a clone."""

import sys

from mtseg.cli import doctor

if __name__ == "__main__":
    sys.exit(doctor())
