"""Perturbations: dropped channels keep their expectation and fit each other, noise is uniform, the regions dropped are
the most active ones, and the adversary finds the Hessian's dominant eigenvector where that is known in closed form."""

import copy
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtseg import asking
from mtseg.distributed import Rows
from mtseg.geometry import View
from mtseg.method import Branch, Method
from mtseg.models.smp import Padded, Smp
from mtseg.perturb import ChannelDropout, FeatureDropout, FeatureNoise, Perturbation, Vat, disturbance
from mtseg.settings.checked import validate
from mtseg.targets import Moment
from mtseg.task import Task

FIRST, SECOND = (ChannelDropout(half=half) for half in ("first", "second"))
KINDS: dict[str, Any] = {
    "channels": ChannelDropout,
    "first half": partial(ChannelDropout, half="first"),
    "second half": partial(ChannelDropout, half="second"),
    "noise": FeatureNoise,
    "regions": FeatureDropout,
}
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


# --- dropped channels


def gains(dropout: ChannelDropout, batch: int, channels: int, seed: int = 0) -> Tensor:
    """(batch, channels): what each channel is multiplied by."""
    drawn = dropout.gains(torch.empty(batch, channels, 5, 6), np.random.default_rng(seed), Rows(0, batch, batch))
    assert drawn.shape == (batch, channels, 1, 1)
    assert drawn.dtype == torch.float32
    return drawn[:, :, 0, 0]


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.8])
def test_dropped_is_a_share_p_of_the_channels_and_the_expectation_is_kept(p: float) -> None:
    count = 40_000
    drawn = gains(ChannelDropout(p=p), 4, count // 4)
    dropped = drawn == 0
    deviation = math.sqrt(p * (1 - p) / count)
    assert dropped.float().mean().item() == pytest.approx(p, abs=4.5 * deviation)
    torch.testing.assert_close(drawn[~dropped], torch.full_like(drawn[~dropped], 1 / (1 - p)))
    assert drawn.mean().item() == pytest.approx(1, abs=4.5 * deviation / (1 - p))


def test_images_lose_channels_of_their_own() -> None:
    dropped = gains(ChannelDropout(p=0.5), 3, 1000) == 0
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert (dropped[one] & dropped[other]).float().mean().item() == pytest.approx(0.25, abs=0.07)


@pytest.mark.parametrize("half", [FIRST, SECOND], ids=["first", "second"])
def test_half_of_the_channels_are_doubled_and_the_other_dropped(half: ChannelDropout) -> None:
    drawn = gains(half, 4, 10_000)
    assert set(drawn.unique().tolist()) == {0, 2}
    assert drawn.mean().item() == pytest.approx(1, abs=4.5 / math.sqrt(40_000))


# --- any of them


def drawing(seed: int) -> Any:
    return lambda position, level: np.random.default_rng([seed, position, level])


def perturbed(part: Perturbation, maps: Tensor, seed: int = 0) -> Tensor:
    """`maps` (B, C, H, W), the only level of a batch, all of which `part` perturbs."""
    disturb = disturbance([(part, len(maps))], drawing(seed))
    assert disturb is not None
    return disturb([maps])[0]


@each_kind
@pytest.mark.parametrize(("share", "batch"), [(0.0, 4), (0.25, 4), (0.5, 4), (1.0, 4), (0.5, 3), (0.5, 1), (0.3, 1)])
def test_a_share_of_the_images_is_disturbed_and_the_others_stay_whole(kind: Any, share: float, batch: int) -> None:
    """Exactly, where it is a number of images; else as often as makes it the share on average."""
    runs = 250
    counts, which = [], torch.zeros(batch)
    for seed in range(runs):
        drawn = perturbed(kind(share=share), torch.ones(batch, 40, 1, 1), seed)[:, :, 0, 0]
        disturbed = (drawn != 1).any(1)
        assert (drawn[disturbed] != 1).all()
        counts.append(int(disturbed.sum()))
        which += disturbed
    assert set(counts) <= {math.floor(share * batch), math.ceil(share * batch)}
    deviation = math.sqrt(share * (1 - share) / runs)
    assert np.mean(counts) == pytest.approx(share * batch, abs=4.5 * deviation)
    np.testing.assert_allclose(which / runs, share, atol=4.5 * deviation)  # any of the images alike


LEVELS = [(3, 16, 16), (8, 16, 16), (0, 8, 8), (64, 4, 4), (48, 2, 2)]  # the image itself first; one without channels


def features(batch: int, levels: Any = LEVELS) -> list[Tensor]:
    return [1 + torch.rand(batch, *shape, generator=torch.Generator().manual_seed(0)) for shape in levels]


def tasks(*sizes: int) -> list[Task]:
    made = []
    for size in sizes:
        view = View(torch.zeros(size, 3, 4, 4), torch.eye(3).double().repeat(size, 1, 1), torch.ones(size, 1, 4, 4) > 0)
        made.append(Task(view, view, torch.ones(size, 1, 4, 4), torch.arange(size), torch.ones(size)))
    return made


def disturbed(branches: Any, *, after: int = 2, batch: int = 4, step: int = 0, seed: int = 0) -> list[list[Tensor]]:
    """What the features of each part of a batch are multiplied by, for each level: labelled, branch 0, branch 1, ..."""
    method = Method(branches=tuple(Branch(features=dropout) for dropout in branches))
    sizes = [batch] * len(branches)
    disturb = asking.disturbance(method, tasks(*sizes), after=after, moment=Moment(step, 10, seed))
    assert disturb is not None
    before = features(after + sum(sizes))
    assert all(torch.equal(one, other) for one, other in zip(before, features(after + sum(sizes)), strict=True))
    factors = [new / old for new, old in zip(disturb(before), before, strict=True)]
    return [list(level.split([after, *sizes])) for level in factors]


def test_halves_of_two_branches_add_up_to_two_in_every_channel_of_every_level() -> None:
    for level, (_, one, other) in enumerate(disturbed([FIRST, SECOND])):
        if level > 0:
            torch.testing.assert_close(one + other, torch.full_like(one, 2))
            assert set(one.unique().round().tolist()) <= {0, 2}
    shared = [ChannelDropout(half=half, share=0.5) for half in ("first", "second")]
    for level, (_, one, other) in enumerate(disturbed(shared)):
        torch.testing.assert_close(one + other, torch.full_like(one, 2))
        if level > 0 and one.numel():
            assert sorted((one != 1).flatten(1).any(1).tolist()) == [False, False, True, True]


@each_kind
def test_an_image_is_disturbed_at_every_level_or_at_none(kind: Any) -> None:
    for step in range(5):
        levels = disturbed([kind(share=0.5)], step=step)
        changed = [(part != 1).flatten(1).any(1).tolist() for _, part in levels[1:] if part.numel()]
        assert changed[0].count(True) == 2
        assert changed == [changed[0]] * 3


@pytest.mark.parametrize("half", [None, "first", "second"])
def test_halves_lose_the_same_channels_at_all_levels_of_as_many(half: Any) -> None:
    """The levels of a transformer are one stream of channels, of which UniMatch V2 drops a half throughout."""
    method = Method(branches=(Branch(features=ChannelDropout(half=half)),))
    disturb = asking.disturbance(method, tasks(4), after=0, moment=Moment(0, 10))
    assert disturb is not None
    _, one, wider, other, again = disturb([torch.ones(4, count, 2, 2) for count in (3, 16, 32, 16, 16)])
    assert (torch.equal(one, other) and torch.equal(one, again)) == (half is not None)
    assert not torch.equal(wider[:, :16], one)


@each_kind
def test_labelled_images_and_branches_without_perturbation_and_level_zero_are_left_alone(kind: Any) -> None:
    for level, (labelled, plain, changed) in enumerate(disturbed([None, kind()])):
        assert (labelled == 1).all()
        assert (plain == 1).all()
        assert (level == 0) == bool((changed == 1).all()) or not changed.numel()


@each_kind
def test_processes_and_parts_of_a_batch_have_their_rows_of_what_the_whole_has(kind: Any) -> None:
    """With activity that differs from image to image, and a share of the images."""
    parts = [(kind(share=0.6), 6), (None, 6)]
    whole = [maps[:12] for maps in features(12)]
    disturb = disturbance(parts, drawing(3))
    assert disturb is not None
    expected = disturb(whole)
    for first, count in ((0, 2), (2, 3), (5, 1)):
        mine = [torch.cat([maps[first : first + count], maps[6 + first :][:count]]) for maps in whole]
        disturb = disturbance([(part, count) for part, _ in parts], drawing(3), Rows(first, count, 6))
        assert disturb is not None
        for level, maps in zip(expected, disturb(mine), strict=True):
            assert torch.equal(maps, torch.cat([level[first : first + count], level[6 + first :][:count]]))


def test_branches_of_every_kind_in_one_batch_are_perturbed_as_they_are_alone() -> None:
    kinds = [ChannelDropout(), FeatureNoise(), None, FeatureDropout(), FIRST]
    together = disturbed(kinds)
    for place, part in enumerate(kinds, start=1):
        alone = disturbed([part if place == number else FeatureNoise(size=1.0) for number in range(1, 6)])
        for level, other in zip(together, alone, strict=True):
            assert torch.equal(level[place], other[place])


class Squashed:
    """A perturbation of one's own, that does no more than is asked of any; its gains are functions of the features."""

    share, paired = 1.0, False

    def gains(self, maps: Tensor, rng: np.random.Generator, rows: Rows) -> Tensor:
        return maps.sigmoid()


@pytest.mark.parametrize("kind", [*KINDS.values(), Squashed], ids=[*KINDS, "one's own"])
def test_no_gradient_passes_through_what_decides_the_gains(kind: Any) -> None:
    maps = (1 + torch.rand(3, 8, 6, 5, generator=torch.Generator().manual_seed(0)).double()).requires_grad_()
    changed = perturbed(kind(), maps)
    (gradient,) = torch.autograd.grad(changed.sum(), maps)
    torch.testing.assert_close(gradient, (changed / maps).detach())
    assert not torch.equal(gradient, torch.ones_like(gradient))


@each_kind
def test_two_branches_of_a_kind_draw_each_their_own_unless_they_are_paired(kind: Any) -> None:
    maps = 1 + torch.rand(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    disturb = disturbance([(kind(), 1), (kind(), 1)], drawing(0))
    assert disturb is not None
    one, other = disturb([maps.repeat(2, 1, 1, 1)])[0]
    assert torch.equal(one, other) == kind().paired


# --- noise


@pytest.mark.parametrize("size", [0.05, 0.3, 1.0])
def test_noise_is_uniform_and_its_variance_a_third_of_its_squared_size(size: float) -> None:
    noise = (perturbed(FeatureNoise(size=size), torch.ones(4, 25, 50, 50, dtype=torch.float64)) - 1).flatten().numpy()
    assert np.abs(noise).max() <= size * (1 + 1e-6)
    assert noise.mean() == pytest.approx(0, abs=4.5 * size / math.sqrt(3 * noise.size))
    assert noise.var() == pytest.approx(size**2 / 3, rel=4.5 * math.sqrt(0.8 / noise.size))
    ranks = (np.arange(noise.size) + 0.5) / noise.size
    assert np.abs((np.sort(noise) / size + 1) / 2 - ranks).max() < 2 / math.sqrt(noise.size)  # Kolmogorov-Smirnov


def test_noise_of_images_channels_and_positions_is_independent() -> None:
    noise = perturbed(FeatureNoise(), torch.ones(4, 6, 30, 30, dtype=torch.float64)) - 1
    for rows in (noise.flatten(1), noise.transpose(0, 1).flatten(1), noise.permute(2, 0, 1, 3).flatten(1)):
        between = torch.corrcoef(rows) - torch.eye(len(rows))
        assert between.abs().max() < 5 / math.sqrt(rows.shape[1])


def test_noise_is_proportional_to_the_features() -> None:
    maps = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).double()
    plain, doubled = (perturbed(FeatureNoise(), scale * maps) for scale in (1, 2))
    torch.testing.assert_close(doubled, 2 * plain)
    assert torch.equal(perturbed(FeatureNoise(), 0 * maps), 0 * maps)


# --- dropped regions


def active(batch: int = 5, seed: int = 0) -> Tensor:
    """Features as after a ReLU, (batch, 7, 9, 11), each image's of another scale."""
    maps = torch.randn(batch, 7, 9, 11, generator=torch.Generator().manual_seed(seed)).relu()
    return maps * torch.arange(1, batch + 1)[:, None, None, None]


@pytest.mark.parametrize("threshold", [0.3, 0.7, 0.9, 1.0])
def test_dropped_are_the_positions_whose_mean_is_at_least_a_share_of_the_images_highest(threshold: float) -> None:
    maps = active()
    expected = maps.numpy().copy()
    for image in expected:
        means = image.astype(np.float64).mean(0)
        for row, column in np.ndindex(*means.shape):
            if means[row, column] >= threshold * means.max() * (1 - 1e-7):
                image[:, row, column] = 0
    np.testing.assert_array_equal(perturbed(FeatureDropout(threshold=(threshold, threshold)), maps), expected)
    assert (expected == 0).all(1).sum() >= 5


def test_threshold_is_uniform_between_its_bounds_and_each_images_own() -> None:
    """On a ramp of activity, the share that is kept is the threshold."""
    images, steps, (low, high) = 1000, 500, (0.5, 0.9)
    ramp = torch.linspace(1 / steps, 1, steps).expand(images, 2, 1, steps)
    kept = (perturbed(FeatureDropout(threshold=(low, high)), ramp) != 0)[:, 0, 0].float().mean(1).numpy()
    assert low - 1 / steps <= kept.min() < kept.max() <= high
    assert len(np.unique(kept)) > 150  # of 200
    ranks = low + (high - low) * (np.arange(images) + 0.5) / images
    assert np.abs(np.sort(kept) - ranks).max() < (high - low) * 2 / math.sqrt(images) + 1 / steps


def test_what_is_dropped_does_not_depend_on_the_scale_of_the_features() -> None:
    dropped = [perturbed(FeatureDropout(), scale * active()) == 0 for scale in (1e-3, 1.0, 1e3)]
    assert torch.equal(dropped[0], dropped[1])
    assert torch.equal(dropped[0], dropped[2])


def test_levels_drop_regions_of_their_own_activity() -> None:
    fine, coarse = torch.full((1, 2, 4, 4), 0.1), torch.full((1, 2, 2, 2), 0.1)
    fine[0, :, 3, 1], coarse[0, :, 0, 1] = 1, 1
    disturb = disturbance([(FeatureDropout(), 1)], drawing(0))
    assert disturb is not None
    image, *levels = disturb([torch.ones(1, 3, 8, 8), fine, coarse])
    assert torch.equal(image, torch.ones(1, 3, 8, 8))
    assert [(maps[0] == 0).nonzero().tolist() for maps in levels] == [[[0, 3, 1], [1, 3, 1]], [[0, 0, 1], [1, 0, 1]]]


@pytest.mark.parametrize("channels", [(-1.0, -2.0), (1.0, -1.0), (0.0, 0.0)], ids=str)
def test_nothing_is_dropped_where_nothing_is_active(channels: Any) -> None:
    maps = torch.tensor(channels)[None, :, None, None] * (1 + torch.rand(3, 1, 4, 5))
    assert torch.equal(perturbed(FeatureDropout(), maps), maps)


# --- in a batch


def test_whole_channels_are_dropped() -> None:
    for _, dropped in disturbed([ChannelDropout(p=0.5)])[1:]:
        assert (dropped == dropped[..., :1, :1]).all()


def test_levels_and_steps_and_seeds_draw_anew_and_the_same_ones_alike() -> None:
    def pattern(step: int = 0, seed: int = 0) -> list[Any]:
        levels = disturbed([ChannelDropout(p=0.5)], step=step, seed=seed)
        return [(part[:, :8, 0, 0] == 0).tolist() for _, part in levels if part.shape[1] >= 8]

    assert pattern() == pattern()
    assert len({str(level) for level in pattern()}) == 3
    for one, same_level in zip(pattern(), pattern(step=1), strict=True):
        assert one != same_level
    assert pattern() != pattern(seed=1)


def test_nothing_is_disturbed_where_no_branch_asks_for_it_or_there_is_none() -> None:
    assert asking.disturbance(Method(branches=(Branch(), Branch())), tasks(2, 2), after=2, moment=Moment(0, 1)) is None
    assert asking.disturbance(Method(branches=(Branch(features=FIRST),)), [], after=2, moment=Moment(0, 1)) is None


@each_kind
def test_features_of_one_level_are_disturbed_and_keep_their_type(kind: Any) -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        changed = perturbed(kind(), maps := torch.ones(4, 30, 2, 2, dtype=dtype))
        assert changed.dtype == dtype
        assert not torch.equal(changed, maps)
    assert set(perturbed(ChannelDropout(p=0.5), maps).unique().tolist()) == {0, 2}


# --- on their way through a network


@pytest.fixture(scope="module")
def unet() -> Padded:
    torch.manual_seed(0)
    options: Any = {"encoder_depth": 3, "decoder_channels": [12, 8, 4]}
    network = Smp(arch="unet", encoder="tu-test_resnet", weights=Path("none"), options=options).build(3)
    return network.eval()


IMAGES = torch.randn(3, 3, 30, 40, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_what_is_done_to_the_features_is_done_in_that_forward_alone(unet: Padded) -> None:
    plain = unet(IMAGES)
    assert torch.equal(unet(IMAGES, lambda features: features), plain)
    without = unet(IMAGES, lambda features: [features[0], *(0 * maps for maps in features[1:])])
    assert not torch.allclose(without, plain)
    torch.testing.assert_close(without[0], without[1])  # nothing is left of the images
    assert torch.equal(unet(IMAGES), plain)
    assert not unet.network.encoder._forward_hooks


@pytest.mark.parametrize("error", [RuntimeError, KeyError, torch.OutOfMemoryError])
def test_features_are_left_alone_after_an_error_too(error: Any, unet: Padded) -> None:
    def fail(features: list[Tensor]) -> list[Tensor]:
        raise error("no")

    with pytest.raises((error, ValueError)):
        unet(IMAGES, fail)
    assert not unet.network.encoder._forward_hooks
    with torch.no_grad():
        assert torch.equal(unet(IMAGES), unet(IMAGES, lambda features: features))


@torch.no_grad()
@each_kind
def test_a_branch_of_the_batch_is_disturbed_and_the_rest_of_it_is_not(kind: Any, unet: Padded) -> None:
    disturb = asking.disturbance(Method(branches=(Branch(features=kind()),)), tasks(2), after=1, moment=Moment(0, 1))
    plain, dropped = unet(IMAGES), unet(IMAGES, disturb)
    torch.testing.assert_close(dropped[0], plain[0])
    assert (dropped[1:] - plain[1:]).abs().amax((1, 2, 3)).min() > 1e-3


@torch.no_grad()
def test_the_features_of_a_transformer_are_disturbed_on_their_way_to_dpt() -> None:
    torch.manual_seed(0)
    network = Smp(arch="dpt", encoder="tu-test_vit", weights=Path("none")).build(3).eval()
    seen: list[Tensor] = []

    def nothing_left(features: list[Tensor]) -> list[Tensor]:
        seen.extend(features[1:])
        return [features[0], *(0 * maps for maps in features[1:])]

    plain = network(IMAGES)
    assert torch.equal(network(IMAGES, lambda features: features), plain)
    without = network(IMAGES, nothing_left)
    assert len(seen) == len(network.network.encoder.output_strides)
    assert not torch.allclose(without, plain)
    disturb = asking.disturbance(
        Method(branches=(Branch(features=ChannelDropout()),)), tasks(2), after=1, moment=Moment(0, 1)
    )
    dropped = network(IMAGES, disturb)
    torch.testing.assert_close(dropped[0], plain[0])
    assert (dropped[1:] - plain[1:]).abs().amax((1, 2, 3)).min() > 1e-3


def test_no_gradient_passes_through_dropped_channels(unet: Padded) -> None:
    taken: list[Tensor] = []

    def disturb(features: list[Tensor]) -> list[Tensor]:
        for maps in features[1:]:
            maps.retain_grad()
            taken.append(maps)
        dropout = disturbance([(FIRST, 3)], drawing(0))
        assert dropout is not None
        return dropout(features)

    unet(IMAGES, disturb).square().sum().backward()
    for level, maps in enumerate(taken):
        assert maps.grad is not None
        gain = FIRST.gains(maps, drawing(0)(0, level + 1), Rows(0, 3, 3))
        reached = maps.grad.abs().amax((2, 3), keepdim=True) > 0
        if level == len(taken) - 1:  # the finer ones feed the coarser too, before these are disturbed
            assert torch.equal(reached, gain > 0)
            assert reached.any()


# --- the adversary


class Linear(nn.Module):
    """softmax(W x + b) of all pixels of an image at once."""

    def __init__(self, classes: int, *, pixels: int = 3 * 4 * 5, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.linear = nn.Linear(pixels, classes)
        with torch.no_grad():
            self.linear.weight.mul_(3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(images.flatten(1))
        return logits


def small_images(batch: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, 4, 5, generator=torch.Generator().manual_seed(seed))


def convolutional(*, dropout: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.5 if dropout else 0.0),
        nn.Conv2d(8, 4, 3),
    )


def change(vat: Vat, network: nn.Module, images: Tensor, seed: int = 0) -> Tensor:
    return vat(network, images, np.random.default_rng(seed)) - images


@torch.no_grad()
def divergences(network: nn.Module, images: Tensor, moved: Tensor) -> Tensor:
    """KL(p(x) || p(x + r)), summed over the pixels of each image."""
    clean, changed = (copy.deepcopy(network)(data).double().log_softmax(1) for data in (images, images + moved))
    return (clean.exp() * (clean - changed)).flatten(1).sum(1)


def dominant(network: Linear, image: Tensor) -> NDArray[np.float64]:
    """The eigenvector of the largest eigenvalue of W^T (diag(p) - p p^T) W."""
    weights = network.linear.weight.detach().double().numpy()
    p = network(image[None]).softmax(1)[0].detach().double().numpy()
    values, vectors = np.linalg.eigh(weights.T @ (np.diag(p) - np.outer(p, p)) @ weights)
    assert values[-2] < 0.9 * values[-1], "the power method would need longer"
    return vectors[:, -1]


@pytest.mark.parametrize("size", [0.05, 0.15, 2.0])
def test_the_change_of_each_image_has_the_root_mean_square_asked_for(size: float) -> None:
    for network, images in ((convolutional(), torch.randn(3, 3, 8, 9)), (Linear(5), 100 + small_images())):
        moved = change(Vat(size=size), network, images)
        torch.testing.assert_close(
            moved.square().mean((1, 2, 3)).sqrt(), torch.full((len(images),), size), rtol=1e-3, atol=0
        )


def test_the_papers_epsilon_is_an_l2_norm() -> None:
    """Its 8 for CIFAR-10 is 8 / sqrt(3 * 32 * 32) = 0.144 here."""
    images = torch.randn(2, 3, 32, 32)
    norms = change(Vat(size=8 / math.sqrt(3072)), convolutional(), images).flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.tensor([8.0, 8.0]), rtol=1e-4, atol=0)


class Masked(nn.Module):
    """A network behind one mask, that which dropout draws after `torch.manual_seed(seed)`."""

    def __init__(self, network: nn.Module, images: Tensor, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.network, self.mask = network, nn.functional.dropout(torch.ones_like(images), 0.5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(self.mask * images)
        return logits


@pytest.mark.parametrize("iterations", [1, 3])
def test_dropout_is_the_same_for_all_that_is_compared(iterations: int) -> None:
    images, network, vat = small_images(), Linear(5), Vat(iterations=iterations)
    fixed = change(vat, Masked(network, images, seed=7), images)
    torch.manual_seed(7)
    torch.testing.assert_close(change(vat, nn.Sequential(nn.Dropout(0.5), network), images), fixed)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_change_is_found_in_full_precision_in_a_step_of_half(dtype: torch.dtype) -> None:
    network, images = convolutional(), torch.randn(2, 3, 16, 16)
    full = change(Vat(), network, images)
    with torch.autocast("cpu", dtype):
        assert torch.equal(change(Vat(), network, images), full)


@pytest.mark.parametrize("classes", [3, 6])
def test_many_iterations_find_the_dominant_eigenvector_of_the_divergences_hessian(classes: int) -> None:
    network, images = Linear(classes, seed=1), small_images()
    moved = change(Vat(iterations=100, step=1e-3), network, images)
    for image, direction in zip(images, moved.flatten(1).double().numpy(), strict=True):
        cosine = dominant(network, image) @ direction / np.linalg.norm(direction)
        assert abs(cosine) > 0.999


def test_with_two_classes_one_iteration_is_exact() -> None:
    """The Hessian has rank one: its only direction is the difference of the two rows of W."""
    network, images = Linear(2), small_images()
    moved = change(Vat(), network, images).flatten(1)
    rows = network.linear.weight.detach()
    cosines = nn.functional.cosine_similarity(moved, (rows[0] - rows[1])[None])
    torch.testing.assert_close(cosines.abs(), torch.ones(4), rtol=0, atol=1e-3)


@pytest.mark.parametrize("iterations", [1, 3])
def test_the_change_raises_the_divergence_more_than_any_of_many_random_ones_of_its_size(iterations: int) -> None:
    draw = torch.Generator().manual_seed(1)
    for network, images in ((convolutional(), torch.randn(4, 3, 8, 9, generator=draw)), (Linear(5), small_images())):
        vat = Vat(size=0.1, iterations=iterations)
        ours = divergences(network, images, change(vat, network, images))
        for _ in range(50):
            noise = torch.randn(images.shape, generator=draw)
            noise *= 0.1 / noise.square().mean((1, 2, 3), keepdim=True).sqrt()
            theirs = divergences(network, images, noise)
            assert ours.mean() > 2 * theirs.mean()
            assert (ours > theirs).all()


def test_more_iterations_raise_the_divergence_further() -> None:
    network, images = Linear(6, seed=1), small_images(16)
    once, often = (
        divergences(network, images, change(Vat(size=0.01, iterations=n), network, images)).mean() for n in (1, 20)
    )
    assert often > 1.05 * once


@pytest.mark.parametrize("training", [True, False])
def test_network_is_left_as_it_is(training: bool) -> None:
    network = convolutional().train(training)
    network(3 + torch.randn(4, 3, 8, 9)).sum().backward()  # so that there are gradients to spoil
    before = copy.deepcopy(network.state_dict())
    gradients = [p.grad.clone() for p in network.parameters() if p.grad is not None]
    images = torch.randn(4, 3, 8, 9, generator=torch.Generator().manual_seed(0))
    untouched = images.clone()
    moved = Vat(iterations=2)(network, images, np.random.default_rng(0))
    assert network.training == training
    assert all(module.training == training for module in network.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        assert parameter.requires_grad
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, gradient)
    assert torch.equal(images, untouched)
    assert not moved.requires_grad


def test_change_is_a_function_of_the_generator() -> None:
    network, images = Linear(6), small_images()
    changes = []
    for seed, elsewhere in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(elsewhere)
        changes.append(change(Vat(), network, images, seed))
    assert torch.equal(changes[0], changes[1])
    assert not torch.allclose(changes[0].abs(), changes[2].abs(), atol=1e-3)


def test_batch_statistics_answer_and_not_the_running_ones() -> None:
    """As in the student's own step: what the running statistics are changes nothing."""
    one, other = convolutional().eval(), convolutional().eval()
    other[1].running_mean += 5  # type: ignore[index, operator]
    images = torch.randn(4, 3, 8, 9)
    assert torch.equal(change(Vat(), one, images), change(Vat(), other, images))


def test_an_image_that_nothing_changes_the_answer_of_stays_finite() -> None:
    network = Linear(3)
    nn.init.zeros_(network.linear.weight)
    assert torch.equal(change(Vat(), network, small_images()), torch.zeros(4, 3, 4, 5))
    sure = Linear(3)
    with torch.no_grad():
        sure.linear.bias.copy_(torch.tensor([1e4, 0, -1e4]))
    assert change(Vat(), sure, small_images()).isfinite().all()


@pytest.mark.parametrize(
    ("part", "settings"),
    [
        (Vat, {"size": 0.0}),
        (Vat, {"step": -1.0}),
        (Vat, {"iterations": 0}),
        (ChannelDropout, {"p": 1.0}),
        (ChannelDropout, {"share": 1.5}),
        (ChannelDropout, {"half": "third"}),
        (FeatureNoise, {"size": 0.0}),
        (FeatureNoise, {"size": 1.1}),
        (FeatureNoise, {"share": -0.5}),
        (FeatureDropout, {"threshold": (0.0, 0.9)}),
        (FeatureDropout, {"threshold": (0.9, 0.7)}),
        (FeatureDropout, {"threshold": (0.7, 1.1)}),
        (FeatureDropout, {"threshold": (math.nan, 0.9)}),
        (FeatureDropout, {"share": 2.0}),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(part: Any, settings: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        part(**settings)


def test_a_branch_is_given_its_perturbation_by_kind_and_another_kind_is_answered_with_those_there_are() -> None:
    for kind, part in (
        ("channel_dropout", ChannelDropout()),
        ("noise", FeatureNoise()),
        ("feature_dropout", FeatureDropout()),
    ):
        assert validate(Branch, {"features": {"kind": kind}}).features == part
    for given in ({"kind": "dropout"}, {"p": 0.5}):
        with pytest.raises(ValueError, match=r"features.*channel_dropout.*noise.*feature_dropout"):
            validate(Branch, {"features": given})
    with pytest.raises(ValueError, match=r"features\.p.*size"):
        validate(Branch, {"features": {"kind": "noise", "p": 0.5}})
