"""How a network is asked about an image of any size: at once, window by window, in the centre; scaled and flipped too.

Answers come in bands of finished rows, so that the scores of all classes are never held for more than a band.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from mtseg.data.source import IGNORE
from mtseg.part import HEIGHT_WIDTH, part
from mtseg.tta import Augment, Average
from mtseg.views import Side, Views

Answer = Callable[[Tensor], Tensor]  # pixels (B, h, w, C) in [0, 255] -> logits (B, K, *S), S = (h, w) or ()
FIRST = 5  # answers for a whole image, as ImageNet counts them
ROWS = 64  # of finished scores that become classes at a time


@dataclass(frozen=True)
class Band:
    """Finished rows: the most probable class of the pixels from row `top` and column `left` on, and how probable.

    Of images as wholes, the one class of each, and the FIRST most probable ones.
    """

    top: int
    left: int
    classes: Tensor  # (B, h, w), or (B,), int64
    confidence: Tensor  # of the same shape, in [0, 1]
    ranked: Tensor | None = None  # of wholes: (B, up to FIRST), int64, the most probable first


class Canvas(Protocol):
    """Pixels (B, H, W, C) of which windows are taken: a tensor, or a file that is decoded as they are."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, window: tuple[slice, slice, slice]) -> Tensor: ...


@part
class Whole:
    """The image at once; the network pads it to its stride.

    With `augment` there are several answers, of which `average` are meaned: probabilities (`softmax`) or `logits`.
    """

    kind: Literal["whole"] = "whole"
    augment: Augment = Augment()
    average: Average = "softmax"

    def __call__(self, answer: Answer, pixels: Canvas) -> Iterator[Band]:
        forwards = self.augment.forwards
        average = self.average if forwards > 1 else "logits"  # of one there is no average
        scores = _summed(self.augment, answer, pixels[:, :, :], average)
        yield _band(scores, forwards, average, top=0, left=0)

    def sentence(self) -> str:
        return f"whole images{_asked(self.augment, self.average, several=self.augment.forwards > 1)}"


@part
class Centre:
    """The window of `size` (height, width) in the middle of the image, and nothing of what is around it.

    A side of it that is larger than the image's is cut to it: of a smaller image it is the whole.
    """

    kind: Literal["centre"] = "centre"
    size: Annotated[tuple[Side, Side], HEIGHT_WIDTH]
    augment: Augment = Augment()
    average: Average = "softmax"

    def __call__(self, answer: Answer, pixels: Canvas) -> Iterator[Band]:
        (top, h), (left, w) = (
            ((whole - min(side, whole)) // 2, min(side, whole))
            for whole, side in zip(pixels.shape[1:3], self.size, strict=True)
        )
        for band in Whole(augment=self.augment, average=self.average)(
            answer, pixels[:, top : top + h, left : left + w]
        ):
            yield Band(top + band.top, left + band.left, band.classes, band.confidence, band.ranked)

    def sentence(self) -> str:
        several = self.augment.forwards > 1
        asked = _asked(self.augment, self.average, several=several)
        return f"centre up to {self.size[0]}x{self.size[1]} only{asked}"


@part
class Slide:
    """Windows of `window` (height, width), each `stride` of a window's side after the one before it.

    The last window of a row or column ends at the border of the image; a side of a window that is larger than the
    image's is cut to it. What windows have in common is meaned with equal weights. Up to `batch` windows, of as many
    images as are asked about, share a forward.
    """

    kind: Literal["slide"] = "slide"
    window: Annotated[tuple[Side, Side], HEIGHT_WIDTH]
    stride: Annotated[float, Field(gt=0, le=1)] = 2 / 3
    batch: Annotated[int, Field(ge=1)] = 4
    augment: Augment = Augment()
    average: Average = "softmax"

    def __call__(self, answer: Answer, pixels: Canvas) -> Iterator[Band]:
        (height, tops), (width, lefts) = (self._places(axis, pixels.shape[axis + 1]) for axis in (0, 1))
        together = max(1, self.batch // pixels.shape[0])
        total: Tensor | None = None  # (B, K, height, W), the rows from the window's top on
        across = _cover(lefts, width, pixels.shape[2])
        cover = _cover(tops, height, pixels.shape[1])
        for top, after in zip(tops, [*tops[1:], pixels.shape[1]], strict=True):
            for first in range(0, len(lefts), together):
                some = lefts[first : first + together]
                windows = [pixels[:, top : top + height, left : left + width] for left in some]
                given = windows[0] if len(some) == 1 else torch.cat(windows)
                scores = _summed(self.augment, answer, given, self.average)
                if scores.dim() == 2:
                    raise ValueError(
                        "eval.predictor.kind: 'slide' puts windows together, and this network answers for whole "
                        "images; use whole or centre"
                    )
                if total is None:
                    total = scores.new_zeros((pixels.shape[0], *scores.shape[1:3], pixels.shape[2]))
                for left, found in zip(some, scores.split(pixels.shape[0]), strict=True):
                    total[..., left : left + width] += found
            assert total is not None
            done = after - top  # these rows are in no window to come
            for start in range(0, done, ROWS):
                rows = slice(start, min(start + ROWS, done))
                times = cover[top:after][rows, None].to(total.device) * across.to(total.device) * self.augment.forwards
                yield _band(total[:, :, rows], times, self.average, top=top + start, left=0)
            _advance(total, done)

    def sentence(self) -> str:
        size = f"{self.window[0]}x{self.window[1]}"
        stride = "2/3" if self.stride == 2 / 3 else f"{self.stride:g}"
        return f"windows of {size}, stride {stride}{_asked(self.augment, self.average, several=True)}"

    def _places(self, axis: int, whole: int) -> tuple[int, list[int]]:
        """A window's side in an image whose side is `whole`, and where windows begin."""
        side = min(self.window[axis], whole)
        step = max(1, int(self.window[axis] * self.stride))
        return side, [*range(0, whole - side, step), whole - side]


Predictor = Annotated[Whole | Slide | Centre, Field(discriminator="kind")]


def asked(network: nn.Module, views: Views, device: torch.device) -> Answer:
    """What asks `network` about uint8 pixels. It raises ValueError for an answer that is not finite."""

    def answer(pixels: Tensor) -> Tensor:
        logits: Tensor = network(views.normalise(pixels.to(device)))
        # NaN passes through both, and one pass finds them: a third of looking at every score by itself.
        low, high = torch.aminmax(logits)
        if not bool(low.isfinite() & high.isfinite()):
            raise ValueError(
                "the network's answer is not finite, so its scores would mean nothing; "
                "train with a lower optimizer.lr, or clip=1, in a new out="
            )
        return logits

    return answer


def joined(bands: Iterable[Band], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Classes (B, H, W) uint8, IGNORE where no band is, and their confidence (B, H, W), 0 there.

    Of images as wholes, their classes (B,) int64 and how sure those are.
    """
    classes, confidence = torch.empty(0), torch.empty(0)
    for band in bands:
        if band.classes.dim() == 1:
            return band.classes, band.confidence
        if not len(classes):
            classes = torch.full((len(band.classes), *size), IGNORE, dtype=torch.uint8, device=band.classes.device)
            confidence = torch.zeros((len(band.classes), *size), device=band.classes.device)
        h, w = band.classes.shape[1:]
        place = (slice(None), slice(band.top, band.top + h), slice(band.left, band.left + w))
        classes[place], confidence[place] = band.classes.byte(), band.confidence
    return classes, confidence


def _summed(augment: Augment, answer: Answer, pixels: Tensor, average: Average) -> Tensor:
    """The scores (B, K, *S) of `pixels` (B, h, w, C), summed over all forwards."""
    return augment(lambda images: answer(images.permute(0, 2, 3, 1)), pixels.permute(0, 3, 1, 2), average)


def _band(total: Tensor, times: Tensor | int, average: Average, *, top: int, left: int) -> Band:
    """The rows `total` (B, K, h, w), each pixel of which is a sum over `times` scores; may change `total`."""
    ranked = total.topk(min(FIRST, total.shape[1]), dim=1).indices if total.dim() == 2 else None
    if average == "softmax":
        best = total.max(1)
        return Band(top, left, best.indices, (best.values / times).clamp_(max=1), ranked)
    mean = total if isinstance(times, int) and times == 1 else total.div_(times)
    best = mean.max(1)
    # 1 / sum of exp(score - best) is the best one's probability; logsumexp would look for the best again.
    rest = (mean - best.values.unsqueeze(1)).exp_().sum(1)
    return Band(top, left, best.indices, rest.reciprocal_(), ranked)


def _advance(total: Tensor, rows: int) -> None:
    """Move `total` (B, K, h, W) up by `rows` and put zeros below, in pieces that do not overlap: without a copy."""
    h = total.shape[2]
    for start in range(0, h - rows, rows):
        size = min(rows, h - rows - start)
        total[:, :, start : start + size] = total[:, :, start + rows : start + rows + size]
    total[:, :, max(0, h - rows) :] = 0


def _cover(places: list[int], side: int, whole: int) -> Tensor:
    """How many windows lie on each of `whole` rows or columns, (whole,)."""
    count = torch.zeros(whole)
    for place in places:
        count[place : place + side] += 1
    return count


def _asked(augment: Augment, average: Average, *, several: bool) -> str:
    scales = ", ".join(f"{scale:g}" for scale in augment.scales)
    said = "" if augment.scales == (1,) else f", scale {scales}"
    if augment.forwards > 1:
        said = f", scales {scales}{' and mirrored' if augment.flip else ''} (cost x{augment.cost:.3g})"
    return f"{said}, {average} averaged" if several else said
