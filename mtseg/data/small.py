"""Small images with a class each: CIFAR-10, CIFAR-100, SVHN, and any .npz of arrays. They lie in memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mtseg.data.choose import divided, drawn, listed, refuse_two_ways
from mtseg.data.held import Held
from mtseg.data.palette import colours
from mtseg.data.provenance import Expect, Expected, checked
from mtseg.data.source import UNKNOWN, Splits, Subset
from mtseg.part import part

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Pixels = NDArray[np.uint8]


class Arrays(NamedTuple):
    """Images (N, H, W, 3) uint8 and their classes (N,) int64, of the training and of the test set."""

    train: Pixels
    train_labels: NDArray[np.int64]
    test: Pixels
    test_labels: NDArray[np.int64]
    classes: tuple[str, ...]


@part
class Small:
    """Small images under `root`, of which `labels` are labelled: a number, the same of each class, or `all`.

    `set`: `cifar10` and `cifar100` as torchvision has them (data_batch_1 to 5, or train and test), `svhn` the files
    train_32x32.mat, test_32x32.mat and, for `extra` of its images as unlabelled ones, extra_32x32.mat; `npz` any
    arrays: `root` is a file with x_train, y_train, x_test, y_test and, where they have names, classes. A file
    `root`/SET.npz of such arrays is read in place of the originals.

    `split_seed` chooses as the paper's code does: first `val` training images that are kept apart, then the labelled
    ones, then the extra ones. `split` is a list of the labelled images instead, a number from 0 a line; `per_class`
    asks for as many of each class, in place of `labels`.
    """

    kind: Literal["small"] = "small"
    set: Literal["cifar10", "cifar100", "svhn", "npz"]
    root: Path
    labels: Count | Literal["all"] = "all"
    per_class: Count | None = None
    split_seed: Seed = 0
    split: Path | None = None
    unlabelled: Literal["all", "rest"] = "all"
    extra: Annotated[int, Field(ge=0)] = 0
    val: Annotated[int, Field(ge=0)] = 0
    expect: Expect = Expected()

    def __post_init__(self) -> None:
        refuse_two_ways(self.labels, self.per_class, self.split)
        if self.extra and self.set != "svhn":
            raise ValueError(f"extra: {self.extra} images of {self.set}, and only svhn has extra ones; set extra: 0")

    def build(self) -> Splits:
        """Read all arrays. Raises ValueError for files that are missing or are not what they should be."""
        found = self._arrays()
        if self.val >= len(found.train):
            raise ValueError(f"data.val: {self.val} of {len(found.train)} training images leaves none; lower it")
        random = np.random.RandomState(self.split_seed)
        every = np.arange(len(found.train))
        apart, kept = divided(len(every), self.val, random) if self.val else (every[:0], every)
        chosen = self._chosen(found, kept, random)
        rest = np.setdiff1d(kept, chosen)
        train, more = self._with_extra(found, random)
        pool = np.concatenate([kept if self.unlabelled == "all" else rest, more])
        if not len(pool):
            raise ValueError("data.unlabelled: 'rest' leaves nothing where every image is labelled; use 'all'")
        test = Held(found.test, found.test_labels, [f"test-{i}" for i in range(len(found.test))])
        splits = Splits(
            classes=found.classes,
            palette=colours(len(found.classes)),
            labelled=Subset(train, chosen),
            unlabelled=Subset(train, pool),
            val=Subset(train, apart),
            test=test,
            name=self._name(len(chosen), len(kept)),
        )
        return checked(splits, self.expect)

    def _chosen(self, found: Arrays, kept: NDArray[np.int64], random: np.random.RandomState) -> NDArray[np.int64]:
        """The labelled images, as indices of the training set."""
        if self.split is not None:
            path = self.root / self.split if self.root.is_dir() else self.split
            indices = listed(path, found.train_labels, found.classes, _names(found))
            if np.isin(indices, kept, invert=True).any():
                raise ValueError(f"{path}: names images that data.val keeps apart; set data.val=0, or another list")
            return indices
        labels = found.train_labels[kept]
        return kept[drawn(self.labels, labels, random, found.classes, per_class=self.per_class)]

    def _with_extra(self, found: Arrays, random: np.random.RandomState) -> tuple[Held, NDArray[np.int64]]:
        """The training images with the extra ones behind them, and where those are."""
        names = _names(found)
        if not self.extra:
            return Held(found.train, found.train_labels, names), np.arange(0)
        images, _ = svhn(self.root, "extra")
        if self.extra > len(images):
            raise ValueError(f"data.extra: {self.extra} of {len(images)} extra images; ask for fewer")
        chosen, _ = divided(len(images), self.extra, random)
        whole = np.concatenate([found.train, images[chosen]])
        labels = np.concatenate([found.train_labels, np.full(self.extra, UNKNOWN)])
        more = np.arange(len(found.train), len(whole))
        return Held(whole, labels, names + [f"extra-{i}" for i in chosen]), more

    def _arrays(self) -> Arrays:
        path = self.root if self.set == "npz" else self.root / f"{self.set}.npz"
        if path.is_file() or self.set == "npz":
            return from_npz(path)
        if not self.root.is_dir():
            raise ValueError(f"data.root: no folder {self.root}; datasets/{self.set}/README.md says how to get it")
        return READERS[self.set](self.root)

    def _name(self, labelled: int, kept: int) -> str:
        if self.split is not None:
            return f"{self.set} {self.split}"
        return f"{self.set} {'all' if labelled == kept else labelled} seed {self.split_seed}"


def _names(found: Arrays) -> list[str]:
    return [f"train-{i}" for i in range(len(found.train))]


def from_npz(path: Path) -> Arrays:
    """The arrays of an .npz file. Raises ValueError for a file without them, or with others."""
    try:
        with np.load(path, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
        listed = _column(arrays.get("classes", np.array([]))).tolist()
        names = [name.decode() if isinstance(name, bytes) else str(name) for name in listed]
        given = [(arrays[f"x_{side}"], _column(arrays[f"y_{side}"])) for side in ("train", "test")]
    except Exception as error:  # what a damaged file raises is up to its reader
        raise ValueError(
            f"{path}: not a file of x_train, y_train, x_test and y_test ({type(error).__name__}: {error}); save them "
            "with numpy.savez"
        ) from error
    for _, labels in given:
        if labels.dtype.kind not in "iu":
            raise ValueError(f"{path}: labels of {labels.dtype}; give the classes as whole numbers from 0")
    if "" in names:
        raise ValueError(f"{path}: classes has an empty name, and scores are by name; give each class one")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path}: classes has {twice!r} twice, and scores are by name; name each class once")
    sides = [(images, labels.astype(np.int64)) for images, labels in given]
    highest = max(int(labels.max(initial=-1)) for _, labels in sides)
    classes = tuple(names) or tuple(str(i) for i in range(highest + 1))
    for images, labels in sides:
        fits = images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] == 3 and len(images) == len(labels)
        if not fits or len(images) == 0 or labels.min() < 0 or highest >= len(classes):
            raise ValueError(
                f"{path}: images of {images.dtype} {images.shape} with {len(labels)} labels up to {highest} of "
                f"{len(classes)} classes; give uint8 (N, height, width, 3) and a class from 0 for each"
            )
    if len({images.shape[1:] for images, _ in sides}) > 1:
        shapes = " and ".join(f"{images.shape[1]}x{images.shape[2]}" for images, _ in sides)
        raise ValueError(f"{path}: images of {shapes}; give training and test images of one size")
    return Arrays(sides[0][0], sides[0][1], sides[1][0], sides[1][1], classes)


def _column(values: NDArray[Any]) -> NDArray[Any]:
    """(N,) of (N,) or (N, 1). Raises ValueError for another shape."""
    if values.ndim == 0 or values.size != len(values):
        raise ValueError(f"an array of shape {values.shape} where a row of values is wanted")
    return values.reshape(-1)


def cifar(root: Path, name: Literal["CIFAR10", "CIFAR100"]) -> Arrays:
    """CIFAR as torchvision reads it, its checksums compared."""
    import torchvision

    try:
        train, test = (getattr(torchvision.datasets, name)(str(root), train=which) for which in (True, False))
    except (RuntimeError, OSError) as error:
        raise ValueError(
            f"{root}: no {name} as torchvision has it, and no {name.lower()}.npz: a file of it is missing or damaged "
            f"(its checksum is another); get it again as datasets/{name.lower()}/README.md says"
        ) from error
    labels = [np.array(side.targets, np.int64) for side in (train, test)]
    return Arrays(train.data, labels[0], test.data, labels[1], tuple(train.classes))


def svhn(root: Path, side: str) -> tuple[Pixels, NDArray[np.int64]]:
    """Images (N, 32, 32, 3) uint8 and digits (N,) of train, test or extra; the file's label 10 is the digit 0.

    Raises ValueError for a file that is missing or damaged, or whose arrays are not those of SVHN.
    """
    from scipy.io import loadmat

    path = root / f"{side}_32x32.mat"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; datasets/svhn/README.md says how to get it")
    try:
        found = loadmat(str(path))
        images, labels = found["X"], _column(found["y"])
    except Exception as error:  # what a damaged file raises is up to its reader
        raise ValueError(f"{path}: not a file of SVHN ({type(error).__name__}: {error}); get it again") from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3) or not images.size:
        raise ValueError(
            f"{path}: X is {images.dtype} {images.shape}; the images of SVHN are uint8 (32, 32, 3, N), at least one: "
            "get the file again, or give arrays of your own as data.set: npz"
        )
    if len(labels) != images.shape[3]:
        raise ValueError(f"{path}: {len(labels)} labels y of {images.shape[3]} images X; get the file again")
    wrong = labels[~np.isin(labels, np.arange(11))]
    if len(wrong):
        raise ValueError(
            f"{path}: y holds {wrong[0]}; the labels of SVHN are the digits 1 to 9, and 10 (or 0) for the digit 0: "
            "get the file again"
        )
    return np.ascontiguousarray(images.transpose(3, 0, 1, 2)), labels.astype(np.int64) % 10


def _svhn(root: Path) -> Arrays:
    train, test = svhn(root, "train"), svhn(root, "test")
    return Arrays(*train, *test, tuple("0123456789"))


READERS: dict[str, Callable[[Path], Arrays]] = {
    "cifar10": lambda root: cifar(root, "CIFAR10"),
    "cifar100": lambda root: cifar(root, "CIFAR100"),
    "svhn": _svhn,
}
