"""Photometric augmentation: albumentations image-only transforms by name, reseeded for every sample."""

import difflib
import inspect
import os
import warnings
from collections.abc import Sequence
from dataclasses import field
from functools import lru_cache
from typing import Annotated, Any

import numpy as np
from pydantic import Field, JsonValue

from mtseg.data.channels import COLOURS, visible
from mtseg.data.source import Pixels
from mtseg.part import LOW_HIGH, part

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would ask the network for its newest version


@part
class Colour:
    """One photometric transform: an albumentations image-only transform, its probability and parameters.

    Raises ValueError for a name that is not an image-only transform (geometry would desert the recorded
    warp), for a parameter that the transform does not have, and for one that does not give (H, W, 3) uint8 back.
    """

    name: str
    p: Annotated[float, Field(ge=0, le=1)] = 1.0
    params: dict[str, JsonValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        transform = self.build(p=1.0)
        transform.set_random_seed(0)  # accepted or refused, but not by chance
        probe = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                seen = transform(image=probe)["image"]
        except Exception as error:
            raise ValueError(f"{self.name} with {self.params} fails on an image: {error}") from error
        if not (isinstance(seen, np.ndarray) and seen.dtype == np.uint8 and seen.shape == probe.shape):
            raise ValueError(
                f"{self.name} does not give an (H, W, 3) uint8 image back; normalisation and tensors come later"
            )

    def build(self, p: float | None = None) -> Any:
        """The albumentations transform itself; `p` replaces the part's own probability."""
        known = _image_only()
        if self.name not in known:
            near = difflib.get_close_matches(self.name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(
                f"{self.name!r} is not an image-only transform of albumentations; {hint}choose from: {', '.join(known)}"
            )
        accepted = inspect.signature(known[self.name]).parameters
        for key in self.params:
            if key not in accepted:
                raise ValueError(f"{self.name} has no parameter {key!r}; it has: {', '.join(accepted)}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # albumentations only warns where it then ignores a value
                return known[self.name](**self.params, p=self.p if p is None else p)
        except Exception as error:
            raise ValueError(f"{self.name} refuses {self.params}: {_one_line(error)}") from error


@lru_cache(maxsize=1)
def _image_only() -> dict[str, Any]:
    import albumentations as A

    def usable(value: Any) -> bool:
        return inspect.isclass(value) and issubclass(value, A.ImageOnlyTransform) and value is not A.ImageOnlyTransform

    return {name: value for name, value in sorted(vars(A).items()) if usable(value)}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


Pick = Annotated[tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]], LOW_HIGH]


def check_pick(pick: Pick | None, colours: Sequence[Colour]) -> None:
    """Raises ValueError for a range that is none, and for one without colours to pick from."""
    if pick is not None and (pick[0] > pick[1] or not colours):
        raise ValueError(
            f"pick: {list(pick)} of {len(colours)} colours; give low <= high, and the colours to pick from"
        )


class Painter:
    """A pipeline of colours. Building it is slow; painting with it is not.

    All colours in their order, each with its probability; or, where `pick` is given, a number of them uniform in
    that range, drawn with replacement, in the order drawn (AugSeg's random intensity set).
    """

    def __init__(self, colours: Sequence[Colour], pick: Pick | None = None) -> None:
        import albumentations as A

        self._names = ", ".join(colour.name for colour in colours)
        self._pick = pick
        groups = [[colour] for colour in colours] if pick else [list(colours)] if colours else []
        self._pipelines = [A.Compose([colour.build() for colour in group]) for group in groups]

    def paint(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        """`image` (H, W, C) under colours that depend on `rng` alone, which change its first three channels.

        Those of float32 are rounded to 8 bits for it, and clipped, where a colour changes them.

        albumentations 2.0.8 repeats its draws in every worker and epoch unless it is reseeded per image.
        Raises ValueError, naming the colours, where one of them fails on this image.
        """
        if not self._pipelines:
            return image
        seen = visible(image)
        try:
            for pipeline in self._chosen(rng):
                pipeline.set_random_seed(int(rng.integers(2**32)))
                seen = pipeline(image=seen)["image"]
        except Exception as error:
            h, w = image.shape[:2]
            raise ValueError(
                f"the colours {self._names} fail on a crop of {h}x{w}: {_one_line(error)}; change their parameters"
            ) from error
        painted = np.asarray(seen, dtype=np.uint8)
        if image.dtype != np.uint8 and np.array_equal(painted, visible(image)):
            return image  # no colour was drawn: nothing is rounded or clipped
        if image.shape[2] == COLOURS and image.dtype == np.uint8:
            return painted
        return np.concatenate([painted.astype(image.dtype), image[..., COLOURS:]], axis=2)

    def _chosen(self, rng: np.random.Generator) -> list[Any]:
        if self._pick is None:
            return self._pipelines
        count = int(rng.integers(self._pick[0], self._pick[1] + 1))
        return [self._pipelines[int(i)] for i in rng.integers(len(self._pipelines), size=count)]
