"""Images and masks in files: the one source behind every data set that lies on a disk."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mtseg.data.cache import Cache
from mtseg.data.channels import PLAIN, Channels
from mtseg.data.decode import read_mask, size_of, turned
from mtseg.data.masks import LabelMap
from mtseg.data.source import Pixels

OnBadImage = Literal["error", "skip"]
UNREAD, READ, BAD = 0, 1, 2
MASK = "mask"  # how masks are decoded: in one way only


class Pool(NamedTuple):
    """Names of images and of their masks, in the same order; `masks` is empty where there are none."""

    images: list[str]
    masks: list[str]


@dataclass(frozen=True, eq=False)
class Files:
    """The images `names` under `root`, with `masks` or without.

    Names are UTF-8 bytes in one array, which processes share without copies. Every file is read when asked for.
    `on_bad_image: skip` puts the next readable image (with its own label) in the place of one that cannot be read,
    says so on standard error, and gives up past 1 % of the images (at least one is allowed); each loading process
    counts what it has met. A mask that cannot be read is an error always. `channels` says what an image consists of.
    What is decoded is kept in `cache`, where there is one.
    """

    root: Path
    names: NDArray[np.bytes_]  # (N,)
    masks: NDArray[np.bytes_] | None  # (N,)
    classes: LabelMap
    on_bad_image: OnBadImage = "error"
    channels: Channels = PLAIN
    cache: Cache | None = None
    _state: NDArray[np.uint8] = field(init=False, repr=False)  # (N,) what is known of each image, with `skip`

    def __post_init__(self) -> None:
        object.__setattr__(self, "_state", np.zeros(len(self.names), np.uint8))

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return _text(self.names[index])

    def mask_name(self, index: int) -> str | None:
        return None if self.masks is None else _text(self.masks[index])

    def bytes(self, index: int) -> tuple[int, ...]:
        """The sizes of the image's file and of its mask's; -1 of one that is not there."""
        paths = [self.root / name for name in (self.name(index), self.mask_name(index)) if name is not None]
        return tuple(path.stat().st_size if path.is_file() else -1 for path in paths)

    def image(self, index: int) -> Pixels:  # (H, W, C)
        if self.on_bad_image == "error":
            return self._decoded(index)
        return self._readable(index)[1]

    def label(self, index: int) -> NDArray[np.uint8]:  # (H, W)
        """The classes of the pixels of `image(index)`, or IGNORE.

        Raises ValueError, naming the file, where there is no mask, where it is not as large as its image, and for
        a value that is no class.
        """
        if self.masks is None:
            raise ValueError(f"{self.name(index)}: an unlabelled image; it has no mask")
        if self.on_bad_image == "skip":
            index = self._readable(index)[0]
        path = self.root / _text(self.masks[index])
        mask = read_mask(path) if self.cache is None else self.cache.get([path], MASK, lambda: read_mask(path))
        same_size(self.root / self.name(index), path, (mask.shape[0], mask.shape[1]))
        return self.classes(mask, str(path))

    def shown_at(self, index: int) -> int:
        """Which image `image(index)` has shown: the next one, where that of `index` cannot be read."""
        turn = ((index + step) % len(self) for step in range(len(self)))
        return next(place for place in turn if self._state[place] != BAD)

    def only(self, indices: Sequence[int] | NDArray[np.int64]) -> "Files":
        """The images at `indices`, in that order."""
        chosen = np.asarray(indices, np.int64)
        return replace(self, names=self.names[chosen], masks=None if self.masks is None else self.masks[chosen])

    @property
    def how(self) -> str:
        """How images are decoded, for the cache."""
        return repr(self.channels.layers)

    def sources(self, index: int) -> list[Path]:
        """The files that an image consists of."""
        path = self.root / self.name(index)
        return [path, *map(Path, self.channels.names_of(str(path)))]

    def _decoded(self, index: int) -> Pixels:
        path = self.root / self.name(index)
        if self.cache is None:
            return self.channels.read(path)
        return self.cache.get(self.sources(index), self.how, lambda: self.channels.read(path))

    def _readable(self, index: int) -> tuple[int, Pixels]:
        """The first image from `index` on, in turn, that can be read."""
        for step in range(len(self)):
            place = (index + step) % len(self)
            if self._state[place] == BAD:
                continue
            try:
                image = self._decoded(place)
            except ValueError as error:
                self._met(place, error)
                continue
            self._state[place] = READ
            return place, image
        raise ValueError(f"{self.root}: none of {len(self)} images can be read")

    def _met(self, place: int, error: ValueError) -> None:
        self._state[place] = BAD
        bad = np.flatnonzero(self._state == BAD)
        print(f"mtseg: passed over: {error}", file=sys.stderr)
        if len(bad) > max(1, len(self) // 100):
            names = "\n  ".join(self.name(int(i)) for i in bad)
            raise ValueError(
                f"data.on_bad_image: {len(bad)} of {len(self)} images cannot be read, more than 1 %; mend them or take "
                f"them off the list:\n  {names}"
            ) from error


def files(root: Path, pool: Pool, classes: LabelMap, on_bad_image: OnBadImage = "error") -> Files:
    """The source of a pool's names."""
    masks = packed(pool.masks) if pool.masks else None
    return Files(root, packed(pool.images), masks, classes, on_bad_image)


def same_size(path: Path, mask: Path, size: tuple[int, int]) -> None:
    """Raises ValueError, with the remedy, where the image at `path` has another (H, W) than its mask's `size`."""
    whole = size_of(path)
    if whole == size:
        return
    text = f"{mask} is {size} and its image {path} {whole} (height, width); they must be equal: "
    if size == whole[::-1] and turned(path):
        raise ValueError(
            f"{text}the image has an EXIF orientation, which is not applied, and the mask was drawn on the turned "
            "picture: turn the image's pixels (mogrify -auto-orient, or PIL.ImageOps.exif_transpose), or turn the "
            "mask back"
        )
    raise ValueError(f"{text}resize the mask with nearest neighbour, or take the image that it was drawn on")


def packed(names: Sequence[str]) -> NDArray[np.bytes_]:
    """Names in one array of UTF-8 bytes. Raises ValueError for a name that UTF-8 cannot carry."""
    try:
        return np.array([name.encode() for name in names], np.bytes_)
    except UnicodeEncodeError as error:
        raise ValueError(f"{error.object!a}: a file name that is not UTF-8; rename the file") from None


def _text(name: Any) -> str:
    return bytes(name).decode()
