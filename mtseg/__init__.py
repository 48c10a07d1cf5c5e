"""mtseg: semi-supervised semantic segmentation with Mean Teacher."""

__version__ = "0.1.0"
