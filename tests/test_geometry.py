"""Views remember where they come from: fields known in closed form, explicit taps and slices are the oracles.

Nothing here uses `geometry.pixels`: where a pixel's centre lies is written out once more, in `positions`.
"""

from itertools import product
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mtseg.data.source import IGNORE
from mtseg.geometry import (
    Geometry,
    Matrix,
    Size,
    View,
    content,
    pixels,
    resample,
    source_frame,
)
from mtseg.warping import draw_image, draw_label

Reals = NDArray[np.float64]

IMAGES = [(180, 240), (97, 130), (64, 64)]
CROPS = [(64, 64), (80, 112), (150, 101)]
GEOMETRIES = {
    "scaled": Geometry(flip=0),
    "flipped": Geometry(scale=(1, 1), flip=0.5, flip_vertical=0.5),
    "rotated": Geometry(scale=(1, 1), rotation=180, flip=0),
    "sheared": Geometry(scale=(1, 1), shear=20, flip=0),
    "all": Geometry(rotation=30, shear=20, flip=0.5, flip_vertical=0.5),
}
BATCH = 8
CPU = torch.device("cpu")
# Bilinear interpolation of f errs by at most (max |f_uu| + max |f_vv|) / 8 (u, v in pixels); for a plane wave of
# amplitude 1 and wave vector k radians a pixel that is |k|^2 / 8: 0.12 gives 1.8e-3.
STEEP = 0.12


def positions(warp: Reals, size: Size) -> Reals:  # (2, h, w): x, y in [-1, 1] of the image
    """Where the centres of a view's pixels lie in the image: pixel i of n lies in the middle of its n-th."""
    y, x = ((np.arange(n) + 0.5) * 2 / n - 1 for n in size)
    return np.einsum("ij,jhw->ihw", warp[:2], np.stack([*np.meshgrid(x, y), np.ones(size)]))


def in_pixels(place: Reals, size: Size) -> Reals:  # (2, h, w): column, row; 0 is the first pixel's centre
    return (place + 1) * np.array(size[::-1], float).reshape(2, 1, 1) / 2 - 0.5


def linear(warp: Reals, crop: Size, image: Size) -> Reals:
    """The warp's linear part in pixels: image pixels a view pixel."""
    return warp[:2, :2] * np.array(image[::-1])[:, None] / np.array(crop[::-1])


def inside(at: Reals, size: Size, tolerance: float = 0.0) -> NDArray[np.bool_]:
    """Whether both taps of each axis lie in a map of `size`; a tap without weight does not count."""
    last = np.array(size[::-1], float).reshape(2, 1, 1) - 1
    return ((at >= -tolerance) & (at <= last + tolerance)).all(axis=0)


def slice_warp(corner: tuple[int, int], crop: Size, image: Size, mirror: tuple[bool, bool] = (False, False)) -> Matrix:
    """The warp of the view image[y : y + h, x : x + w], mirrored in x and in y."""
    half = [n / size for n, size in zip(crop, image, strict=True)]
    middle = [(2 * c + n) / size - 1 for c, n, size in zip(corner, crop, image, strict=True)]
    sign_x, sign_y = (-1 if flip else 1 for flip in mirror)
    return np.array([[sign_x * half[1], 0, middle[1]], [0, sign_y * half[0], middle[0]], [0, 0, 1]])


def mirrored(array: NDArray, mirror: tuple[bool, bool]) -> NDArray:
    """A map (H, W, ...) mirrored in x and in y."""
    array = array[:, ::-1] if mirror[0] else array
    return array[::-1] if mirror[1] else array


def warps(geometry: Geometry, crop: Size, image: Size, *, seed: int, count: int = BATCH) -> Reals:  # (count, 3, 3)
    rng = np.random.default_rng(seed)
    return np.stack([geometry.sample(rng, crop=crop, image=image) for _ in range(count)])


def view_of(data: NDArray, warp: Reals, image: Size) -> View:
    """The view whose maps (B, h, w) are `data`."""
    source = torch.tensor([image] * len(warp))
    matrix = torch.from_numpy(warp)
    return View(torch.tensor(data)[:, None], matrix, content(matrix, data.shape[1:], source, CPU))


def waves(warp: Reals, crop: Size, *, seed: int, steep: float = STEEP) -> tuple[Reals, Reals]:
    """A plane wave for each image: its vector (B, 2) in the image's normalised frame, and its phase (B,).

    Its steepness is `steep` radians a pixel of the view through `warp`.
    """
    rng = np.random.default_rng(seed)
    angle, phase = rng.uniform(0, 2 * np.pi, (2, len(warp)))
    vector = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    per_pixel = np.einsum("bij,bi->bj", warp[:, :2, :2], vector) * 2 / np.array(crop[::-1])
    return vector * steep / np.linalg.norm(per_pixel, axis=1, keepdims=True), phase


def field(wave: tuple[Reals, Reals], warp: Reals, size: Size) -> NDArray[np.float32]:  # (B, h, w) in [-1, 1]
    """The waves at the pixel centres of views of `size`, in closed form."""
    places = np.stack([positions(matrix, size) for matrix in warp])
    vector, phase = wave
    return np.sin(np.einsum("bi,bihw->bhw", vector, places) + phase[:, None, None]).astype(np.float32)


# seen_from -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("crop", CROPS)
def test_a_field_in_the_images_frame_is_the_same_field_seen_from_any_view(
    geometry: Geometry, image: Size, crop: Size
) -> None:
    student_crop = crop[::-1]  # the sizes of the two views need not be equal
    there, here = warps(geometry, crop, image, seed=1), warps(geometry, student_crop, image, seed=2)
    wave = waves(there, crop, seed=3)
    teacher = view_of(field(wave, there, crop), there, image)
    student = view_of(field(wave, here, student_crop), here, image)
    seen = teacher.seen_from(student)
    error = (seen.data - student.data).abs()[seen.known]
    assert error.max() < 2e-3
    shared = np.stack(
        [
            inside(in_pixels(positions(h, student_crop), image), image)
            & inside(in_pixels(positions(np.linalg.inv(t) @ h, student_crop), crop), crop)
            for t, h in zip(there, here, strict=True)
        ]
    )
    assert seen.known.sum() > 0.9 * shared.sum() > 0.9 * 400, "the comparison is of next to nothing"


@pytest.mark.parametrize("image", IMAGES)
def test_there_and_back_again_is_the_same_field_where_both_have_content(image: Size) -> None:
    crop, geometry = (96, 120), GEOMETRIES["all"]
    there, here = warps(geometry, crop, image, seed=4), warps(geometry, crop, image, seed=5)
    # Two interpolations; the one in the student's view errs by its own steepness.
    wave = waves(there, crop, seed=6, steep=STEEP / 4)
    teacher, student = view_of(field(wave, there, crop), there, image), view_of(field(wave, here, crop), here, image)
    back = teacher.seen_from(student).seen_from(teacher)
    assert back.warp is teacher.warp
    assert not (back.known & ~teacher.known).any()
    assert back.known.float().mean() > 0.1
    assert (back.data - teacher.data).abs()[back.known].max() < 4e-3


@pytest.mark.parametrize("image", IMAGES)
def test_a_view_in_the_source_frame_lies_where_the_whole_image_does(image: Size) -> None:
    crop = (96, 120)
    warp = warps(GEOMETRIES["all"], crop, image, seed=7)
    wave = waves(warp, crop, seed=8)
    view = view_of(field(wave, warp, crop), warp, image)
    frame = source_frame(view)
    assert frame.known.all()
    whole = view.seen_from(frame)
    expected = field(wave, np.stack([np.eye(3)] * BATCH), crop)
    assert whole.known.float().mean() > 0.05
    assert np.abs(whole.data[:, 0].numpy() - expected)[whole.known[:, 0].numpy()].max() < 2e-3


def test_the_very_same_warp_is_not_resampled() -> None:
    rng = np.random.default_rng(0)
    warp = warps(GEOMETRIES["all"], (20, 30), (64, 64), seed=9)
    one = view_of(rng.random((BATCH, 20, 30), np.float32), warp, (64, 64))
    known = torch.from_numpy(rng.random((BATCH, 1, 20, 30)) < 0.5)
    seen = one.seen_from(View(one.data + 1, one.warp, known))
    assert seen.data is one.data
    assert seen.warp is one.warp
    assert torch.equal(seen.known, one.known & known)


def test_an_equal_warp_copies_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    warp = warps(GEOMETRIES["all"], (33, 50), (97, 130), seed=10)
    one = view_of(rng.random((BATCH, 33, 50), np.float32), warp, (97, 130))
    other = View(torch.zeros_like(one.data), one.warp.clone(), torch.ones_like(one.known))
    seen = one.seen_from(other)
    assert torch.equal(seen.data, one.data)
    assert torch.equal(seen.known, one.known)


# resample ------------------------------------------------------------------------------------------------------------


def taps(data: Reals, known: NDArray[np.bool_], theta: Reals, size: Size) -> tuple[Reals, Reals]:
    """Bilinear samples in float64, tap by tap, and the weight of the taps outside or unknown, (*size) each."""
    h, w = data.shape
    value, unknown = np.zeros(size), np.zeros(size)
    column_of, row_of = in_pixels(positions(theta, size), (h, w))
    for i, j in np.ndindex(size):
        x, y = column_of[i, j], row_of[i, j]
        for row, column in product(*((int(np.floor(at)), int(np.floor(at)) + 1) for at in (y, x))):
            weight = (1 - abs(y - row)) * (1 - abs(x - column))
            if 0 <= row < h and 0 <= column < w and known[row, column]:
                value[i, j] += weight * data[row, column]
            else:
                unknown[i, j] += weight
    return value, unknown


@pytest.mark.parametrize(("source", "size"), [((13, 29), (24, 17)), ((31, 12), (9, 40)), ((16, 16), (16, 16))])
def test_resampling_is_bilinear_with_every_tap_known(source: Size, size: Size) -> None:
    rng = np.random.default_rng(11)
    theta = np.stack([np.eye(3)] * 6)
    theta[:, :2] += rng.normal(0, 0.4, (6, 2, 3))
    data, known = rng.random((6, 1, *source)), rng.random((6, 1, *source)) > 0.04
    moved, covered = resample(torch.tensor(data).float(), torch.tensor(known), torch.tensor(theta), size)
    counted = 0.0
    for n in range(6):
        value, unknown = taps(data[n, 0], known[n, 0], theta[n], size)
        must, must_not = unknown < 5e-4, unknown > 2e-3  # between: a weight too small to matter
        assert covered[n, 0].numpy()[must].all()
        assert not covered[n, 0].numpy()[must_not].any()
        assert np.abs(moved[n, 0].numpy() - value)[must].max(initial=0) < 1e-3
        counted += must.mean() / 6
    assert 0.1 < counted < 0.95


def test_a_small_shift_is_not_rounded_away() -> None:
    data, theta = np.random.default_rng(28).random((13, 17)), np.eye(3)
    theta[0, 2], theta[1, 1] = 0.02 * 2 / 17, 1 - 0.02 / 13  # a fiftieth of a pixel
    value, unknown = taps(data, np.ones(data.shape, bool), theta, data.shape)
    known = torch.ones((1, 1, *data.shape), dtype=torch.bool)
    moved, _ = resample(torch.tensor(data)[None, None].float(), known, torch.tensor(theta)[None], data.shape)
    assert np.abs(moved[0, 0].numpy() - value)[unknown < 5e-4].max() < 1e-4


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_are_resampled_to_the_bit(turns: int) -> None:
    rng = np.random.default_rng(29)
    data, known = rng.random((37, 37), np.float32), rng.random((37, 37)) < 0.7
    theta = np.linalg.matrix_power(np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), turns)
    moved, covered = resample(
        torch.tensor(data)[None, None], torch.tensor(known)[None, None], torch.tensor(theta)[None], (37, 37)
    )
    assert np.array_equal(covered[0, 0].numpy(), np.rot90(known, turns))
    assert np.array_equal(moved[0, 0].numpy(), np.rot90(data, turns))


MIRRORS = list(product([False, True], repeat=2))
CORNERS = [((0, 0), (21, 34)), ((5, 9), (13, 8)), ((8, 25), (13, 9)), ((-4, 3), (30, 40)), ((7, -6), (10, 20))]


def sliced(array: NDArray, corner: tuple[int, int], crop: Size, outside: NDArray | int) -> NDArray:
    """array[y : y + h, x : x + w], and `outside` where that leaves the array."""
    padded = np.pad(array, 50, constant_values=outside)
    return padded[50 + corner[0] :][: crop[0], 50 + corner[1] :][:, : crop[1]]


@pytest.mark.parametrize("mirror", MIRRORS)
@pytest.mark.parametrize(("corner", "crop"), CORNERS)
def test_slices_and_flips_are_resampled_to_the_bit(
    corner: tuple[int, int], crop: Size, mirror: tuple[bool, bool]
) -> None:
    rng, image = np.random.default_rng(12), (21, 34)
    data, known = rng.random(image, np.float32), rng.random(image) < 0.7
    theta = torch.from_numpy(slice_warp(corner, crop, image, mirror))[None]
    moved, covered = resample(torch.tensor(data)[None, None], torch.tensor(known)[None, None], theta, crop)
    expected = mirrored(sliced(known, corner, crop, 0), mirror)
    assert np.array_equal(covered[0, 0].numpy(), expected)
    assert np.array_equal(moved[0, 0].numpy()[expected], mirrored(sliced(data, corner, crop, 0), mirror)[expected])


@pytest.mark.parametrize(("here", "there"), list(product(MIRRORS, MIRRORS)))
def test_two_slices_of_one_image_show_each_other_to_the_bit(here: tuple[bool, bool], there: tuple[bool, bool]) -> None:
    rng, crop, size = np.random.default_rng(13), (24, 31), (45, 61)
    image = rng.random(size, np.float32)
    known = rng.random((2, *size)) < 0.7  # what each view knows, as maps of the whole image
    corners, mirrors = ((3, 17), (14, 5)), (here, there)

    def cut(array: NDArray, n: int) -> NDArray:
        """The part of `array` in view `n`, in the layout of that view."""
        (y, x), mirror = corners[n], mirrors[n]
        return mirrored(array[y : y + 24, x : x + 31], mirror).copy()

    views = [
        View(
            torch.from_numpy(cut(image, n))[None, None],
            torch.from_numpy(slice_warp(corners[n], crop, size, mirrors[n]))[None],
            torch.from_numpy(cut(known[n], n))[None, None],
        )
        for n in (0, 1)
    ]
    seen = views[0].seen_from(views[1])
    first = np.zeros(size, bool)
    first[3 : 3 + 24, 17 : 17 + 31] = True
    assert np.array_equal(seen.known[0, 0].numpy(), cut(first & known[0] & known[1], 1))
    assert torch.equal(seen.data[seen.known], views[1].data[seen.known])


# content -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crop", CROPS)
def test_content_is_where_every_tap_lies_in_the_image(crop: Size) -> None:
    sizes = [IMAGES[n % len(IMAGES)] for n in range(12)]  # the images of a batch differ in size
    rng = np.random.default_rng(14)
    warp = np.stack([GEOMETRIES["all"].sample(rng, crop=crop, image=size) for size in sizes])
    known = content(torch.from_numpy(warp), crop, torch.tensor(sizes), CPU)[:, 0].numpy()
    for n, size in enumerate(sizes):
        at = in_pixels(positions(warp[n], crop), size)
        assert known[n][inside(at, size)].all()
        assert not known[n][~inside(at, size, tolerance=0.01)].any()
    assert 0.3 < known.mean() < 1


@pytest.mark.parametrize("image", [(64, 64), (97, 130), (1024, 2048), (3001, 4507)])
@pytest.mark.parametrize("at_end", [False, True])
def test_a_slice_has_content_up_to_the_images_edge_and_no_further(image: Size, at_end: bool) -> None:
    crop, over = (60, 50), 3
    corner = tuple(size - n + over if at_end else -over for size, n in zip(image, crop, strict=True))
    known = content(torch.from_numpy(slice_warp(corner, crop, image)[None]), crop, torch.tensor([image]), CPU)
    expected = np.ones(crop, bool)
    margin = slice(-over, None) if at_end else slice(over)
    expected[margin], expected[:, margin] = False, False
    assert np.array_equal(known[0, 0].numpy(), expected)


# drawing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mirror", MIRRORS)
@pytest.mark.parametrize(("corner", "crop"), CORNERS)
def test_slices_and_flips_are_drawn_to_the_bit(corner: tuple[int, int], crop: Size, mirror: tuple[bool, bool]) -> None:
    rng = np.random.default_rng(15)
    image, label = rng.integers(256, size=(21, 34, 3), dtype=np.uint8), rng.integers(9, size=(21, 34), dtype=np.uint8)
    warp = slice_warp(corner, crop, (21, 34), mirror)
    padded = np.pad(image, ((10, 10), (10, 10), (0, 0)), mode="reflect")  # outside of an image lies its mirror image
    slices = padded[10 + corner[0] :][: crop[0], 10 + corner[1] :][:, : crop[1]]
    assert np.array_equal(draw_image(image, warp, crop), mirrored(slices, mirror))
    assert np.array_equal(draw_label(label, warp, crop), mirrored(sliced(label, corner, crop, IGNORE), mirror))


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("crop", CROPS)
def test_an_upright_unscaled_sample_is_a_slice_of_the_image(image: Size, crop: Size) -> None:
    y, x = np.indices(image).astype(np.uint8)
    picture = np.stack([x, y, y], axis=2)
    for warp in warps(GEOMETRIES["flipped"], crop, image, seed=16, count=20):
        column, row = in_pixels(positions(warp, crop), image)
        known = inside(np.stack([column, row]), image, tolerance=1e-6)
        assert np.abs(np.stack([column - np.rint(column), row - np.rint(row)])).max() < 1e-6
        drawn = draw_image(picture, warp, crop)
        assert np.array_equal(drawn[known][:, 0], np.rint(column[known]))
        assert np.array_equal(drawn[known][:, 1], np.rint(row[known]))


@pytest.mark.parametrize("scale", [(0.15, 0.5), (0.5, 2.0)], ids=["shrunk", "about equal"])
@pytest.mark.parametrize("image", [(480, 360), (360, 480), (500, 500)])
def test_a_drawn_view_shows_the_field_at_its_recorded_places(image: Size, scale: tuple[float, float]) -> None:
    geometry, crop, amplitude = Geometry(scale=scale, rotation=180, shear=15, flip=0.5), (80, 112), 110.0
    for n, warp in enumerate(warps(geometry, crop, image, seed=17)):
        matrix = linear(warp, crop, image)
        steep = 0.1 / max(1.0, np.linalg.norm(np.linalg.inv(matrix), 2))  # at most 0.1 in the image too
        wave = waves(warp[None], crop, seed=n, steep=steep)
        whole = 127.5 + amplitude * field(wave, np.eye(3)[None], image)[0]
        drawn = draw_image(np.rint(np.dstack([whole] * 3)).astype(np.uint8), warp, crop)[..., 1]
        shrink = max(1.0, np.sqrt(abs(np.linalg.det(matrix))))
        clear = inside(in_pixels(positions(warp, crop), image), image, tolerance=-2 * shrink)
        assert clear.any()
        error = np.abs(drawn - (127.5 + amplitude * field(wave, warp[None], crop)[0]))[clear]
        # Three roundings to uint8, places rounded to 1/32 pixel, bilinear |k|^2 / 8 and area averaging |k|^2 / 24,
        # with |k| a fifth more than 0.1 in the averaged picture, whose pixels are square where the view is sheared.
        assert error.max() < 3 * 0.5 + amplitude * (0.12 * 2**0.5 / 64 + 0.12**2 / 8 + 0.12**2 / 24)


OLDER = 1 / 64 if int(cv2.__version__.partition(".")[0]) < 5 else 0  # by which all of OpenCV's places were off


@pytest.mark.parametrize(("scale", "tolerance"), [((0.8, 2.5), 0.01 + OLDER), ((0.35, 0.75), 0.06)])
@pytest.mark.parametrize("image", [(60, 48), (43, 61)])
def test_opencv_and_torch_put_a_ramp_at_the_same_place(
    image: Size, scale: tuple[float, float], tolerance: float
) -> None:
    """Ramps of 4 grey levels a pixel measure places; a plane fitted to the differences averages the rounding out.

    Less well where the picture is averaged down first, hence rounded twice and in step with the ramps.
    """
    geometry, crop = Geometry(scale=scale, rotation=180, shear=20, flip_vertical=0.5), (90, 70)
    y, x = np.indices(image)
    ramps = np.stack([4 * x, 4 * y, 4 * y], axis=2).astype(np.uint8)
    exact = torch.tensor(np.stack([x, y])[None], dtype=torch.float32)
    known = torch.ones((1, 1, *image), dtype=torch.bool)
    for warp in warps(geometry, crop, image, seed=18):
        drawn = draw_image(ramps, warp, crop)[..., :2].transpose(2, 0, 1) / 4
        torched = resample(exact, known, torch.from_numpy(warp)[None], crop)[0][0].numpy()
        at = in_pixels(positions(warp, crop), image)
        shrink = max(1.0, np.sqrt(abs(np.linalg.det(linear(warp, crop, image)))))
        clear = inside(at, image, tolerance=-2 * shrink)
        assert np.abs(torched - at)[:, clear].max() < 1e-3
        row, column = np.nonzero(clear)
        plane = np.stack([np.ones(len(row)), row / row.std(), column / column.std()], axis=1)
        plane[:, 1:] -= plane[:, 1:].mean(axis=0)
        off = np.linalg.lstsq(plane, (drawn - torched)[:, clear].T, rcond=None)[0]
        assert np.abs(off).max() < tolerance * shrink, "pixels of the view or of the image, whichever are larger"


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("crop", CROPS)
def test_a_label_is_its_nearest_neighbour_and_ignored_outside(image: Size, crop: Size) -> None:
    label = np.random.default_rng(19).integers(0, 200, image, dtype=np.uint8)
    for warp in warps(GEOMETRIES["all"], crop, image, seed=20):
        at = in_pixels(positions(warp, crop), image)
        nearest = np.rint(at).astype(int)
        tie = (np.abs(np.abs(at - nearest) - 0.5) < 0.005).any(axis=0)
        within = inside(nearest.astype(float), image)
        expected = np.full(crop, IGNORE)
        expected[within] = label[nearest[1][within], nearest[0][within]]
        assert np.array_equal(draw_label(label, warp, crop)[~tie], expected[~tie])
        assert tie.mean() < 0.05


@pytest.mark.parametrize("scale", [0.21, 0.25, 0.27, 0.4, 0.55, 0.79])
@pytest.mark.parametrize("rotation", [0, 45])
def test_a_fine_checkerboard_shrinks_to_grey_as_even_as_averaging_makes_it(scale: float, rotation: float) -> None:
    board = (np.indices((400, 380)).sum(axis=0) % 2 * 255).astype(np.uint8)
    for warp in warps(Geometry(scale=(scale, scale), rotation=rotation), (60, 70), (400, 380), seed=21):
        drawn = draw_image(np.dstack([board] * 3), warp, (60, 70)).astype(float)
        clear = inside(in_pixels(positions(warp, (60, 70)), (400, 380)), (400, 380), tolerance=-3 / scale)
        # Over s pixels of a row that alternates between -1 and 1 lies a sum of at most 1: the mean over s by s is
        # at most 1 / s^2. s is 1 / scale but for the rounding of the window, 2 % here.
        assert np.abs(drawn - 127.5)[clear].max() <= 127.5 * scale**2 * 1.04 + 1


@pytest.mark.parametrize("where", [(200, 0), (-200, 0), (0, 200), (0, -200), (150, -150)])
def test_a_shrunken_view_that_lies_wholly_outside_is_drawn_of_the_image_all_the_same(where: tuple[int, int]) -> None:
    image = np.full((32, 40, 3), [9, 99, 199], np.uint8)
    warp = np.diag([2.0 * 16 / 40, 2.0 * 16 / 32, 1.0])
    warp[:2, 2] = np.array(where) / (20, 16)
    assert (draw_image(image, warp, (16, 16)) == image[0, 0]).all()


def test_of_a_large_image_only_what_lies_under_a_view_is_read() -> None:
    side, crop = 10**6, (24, 20)
    row = np.random.default_rng(22).integers(256, size=(side, 3), dtype=np.uint8)
    image, label = np.broadcast_to(row, (side, side, 3)), np.broadcast_to(row[:, 0], (side, side))  # of 3 million bytes
    for corner in ((0, 0), (-7, 5), (654_321, 123_456), (side - 24, side - 9)):
        warp, x = slice_warp(corner, crop, (side, side)), np.arange(20) + corner[1]
        outside = ((np.arange(24) + corner[0])[:, None] < 0) | (x >= side)
        mirrored_at_the_edge = np.where(x < side, x, 2 * (side - 1) - x)
        assert np.array_equal(draw_image(image, warp, crop), np.broadcast_to(row[mirrored_at_the_edge], (24, 20, 3)))
        assert np.array_equal(
            draw_label(label, warp, crop), np.where(outside, IGNORE, row[mirrored_at_the_edge, 0][None])
        )


# Geometry.sample -----------------------------------------------------------------------------------------------------


def assert_uniform(part: Reals) -> None:
    """Whether draws, as parts of their range, are uniform on [0, 1]."""
    assert part.min() >= -1e-9
    assert part.max() <= 1 + 1e-9
    # The largest gap to a uniform distribution exceeds 2 / sqrt(count) once in 1500 draws (Kolmogorov).
    assert np.abs(np.sort(part) - (np.arange(len(part)) + 0.5) / len(part)).max() < 2 / len(part) ** 0.5


def test_samples_lie_uniformly_within_the_bounds() -> None:
    count, crop, image = 4000, (50, 70), (200, 130)
    geometry = Geometry(scale=(0.4, 2.0), rotation=40, shear=50, flip=0.3, flip_vertical=0)
    scale, angle, lean, mirror = np.empty((4, count))
    for n, warp in enumerate(warps(geometry, crop, image, seed=22, count=count)):
        matrix = linear(warp, crop, image)
        mirror[n] = np.linalg.det(matrix) < 0
        matrix = matrix @ np.diag([1 - 2 * mirror[n], 1])
        scale[n] = 1 / np.linalg.norm(matrix[:, 0])
        angle[n] = np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))
        cos, sin = np.cos(np.radians(angle[n])), np.sin(np.radians(angle[n]))
        upper = np.array([[cos, sin], [-sin, cos]]) @ matrix * scale[n]  # what is left: the shear
        assert np.allclose([upper[0, 0], upper[1, 0], upper[1, 1]], [1, 0, 1])
        lean[n] = np.degrees(np.arctan(upper[0, 1]))
    for values, low, high in ((scale, 0.4, 2.0), (angle, -40, 40), (lean, -50, 50)):
        assert_uniform((values - low) / (high - low))
    assert abs(mirror.mean() - 0.3) < 4 * (0.3 * 0.7 / count) ** 0.5
    assert np.abs(np.corrcoef([scale, angle, lean, mirror]) - np.eye(4)).max() < 4.5 / count**0.5


def test_a_share_of_the_area_is_uniform_and_its_width_over_height_log_uniform() -> None:
    image = (200, 130)
    geometry = Geometry(area=(0.05, 0.2), aspect=3, flip=0)  # at most 125 pixels long, so that no side is cut
    drawn = warps(geometry, (50, 70), image, seed=28, count=1000)
    across, down = drawn[:, 0, 0], drawn[:, 1, 1]  # the shares of the image's sides
    assert_uniform((across * down - 0.05) / 0.15)
    assert_uniform((np.log(across * image[1] / (down * image[0])) / np.log(3) + 1) / 2)


def test_a_crop_is_moved_by_every_whole_number_of_pixels_up_to_the_bound_as_often_along_each_side() -> None:
    count, size, bound = 2000, (32, 48), 2
    drawn = warps(Geometry(scale=(1, 1), flip=0, translate=bound), size, size, seed=29, count=count)
    moves = drawn[:, :2, 2] * np.array(size[::-1]) / 2  # the crop is as large as the image: nothing else moves it
    assert np.abs(moves - np.rint(moves)).max() < 1e-9
    pairs, found = np.unique(np.rint(moves), axis=0, return_counts=True)
    assert {(x, y) for x, y in pairs} == set(product(range(-bound, bound + 1), repeat=2))
    p = 1 / (2 * bound + 1) ** 2
    assert np.abs(found / count - p).max() < 4.5 * (p * (1 - p) / count) ** 0.5


def test_flips_turn_up_with_their_own_probability() -> None:
    count = 1000
    drawn = warps(Geometry(scale=(1, 1), flip=0.8, flip_vertical=0.3), (32, 32), (32, 32), seed=23, count=count)
    horizontal, vertical = (drawn[:, axis, axis] < 0 for axis in (0, 1))
    for found, p in ((horizontal, 0.8), (vertical, 0.3), (horizontal & vertical, 0.8 * 0.3)):
        assert abs(found.mean() - p) < 4 * (p * (1 - p) / count) ** 0.5


@pytest.mark.parametrize("geometry", [*GEOMETRIES.values(), Geometry(scale=(0.5, 0.7), rotation=180)])
@pytest.mark.parametrize("image", [(97, 130), (64, 64), (300, 420)])
@pytest.mark.parametrize("crop", [(64, 64), (60, 130), (256, 280)])
def test_a_crop_that_fits_lies_inside_and_one_that_is_larger_holds_the_image(
    geometry: Geometry, image: Size, crop: Size
) -> None:
    for warp in warps(geometry, crop, image, seed=24, count=100):
        there, back = (np.abs(matrix[:2, :2]).sum(axis=1) for matrix in (warp, np.linalg.inv(warp)))
        centre, image_centre = np.abs(warp[:2, 2]), np.abs(np.linalg.inv(warp)[:2, 2])
        fits = there <= 1  # in the image's width, height
        assert (centre + there)[fits].max(initial=0) < 1 + 1e-9
        if (back <= 1).all():
            assert (image_centre + back).max() < 1 + 1e-9


@pytest.mark.parametrize(("crop", "image"), [((40, 50), (97, 130)), ((97, 130), (40, 50)), ((40, 130), (97, 50))])
@pytest.mark.parametrize("scale", [1.0, 0.9])
def test_a_crop_lies_anywhere_that_it_may(crop: Size, image: Size, scale: float) -> None:
    drawn = warps(Geometry(scale=(scale, scale)), crop, image, seed=25, count=600)
    room = np.abs(1 - np.array(crop[::-1]) / scale / image[::-1])
    place = drawn[:, :2, 2] / room  # -1 to 1
    assert np.abs(place).max() < 1 + 1e-9
    assert (place.min(axis=0) < -0.95).all()
    assert (place.max(axis=0) > 0.95).all()
    assert np.abs(place.mean(axis=0)).max() < 4 / (3 * 600) ** 0.5
    assert abs(np.corrcoef(place.T)[0, 1]) < 4 / 600**0.5


def test_a_sample_is_a_function_of_its_generator() -> None:
    one, same, other = (warps(GEOMETRIES["all"], (64, 64), (97, 130), seed=seed) for seed in (26, 26, 27))
    assert np.array_equal(one, same)
    assert not (one == other).all(axis=(1, 2)).any()
    assert len({matrix.tobytes() for matrix in one}) == BATCH


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": (2.0, 0.5)},
        {"scale": (0.0, 1.0)},
        {"scale": (-1.0, 1.0)},
        {"scale": (0.5, float("inf"))},
        {"scale": (float("nan"), 1.0)},
        {"rotation": -1},
        {"rotation": 181},
        {"shear": 61},
        {"flip": 1.1},
        {"flip_vertical": -0.1},
        {"rotate": 10},
    ],
    ids=str,
)
def test_bounds_that_make_no_sense_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Geometry(**wrong)


@pytest.mark.parametrize("scale", [0.9, 1.0, 1.7])
def test_a_view_of_colours_is_that_of_each_colour_alone(scale):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (50, 70, 3)).astype(np.uint8)
    warp = Geometry(scale=(scale, scale), rotation=20).sample(rng, crop=(40, 48), image=(50, 70))
    to_pixels = pixels((50, 70)) @ warp @ np.linalg.inv(pixels((40, 48)))
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    each = [
        cv2.warpAffine(image[..., c].copy(), to_pixels[:2], (48, 40), flags=flags, borderMode=cv2.BORDER_REFLECT_101)
        for c in range(3)
    ]
    assert np.array_equal(draw_image(image, warp, (40, 48)), np.stack(each, axis=2))


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry(scale=(0.5, 2.0), rotation=0),
        Geometry(scale=(3.0, 4.0), flip_vertical=0.5),
        Geometry(area=(0.05, 0.2)),
        Geometry(area=(0.05, 0.2), aspect=2),
        Geometry(area=(0.5, 0.9), aspect=3),
    ],
)
@pytest.mark.parametrize(("crop", "image"), [((24, 40), (66, 96)), ((40, 24), (66, 96)), ((32, 32), (200, 50))])
def test_the_reach_is_the_most_of_a_side_that_any_draw_shows(geometry, crop, image):
    rng = np.random.default_rng(0)
    warps = [geometry.sample(rng, crop=crop, image=image) for _ in range(2000)]
    most = max(max(abs(warp[0, 0]), abs(warp[1, 1])) for warp in warps)  # of the width, of the height
    assert 0.93 * geometry.reach(crop=crop, image=image) <= most <= geometry.reach(crop=crop, image=image) + 1e-9


def test_a_view_that_is_scaled_by_half_a_percent_is_interpolated():
    """Over 400 pixels it is a pixel off at the edges, and half a pixel off between."""
    h, w = 8, 400
    ramp = torch.arange(w, dtype=torch.float32).expand(1, 1, h, w).clone()
    known = torch.ones((1, 1, h, w), dtype=torch.bool)
    warp = torch.eye(3, dtype=torch.float64)[None].clone()
    seen = View(ramp, warp.clone(), known)
    scaled = warp.clone()
    scaled[:, 0, 0] = 1 / 1.005
    found = seen.seen_from(View(ramp, scaled, known)).data[0, 0, 0]
    places = (torch.arange(w) + 0.5 - w / 2) / 1.005 + w / 2 - 0.5
    torch.testing.assert_close(found, places.float(), atol=2e-3, rtol=0)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_maps_of_half_precision_are_sampled_at_the_very_places(half: torch.dtype) -> None:
    """Stripes over a wide map, where half precision counts in pixels."""
    size = (4, 1024)
    stripes = ((torch.arange(size[1]) // 8) % 2).float().expand(1, 1, *size).contiguous()
    turned = torch.eye(3, dtype=torch.float64)[None].clone()
    turned[0, 0, 2] = 3.4 / size[1]
    known = torch.ones(1, 1, *size, dtype=torch.bool)
    exact, known_exact = resample(stripes, known, turned, size)
    rough, known_rough = resample(stripes.to(half), known, turned, size)
    assert rough.dtype == half
    assert torch.equal(known_rough, known_exact)
    assert float((rough.float() - exact).abs().max()) < 0.01
