"""The command `mtseg doctor`, from a clone."""

import sys

from mtseg.cli.doctor import main

if __name__ == "__main__":
    sys.exit(main())
