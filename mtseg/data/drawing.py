"""How a scene of the embedded data set is drawn.

Patterned shapes lie on a cluttered ground. A class is an outline with a pattern; colour, light, size, place,
rotation, pace and contrast are drawn independently of it and differ widely from scene to scene.
"""

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from mtseg.data.source import IGNORE

SCENE_CLASSES = ("background", "disc", "ring", "box", "triangle", "cross", "star")

Image = NDArray[np.uint8]
Field = NDArray[np.float32]
Size = tuple[int, int]


def draw_scene(rng: Generator, size: Size, front: int) -> tuple[Image, Image]:
    """One scene: image (H, W, 3) RGB and label (H, W); `front` is the class of the uncovered object."""
    others = rng.permutation([kind for kind in OUTLINES if kind != front])[: rng.integers(2, 6)]
    kinds = [*others.tolist(), front]
    colours = _colours(rng, len(kinds) + 2)
    # Planes first, (3, H, W): broadcasting a map over a last axis of 3 is several times slower.
    canvas = _gradient(rng, _grid(rng, size, min(size) / 64)[1], colours[:2])
    canvas += _noise(rng, size, min(size) / 8) * np.float32(rng.uniform(0, 10))
    _clutter(rng, canvas, colours)
    label = np.zeros(size, np.uint8)
    for kind, centre, colour in zip(kinds, _centres(rng, size, len(kinds)), colours[2:], strict=True):
        mask = _mask(rng, size, kind, centre)
        _lay(rng, canvas, mask, kind, np.stack([colour, rng.choice(colours)]))
        label[mask > 127] = kind
    return _photograph(rng, canvas), _void_borders(label)


def _colours(rng: Generator, count: int) -> Field:  # (count, 3) in [0, 255]
    """Muted colours of one harmony: hues around one, two or three spokes, lightness spread out."""
    spokes = rng.integers(1, 4)
    hues = rng.uniform() + rng.integers(spokes, size=count) / spokes + rng.normal(0, 0.04, count)
    lights = rng.permutation(np.linspace(0.2, 0.8, count)) + rng.normal(0, 0.04, count)
    hls = np.stack([hues % 1 * 360, lights, rng.uniform(0.08, 0.6, count)], axis=1).astype(np.float32)
    return cv2.cvtColor(hls[None], cv2.COLOR_HLS2RGB)[0].clip(0, 1) * 255


def _grid(rng: Generator, size: Size, unit: float) -> tuple[Field, Field]:
    """Coordinates from the middle, in `unit` pixels, along and across a random direction, (H, W) each."""
    rows, columns = ((np.arange(n, dtype=np.float32) - n / 2) / np.float32(unit) for n in size)
    angle = np.float32(rng.uniform(0, 2 * np.pi))
    cos, sin = np.cos(angle), np.sin(angle)
    return columns * cos + rows[:, None] * sin, rows[:, None] * cos - columns * sin


def _gradient(rng: Generator, across: Field, colours: Field) -> Field:  # (3, H, W)
    mix = np.float32(rng.uniform(0, 0.35)) + np.float32(rng.uniform(0, 0.012)) * across
    return colours[0][:, None, None] + mix.clip(0, 1) * (colours[1] - colours[0])[:, None, None]


def _noise(rng: Generator, size: Size, scale: float) -> Field:
    """Smooth noise, (H, W), about standard normal, with blobs `scale` pixels wide."""
    coarse = rng.standard_normal([int(n / scale) + 2 for n in size], np.float32)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


def _pattern(rng: Generator, along: Field, across: Field, unit: float, kind: int) -> Field:
    """The lightness pattern of a class, (H, W), about -1 to 1, at a random pace."""
    pace = np.float32(2 * np.pi / rng.uniform(5, 10))
    along, across = along * pace, across * pace
    match SCENE_CLASSES[kind]:
        case "disc":
            return np.sin(along)
        case "ring":
            return np.tanh(3 * np.sin(2 * along))
        case "box":
            return np.tanh(4 * np.sin(along) * np.sin(across))
        case "cross":
            return np.tanh(8 * np.cos(0.7 * along) * np.cos(0.7 * across) - 4.5) + np.float32(0.5)
        case "triangle":
            return _noise(rng, along.shape, 1.5 * unit)
    return np.tanh(3 * _noise(rng, along.shape, 4.5 * unit))


def _centres(rng: Generator, size: Size, count: int) -> NDArray[np.float64]:  # (count, 2) as x, y
    """Places well apart: each is the one of a few candidates that is farthest from those before it."""
    margin = 0.14 * min(size)
    candidates = rng.uniform(margin, (size[1] - margin, size[0] - margin), (count, 6, 2))
    centres = candidates[:, 0]
    for i in range(1, count):
        gaps = ((candidates[i][:, None] - centres[:i]) ** 2).sum(axis=2).min(axis=1)
        centres[i] = candidates[i, gaps.argmax()]
    return centres


def _wheel(*radii: float) -> NDArray[np.float64]:
    """The polygon, (N, 2), whose corners lie at these radii in equal turns."""
    turn = np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    return np.array(radii)[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)


_HALF = [(1.0, 0.36), (0.36, 0.36), (0.36, 1.0), (-0.36, 1.0), (-0.36, 0.36), (-1.0, 0.36)]
OUTLINES = {  # contours about the unit circle; inside is by the even-odd rule
    1: [_wheel(*[0.86] * 48)],
    2: [_wheel(*[0.98] * 48), _wheel(*[0.5] * 48)],
    3: [_wheel(*[1.1] * 4)],
    4: [_wheel(*[1.2] * 3)],
    5: [np.array(_HALF + [(-x, -y) for x, y in _HALF])],
    6: [_wheel(*[1.2, 0.55] * 5)],
}


def _mask(rng: Generator, size: Size, kind: int, centre: NDArray[np.float64]) -> Image:
    """The coverage, (H, W) in [0, 255], of one object: sized, squeezed, rotated, antialiased."""
    radius = min(size) / 64 * rng.uniform(9, 22)
    squeeze, angle = np.exp(rng.uniform(-0.13, 0.13)), rng.uniform(0, 2 * np.pi)
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = radius * np.array([[cos * squeeze, -sin / squeeze], [sin * squeeze, cos / squeeze]])
    contours = [np.rint((contour @ matrix.T + centre) * 16).astype(np.int32) for contour in OUTLINES[kind]]
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, contours, 255, cv2.LINE_AA, shift=4)
    return mask


def _lay(rng: Generator, canvas: Field, mask: Image, kind: int, colours: Field) -> None:
    """Lay one object on the canvas: its drop shadow first, then its pattern on a gradient of `colours`."""
    unit = min(mask.shape) / 64
    x, y, width, height = cv2.boundingRect(mask)
    pad = int(6 * unit)  # the reach of a shadow; drawing in this box alone halves the cost of a scene
    box = slice(max(y - pad, 0), y + height + pad), slice(max(x - pad, 0), x + width + pad)
    mask, canvas = mask[box], canvas[:, box[0], box[1]]
    shift = np.eye(2, 3, dtype=np.float32)
    shift[:, 2] = rng.uniform(-3, 3, 2) * unit
    penumbra = 2 * round(2.5 * unit) + 1
    soft = cv2.blur(cv2.warpAffine(mask, shift, mask.shape[::-1]), (penumbra, penumbra))
    canvas *= 1 - soft * np.float32(rng.uniform(0, 0.5) / 255)
    along, across = _grid(rng, mask.shape, unit)
    fill = _gradient(rng, across, colours)
    fill += _pattern(rng, along, across, unit, kind) * np.float32(rng.uniform(28, 55))
    _paint(canvas, mask, fill)


def _paint(canvas: Field, mask: Image, fill: Field) -> None:
    canvas += (mask * np.float32(1 / 255)) * (fill - canvas)


def _clutter(rng: Generator, canvas: Field, colours: Field) -> None:
    """Strokes and specks that belong to no class."""
    size = canvas.shape[1:]
    unit = min(size) / 64
    for colour in rng.permutation(colours)[: rng.integers(1, 4)]:
        mask = np.zeros(size, np.uint8)
        starts = rng.uniform(0, size[::-1], (rng.integers(1, 6), 2))
        ends = starts + rng.normal(0, 8 * unit, starts.shape)
        for start, end in np.rint(np.stack([starts, ends], axis=1) * 16).astype(int).tolist():
            cv2.line(mask, start, end, 255, max(1, round(rng.uniform(0.5, 3.5) * unit)), cv2.LINE_AA, shift=4)
        _paint(canvas, mask, colour[:, None, None])


def _photograph(rng: Generator, canvas: Field) -> Image:  # (H, W, 3)
    """The canvas under a light that falls off and a soft shadow edge, through a blurring, grainy camera."""
    size = canvas.shape[1:]
    along, across = _grid(rng, size, min(size) / 64)
    low, high = (0.75, 0, 0, 2, -20), (1.15, 0.006, 0.35, 8, 20)
    level, slope, shade, width, place = rng.uniform(low, high).astype(np.float32)
    light = (level + slope * along) * (1 - shade / 2 * (1 + np.tanh((across - place) / width)))
    canvas = canvas * (light * rng.normal(1, 0.04, (3, 1, 1)).astype(np.float32))
    sigma = min(size) / 64 * rng.uniform(0.3, 0.8)
    grain = rng.standard_normal(size, np.float32) * np.float32(rng.uniform(1, 7))
    planes = [cv2.GaussianBlur(plane, (0, 0), sigma) + grain for plane in canvas]
    return cv2.merge(planes).clip(0, 255).astype(np.uint8)


def _void_borders(label: Image) -> Image:
    """The label with IGNORE on both sides of every border between two labels, two pixels wide in all."""
    kernel = np.ones((3, 3), np.uint8)
    return np.where(cv2.dilate(label, kernel) == cv2.erode(label, kernel), label, np.uint8(IGNORE))
