"""Make cifar10.npz of torchvision's files (or of mosaics), count it; with --zca fit the whitening of the recipes."""

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtseg.data.decode import read_image
from mtseg.data.prepare import answer
from mtseg.data.small import Arrays, cifar, from_npz
from mtseg.whiten import fit_zca

COUNTS = (50000, 10000)


def work(words: argparse.Namespace) -> bool:
    root: Path = words.root
    path, whitening = root / "cifar10.npz", root / "zca.npz"
    root.mkdir(parents=True, exist_ok=True)
    if words.download:
        import torchvision

        torchvision.datasets.CIFAR10(str(root), download=True)
    if not path.is_file():
        found = of_mosaics(words.mosaics) if words.mosaics else cifar(root, "CIFAR10")
        save(path, found)
    found = from_npz(path)
    counts = (len(found.train), len(found.test))
    print(f"{path}: {counts[0]} training and {counts[1]} test images ({COUNTS[0]} and {COUNTS[1]} are expected)")
    if words.zca:
        mean, matrix = fit_zca(found.train)
        np.savez(whitening, mean=mean, matrix=matrix)
        print(f"{whitening}: fitted on {len(found.train)} images")
        if len(found.train) < (values := found.train[0].size):
            print(
                f"warning: {len(found.train)} images do not tell how {values} values vary together, and where they do "
                f"not vary the whitening amplifies noise; fit it on at least {values} images"
            )
    return counts == COUNTS


def save(path: Path, found: Arrays) -> None:
    train, test = {"x_train": found.train, "y_train": found.train_labels}, {"x_test": found.test}
    np.savez(path, **train, **test, y_test=found.test_labels, classes=np.array(found.classes))


def of_mosaics(folder: Path) -> Arrays:
    """images_0 to images_3.webp, each 50 x 300 images of 32 x 32, the test images last; labels.npz beside them."""
    with np.load(folder / "labels.npz", allow_pickle=False) as labels:
        sides = [labels[name].astype(np.int64) for name in ("y_train", "y_test")]
        classes = tuple(map(str, labels["classes"]))
    images = np.concatenate([_tiles(read_image(folder / f"images_{n}.webp")) for n in range(4)])
    return Arrays(images[: COUNTS[0]], sides[0], images[COUNTS[0] :], sides[1], classes)


def _tiles(mosaic: NDArray[np.uint8]) -> NDArray[np.uint8]:
    rows, columns = mosaic.shape[0] // 32, mosaic.shape[1] // 32
    return mosaic.reshape(rows, 32, columns, 32, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="the folder to make, such as data/cifar10")
    parser.add_argument("--download", action="store_true", help="get the original files, by torchvision, into ROOT")
    parser.add_argument("--mosaics", type=Path, help="a folder of mosaics to take in place of torchvision's files")
    parser.add_argument("--zca", action="store_true", help="fit the ZCA whitening on all training images: ROOT/zca.npz")
    parsed = parser.parse_args()
    sys.exit(answer(lambda: work(parsed)))
