"""Normalisations of small images that are no affine map of each channel: of each by its own, and ZCA whitening."""

from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from mtseg.atomic import write_whole
from mtseg.part import part

SCALE = 55.0  # of an image after contrast normalisation: its Euclidean norm
NOTED = "whitening.sha256"  # in a run's folder: of its mean and matrix
RIDGE = 0.1  # added to the covariance's diagonal


@part
class PerImage:
    """Every image to mean 0 and standard deviation 1 over all its pixels and channels together (the paper's SVHN)."""

    kind: Literal["image"] = "image"
    sentence: ClassVar = "each minus the mean of all its pixels and channels, divided by their standard deviation"

    def __call__(self, image: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) -> (B, 3, H, W) float32."""
        values = image.float()
        centred = values - values.mean((1, 2, 3), keepdim=True)
        deviation = centred.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12)
        return (centred / deviation).permute(0, 3, 1, 2).contiguous()


@part
class Zca:
    """Global contrast normalisation, then the ZCA whitening in `file`, fitted on training images (the paper's CIFAR).

    The file is made by `python datasets/cifar10/prepare.py ROOT --zca` and belongs to the run: a network means nothing
    without it.
    """

    kind: Literal["zca"] = "zca"
    file: Path
    sentence: ClassVar = "each at mean 0 and one norm, then whitened by the matrix of its run"

    def __call__(self, image: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) -> (B, 3, H, W) float32. Raises ValueError for a file that is missing or unfit."""
        mean, matrix = _whitening(self.file, image.device)
        values = contrast_normalised(image.flatten(1).float())
        if values.shape[1] != len(mean):
            raise ValueError(
                f"views.standard.file: {self.file} whitens images of {len(mean)} values, and these have "
                f"{values.shape[1]}; fit it on images of the same size, or show and ask about those it was fitted on "
                "whole (eval.predictor={kind: whole})"
            )
        with torch.autocast(image.device.type, enabled=False):  # teachers' views are made where networks compute
            white = (values - mean) @ matrix
        return white.view(image.shape).permute(0, 3, 1, 2).contiguous()


def note(folder: Path, standard: PerImage | Zca | None) -> None:
    """Say in a run's folder which whitening it learns by."""
    if isinstance(standard, Zca):
        write_whole(folder / NOTED, f"{_digest(standard)}\n")


def refuse_another(folder: Path, standard: PerImage | Zca | None) -> None:
    """Raises ValueError where the run in `folder` was begun with another whitening than that of `standard` is now."""
    path = folder / NOTED
    if not isinstance(standard, Zca) or not path.is_file():
        return
    before, now = path.read_text(encoding="utf-8").strip(), _digest(standard)
    if before != now:
        raise ValueError(
            f"views.standard.file: {standard.file} is another whitening ({now[:12]}) than the one by which {folder} "
            f"was begun ({before[:12]}); give that file"
        )


def refuse_unread(standard: PerImage | Zca | None) -> None:
    """Raises ValueError for a whitening whose file is none."""
    if isinstance(standard, Zca):
        _whitening(standard.file, torch.device("cpu"))


def _digest(standard: Zca) -> str:
    return sha256(b"".join(of.numpy().tobytes() for of in _whitening(standard.file, torch.device("cpu")))).hexdigest()


Standard = Annotated[PerImage | Zca, Field(discriminator="kind")]


def contrast_normalised(values: Tensor) -> Tensor:
    """Each row of (N, D) without its mean, at Euclidean norm SCALE; a flat one is zero."""
    centred = values - values.mean(1, keepdim=True)
    norm = centred.square().sum(1, keepdim=True).sqrt() / SCALE
    return centred / torch.where(norm < 1e-8, 1.0, norm)


def fit_zca(images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean (D,) and symmetric whitening matrix (D, D), D = H W C, of the contrast-normalised `images` (N, H, W, C).

    W = E (D + RIDGE)^(-1/2) E^T of the sample covariance E D E^T.
    """
    values = contrast_normalised(torch.from_numpy(images.reshape(len(images), -1)).float())
    mean = values.mean(0)
    values -= mean
    covariance = (values.T @ values).double() / (len(values) - 1)
    powers, axes = torch.linalg.eigh(covariance + RIDGE * torch.eye(len(covariance), dtype=torch.float64))
    return mean.numpy(), (axes * powers.rsqrt() @ axes.T).float().numpy()


@lru_cache(maxsize=4)
def _whitening(file: Path, device: torch.device) -> tuple[Tensor, Tensor]:
    try:
        with np.load(file, allow_pickle=False) as found:
            mean, matrix = torch.from_numpy(found["mean"]), torch.from_numpy(found["matrix"])
        if mean.dtype != torch.float32 or matrix.shape != (*mean.shape, *mean.shape) or matrix.dtype != mean.dtype:
            raise ValueError("no mean (D,) and matrix (D, D) of float32")
        if not (mean.isfinite().all() and matrix.isfinite().all()):
            raise ValueError("it holds numbers that are not finite")
    except Exception as error:  # what a damaged file raises is up to its reader
        raise ValueError(
            f"views.standard.file: {file} is not a whitening ({type(error).__name__}: {error}); make it with: "
            "python datasets/cifar10/prepare.py ROOT --zca"
        ) from error
    return mean.to(device), matrix.to(device)
