"""The command `mtseg eval`, from a clone."""

import sys

from mtseg.cli.eval import main

if __name__ == "__main__":
    sys.exit(main())
