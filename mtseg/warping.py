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
    to_pixels = pixels(image.shape[:2]) @ warp @ np.linalg.inv(pixels(size))
    shrink = math.sqrt(abs(np.linalg.det(to_pixels[:2, :2])))
    if shrink > ANTIALIAS_FROM:
        image, warp = _averaged_down(image, warp, to_pixels, size, shrink)
        to_pixels = pixels(image.shape[:2]) @ warp @ np.linalg.inv(pixels(size))
    drawn = _warp_affine(image, to_pixels, size, cv2.INTER_LINEAR, cv2.BORDER_REFLECT_101)
    return drawn if drawn.ndim == 3 else drawn[..., None]


def draw_label(label: NDArray[np.uint8], warp: Matrix, size: Size) -> NDArray[np.uint8]:
    """The view of a label map (H, W) through `warp`, at `size`: nearest neighbour, IGNORE outside the image."""
    to_pixels = pixels(label.shape[:2]) @ warp @ np.linalg.inv(pixels(size))
    return _warp_affine(label, to_pixels, size, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT)


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


def _averaged_down(image: Pixels, warp: Matrix, to_pixels: Matrix, size: Size, shrink: float) -> tuple[Pixels, Matrix]:
    """The part of `image` under the view, averaged down by about `shrink`, and the view's warp onto it."""
    h, w = image.shape[:2]
    corners = to_pixels[:2] @ np.array([[0, size[1], 0, size[1]], [0, 0, size[0], size[0]], [1, 1, 1, 1]])
    margin = math.ceil(2 * shrink)  # the taps of the warp, so that it never reads past the window inside the image
    # At least a pixel, also of a view that lies outside of the image: its mirror image is drawn there.
    (x0, x1), (y0, y1) = (
        (low := min(max(0, math.floor(first) - margin), side - 1), max(min(side, math.ceil(last) + margin), low + 1))
        for first, last, side in zip(corners.min(axis=1), corners.max(axis=1), (w, h), strict=True)
    )
    small = (max(1, round((x1 - x0) / shrink)), max(1, round((y1 - y0) / shrink)))
    window = cv2.resize(image[y0:y1, x0:x1], small, interpolation=cv2.INTER_AREA)
    window_in_image = np.array(
        [[(x1 - x0) / w, 0, (x0 + x1) / w - 1], [0, (y1 - y0) / h, (y0 + y1) / h - 1], [0, 0, 1]]
    )
    return np.asarray(window if window.ndim == 3 else window[..., None], dtype=image.dtype), np.linalg.inv(
        window_in_image
    ) @ warp
