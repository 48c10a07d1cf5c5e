"""Predictors: windows add up to the whole for point-wise networks, every pixel is covered, memory stays in bands."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mtseg.data.source import IGNORE
from mtseg.predictors import Band, Centre, Predictor, Slide, Whole, asked, joined
from mtseg.tta import Augment
from mtseg.views import Views

K = 4
WEIGHTS = torch.linspace(-2, 2, 3 * K).view(3, K).sin()
sides = st.integers(16, 40)
averages = st.sampled_from(["softmax", "logits"])


def pointwise(pixels: Tensor) -> Tensor:
    """Logits (B, K, h, w) of each pixel by itself."""
    return ((pixels.float() / 40).sin() @ WEIGHTS * 5).permute(0, 3, 1, 2).contiguous()


def picture(h: int, w: int, seed: int = 0, batch: int = 1) -> Tensor:
    return torch.randint(256, (batch, h, w, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def of(predictor: Predictor, pixels: Tensor, answer: Any = pointwise) -> tuple[Tensor, Tensor]:
    return joined(predictor(answer, pixels), (pixels.shape[1], pixels.shape[2]))


def agree(ours: tuple[Tensor, Tensor], oracle: Tensor) -> None:
    """`ours` are the class and the probability of the highest of `oracle` (B, K, H, W), where it is not a draw."""
    best = oracle.topk(2, dim=1)
    clear = best.values[:, 0] - best.values[:, 1] > 1e-4
    assert clear.sum() > 0.9 * clear.numel() - 2
    assert torch.equal(ours[0].long()[clear], best.indices[:, 0][clear])
    # hundreds of windows over a pixel are summed in float32, and the probability is the exponent of a mean of logits
    assert torch.allclose(ours[1], best.values[:, 0], atol=5e-5)


# --- one answer, however it is asked for


@settings(deadline=None, max_examples=150)
@given(
    st.integers(1, 70), st.integers(1, 70), st.tuples(sides, sides), st.floats(0.02, 1), averages, st.booleans(),
    st.integers(1, 2), st.integers(1, 9),
)  # fmt: skip
def test_sliding_is_whole_for_a_pointwise_network(h, w, window, stride, average, flip, batch, together):
    pixels = picture(h, w, seed=h * 71 + w, batch=batch)
    slide = Slide(window=window, stride=stride, average=average, augment=Augment(flip=flip), batch=together)
    agree(of(slide, pixels), pointwise(pixels).softmax(1))


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 90), st.integers(1, 90), st.tuples(sides, sides), st.floats(0.02, 1), st.integers(1, 9))
def test_windows_cover_every_pixel_and_end_at_the_border_in_full_size(h, w, window, stride, batch):
    """Each window's pixels are their own places, so that the network sees where it is."""
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    pixels = torch.stack([rows, columns, rows], 2)[None]
    seen, places = torch.zeros(h, w), []

    def answer(window_pixels: Tensor) -> Tensor:
        assert len(window_pixels) <= batch
        size = window_pixels.shape[1:3]
        for one in window_pixels:
            top, left = one[0, 0, :2].tolist()
            seen[top : top + size[0], left : left + size[1]] += 1
            places.append((top, left, *size))
        return torch.zeros((len(window_pixels), K, *size))

    bands = list(Slide(window=window, stride=stride, batch=batch)(answer, pixels))
    assert seen.min() >= 1
    assert {place[2:] for place in places} == {(min(window[0], h), min(window[1], w))}
    assert len(set(places)) == len(places)
    tops, lefts = (sorted({place[axis] for place in places}) for axis in (0, 1))
    assert (tops[-1] + min(window[0], h), lefts[-1] + min(window[1], w)) == (h, w)
    for starts, side in ((tops, window[0]), (lefts, window[1])):
        steps = [after - before for before, after in itertools.pairwise(starts)]
        assert all(step == max(1, int(side * stride)) for step in steps[:-1])
    rows = [row for band in bands for row in range(band.top, band.top + band.classes.shape[1])]
    assert rows == list(range(h))


@pytest.mark.parametrize("average", ["softmax", "logits"])
def test_windows_that_disagree_are_meaned_as_a_loop_over_pixels_means_them(average):
    """A network that answers by the place in its window; the oracle gathers each pixel's windows one by one."""
    h, w, side, stride = 37, 29, 16, 0.4
    draw = torch.Generator().manual_seed(3)
    by_place = torch.randn((1, K, side, side), generator=draw) * 3
    step = int(side * stride)
    starts = [[*range(0, whole - side, step), whole - side] for whole in (h, w)]
    oracle = torch.zeros((1, K, h, w), dtype=torch.float64)
    for y, x in itertools.product(range(h), range(w)):
        found = [
            by_place[0, :, y - top, x - left].double()
            for top, left in itertools.product(*starts)
            if top <= y < top + side and left <= x < left + side
        ]
        mean = torch.stack([f.softmax(0) if average == "softmax" else f for f in found]).mean(0)
        oracle[0, :, y, x] = mean if average == "softmax" else mean.softmax(0)
    slide = Slide(window=(side, side), stride=stride, average=average)
    agree(of(slide, picture(h, w), lambda pixels: by_place.expand(len(pixels), -1, -1, -1)), oracle.float())


@pytest.mark.parametrize("images", [1, 2, 3])
def test_windows_that_share_a_forward_are_answered_as_each_alone_to_the_bit(images):
    """By a network of small whole numbers, whose sums are exact in any order; the oracle asks one by one."""
    kernel = torch.randint(-3, 4, (K, 3, 5, 5), generator=torch.Generator().manual_seed(1)).float()
    columns = len({*range(0, 100 - 24, 16), 100 - 24})
    asked_for: list[int] = []

    def answer(pixels: Tensor) -> Tensor:
        asked_for.append(len(pixels))
        return torch.nn.functional.conv2d(pixels.permute(0, 3, 1, 2).float(), kernel, padding=2) / 1024

    pixels = picture(60, 100, batch=images)
    found = []
    for batch in (1, 4, 7, 100):
        asked_for.clear()
        found.append(of(Slide(window=(32, 24), average="logits", batch=batch), pixels, answer))
        assert max(asked_for) <= max(batch, images)
        assert max(asked_for) <= columns * images  # no more than a row of windows
        assert max(asked_for) > batch - images or max(asked_for) == columns * images  # and no fewer than may
    for classes, confidence in found[1:]:
        assert torch.equal(classes, found[0][0])
        assert torch.equal(confidence, found[0][1])


def test_softmax_and_logits_averages_can_name_different_classes():
    """Two answers mildly for class 0, one strongly against it."""
    found = []
    for average in ("softmax", "logits"):
        answers = iter([2.0, 2.0, -9.0])

        def answer(pixels: Tensor, answers: Any = answers) -> Tensor:
            size = pixels.shape[1:3]
            return torch.stack([torch.full((1, *size), next(answers)), torch.zeros((1, *size))], 1)

        classes, _ = of(Whole(augment=Augment(scales=(1, 1, 1)), average=average), picture(16, 16), answer)
        found.append(classes.unique().tolist())
    assert found == [[0], [1]]


# --- scales and mirror images


def test_mirroring_changes_nothing_for_a_network_that_mirrors_with_its_image():
    kernel = torch.randn((K, 3, 3, 3), generator=torch.Generator().manual_seed(0)) / 100
    symmetric = kernel + kernel.flip(3)

    def answer(pixels: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(pixels.permute(0, 3, 1, 2).float(), symmetric, padding=1)

    pixels = picture(23, 37)
    for average in ("softmax", "logits"):
        agree(of(Whole(augment=Augment(flip=True), average=average), pixels, answer), answer(pixels).softmax(1))


@pytest.mark.parametrize("average", ["softmax", "logits"])
def test_mirroring_means_the_answer_and_the_answer_to_the_mirror_image_turned_back(average):
    kernel = torch.randn((K, 3, 3, 5), generator=torch.Generator().manual_seed(0)) / 60

    def answer(pixels: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(pixels.permute(0, 3, 1, 2).float(), kernel, padding=(1, 2))

    pixels = picture(23, 37)
    pair = [
        answer(pixels),
        torch.from_numpy(answer(torch.from_numpy(pixels.numpy()[:, :, ::-1].copy())).numpy()[..., ::-1].copy()),
    ]
    assert not torch.allclose(*pair)
    oracle = sum(p.softmax(1) for p in pair) / 2 if average == "softmax" else (sum(pair) / 2).softmax(1)
    agree(of(Whole(augment=Augment(flip=True), average=average), pixels, answer), oracle)


def test_scales_are_meaned_after_each_is_brought_back_to_the_image():
    """A network that answers the height it sees: the mean is over the scales asked for."""

    def answer(pixels: Tensor) -> Tensor:
        h, w = pixels.shape[1:3]
        return torch.stack([torch.full((1, h, w), h / 40), torch.zeros(1, h, w)], 1)

    seen = Whole(augment=Augment(scales=(0.5, 1.0, 1.5), flip=True), average="logits")
    _, confidence = of(seen, picture(40, 24), answer)
    assert confidence == pytest.approx(torch.tensor([1.0, 0.0]).softmax(0)[0].item())
    assert (seen.augment.forwards, seen.augment.cost) == (6, pytest.approx(2 * (0.25 + 1 + 2.25)))


def test_a_plain_colour_is_answered_the_same_at_every_scale_in_every_window():
    pixels = torch.full((1, 33, 50, 3), 77, dtype=torch.uint8)
    many = Augment(scales=(0.5, 0.77, 1.0, 1.9), flip=True)
    for predictor in (Whole(augment=many), Slide(window=(16, 20), augment=many)):
        agree(of(predictor, pixels), pointwise(pixels).softmax(1))


def test_the_networks_own_answer_is_left_as_it_is():
    held = torch.randn(1, K, 20, 20)
    before = held.clone()
    for average in ("softmax", "logits"):
        for predictor in (Whole(augment=Augment(flip=True), average=average), Slide(window=(20, 20), average=average)):
            list(predictor(lambda pixels: held, picture(20, 20)))
    assert torch.equal(held, before)


# --- the centre


@pytest.mark.parametrize(("h", "w"), [(40, 60), (41, 61), (10, 60), (10, 12)])
def test_the_centre_is_predicted_and_nothing_else(h, w):
    pixels = picture(h, w)
    classes, confidence = of(Centre(size=(20, 30)), pixels)
    known = classes != IGNORE
    rows, columns = known[0].any(1).nonzero().flatten(), known[0].any(0).nonzero().flatten()
    assert (len(rows), len(columns)) == (min(20, h), min(30, w))
    assert known.sum() == len(rows) * len(columns)
    assert abs(rows[0] - (h - 1 - rows[-1])) <= 1
    assert abs(columns[0] - (w - 1 - columns[-1])) <= 1
    assert torch.equal(classes[known], of(Whole(), pixels)[0][known])
    assert (confidence[~known] == 0).all()


# --- what is refused, what is said


@pytest.mark.parametrize(
    "wrong",
    [{"window": (8, 32)}, {"window": (32, 32), "stride": 0}, {"window": (32, 32), "stride": 1.1}, {}],
)
def test_windows_that_cannot_be_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ValueError, match=r"window|stride"):
        Slide(**wrong)


@pytest.mark.parametrize("scales", [(), (0,), (-1.0,), (99,)])
def test_scales_that_cannot_be_are_refused(scales):
    with pytest.raises(ValueError, match="scales"):
        Augment(scales=scales)


def test_what_is_asked_is_said():
    many = Augment(scales=(0.75, 1.25), flip=True)
    assert Whole().sentence() == "whole images"
    assert Slide(window=(64, 96)).sentence() == "windows of 64x96, stride 2/3, softmax averaged"
    assert (
        Whole(augment=many, average="logits").sentence()
        == "whole images, scales 0.75, 1.25 and mirrored (cost x4.25), logits averaged"
    )


@pytest.mark.parametrize(("h", "w"), [(40, 60), (10, 60), (10, 12)])
def test_what_is_said_of_the_centre_is_true_of_images_that_are_smaller_than_it(h, w):
    """The sizes in the sentence are the most that is asked about, not what is."""
    centre, seen = Centre(size=(32, 48)), list[tuple[int, ...]]()

    def answer(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(pixels.shape[1:3]))
        return torch.zeros(1, 2, *pixels.shape[1:3])

    list(centre(answer, picture(h, w)))
    assert centre.sentence() == "centre up to 32x48 only"
    assert seen == [(min(32, h), min(48, w))]


def test_logits_as_high_as_networks_have_them_give_a_probability():
    """The exponential of 300 is no float32."""
    high = torch.tensor([300.0, 299.0, 0.0, -300.0])[None, :, None, None]
    seen = Whole(augment=Augment(flip=True), average="logits")
    classes, confidence = of(seen, picture(6, 8), lambda pixels: high.expand(len(pixels), K, *pixels.shape[1:3]))
    assert (classes == 0).all()
    torch.testing.assert_close(confidence, torch.full_like(confidence, 1 / (1 + np.exp(-1.0))), rtol=1e-5, atol=0)


def test_no_two_ways_of_asking_have_one_sentence():
    asked = [
        Augment(scales=scales, flip=flip) for scales in ((1.0,), (0.5,), (2.0,), (0.5, 1.0)) for flip in (False, True)
    ]
    ways = [Whole(augment=augment) for augment in asked]
    ways += [Centre(size=(32, side), augment=augment) for augment in asked for side in (32, 48)]
    ways += [
        Slide(window=(32, side), stride=stride, augment=augment)
        for augment in asked
        for side in (32, 48)
        for stride in (0.12, 0.125, 0.5, 2 / 3, 0.67, 1.0)
    ]
    assert len({way.sentence() for way in ways}) == len(ways)
    assert "scale 0.5" in Whole(augment=Augment(scales=(0.5,))).sentence()


def test_a_network_is_asked_about_normalised_pixels():
    views = Views(crop=(16, 16), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    pixels = picture(5, 7)
    answer = asked(torch.nn.Identity(), views, torch.device("cpu"))(pixels)
    oracle = (pixels.numpy() / 255 - np.array([0.1, 0.2, 0.3])) / np.array([0.5, 0.6, 0.7])
    assert np.allclose(answer.permute(0, 2, 3, 1).numpy(), oracle, atol=1e-6)


# --- memory


class Largest(TorchDispatchMode):
    """Notes the largest floating-point tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize("average", ["softmax", "logits"])
@pytest.mark.parametrize("height", [200, 800])
def test_sliding_holds_scores_of_no_more_than_a_band_whatever_the_images_height(height, average):
    width, window = 300, 64
    slide = Slide(window=(window, window), average=average, augment=Augment(scales=(1.0, 0.5), flip=True))
    with Largest() as largest:
        bands = [(band.top, band.classes.shape) for band in slide(pointwise, picture(height, width))]
    assert K * window * width >= largest.elements > K * window * window
    assert max(shape[1] for _, shape in bands) <= window


def test_bands_are_given_as_soon_as_no_window_to_come_touches_them():
    asked_for = 0

    def answer(pixels: Tensor) -> Tensor:
        nonlocal asked_for
        asked_for += 1
        return pointwise(pixels)

    bands = Slide(window=(32, 32), stride=0.5, batch=1)(answer, picture(96, 64))
    first: Band = next(bands)
    assert (first.top, first.classes.shape[1], asked_for) == (0, 16, 3)
