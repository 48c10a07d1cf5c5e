"""The command `mtseg export`, from a clone."""

import sys

from mtseg.cli.export import main

if __name__ == "__main__":
    sys.exit(main())
