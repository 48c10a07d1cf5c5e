"""A trained network, with what its answers mean, and these."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mtseg.data.channels import PLAIN, Channels
from mtseg.data.source import Pixels
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

    palette: (K, 3) RGB; step: of the student's updates; channels: what an image consists of
    """

    network: nn.Module
    views: Views
    predictor: Predictor
    classes: tuple[str, ...]
    palette: NDArray[np.uint8]
    step: int
    channels: Channels = PLAIN

    @torch.no_grad()
    def predict(self, image: Pixels | str | Path) -> Prediction:
        """The answer to an image, in its own size: a file, or pixels (H, W, C) as the run's `data.channels` gives them.

        Those are RGB, uint8; or, where a layer has a range, float32 on the same scale (255 is 1).
        """
        if isinstance(image, str | Path):
            image = self.channels.read(Path(image))
        if not isinstance(image, np.ndarray):
            raise ValueError(f"an image of {type(image).__name__}; give a file's name, or pixels as a NumPy array")
        count, kinds = self.channels.count, (np.uint8, np.float32) if self.channels != PLAIN else (np.uint8,)
        if image.ndim != 3 or image.shape[2] != count or image.dtype not in kinds or 0 in image.shape:
            what = "RGB (H, W, 3), uint8" if kinds == (np.uint8,) else f"(H, W, {count}), uint8, or float32 up to 255"
            raise ValueError(f"an image of shape {image.shape} and type {image.dtype}; give {what}")
        pixels = torch.from_numpy(np.stack([image]))
        classes, confidence = joined(self.predictor(self.answer, pixels), (image.shape[0], image.shape[1]))
        return Prediction(classes[0].cpu().numpy(), confidence[0].cpu().numpy())

    def answer(self, pixels: torch.Tensor) -> torch.Tensor:
        """Logits (B, K, h, w) of pixels (B, h, w, C) in [0, 255]."""
        return asked(self.network, self.views, next(self.network.parameters()).device)(pixels)
