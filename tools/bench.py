"""The command `mtseg bench`, from a clone."""

import sys

from mtseg.cli.bench import main

if __name__ == "__main__":
    sys.exit(main())
