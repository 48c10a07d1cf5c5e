"""The command `mtseg predict`, from a clone."""

import sys

from mtseg.cli.predict import main

if __name__ == "__main__":
    sys.exit(main())
