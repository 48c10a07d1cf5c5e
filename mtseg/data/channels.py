"""What an image consists of: one file of red, green and blue, or files of any channels, one laid on the other."""

import math
from dataclasses import field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mtseg.data.decode import read_image, read_values
from mtseg.data.source import Pixels
from mtseg.part import LOW_HIGH, part

Exchange = tuple[Annotated[str, Field(min_length=1)], str]
COLOURS = 3  # red, green, blue


@part
class Layer:
    """One of the files of an image, and what its values mean.

    The first layer is the file that folders and lists name. The path of another is that path with the last folder
    called `folder[0]` called `folder[1]`, with `ending[1]` in place of `ending[0]` between name and suffix, and with
    the suffix `suffix`, each where it is given.

    `count` channels the file must have; `take` are those of them that are used, from 0 on, in this order. Values of
    8 bits are taken as they are, 255 for 1. Others need `range`, the raw values that become 0 and 1; all are mapped by
    that line, none is clipped. `nan` is the raw value in the place of what is no finite number, which else is refused.
    """

    count: Annotated[int, Field(ge=1, le=512)] = COLOURS
    take: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = None
    range: Annotated[tuple[float, float], LOW_HIGH] | None = None
    nan: float | None = None
    folder: Exchange | None = None
    ending: Exchange | None = None
    suffix: Annotated[str, Field(pattern=r"^\.\w+$")] | None = None

    def __post_init__(self) -> None:
        if self.take is not None and (max(self.take) >= self.count or len(set(self.take)) < len(self.take)):
            raise ValueError(f"take: {list(self.take)} of {self.count} channels (0 to {self.count - 1}); each once")
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ValueError(f"range: {list(self.range)}; give low < high, such as [0, 65535]")
        if self.range is not None and not 1e-300 < self.range[1] - self.range[0] < math.inf:
            raise ValueError(f"range: {list(self.range)} is too narrow or too wide to divide by; such as [0, 65535]")
        if self.nan is not None and self.range is None:
            raise ValueError("nan: 8-bit values are all numbers; give the range of the others, or drop it")
        for name in ("folder", "ending"):
            new = (getattr(self, name) or ("", ""))[1]
            if "/" in new or new in (".", "..") or "\0" in new:
                raise ValueError(f"{name}: {new!r} is no name; give one without `/`")

    @property
    def used(self) -> int:
        """How many channels it gives."""
        return self.count if self.take is None else len(self.take)

    def name_of(self, name: str) -> str:
        """The path of this layer's file for the image `name`. Raises ValueError where there is nothing to exchange."""
        path = PurePosixPath(name)
        parts, stem = list(path.parts[:-1]), path.stem
        if self.folder is not None:
            if self.folder[0] not in parts:
                raise ValueError(
                    f"{name}: lies in no folder {self.folder[0]!r}, in whose place {self.folder[1]!r} has its further "
                    f"channels; put it into a folder {self.folder[0]!r} beside a folder {self.folder[1]!r}, or change "
                    "folder in data.channels"
                )
            parts[len(parts) - 1 - parts[::-1].index(self.folder[0])] = self.folder[1]
        if self.ending is not None:
            if not stem.endswith(self.ending[0]):
                raise ValueError(
                    f"{name}: does not end in {self.ending[0]!r}, in whose place {self.ending[1]!r} has its further "
                    f"channels; rename it to {stem + self.ending[0] + path.suffix!r}, or change ending in data.channels"
                )
            stem = stem.removesuffix(self.ending[0]) + self.ending[1]
        return str(PurePosixPath(*parts, stem + (path.suffix if self.suffix is None else self.suffix)))

    def read(self, path: Path) -> Pixels:
        """The channels of a file. Raises ValueError, with the remedy, for other counts and types than it must have."""
        return read_image(path) if self == RGB else self.of(read_values(path), path)

    def of(self, values: NDArray[Any], path: Path) -> Pixels:
        """The channels of the values (h, w, count) of the file at `path`, or of a part of it. Raises as `read` does."""
        if values.shape[2] != self.count:
            raise ValueError(
                f"{path}: {_channels(values.shape[2])} of {values.dtype}, and data.channels says {self.count}; mend "
                "count, and say in take which of them are meant, or save the file with as many"
            )
        values = values if self.take is None else values[..., self.take]
        if self.range is not None:
            return self._scaled(values, path)
        if values.dtype != np.uint8:
            raise ValueError(
                f"{path}: {values.dtype} from {values.min():g} to {values.max():g}; which values are 0 and 1 is not "
                "guessed: say it in range of data.channels, such as [0, 65535], one for all images"
            )
        return values

    def _scaled(self, values: NDArray[Any], path: Path) -> NDArray[np.float32]:
        assert self.range is not None
        odd = ~np.isfinite(values)
        if odd.any() and self.nan is None:
            raise ValueError(
                f"{path}: {int(odd.sum())} values are no finite numbers; say in nan of data.channels which value takes "
                "their place, or mend the file"
            )
        (low, high), wide = self.range, np.float32 if values.dtype.itemsize <= 2 else np.float64
        whole = values if self.nan is None else np.where(odd, wide(self.nan), values)
        with np.errstate(over="ignore", invalid="ignore"):  # what that gives is refused
            scaled = (np.subtract(whole, low, dtype=wide) * wide(255 / (high - low))).astype(np.float32, copy=False)
        if not np.isfinite(scaled).all():
            raise ValueError(
                f"{path}: value {whole[~np.isfinite(scaled)][0]:g} is more than an image can hold where the range "
                f"{list(self.range)} of data.channels is 0 to 1; give the range that the values have, or mend the file"
            )
        return scaled


RGB = Layer()


@part
class Channels:
    """The layers of every image of a data set, one after the other; without them one file of red, green and blue.

    `rgb`: the first three channels are red, green and blue: they are shown, colours are changed in them alone, and
    weights of networks that were trained on photographs are theirs. Without it colours change all channels.
    """

    layers: Annotated[tuple[Layer, ...], Field(min_length=1)] = field(default=(RGB,))
    rgb: bool = True

    def __post_init__(self) -> None:
        first, *others = self.layers
        if first.folder or first.ending or first.suffix:
            raise ValueError(
                "layers: the first is the file that folders and lists name; drop its folder, ending, suffix"
            )
        for layer in others:
            if not (layer.folder or layer.ending or layer.suffix):
                raise ValueError("layers: another file needs another path; give its folder, ending or suffix")
        if self.rgb and self.count < COLOURS:
            raise ValueError(f"rgb: {_channels(self.count)} cannot hold red, green and blue; set rgb: false")

    @property
    def count(self) -> int:
        """How many channels an image has."""
        return sum(layer.used for layer in self.layers)

    @property
    def scaled(self) -> bool:
        """Whether images are float32, and not uint8."""
        return any(layer.range is not None for layer in self.layers)

    def names_of(self, name: str) -> list[str]:
        """The files of the image `name` beside itself."""
        return [layer.name_of(name) for layer in self.layers[1:]]

    def read(self, path: Path | str) -> Pixels:
        """The image of a file: uint8, or float32 where a layer has a range. Raises ValueError as its layers do."""
        path = Path(path)
        if len(self.layers) == 1:
            return self.layers[0].read(path)
        paths = [path, *(Path(name) for name in self.names_of(str(path)))]
        read = [layer.read(one) for layer, one in zip(self.layers, paths, strict=True)]
        for one, values in zip(paths, read, strict=True):
            if values.shape[:2] != read[0].shape[:2]:
                raise ValueError(
                    f"{one} is {values.shape[:2]} and {path} {read[0].shape[:2]} (height, width); files of one image "
                    "must be equally large: register them, or resize one"
                )
        return np.concatenate(read, axis=2)


PLAIN = Channels()


def visible(image: Pixels) -> NDArray[np.uint8]:  # (H, W, 3)
    """What is shown of an image: its first three channels, or its first, grey, where it has fewer; clipped at 255."""
    if image.shape[2] == COLOURS and image.dtype == np.uint8:
        return image
    shown = image[..., : COLOURS if image.shape[2] >= COLOURS else 1]
    shown = shown if shown.dtype == np.uint8 else np.clip(np.round(shown), 0, 255).astype(np.uint8)
    return np.repeat(shown, COLOURS // shown.shape[2], axis=2)  # a copy, in rows


def _channels(count: int) -> str:
    return "1 channel" if count == 1 else f"{count} channels"
