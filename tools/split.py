"""The command `mtseg split`, from a clone."""

import sys

from mtseg.cli.split import main

if __name__ == "__main__":
    sys.exit(main())
