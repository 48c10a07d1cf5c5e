"""The command `mtseg train`, from a clone."""

import sys

from mtseg.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
