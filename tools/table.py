"""The command `mtseg table`, from a clone."""

import sys

from mtseg.cli.table import main

if __name__ == "__main__":
    sys.exit(main())
