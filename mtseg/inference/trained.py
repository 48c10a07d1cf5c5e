"""A trained network, with what its answers mean, and these."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mtseg.data.channels import PLAIN, Channels
from mtseg.data.imagefolder import scaled
from mtseg.data.source import Pixels
from mtseg.device import out_of_memory
from mtseg.evaluate import evaluating
from mtseg.predictors import Predictor, asked, joined
from mtseg.views import Views

Name = Literal["student", "teacher"]


@dataclass(frozen=True)
class Prediction:
    """The class of every pixel of an image, (H, W) uint8, IGNORE where none was asked for, and its probability.

    Of a network that answers for whole images, the one class, (), and how probable it is.
    """

    classes: NDArray[Any]
    confidence: NDArray[np.float32]


@dataclass(frozen=True)
class Trained:
    """A network of a run, with what its answers mean. It needs the run's folder alone, and not its data.

    palette: (K, 3) RGB; step: of the student's updates; channels: what an image consists of; dense: it answers for
    every pixel; side: images are asked about with a shorter side of that, as the run's data are (None: as they are)
    """

    network: nn.Module
    views: Views
    predictor: Predictor
    classes: tuple[str, ...]
    palette: NDArray[np.uint8]
    step: int
    channels: Channels = PLAIN
    dense: bool = True
    side: int | None = None

    @torch.no_grad()
    def predict(self, image: Pixels | str | Path) -> Prediction:
        """The answer to an image, in its own size: a file, or pixels (H, W, C) as the run's `data.channels` gives them.

        Those are RGB, uint8; or, where a layer has a range, float32 on the same scale, 0 to 255 for all of the range
        (`channels.read(FILE)` gives them). The network is asked in eval mode, and its mode is put back. Raises
        ValueError for other pixels, and for a size that the network does not take.
        """
        if isinstance(image, str | Path):
            image = self.channels.read(Path(image))
        elif isinstance(image, np.ndarray) and image.dtype == np.float32 and image.size:
            _refuse_unscaled(image)
        if not isinstance(image, np.ndarray):
            raise ValueError(f"an image of {type(image).__name__}; give a file's name, or pixels as a NumPy array")
        count, kinds = self.channels.count, (np.uint8, np.float32) if self.channels != PLAIN else (np.uint8,)
        if image.ndim != 3 or image.shape[2] != count or image.dtype not in kinds or 0 in image.shape:
            what = "RGB (H, W, 3), uint8" if kinds == (np.uint8,) else f"(H, W, {count}), uint8, or float32 up to 255"
            raise ValueError(f"an image of shape {image.shape} and type {image.dtype}; give {what}")
        image = scaled(image, self.side)
        pixels, (height, width) = torch.from_numpy(np.stack([image])), image.shape[:2]
        try:
            with evaluating(self.network):
                classes, confidence = joined(self.predictor(self.answer, pixels), (height, width))
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            raise ValueError(
                f"an image of {height}x{width} pixels: the network cannot be asked about it ({error}); give one of the "
                "sides that it was trained on, or ask otherwise with eval.predictor"
            ) from error
        return Prediction(classes[0].cpu().numpy(), confidence[0].cpu().numpy())

    def answer(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits (B, K, h, w) of pixels (B, h, w, C) in [0, 255]."""
        return asked(self.network, self.views, next(self.network.parameters()).device)(pixels)


def _refuse_unscaled(image: NDArray[np.float32]) -> None:
    """Raises ValueError for values that are none, or that can hardly be as `Channels.read` scales them."""
    low, high = float(image.min()), float(image.max())  # NaN where there is one
    largest = max(-low, high)
    if not math.isfinite(low + high) or 0 < largest <= 1:
        raise ValueError(
            f"an image of float32 values of {low:g} to {high:g}, where 0 to 255 is the range that data.channels says; "
            "give the file, or what .channels.read(FILE) of this network gives: values times 255 / (high - low)"
        )
