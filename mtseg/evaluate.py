"""Evaluation at the labels' own resolution, or of images as wholes, as a predictor asks about them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import chain
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mtseg.data.blocks import Alike, Blocks
from mtseg.data.holdout import held_out
from mtseg.data.loading import loader
from mtseg.data.source import Source, Splits
from mtseg.data.splits import Labels, number_of
from mtseg.distributed import rank, together, world
from mtseg.metrics import Boundary, Calibration, Confusion
from mtseg.part import part
from mtseg.predictors import Answer, Band, Predictor, Whole, asked, joined
from mtseg.tally import Also, Tally
from mtseg.views import Views

A_FIFTH = "1/5"


@part
class Evaluation:
    """When and on what a run is scored: every `every` steps and at the end, on the `val` or `test` images (`split`),
    `batch` images of one size in a forward.

    `predictor` is how a run, `mtseg eval` and `mtseg predict` ask about an image. `gallery` images, those on which the
    teacher is worst, are shown in the run's page.

    The checkpoint whose teacher is best on these images is kept as `best`. With `select: holdout` another one is kept
    as `holdout`: the best on images that neither train it nor score it, `holdout` of the labelled ones (a number, or
    a share, at least one image), drawn by the run's seed.
    """

    every: Annotated[int, Field(ge=1)] = 500
    split: Literal["val", "test"] = "val"
    batch: Annotated[int, Field(ge=1)] = 8  # images of one size that share a forward
    predictor: Predictor = Whole()
    gallery: Annotated[int, Field(ge=0, le=50)] = 6
    select: Literal["split", "holdout"] = "split"
    holdout: Labels = A_FIFTH

    def __post_init__(self) -> None:
        number_of(1, self.holdout, "holdout")
        if self.select == "split" and self.holdout != A_FIFTH:
            raise ValueError(
                f"holdout: {self.holdout!r} of the labelled images would be held out for nothing, since the checkpoint "
                "is chosen on eval.split; give eval.select=holdout too, or drop it"
            )

    @property
    def chosen_on(self) -> dict[str, str]:
        """The checkpoints that are chosen (`checkpoint.CHOICES`), each with the pool of images by which it is."""
        return {"best": self.split} | ({"holdout": "holdout"} if self.select == "holdout" else {})

    @property
    def pools(self) -> tuple[str, ...]:
        """The pools that every evaluation scores."""
        return tuple(self.chosen_on.values())

    def apart(self, splits: Splits, seed: int) -> Splits:
        """`splits` with the images held out that a checkpoint is chosen by; those that have such stay as they are."""
        if self.select == "split" or len(splits.holdout):
            return splits
        return held_out(splits, self.holdout, seed)


def source_of(splits: Splits, split: str) -> Source:
    """The pool of images named `split` (val, test, holdout). Raises ValueError where it is empty."""
    source: Source = getattr(splits, split)
    if not len(source):
        there = [f"eval.split={other}" for other in ("val", "test") if len(getattr(splits, other))]
        remedy = f"use {' or '.join(there)}" if there else "name some, such as data.val or data.test of your own images"
        raise ValueError(f"eval.split: this data set has no {split} images with labels; {remedy}")
    return source


def evaluate(
    network: nn.Module,
    source: Source,
    *,
    classes: int,
    views: Views,
    batch: int,
    device: torch.device,
    predictor: Predictor = Whole(),  # noqa: B008  a frozen record
    also: Also = Also(),  # noqa: B008
) -> Tally:
    """The counts of one network: see `evaluate_all`."""
    how: dict[str, Any] = {"classes": classes, "views": views, "batch": batch, "device": device}
    return evaluate_all({"": network}, source, **how, predictor=predictor, also=also)[""]


@torch.no_grad()
def evaluate_all(
    networks: Mapping[str, nn.Module],
    source: Source,
    *,
    classes: int,
    views: Views,
    batch: int,
    device: torch.device,
    predictor: Predictor = Whole(),  # noqa: B008
    also: Also = Also(),  # noqa: B008
    workers: int = 0,
    timeout: int = 300,
) -> dict[str, Tally]:
    """The counts of each of `networks`, in eval mode, over all images of `source`; their modes are put back.

    Each image is read once, `workers` processes reading ahead (0: none), which may take `timeout` seconds for a batch.
    Of several processes each counts some of the images, and all have the counts of all.
    Raises ValueError, naming the image, for one that cannot be read, for a label that does not fit and for an answer
    that is not finite.
    """
    asking = {name: (asked(network, views, device), _empty(classes, also)) for name, network in networks.items()}
    blocks = Blocks(source, batch)
    here = range(rank(), len(blocks), world())

    def count() -> None:
        """Add all images of this process to each tally."""
        how: dict[str, Any] = {"workers": min(workers, len(here)), "pin": False, "timeout": timeout, "prefetch": 1}
        with closing(loader(blocks, here, **how)) as read:
            for alike in chain.from_iterable(read):
                for answer, tally in asking.values():
                    _count(tally, source, alike, predictor, answer)

    with ExitStack() as within:
        for network in networks.values():
            within.enter_context(evaluating(network))
        together(count)
    return {name: tally.totalled() for name, (_, tally) in asking.items()}


def ahead(workers: int, device: torch.device) -> int:
    """How many of `workers` read ahead: on a CPU none, where they would take the network's cores, and its time."""
    return 0 if device.type == "cpu" else workers


def _empty(classes: int, also: Also) -> Tally:
    boundary = None if also.boundary is None else Boundary(classes, also.boundary)
    return Tally(Confusion(classes), Calibration(classes=classes), boundary, {} if also.images else None)


def _count(tally: Tally, source: Source, alike: Alike, predictor: Predictor, answer: Answer) -> None:
    """Add to `tally` what is answered about `alike`."""
    with _naming(source, alike.indices[0]):
        bands = predictor(answer, alike.images)
        first = next(bands)
        predictions, confidences = joined(chain([first], bands), (alike.images.shape[1], alike.images.shape[2]))
    labels = [torch.tensor(label) for label in alike.labels]
    if first.ranked is not None:
        _count_whole(tally, source, alike.indices, labels, first)
        return
    for index, prediction, confidence, label in zip(alike.indices, predictions, confidences, labels, strict=True):
        with _naming(source, index):
            _fits(label, prediction)
            tally.add(index, source.name(index), prediction, confidence, label)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Within, `network` is in eval mode; then its modules are in the modes they were in."""
    before = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


def _count_whole(tally: Tally, source: Source, indices: Sequence[int], labels: list[Tensor], answer: Band) -> None:
    """Count the answers for whole images. Raises ValueError for labels that are maps, and for boundaries."""
    if tally.boundary is not None:
        raise ValueError("--boundary: answers for whole images have no boundaries; leave it out")
    each = list(zip(indices, labels, answer.classes.cpu(), strict=True))
    for index, label, prediction in each:
        with _naming(source, index):
            _fits(label, prediction)
    try:
        tally.add_whole([(index, source.name(index)) for index in indices], answer, torch.stack(labels))
    except ValueError:
        for index, label, prediction in each:
            with _naming(source, index):
                Confusion(tally.confusion.classes).update(prediction[None], label[None])
        raise


@contextmanager
def _naming(source: Source, index: int) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{source.name(index)}: {error}") from None


def _fits(label: Tensor, prediction: Tensor) -> None:
    """`label` and `prediction` are of the same shape *S."""
    if label.shape != prediction.shape:
        raise ValueError(
            f"the label is {tuple(label.shape)} and the image {tuple(prediction.shape)} (height, width); they must be "
            "equal: the label must be as large as its image, or one class, (), for an answer for the whole"
        )
