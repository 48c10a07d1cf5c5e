"""Photometric augmentation: albumentations image-only transforms by name, reseeded for every sample."""

import difflib
import inspect
import os
import warnings
from collections.abc import Sequence
from dataclasses import field, replace
from functools import lru_cache
from typing import Annotated, Any

import numpy as np
from pydantic import Field, JsonValue

from mtseg.data.channels import COLOURS, visible
from mtseg.data.source import Pixels
from mtseg.part import LOW_HIGH, part

PROBES = 12  # images on which a colour is tried, for it draws
FAINT = (120.0, 125.0)  # of 0 to 255: the values of an image that hardly uses its range
LEVELS = 64  # that are left of its many, of which 8 bits would have six
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

    def check(self, channels: int) -> None:
        """Raises ValueError where it cannot change all of so many channels, none of which is a colour."""
        count = channels if channels != COLOURS else COLOURS + 1  # three of them it would take for colours
        painter, rng = Painter([replace(self, p=1.0)], rgb=False), np.random.default_rng(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # of one channel it is said that nothing is changed
                for _ in range(PROBES):
                    probe = rng.uniform(FAINT[0], FAINT[1], (64, 64, count)).astype(np.float32)
                    seen = painter.paint(probe, rng)
                    if seen.shape != probe.shape or not np.isfinite(seen).all():
                        raise ValueError("gives no image back")
                    if len(np.unique(seen)) < LEVELS:
                        raise ValueError("works in 8 bits, of which these images may use few")
        except Exception as error:
            what = f"{channels} channel{'s' * (channels > 1)} without colours"
            reason = _one_line(error.__cause__ or error).rstrip(".")
            raise ValueError(f"{self.name} does not take {what} ({reason})") from error

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


def _one_line(error: BaseException) -> str:
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
    that range, drawn with replacement, in the order drawn (AugSeg's random intensity set). Of images that begin with
    red, green and blue (`rgb`) they change these, in 8 bits, and of others all channels, as float32.
    """

    def __init__(self, colours: Sequence[Colour], pick: Pick | None = None, *, rgb: bool = True) -> None:
        import albumentations as A

        self._names = ", ".join(colour.name for colour in colours)
        self._pick, self._rgb = pick, rgb
        groups = [[colour] for colour in colours] if pick else [list(colours)] if colours else []
        self._pipelines = [A.Compose([colour.build() for colour in group]) for group in groups]

    def paint(self, image: Pixels, rng: np.random.Generator) -> Pixels:
        """`image` (H, W, C), uint8 or float32 on the same scale, under colours that depend on `rng` alone.

        Red, green and blue are rounded and clipped to [0, 255] where one changes them. Of other channels nothing is
        clipped: values beyond [0, 255] widen what a colour takes for the range.

        albumentations 2.0.8 repeats its draws in every worker and epoch unless it is reseeded per image.
        Raises ValueError, naming the colours, where one of them fails on this image.
        """
        if not self._pipelines:
            return image
        if self._rgb and image.shape[2] == COLOURS and image.dtype == np.uint8:
            return np.asarray(self._changed(image, rng), np.uint8)
        low, high = min(0.0, float(image.min())), max(255.0, float(image.max()))
        before = visible(image) if self._rgb else (image.astype(np.float32) - low) / (high - low)
        painted = np.asarray(self._changed(before.copy(), rng), before.dtype)
        if np.array_equal(painted, before):
            return image  # no colour was drawn: nothing is rounded or clipped
        if self._rgb:
            return np.concatenate([painted.astype(image.dtype), image[..., COLOURS:]], axis=2)
        scaled = painted * np.array(high - low, np.float32) + np.float32(low)
        return scaled if image.dtype != np.uint8 else np.rint(scaled).astype(np.uint8)

    def _changed(self, seen: Pixels, rng: np.random.Generator) -> Pixels:
        """`seen` under the pipelines that are drawn."""
        h, w = seen.shape[:2]
        try:
            for pipeline in self._chosen(rng):
                pipeline.set_random_seed(int(rng.integers(2**32)))
                seen = pipeline(image=seen)["image"]
        except Exception as error:
            raise ValueError(
                f"the colours {self._names} fail on a crop of {h}x{w}: {_one_line(error)}; change their parameters"
            ) from error
        return seen

    def _chosen(self, rng: np.random.Generator) -> list[Any]:
        if self._pick is None:
            return self._pipelines
        count = int(rng.integers(self._pick[0], self._pick[1] + 1))
        return [self._pipelines[int(i)] for i in rng.integers(len(self._pipelines), size=count)]
