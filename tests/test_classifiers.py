"""Networks for whole images: sizes as published, layers against their formulas."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from mtseg.models.classifiers import ConvNet13, ResNeXt, ShakeShake26, Timm
from mtseg.models.convnet import NormedConv, settle, settles
from mtseg.models.shake import Block


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_convnet_has_the_published_size_and_that_of_its_table():
    """3.12 million; of each layer a direction, and a gain and a shift an output."""
    rows = [(3, 128, 9), (128, 128, 9), (128, 128, 9), (128, 256, 9), (256, 256, 9), (256, 256, 9)]
    rows += [(256, 512, 9), (512, 256, 1), (256, 128, 1), (128, 10, 1)]
    expected = sum(inputs * outputs * kernel + 2 * outputs for inputs, outputs, kernel in rows)
    assert count(ConvNet13().build(10)) == expected
    assert round(expected / 1e6, 2) == 3.12


@pytest.mark.parametrize(
    ("model", "classes", "millions"),
    [(ShakeShake26(heads=2), 10, 26.2), (ResNeXt(heads=2), 1000, 61.8)],
)
def test_the_papers_residual_networks_have_the_published_sizes(model, classes, millions):
    with torch.device("meta"):
        network = model.build(classes)
    assert abs(count(network) / 1e6 - millions) < 0.4


@pytest.mark.parametrize(
    ("model", "side"),
    [
        (ConvNet13(width=4), 32),
        (ConvNet13(width=4, norm="batch"), 32),
        (ShakeShake26(width=4), 32),
        (ResNeXt(blocks=(1, 1, 1, 1), groups=2, width=4), 64),
        (Timm(name="resnet10t", weights="none"), 64),
        (Timm(name="vit_tiny_patch16_224", weights="none"), 224),
        (Timm(name="mobilenetv3_small_050", weights="none"), 64),  # a layer between its maps and the classes
    ],
    ids=lambda value: getattr(value, "kind", value),
)
def test_a_classifier_answers_with_logits_of_one_or_two_heads(model, side):
    images = torch.randn(3, 3, side, side)
    one = model.build(7).eval()
    assert one(images).shape == (3, 7)
    two = type(model)(**{**vars(model), "heads": 2}).build(7).eval()
    first, second = two(images, both=True)
    assert first.shape == second.shape == (3, 7)
    assert not torch.equal(first, second)
    assert torch.equal(two(images), first)


def test_an_unknown_timm_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"model\.name: 'resnet10' .* did you mean"):
        Timm(name="resnet10", weights="none").build(3)


def test_a_classifier_takes_its_own_file_without_the_head_and_none_of_a_larger_network(tmp_path):
    own, larger = (timm.create_model(name, num_classes=5).state_dict() for name in ("resnet18", "resnet34"))
    for name, tensors in (("own", own), ("larger", larger)):
        save_file(tensors, tmp_path / f"{name}.safetensors")
    network = Timm(name="resnet18", weights=tmp_path / "own.safetensors").build(3)
    held = network.encoder.network.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in held.items())
    assert set(own) - set(held) == {"fc.weight", "fc.bias"}
    with pytest.raises(ValueError, match=r"larger\.safetensors has 96 tensors that resnet18 has no place for"):
        Timm(name="resnet18", weights=tmp_path / "larger.safetensors").build(3)


def test_dropped_channels_reach_the_maps_before_the_heads():
    network = ConvNet13(width=4, dropout=0).build(3).eval()
    images = torch.randn(2, 3, 16, 16)
    blank = network(images, lambda maps: [torch.zeros_like(maps[0])])
    assert torch.equal(blank[0], blank[1])
    assert not torch.allclose(network(images), blank)


def literal(maps, direction, gain, shift, mean, padding):
    """y = conv(x, g V / |V|) - m + b, looped."""
    padded = np.pad(maps, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    batch, _, h, w = padded.shape
    outputs, _, k, _ = direction.shape
    out = np.zeros((batch, outputs, h - k + 1, w - k + 1))
    for o in range(outputs):
        weight = gain[o] * direction[o] / np.sqrt((direction[o] ** 2).sum())
        for y in range(h - k + 1):
            for x in range(w - k + 1):
                out[:, o, y, x] = (padded[:, :, y : y + k, x : x + k] * weight).sum((1, 2, 3))
    raw = out.mean((0, 2, 3))
    return out - (raw if mean is None else mean)[:, None, None] + shift[:, None, None], raw


@pytest.mark.parametrize(("name", "last"), [("mobilenetv3_small_050", False), ("swin_tiny_patch4_window7_224", True)])
def test_channels_are_disturbed_where_a_network_has_them(name, last):
    """Channel 3 of the first image is raised: the head sees just that, be channels first or last in the network."""
    torch.manual_seed(0)
    network, seen = Timm(name=name, weights="none").build(5).eval(), []
    size = 224 if last else 64

    def raised(features):
        (maps,) = features
        assert maps.shape[:2] == (2, network.encoder.network.num_features)
        maps = maps.clone()
        maps[0, 3] += 1000
        return [maps]

    pooled = network.encoder.pooled
    network.encoder.pooled = lambda maps: (seen.append(maps.clone()), pooled(maps))[1]
    with torch.no_grad():
        images = torch.randn(2, 3, size, size)
        network(images)
        network(images, raised)
    expected = torch.zeros_like(seen[0])
    expected[(0, ..., 3) if last else (0, 3)] = 1000
    torch.testing.assert_close(seen[1] - seen[0], expected, atol=1e-3, rtol=0)


def test_a_network_of_tokens_has_no_maps_to_disturb():
    network = Timm(name="vit_tiny_patch16_224", weights="none").build(5).eval()
    with pytest.raises(ValueError, match=r"method.branches.features: .* VisionTransformer gives \(1, 197, 192\)"):
        network(torch.randn(1, 3, 224, 224), lambda features: features)


@pytest.mark.parametrize("padding", [0, 1])
def test_weight_normalisation_and_mean_only_batch_normalisation_are_their_formula(padding):
    torch.manual_seed(0)
    layer = NormedConv(2, 3, kernel=3, padding=padding).double()
    with torch.no_grad():
        layer.gain.copy_(torch.rand(3) + 0.5)
        layer.shift.copy_(torch.randn(3))
    maps = torch.randn(4, 2, 5, 6, dtype=torch.float64)
    numbers = [value.detach().numpy() for value in (layer.direction, layer.gain, layer.shift)]
    expected, mean = literal(maps.numpy(), *numbers, None, padding)
    np.testing.assert_allclose(layer(maps).detach(), expected, atol=1e-12)
    np.testing.assert_allclose(layer.mean, 0.001 * mean, atol=1e-12)  # 0.999 of 0
    again, _ = literal(maps.numpy(), *numbers, 0.001 * mean, padding)
    np.testing.assert_allclose(layer.eval()(maps).detach(), again, atol=1e-12)


def test_the_first_batch_gives_every_layer_outputs_of_mean_zero_and_variance_one():
    torch.manual_seed(0)
    network = ConvNet13(width=8, dropout=0, heads=2).build(5)
    images = 3 * torch.randn(16, 3, 16, 16) + 1
    assert settles(network)
    settle(network, images)
    seen = []
    for layer in network.modules():
        if isinstance(layer, NormedConv):
            assert not layer.mean.any()
            layer.register_forward_hook(lambda _, __, out: seen.append(out.reshape(16, out.shape[1], -1)))
    network.train()(images, both=True)
    assert len(seen) == 11
    for out in seen:
        assert out.mean((0, 2)).abs().max() < 1e-4
        assert (out.var((0, 2), correction=0) - 1).abs().max() < 1e-2


def test_a_network_with_ordinary_batch_normalisation_needs_no_first_batch():
    assert not settles(ConvNet13(width=4, norm="batch").build(3))


def test_shake_shake_mixes_two_branches_by_an_image_and_another_way_back():
    """Branches replaced by constants, so that the gates can be read off; halves in evaluation."""
    torch.manual_seed(0)
    block = Block(2, 2, 1).train()
    one, two = (nn.Parameter(torch.full((8, 2, 3, 3), value)) for value in (1.0, 0.0))
    block.one, block.two = Constant(one), Constant(two)
    out = block(torch.zeros(8, 2, 3, 3))
    gates = out[:, 0, 0, 0].detach()
    assert torch.equal(out, gates[:, None, None, None].expand_as(out))
    assert ((gates > 0) & (gates < 1)).all()
    assert len(set(gates.tolist())) == 8
    out.sum().backward()
    back = one.grad[:, 0, 0, 0]
    assert torch.allclose(one.grad + two.grad, torch.ones(8, 2, 3, 3))
    assert torch.equal(one.grad, back[:, None, None, None].expand_as(out))
    assert len(set(back.tolist())) == 8
    assert (back - gates).abs().min() > 1e-4
    assert torch.equal(block.eval()(torch.zeros(8, 2, 3, 3)), torch.full((8, 2, 3, 3), 0.5))


class Constant(nn.Module):
    def __init__(self, value: nn.Parameter) -> None:
        super().__init__()
        self.value = value

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.value
