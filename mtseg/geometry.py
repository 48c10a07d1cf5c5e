"""Geometry of views: sampling one matrix a view, and the View that remembers it.

Normalised coordinates everywhere: a map's corners (the outer edges of its corner pixels) are at -1 and +1,
so one matrix is right at every resolution. Pixel i of n has its centre at (2 i + 1) / n - 1; this is
`align_corners=False` of torch and the pixel-edge convention of `cv2.resize`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from mtseg.part import LOW_HIGH, part

Matrix = NDArray[np.float64]  # (3, 3), acts on columns (x, y, 1)
Size = tuple[int, int]  # height, width in pixels
Probability = Annotated[float, Field(ge=0, le=1)]

SNAP = 1e-6  # pixels; what a matrix may be off whole pixels and still mean them


def pixels(size: Size) -> Matrix:
    """Normalised coordinates -> pixel indices (centre of the first pixel = 0) of a map of `size`."""
    h, w = size
    return np.array([[w / 2, 0, (w - 1) / 2], [0, h / 2, (h - 1) / 2], [0, 0, 1]], dtype=np.float64)


@part
class Geometry:
    """What is drawn at random for the geometry of a view: scale, rotation, shear, flips and the crop's place.

    `scale` is in view pixels per image pixel (2 enlarges), uniform in its range; `rotation` and `shear` are
    degrees, uniform in +- the value; flips are probabilities. The crop lies anywhere inside the image where
    it fits, and holds the whole image anywhere inside itself where the image is the smaller. From there it is moved by
    a whole number of image pixels, uniform in +- `translate`, along each side; past the border lies the mirror image.
    With `area`, in place of `scale`, the view shows a share of the image's area, uniform in that range, whose width
    over its height, in pixels, is log-uniform in [1 / aspect, aspect] (but no side is longer than the image's).
    """

    scale: Annotated[tuple[float, float], LOW_HIGH] = (0.5, 2.0)
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    shear: Annotated[float, Field(ge=0, le=60)] = 0.0
    flip: Probability = 0.5
    flip_vertical: Probability = 0.0
    translate: Annotated[int, Field(ge=0, le=1000)] = 0
    area: Annotated[tuple[float, float], LOW_HIGH] | None = None
    aspect: Annotated[float, Field(ge=1, le=100)] = 1.0

    def __post_init__(self) -> None:
        low, high = self.scale
        if not 1e-3 <= low <= high <= 1e3:
            raise ValueError(f"scale: [{low}, {high}]; give 0.001 <= low <= high <= 1000, such as [0.5, 2.0]")
        if self.area is not None and not 0 < self.area[0] <= self.area[1] <= 1:
            raise ValueError(f"area: {list(self.area)} is no range of shares; give 0 < low <= high <= 1")
        if self.area is None and self.aspect != 1:
            raise ValueError(f"aspect: {self.aspect} is of the part that area says; give area too, such as [0.08, 1]")

    def sample(
        self, rng: np.random.Generator, *, crop: Size, image: Size, onto: tuple[int, int] | None = None
    ) -> Matrix:
        """A view's warp, view -> image, for a view of size `crop` on an image of size `image`.

        `onto`: a pixel of the image, its row and column, that lies anywhere inside the crop; `translate` is then left.
        """
        stretch = self._stretch(rng, crop, image)
        angle, lean = (math.radians(rng.uniform(-bound, bound)) for bound in (self.rotation, self.shear))
        mirror_x, mirror_y = (-1.0 if rng.random() < p else 1.0 for p in (self.flip, self.flip_vertical))
        rotate = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        shear = np.array([[1.0, math.tan(lean)], [0.0, 1.0]])
        linear = rotate @ shear @ np.diag([mirror_x, mirror_y]) * stretch
        warp = _placed(linear, rng.uniform(-1, 1, size=2), crop=crop, image=image, onto=onto)
        if self.translate and onto is None:
            warp[:2, 2] += rng.integers(-self.translate, self.translate + 1, size=2) * 2 / np.array(image[::-1])
        return warp

    def reach(self, *, crop: Size, image: Size) -> float:
        """The largest share of an image's height or width that a view of size `crop` shows; from 1 on, a whole side."""
        (h, w), high = image, self.area[1] if self.area is not None else None
        if high is not None:
            return min(1.0, math.sqrt(high * self.aspect * max(h / w, w / h)))
        return max(crop[0] / h, crop[1] / w) / self.scale[0]

    def _stretch(self, rng: np.random.Generator, crop: Size, image: Size) -> NDArray[np.float64]:
        """Image pixels per view pixel, along x and along y."""
        if self.area is None:
            return np.full(2, 1 / rng.uniform(*self.scale))
        pixels_shown = rng.uniform(*self.area) * image[0] * image[1]
        ratio = math.exp(rng.uniform(-1, 1) * math.log(self.aspect))
        shown = np.sqrt([pixels_shown * ratio, pixels_shown / ratio])  # width, height
        return np.minimum(shown, image[::-1]) / crop[::-1]


def _placed(
    linear: NDArray[np.float64],
    where: NDArray[np.float64],
    *,
    crop: Size,
    image: Size,
    onto: tuple[int, int] | None = None,
) -> Matrix:
    """The warp of a crop whose linear part, in pixels, is `linear`.

    `where` in [-1, 1] is its place in the image, or that of the pixel `onto` in the crop.
    """
    view_half, image_half = np.array(crop[::-1]) / 2, np.array(image[::-1]) / 2
    box_half = np.abs(linear) @ view_half  # of the crop's bounding box in the image
    held_half = np.abs(np.linalg.inv(linear)) @ image_half  # of the image's bounding box in the crop
    if (held_half <= view_half).all():
        offset = linear @ (where * (view_half - held_half))
    elif onto is None:
        offset = where * np.abs(image_half - box_half)
    else:
        offset = _around(
            np.array(onto[::-1]) + 0.5 - image_half, where, linear, view_half, np.abs(image_half - box_half)
        )
    if np.array_equal(np.abs(linear), np.eye(2)):  # unscaled, upright: land on whole pixels, lose nothing
        offset = np.round(image_half + offset - box_half) + box_half - image_half
    warp = np.eye(3)
    warp[:2, :2] = linear * view_half / image_half[:, None]
    warp[:2, 2] = offset / image_half
    return warp


def _around(
    point: NDArray[np.float64],
    where: NDArray[np.float64],
    linear: NDArray[np.float64],
    view_half: NDArray[np.float64],
    room: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The place of a crop, within +-`room`, that shows `point` at `where`, or nearer to its middle where it could not.

    All in image pixels from the image's middle.
    """
    for nearer in (1.0, 0.75, 0.5, 0.25, 0.0):
        offset = np.clip(point - linear @ (nearer * where * view_half), -room, room)
        if (np.abs(np.linalg.inv(linear) @ (point - offset)) <= view_half).all():
            return offset
    return point  # in a corner of the image that no turned crop inside of it shows


@dataclass(frozen=True)
class View:
    """Maps of a batch of images, each seen through its own warp.

    data:  (B, C, *S), any float range; S = (H, W), or () for what is said of images as wholes
    warp:  (B, 3, 3) float64 on the CPU, view -> the image's own frame (corners of the whole image at +-1).
           On the CPU always: geometry is composed exactly and never waits for the device.
    known: (B, 1, *S) bool, where the view has content
    """

    data: Tensor
    warp: Tensor
    known: Tensor

    @property
    def size(self) -> Size:
        return self.data.shape[-2], self.data.shape[-1]

    def answered(self, data: Tensor) -> View:
        """What a network says of this view, (B, K, *S): of its pixels, or of the images as wholes."""
        return View(data, self.warp, _known_at(data, self.known))

    def seen_from(self, other: View) -> View:
        """These maps in `other`'s frame (inverse warping): the same image points at `other`'s pixels.

        `known` is then true where `other` has content and every tap of the interpolation here has.
        A view with the very same warp is returned without resampling; so is what is said of images as wholes, which
        holds in every frame.
        """
        if self.warp is other.warp or self.data.dim() == 2:
            return View(self.data, other.warp, self.known & _known_at(self.data, other.known))
        data, covered = resample(self.data, self.known, torch.linalg.inv(self.warp) @ other.warp, other.size)
        return View(data, other.warp, covered & other.known)


def source_frame(like: View) -> View:
    """The images' own frame as a view of `like`'s size: warp = identity, known everywhere, no data."""
    batch, size = like.data.shape[0], like.data.shape[2:]
    warp = torch.eye(3, dtype=torch.float64).expand(batch, 3, 3)
    known = torch.ones((batch, 1, *size), dtype=torch.bool, device=like.known.device)
    return View(like.data.new_empty((batch, 0, *size)), warp, known)


def _known_at(data: Tensor, known: Tensor) -> Tensor:
    """`known` (B, 1, *S) for `data` (B, C, *S): of an image as a whole, whether anything of it is."""
    return known.flatten(1).any(1, keepdim=True) if data.dim() == 2 else known


def resample(data: Tensor, known: Tensor, theta: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Sample maps at the places that `theta` gives, bilinearly.

    data (B, C, h, w), known (B, 1, h, w) bool, theta (B, 3, 3) float64 on the CPU: new frame -> data's frame,
    normalised. Returns data (B, C, *size) and covered (B, 1, *size) bool: whether all taps are known.
    A theta that takes pixel centres to pixel centres copies, to the bit.
    """
    mode = "nearest" if _whole_pixels(theta, data.shape[-2:], size) else "bilinear"
    exact = data.float() if data.dtype in (torch.float16, torch.bfloat16) else data  # places there would be pixels off
    matrix = theta[:, :2].to(device=data.device, dtype=exact.dtype, non_blocking=True)
    with torch.autocast(data.device.type, enabled=False):
        grid = F.affine_grid(matrix, [data.shape[0], 1, *size], align_corners=False)
    moved = F.grid_sample(exact, grid, mode=mode, padding_mode="border", align_corners=False).to(data.dtype)
    # Zeros outside the map and at unknown pixels: the sample is 1 exactly where every tap is known.
    weight = F.grid_sample(known.to(exact.dtype), grid, mode=mode, padding_mode="zeros", align_corners=False)
    return moved, weight > 1 - 1e-3


def _whole_pixels(theta: Tensor, source: torch.Size | Size, size: Size) -> bool:
    to_pixels = pixels((source[0], source[1])) @ theta.numpy() @ np.linalg.inv(pixels(size))
    return bool(np.abs(to_pixels - np.round(to_pixels)).max() < SNAP)


def content(warp: Tensor, size: Size, source: Tensor, device: torch.device) -> Tensor:
    """Where views of `size` have content: every tap of their interpolation lies inside the image.

    warp (B, 3, 3) float64 view -> image; source (B, 2) height and width of each image in pixels, both on
    the CPU. Returns (B, 1, *size) bool on `device`.
    """
    h, w = size
    limit = 1 - (1 - 1e-2) / source.flip(1)  # (B, 2): x, y of the outermost centres
    limit, matrix = (of.to(device, torch.float32, non_blocking=True) for of in (limit, warp))
    y = torch.linspace(1 / h - 1, 1 - 1 / h, h, device=device)[:, None]
    x = torch.linspace(1 / w - 1, 1 - 1 / w, w, device=device)[None, :]
    inside = torch.ones((warp.shape[0], h, w), dtype=torch.bool, device=device)
    for axis in range(2):
        a, b, c = matrix[:, axis].unbind(1)
        place = a[:, None, None] * x + b[:, None, None] * y + c[:, None, None]
        inside &= place.abs() <= limit[:, axis, None, None]
    return inside[:, None]
