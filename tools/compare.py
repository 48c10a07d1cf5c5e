"""The command `mtseg compare`, from a clone."""

import sys

from mtseg.cli.compare import main

if __name__ == "__main__":
    sys.exit(main())
