"""The command `mtseg predict`, from a clone."""

import sys

from mtseg.cli import predict

if __name__ == "__main__":
    sys.exit(predict())
