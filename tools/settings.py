"""The command `mtseg settings`, from a clone."""

import sys

from mtseg.cli.settings import main

if __name__ == "__main__":
    sys.exit(main())
