"""The command `mtseg report`, from a clone."""

import sys

from mtseg.cli.report import main

if __name__ == "__main__":
    sys.exit(main())
