"""Images and labels drawn through a view's warp, with OpenCV: one resampling each."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from mtseg.data.source import IGNORE, Pixels
from mtseg.geometry import Matrix, Size, pixels

ANTIALIAS_FROM = 1.25  # source pixels per view pixel above which bilinear sampling alone would alias
EXACT = (1, 3, 4)  # numbers of channels that OpenCV takes; two of them it draws coarsely, of more it averages none


def draw_image(image: Pixels, warp: Matrix, size: Size) -> Pixels:
    """The view of `image` (H, W, C), of any type, through `warp`, at `size`: one `cv2.warpAffine`, bilinear.

    Where the view shrinks the image, the window under it is averaged down first (INTER_AREA). Outside the
    image lies its mirror image, which `View.known` leaves out.
    """
    if image.shape[2] not in EXACT:
        return np.concatenate([draw_image(group, warp, size) for group in _groups(image)], axis=2)
    window, to_pixels = _under(image, warp, size)
    if (shrink := _shrink(to_pixels)) > ANTIALIAS_FROM:
        window, to_pixels = _averaged_down(window, to_pixels, shrink)
    drawn = _warp_affine(window, to_pixels, size, cv2.INTER_LINEAR, cv2.BORDER_REFLECT_101)
    return drawn if drawn.ndim == 3 else drawn[..., None]


def draw_label(label: NDArray[np.uint8], warp: Matrix, size: Size) -> NDArray[np.uint8]:
    """The view of a label map (H, W) through `warp`, at `size`: nearest neighbour, IGNORE outside the image."""
    window, to_pixels = _under(label, warp, size)
    return _warp_affine(window, to_pixels, size, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT)


def _groups(image: Pixels) -> list[Pixels]:
    """The channels of an image, three at a time and the rest one by one."""
    count, whole = image.shape[2], image.shape[2] // 3 * 3
    return np.split(image, [*range(3, whole, 3), *range(max(whole, 1), count)], axis=2)


def _warp_affine(source: Pixels, to_pixels: Matrix, size: Size, interpolation: int, border: int) -> Pixels:
    colours = source.dtype == np.uint8 and source.ndim == 3 and source.shape[2] == 3
    drawn = cv2.warpAffine(
        # The very same values, in under half of the time: OpenCV's vectors hold four channels and not three.
        cv2.cvtColor(source, cv2.COLOR_RGB2RGBA) if colours else source,
        to_pixels[:2],
        (size[1], size[0]),
        flags=interpolation | cv2.WARP_INVERSE_MAP,
        borderMode=border,
        borderValue=(IGNORE,) * 4,
    )
    return np.asarray(cv2.cvtColor(drawn, cv2.COLOR_RGBA2RGB) if colours else drawn, dtype=source.dtype)


def _under(source: Pixels, warp: Matrix, size: Size) -> tuple[Pixels, Matrix]:
    """The window of `source` (H, W, ...) that a view of `size` reads, where it lies outside by the mirror image; and
    the view's pixels in it. The rest of a large image, which may be on a disk, is not touched."""
    to_pixels = pixels(source.shape[:2]) @ warp @ np.linalg.inv(pixels(size))
    corners = to_pixels[:2] @ np.array([[0, size[1], 0, size[1]], [0, 0, size[0], size[0]], [1, 1, 1, 1]])
    margin = max(2, math.ceil(2 * _shrink(to_pixels)))  # the taps of the warp, so that it never reads past the window

    def read(places: NDArray[np.float64], side: int) -> slice:
        low, high = math.floor(places.min()) - margin, math.ceil(places.max()) + margin
        first, last = min(low, 2 * side - high), max(high, -low)  # with what is mirrored at either border
        return slice(max(first, 0), min(last, side))

    columns, rows = read(corners[0], source.shape[1]), read(corners[1], source.shape[0])
    into_window = np.array([[1, 0, -columns.start], [0, 1, -rows.start], [0, 0, 1]])
    return source[rows, columns], into_window @ to_pixels


def _shrink(to_pixels: Matrix) -> float:
    """How many pixels of the source lie under a pixel of the view, along a side."""
    return math.sqrt(abs(np.linalg.det(to_pixels[:2, :2])))


def _averaged_down(window: Pixels, to_pixels: Matrix, shrink: float) -> tuple[Pixels, Matrix]:
    """`window` averaged down by about `shrink`, and the view's pixels in it."""
    size = window.shape[:2]
    less = (max(1, round(size[0] / shrink)), max(1, round(size[1] / shrink)))
    small = cv2.resize(window, less[::-1], interpolation=cv2.INTER_AREA)
    into_small = pixels(less) @ np.linalg.inv(pixels(size))
    return np.asarray(small if small.ndim == 3 else small[..., None], dtype=window.dtype), into_small @ to_pixels
