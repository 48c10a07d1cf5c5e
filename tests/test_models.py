"""Networks: any image size, encoder weights from files or offline, errors that name the remedy; and optimizers."""

import pickle
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from mtseg.models.smp import Smp, split_parameters
from mtseg.models.weights import load_encoder, read_weights
from mtseg.models.whole import whole_of
from mtseg.optim import AdamW, Sgd, set_lr
from mtseg.settings.checked import validate
from mtseg.settings.merge import merge
from mtseg.settings.words import gather

TINY = "tu-test_resnet"  # timm's own encoder for tests: 0.5 M parameters
CLASSES = 3

# Architecture, encoder, depth, further options, and the multiple of pixels that its sides must be of.
NETWORKS: list[Any] = [
    ("unet", TINY, 3, {"decoder_channels": [16, 8, 8]}, 8),
    ("unet", TINY, 4, {"decoder_channels": [16, 8, 8, 8]}, 16),
    ("unet", "mobilenet_v2", 5, {"decoder_channels": [16, 8, 8, 8, 8]}, 32),
    ("deeplabv3plus", TINY, 3, {"decoder_channels": 16}, 8),
    ("deeplabv3plus", TINY, 4, {"decoder_channels": 16}, 16),
    ("deeplabv3plus", "resnet18", 5, {"decoder_channels": 16}, 16),
    ("deeplabv3plus", TINY, 5, {"decoder_channels": 16, "encoder_output_stride": 8}, 8),
    ("fpn", TINY, 3, {"decoder_pyramid_channels": 16, "upsampling": 1}, 8),
    ("fpn", TINY, 4, {"decoder_pyramid_channels": 16, "upsampling": 2}, 16),
    ("fpn", "mobilenet_v2", 5, {"decoder_pyramid_channels": 16}, 32),
    ("dpt", "tu-test_vit", 4, {"decoder_intermediate_channels": [8] * 4, "decoder_fusion_channels": 8}, 32),
    ("dpt", "tu-vit_small_patch14_dinov2", 4, {"decoder_fusion_channels": 16}, 28),
]


def small(**changes: Any) -> Smp:
    options = {"encoder_depth": 3, "decoder_channels": [16, 8, 8]}
    return Smp(**{"arch": "unet", "encoder": TINY, "weights": "none", "options": options, **changes})


def built(**changes: Any) -> Any:
    torch.manual_seed(0)
    return small(**changes).build(CLASSES)


# --- any size


@pytest.mark.parametrize(("arch", "encoder", "depth", "options", "multiple"), NETWORKS)
def test_images_of_any_size_are_padded_by_their_edges_and_cut_back(
    arch: str, encoder: str, depth: int, options: dict[str, Any], multiple: int
) -> None:
    torch.manual_seed(0)
    model = Smp(arch=arch, encoder=encoder, weights=Path("none"), options={"encoder_depth": depth, **options}).build(4)
    model.eval()
    for h, w in ((64, 32), (37, 50), (31, 33), (5, 64), (1, 1)):
        images = torch.randn(2, 3, h, w)
        pad = ((0, 0), (0, 0), (0, -h % multiple), (0, -w % multiple))
        with torch.no_grad():
            ours = model(images)
            by_hand = model.network(torch.from_numpy(np.pad(images.numpy(), pad, mode="edge")))
        assert ours.shape == (2, 4, h, w)
        assert torch.equal(ours, by_hand[:, :, :h, :w])
        assert by_hand.shape[2:] == (h + pad[2][1], w + pad[3][1])  # pixel for pixel: a corner cut is no scaled map


@pytest.mark.parametrize(
    ("arch", "options"),
    [("fpn", {"encoder_depth": 3}), ("fpn", {"encoder_depth": 4}), ("pspnet", {"encoder_depth": 4})],
    ids=str,
)
def test_network_whose_maps_are_not_as_large_as_its_images_is_refused_with_the_remedy(arch: str, options: Any) -> None:
    """Cutting such maps to the image's size would train on an enlarged corner of them."""
    model = built(arch=arch, options=options).eval()
    with pytest.raises(ValueError, match=r"model\.options\.upsampling"):
        model(torch.zeros(1, 3, 64, 64))


# --- parameter groups


@pytest.mark.parametrize(("arch", "encoder", "depth", "options", "multiple"), NETWORKS[::3])
def test_parameters_are_split_into_encoder_and_rest_each_exactly_once(
    arch: str, encoder: str, depth: int, options: dict[str, Any], multiple: int
) -> None:
    model = Smp(arch=arch, encoder=encoder, weights=Path("none"), options={"encoder_depth": depth, **options}).build(4)
    of_encoder, rest = split_parameters(model)
    assert {id(p) for p in of_encoder} == {id(p) for p in model.network.encoder.parameters()}
    together = [id(p) for p in (*of_encoder, *rest)]
    assert len(together) == len(set(together))
    assert set(together) == {id(p) for p in model.parameters()}
    assert rest


def test_only_a_module_called_encoder_is_the_encoder() -> None:
    model = nn.ModuleDict({"encoder": nn.Linear(1, 1), "encoder_neck": nn.Linear(1, 1), "head": nn.Linear(1, 1)})
    model["head"].weight = model["encoder"].weight  # shared: counted once
    of_encoder, rest = split_parameters(model)
    assert {id(p) for p in of_encoder} == {id(p) for p in model["encoder"].parameters()}
    assert len(rest) == 3


# --- encoder weights from files


def randomised(encoder: nn.Module) -> dict[str, Tensor]:
    """Weights of the same shapes that no initialisation would give."""
    torch.manual_seed(99)
    return {
        name: torch.randn_like(tensor) if tensor.is_floating_point() else tensor + 5
        for name, tensor in nn.Module.state_dict(encoder).items()
    }


def save(weights: dict[str, Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save(weights, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
@pytest.mark.parametrize("encoder", [TINY, "resnet18", "mobilenet_v2"])
def test_encoder_weights_come_back_from_a_file_and_the_decoder_is_untouched(
    encoder: str, suffix: str, tmp_path: Path
) -> None:
    fresh = built(encoder=encoder)
    weights = randomised(fresh.network.encoder)
    path = save(weights, tmp_path / f"encoder{suffix}")
    loaded = built(encoder=encoder, weights=path)
    own = nn.Module.state_dict(loaded.network.encoder)
    assert own.keys() == weights.keys()
    assert all(torch.equal(own[name], weights[name]) for name in own)
    for name, tensor in loaded.network.decoder.state_dict().items():
        assert torch.equal(tensor, fresh.network.decoder.state_dict()[name])


def test_weights_as_timm_publishes_them_fit_head_and_deeper_stages_left_over(tmp_path: Path) -> None:
    torch.manual_seed(5)
    published = timm.create_model("test_resnet", pretrained=False).state_dict()
    loaded = built(weights=save(published, tmp_path / "timm.safetensors"))
    own = nn.Module.state_dict(loaded.network.encoder)
    assert len(own) < len(published)
    assert all(torch.equal(tensor, published[name.removeprefix("model.")]) for name, tensor in own.items())


def test_weights_inside_a_checkpoints_state_dict_are_found(tmp_path: Path) -> None:
    weights = randomised(built().network.encoder)
    path = tmp_path / "checkpoint.pth"
    torch.save({"state_dict": weights, "epoch": 3}, path)
    own = nn.Module.state_dict(built(weights=path).network.encoder)
    assert all(torch.equal(own[name], weights[name]) for name in own)


def test_a_network_about_to_be_loaded_reads_no_weights() -> None:
    assert small(weights=Path("no/such/file.pth")).build(CLASSES, pretrained=False)


def test_missing_and_misshapen_tensors_are_named_and_nothing_is_loaded() -> None:
    encoder = built().network.encoder
    before = {name: tensor.clone() for name, tensor in nn.Module.state_dict(encoder).items()}
    names = list(before)
    lacking = randomised(encoder)
    del lacking[names[0]]
    with pytest.raises(ValueError, match=rf"somewhere.*1 of .* missing \['{names[0]}'\], 0 have"):
        load_encoder(encoder, lacking, source="somewhere")
    wrong = randomised(encoder)
    wrong[names[0]] = wrong[names[0]][:-1]
    with pytest.raises(ValueError, match=rf"0 of .*, 1 have another shape \['{names[0]}'\]"):
        load_encoder(encoder, wrong, source="somewhere")
    assert all(torch.equal(before[name], tensor) for name, tensor in nn.Module.state_dict(encoder).items())


def test_weights_of_another_encoder_are_refused(tmp_path: Path) -> None:
    path = save(randomised(built(encoder="resnet18").network.encoder), tmp_path / "resnet18.safetensors")
    with pytest.raises(ValueError, match=r"resnet18\.safetensors does not fit the encoder"):
        built(weights=path)


def test_a_prefix_is_named_where_all_tensors_are_under_it_and_fit() -> None:
    encoder = built(encoder="resnet18").network.encoder
    weights = randomised(encoder)
    with pytest.raises(ValueError, match=r"begin with 'module\.encoder\.': save them without"):
        load_encoder(encoder, {f"module.encoder.{name}": tensor for name, tensor in weights.items()}, source="file")
    other = randomised(built(encoder="resnet50").network.encoder)  # has all names, of other shapes
    with pytest.raises(ValueError, match="use the weights of this encoder"):
        load_encoder(encoder, {f"backbone.{name}": tensor for name, tensor in other.items()}, source="file")


def test_a_tensor_of_a_like_name_is_no_prefix() -> None:
    """ResNet's blocks have a `conv1` too: without the stem's, theirs must not be taken for it."""
    encoder = built(encoder="resnet18").network.encoder
    weights = {name: tensor for name, tensor in randomised(encoder).items() if name != "conv1.weight"}
    assert any(name.endswith(".conv1.weight") for name in weights)
    with pytest.raises(ValueError, match=r"1 of .* missing \['conv1.weight'\].*; use the weights of this encoder"):
        load_encoder(encoder, weights, source="file")


def test_a_prefix_before_timms_names_is_found_inside_the_wrapper() -> None:
    encoder = built(encoder="tu-resnet18").network.encoder
    bare = {name.removeprefix("model."): tensor for name, tensor in randomised(encoder).items()}
    with pytest.raises(ValueError, match=r"begin with 'module\.': save them without"):
        load_encoder(encoder, {f"module.{name}": tensor for name, tensor in bare.items()}, source="file")


@pytest.mark.parametrize(("encoder", "hinted"), [("resnet18", True), ("tu-resnet18", False)])
def test_names_that_fit_nothing_are_shown_and_timms_encoders_named_to_others(encoder, hinted, tmp_path: Path) -> None:
    weights = {name.replace(".", "_"): tensor for name, tensor in randomised(built().network.encoder).items()}
    with pytest.raises(ValueError, match=r"the file has \['model_") as caught:
        built(encoder=encoder, weights=save(weights, tmp_path / "other.safetensors"))
    assert ("encoders tu-NAME" in str(caught.value)) is hinted


def test_a_file_without_counters_of_batches_fits() -> None:
    """Weights older than num_batches_tracked, and converted ones, lack it."""
    encoder = built().network.encoder
    weights = {name: t for name, t in randomised(encoder).items() if not name.endswith("num_batches_tracked")}
    load_encoder(encoder, weights, source="old")
    own = nn.Module.state_dict(encoder)
    assert all(torch.equal(own[name], tensor) for name, tensor in weights.items())


# --- weights of a larger network, of which what is asked for would fit


@lru_cache(maxsize=2)
def whole_network(name: str, **changes: Any) -> nn.Module:
    """What timm or smp has of a network, by the name of an encoder."""
    return timm.create_model(name[3:], **changes) if name.startswith("tu-") else smp.encoders.get_encoder(name)


def file_of(name: str, path: Path, **changes: Any) -> Path:
    return save(nn.Module.state_dict(whole_network(name, **changes)), path / f"{name}.safetensors")


@pytest.mark.filterwarnings("ignore:.timm-")
@pytest.mark.parametrize(
    ("encoder", "larger", "block"),
    [
        ("resnet18", "resnet34", "layer1.2.conv1.weight"),
        ("timm-efficientnet-b0", "timm-efficientnet-b1", "blocks.0.1.conv_dw.weight"),
        ("mit_b1", "mit_b2", "block1.2.norm1.weight"),
        ("tu-resnet18", "tu-resnet34", "layer1.2.conv1.weight"),
        ("tu-resnet18", "resnet34", "layer1.2.conv1.weight"),
    ],
)
def test_weights_of_a_larger_network_are_refused_though_all_that_is_asked_for_fits(encoder, larger, block, tmp_path):
    path = file_of(larger, tmp_path)
    known = {name for name, _ in whole_network(encoder).named_modules()}
    beyond = {name for name in read_weights(path) if name.rpartition(".")[0] not in known}
    with pytest.raises(
        ValueError, match=rf"{larger}\.safetensors has {len(beyond)} tensors .* larger network"
    ) as caught:
        built(encoder=encoder, weights=path)
    named = re.search(r"such as ([\w.]+): ", str(caught.value))
    assert named
    assert named[1] in beyond
    assert block in beyond


def test_weights_of_a_smaller_network_are_refused_though_the_stages_that_are_kept_would_fit(tmp_path):
    """Both have the same first blocks; a file of these alone, without the head, may well be one of the larger's."""
    path, larger = file_of("tu-densenet121", tmp_path), timm.create_model("densenet169")
    tensors = read_weights(path)
    missing = {name for name, _ in larger.named_parameters() if name not in tensors}
    with pytest.raises(ValueError, match=rf"lacks {len(missing)} tensors of densenet169") as caught:
        built(encoder="tu-densenet169", weights=path)
    named = re.search(r"such as ([\w.]+): ", str(caught.value))
    assert named
    assert named[1] in missing
    cut = built(encoder="tu-densenet169").network.encoder.state_dict()
    assert cut.keys() <= {f"model.{name}".replace("features.", "features_") for name in tensors}
    assert built(encoder="tu-densenet169", weights=save(cut, tmp_path / "cut.safetensors"))


@pytest.mark.parametrize("depth", [3, 5])
@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18"])
@pytest.mark.parametrize("classes", [1000, 21841, 0])
def test_a_networks_own_file_fits_whatever_its_head_and_wherever_it_is_cut(encoder, depth, classes, tmp_path):
    path = file_of("tu-resnet18", tmp_path, num_classes=classes)
    options = {"encoder_depth": depth, "decoder_channels": [16, 8, 8, 8, 8][:depth]}
    own = nn.Module.state_dict(built(encoder=encoder, weights=path, options=options).network.encoder)
    tensors = read_weights(path)
    assert all(torch.equal(tensor, tensors[name.removeprefix("model.")]) for name, tensor in own.items())


@pytest.mark.parametrize(
    "more",
    [
        "fc.0.weight",
        "fc.mlp.fc1.weight",
        "head.pre_logits.fc.weight",
        "projector.0.weight",
        "layer1.0.mask",
        "layer1.mask",
        "n",
    ],
)
@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18"])
def test_other_heads_and_buffers_of_other_versions_are_left(encoder, more, tmp_path):
    tensors = dict(read_weights(file_of("tu-resnet18", tmp_path)))
    assert built(encoder=encoder, weights=save({**tensors, more: torch.zeros(1)}, tmp_path / "more.pth"))


@pytest.mark.parametrize(
    ("encoder", "make"),
    [
        ("resnet18", torchvision.models.resnet18),
        ("tu-resnet18", torchvision.models.resnet18),
        ("mobilenet_v2", torchvision.models.mobilenet_v2),
    ],
)
def test_torchvisions_files_fit_the_encoders_of_its_names(encoder, make, tmp_path):
    path = save(make().state_dict(), tmp_path / "torchvision.pth")
    assert built(encoder=encoder, weights=path)


def test_what_is_drawn_after_a_file_was_read_is_what_would_be_drawn_without_it(tmp_path, monkeypatch) -> None:
    """Of a network, too, that draws while it is built, and computes with what it drew."""
    path, make = file_of(TINY, tmp_path), timm.create_model

    def drawing(*names: Any, **settings: Any) -> nn.Module:
        assert torch.rand(1).item() < 1  # without values: a RuntimeError
        return make(*names, **settings)

    monkeypatch.setattr(timm, "create_model", drawing)
    built()
    without = torch.rand(4)
    built(weights=path)
    assert torch.equal(torch.rand(4), without)


# --- names that timm's tensors have inside of an encoder


LATER = pytest.mark.skipif(not timm.is_model("cspnext_tiny"), reason="of a later timm")


@pytest.mark.filterwarnings("ignore:For 'tu-'")
@pytest.mark.parametrize("depth", [3, 5])
@pytest.mark.parametrize(
    "name",
    [
        *("test_convnext", "test_efficientnet", "test_nfnet", "pvt_v2_b0", "densenet121"),
        pytest.param("cspnext_tiny", marks=LATER),
    ],
)
def test_timms_own_file_starts_the_encoder_as_timm_starts_it(name, depth, tmp_path):
    torch.manual_seed(11)
    path = file_of(f"tu-{name}", tmp_path)
    made = {"depth": depth, "weights": "imagenet", "pretrained_cfg_overlay": {"file": str(path)}}
    expected = nn.Module.state_dict(smp.encoders.get_encoder(f"tu-{name}", **made))
    options = {"encoder_depth": depth, "decoder_channels": [16, 8, 8, 8, 8][:depth]}
    own = nn.Module.state_dict(built(encoder=f"tu-{name}", weights=path, options=options).network.encoder)
    assert own.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in own.items())


@pytest.mark.parametrize("depth", [3, 5])
@pytest.mark.parametrize(
    "name",
    ["swin_tiny_patch4_window7_224", "hiera_tiny_224", "legacy_xception", "tresnet_m", "dla34", "hrnet_w18_small"],
)
def test_every_tensor_of_an_encoder_is_one_of_timms_network_and_of_its_shape(name, depth):
    with torch.device("meta"):
        encoder = smp.encoders.get_encoder(f"tu-{name}", depth=depth)
        shapes = {of: tensor.shape for of, tensor in timm.create_model(name).state_dict().items()}
    whole = whole_of(encoder, f"tu-{name}")
    own = {whole.plain(of): tensor.shape for of, tensor in encoder.state_dict().items()}
    assert len(own) == len(encoder.state_dict())
    assert own.items() <= shapes.items()
    assert [whole.plain(of) for of in shapes] == list(shapes)
    assert not whole.foreign([*encoder.state_dict(), *shapes])


def test_the_filters_of_timms_own_file_are_adapted_to_other_channels(tmp_path):
    path = file_of("tu-test_convnext", tmp_path)
    own = small(encoder="tu-test_convnext", weights=path).build(CLASSES, channels=5).network.encoder.state_dict()
    filters = read_weights(path)["stem.0.weight"]
    torch.testing.assert_close(own["model.stem_0.weight"][:, :3], filters)
    torch.testing.assert_close(own["model.stem_0.weight"][:, 3:], filters.mean(1, keepdim=True).expand(-1, 2, -1, -1))


def test_what_timms_own_file_lacks_or_has_besides_is_said_in_the_names_of_the_file(tmp_path):
    path = file_of("tu-test_convnext", tmp_path)
    tensors = dict(read_weights(path))
    lacking = {name: tensor for name, tensor in tensors.items() if name != "stages.1.blocks.0.conv_dw.weight"}
    with pytest.raises(ValueError, match=r"1 of .* missing \['stages\.1\.blocks\.0\.conv_dw\.weight'\], 0 have"):
        built(encoder="tu-test_convnext", weights=save(lacking, tmp_path / "lacking.safetensors"))
    cut = {**tensors, "stem.0.weight": tensors["stem.0.weight"][:-1]}
    with pytest.raises(ValueError, match=r"0 of .* missing \[\], 1 have another shape \['stem\.0\.weight'\]"):
        built(encoder="tu-test_convnext", weights=save(cut, tmp_path / "cut.safetensors"))
    wrapped = built(encoder="tu-test_convnext").network.encoder.state_dict()
    for prefix, within in (("module", tensors), ("encoder", wrapped)):
        before = {f"{prefix}.{name}": tensor for name, tensor in within.items()}
        with pytest.raises(ValueError, match=rf"begin with '{prefix}\..*': save them without"):
            built(encoder="tu-test_convnext", weights=save(before, tmp_path / "before.safetensors"))
    more = {name.replace("blocks.0", "blocks.9"): tensor for name, tensor in tensors.items()}
    for form in (str, lambda name: "model." + re.sub(r"^(stem|stages)\.", r"\1_", name)):
        larger = {form(name): tensor.clone() for name, tensor in {**more, **tensors}.items()}
        with pytest.raises(ValueError, match="larger network"):
            built(encoder="tu-test_convnext", weights=save(larger, tmp_path / "larger.safetensors"))


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("how", ["torch.save", "pickle", "inside a state dict"])
def test_code_in_a_weights_file_is_refused_and_not_executed(how: str, tmp_path: Path) -> None:
    proof, path = tmp_path / "executed", tmp_path / "weights.pth"
    payload = Payload(proof)
    if how == "pickle":
        path.write_bytes(pickle.dumps(payload, protocol=2))
    else:
        torch.save(payload if how == "torch.save" else {"weight": torch.zeros(1), "more": payload}, path)
    with pytest.raises(ValueError, match=r"weights\.pth is not a readable file of tensors"):
        read_weights(path)
    assert not proof.exists()
    pickle.loads(pickle.dumps(payload, protocol=2))
    assert proof.exists()  # the payload does what it says


@pytest.mark.parametrize("content", [b"", b"<html>404 not found</html>", b"\x00" * 500])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_holds_no_tensors_is_refused_by_name(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path.name} is not a readable file of tensors"):
        read_weights(path)


@pytest.mark.parametrize("thing", [torch.zeros(3), [torch.zeros(3)], {"a": 1}, {"state_dict": {"a": "b"}}], ids=str)
def test_a_file_of_something_else_than_named_tensors_is_refused(thing: Any, tmp_path: Path) -> None:
    torch.save(thing, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="no plain state dict"):
        read_weights(tmp_path / "weights.pth")


def test_a_missing_file_is_named_with_the_alternatives(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no file .*nowhere\.pth.*'none', 'imagenet'"):
        built(weights=tmp_path / "nowhere.pth")


# --- ImageNet weights


@pytest.mark.parametrize(
    ("arch", "encoder", "options"),
    [
        ("unet", TINY, {"encoder_depth": 3, "decoder_channels": [16, 8, 8]}),
        ("dpt", "tu-test_vit", {"decoder_intermediate_channels": [8] * 4, "decoder_fusion_channels": 8}),
        ("deeplabv3plus", TINY, {"encoder_depth": 5, "decoder_channels": 16, "encoder_output_stride": 8}),
    ],
)
@pytest.mark.parametrize("channels", [3, 5])
def test_imagenet_weights_are_those_that_timm_gives(
    arch: str, encoder: str, options: dict[str, Any], channels: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path, asked, make = file_of(encoder, tmp_path), [], timm.create_model

    def create_model(name: str, **settings: Any) -> nn.Module:
        """What timm makes where it can download, `path` in the place of what it downloads."""
        asked.append(settings.get("pretrained", False))
        return make(name, **settings, **({"pretrained_cfg_overlay": {"file": str(path)}} if asked[-1] else {}))

    monkeypatch.setattr(timm, "create_model", create_model)
    model = Smp(arch=arch, encoder=encoder, weights=Path("imagenet"), options=options)
    own = nn.Module.state_dict(model.build(CLASSES, channels=channels).network.encoder)
    assert asked.count(True) == 1
    from_file = Smp(arch=arch, encoder=encoder, weights=path, options=options).build(CLASSES, channels=channels)
    expected = nn.Module.state_dict(from_file.network.encoder)
    assert own.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in own.items())
    asked.clear()
    model.build(CLASSES, pretrained=False)
    Smp(arch=arch, encoder=encoder, weights=Path("none"), options=options).build(CLASSES)
    assert True not in asked  # never downloaded unless asked for


def test_imagenet_weights_without_a_network_say_what_to_place_and_how_to_name_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make = timm.create_model

    def offline(*names: Any, **settings: Any) -> nn.Module:
        if not settings.get("pretrained"):
            return make(*names, **settings)
        raise ConnectionError("Max retries exceeded with url: (Caused by a resolution error, line 1\nline 2)")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ValueError) as caught:
        built(weights="imagenet")
    message = str(caught.value)
    for part in (TINY, "ImageNet", "ConnectionError", "model.weights=FILE.safetensors", "model.weights=none"):
        assert part in message
    assert f"fetch model.safetensors from huggingface.co/timm/{TINY.removeprefix('tu-')}." in message
    assert "\n" not in message
    assert "Max retries" not in message


def test_where_the_weights_of_an_encoder_are_is_what_its_library_says() -> None:
    of_smp = smp.encoders.encoders["mobilenet_v2"]["pretrained_settings"]["imagenet"]["repo_id"]
    assert small(encoder="mobilenet_v2").origin() == f"huggingface.co/{of_smp}"
    assert small(encoder="tu-resnet50").origin() == f"huggingface.co/{timm.get_pretrained_cfg('resnet50').hf_hub_id}"
    assert small(encoder="tu-resnet50.a2_in1k").origin() == "huggingface.co/timm/resnet50.a2_in1k"
    assert small(encoder="tu-nothing_like_it").origin() == ""


def test_the_file_of_dinov2s_authors_who_mask_patches_starts_dpt(tmp_path: Path) -> None:
    torch.manual_seed(5)
    tensors = timm.create_model("vit_small_patch14_dinov2").state_dict()
    torch.save({**tensors, "mask_token": torch.rand(1, 384)}, tmp_path / "dinov2_vits14_pretrain.pth")
    words = gather(["configs/model/dpt_dinov2_small.yaml", f"model.weights={tmp_path}/dinov2_vits14_pretrain.pth"])
    own = nn.Module.state_dict(validate(Smp, words["model"]).build(CLASSES).network.encoder)
    assert set(own) == {f"model.{name}" for name in tensors}
    assert all(torch.equal(own[f"model.{name}"], tensor) for name, tensor in tensors.items())


# --- names


@pytest.mark.parametrize(
    ("wrong", "key", "right"),
    [
        ({"arch": "unett"}, "model.arch", "'unet'"),
        ({"arch": "deeplabv3+"}, "model.arch", "'deeplabv3plus'"),
        ({"arch": "Unet"}, "model.arch", "'unet'"),
        ({"encoder": "resnet-18"}, "model.encoder", "'resnet18'"),
        ({"encoder": "tu-resnet10"}, "model.encoder", "'tu-resnet101'"),
        ({"encoder": "resnet10t"}, "model.encoder", "'tu-resnet10t'"),
        ({"options": {"encoder_dept": 3}}, "model.options", "'encoder_depth'"),
        ({"options": {"decoder_chanels": [1]}}, "model.options", "'decoder_channels'"),
        ({"arch": "zzz"}, "model.arch", "known: unet"),
    ],
    ids=str,
)
def test_an_unknown_name_is_refused_with_a_near_one(wrong: Any, key: str, right: str) -> None:
    with pytest.raises(ValueError) as caught:
        built(**wrong)
    assert key in str(caught.value)
    assert right in str(caught.value)


@pytest.mark.parametrize("key", ["classes", "in_channels", "encoder_weights", "aux_params", "activation", "kwargs"])
def test_an_option_that_another_key_decides_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=rf"model\.options: '{key}' is not known"):
        built(options={key: 1})


@pytest.mark.parametrize(
    "wrong",
    [
        {"options": {"encoder_depth": 4}},  # five decoder channels by default
        {"options": {"encoder_depth": "three"}},
        {"options": {"decoder_channels": 7}},
        {"encoder": "tu-resnet18.no_such_tag"},
    ],
    ids=str,
)
def test_a_value_that_the_architecture_cannot_take_is_the_users_error(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"model: unet .* cannot be built"):
        built(**wrong)


def test_options_reach_the_architecture() -> None:
    counts = [
        sum(p.numel() for p in built(options={"encoder_depth": 3, "decoder_channels": c}).network.decoder.parameters())
        for c in ([16, 8, 8], [32, 16, 16])
    ]
    assert counts[0] < counts[1]


# --- optimizers: two groups with rates of their own


def one_step(rule: Any, factor: float = 1.0) -> tuple[Any, dict[str, Tensor], dict[str, Tensor]]:
    """A network before and after one step along gradients of all ones."""
    model = built()
    optimizer = rule.build(model)
    set_lr(optimizer, factor)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer, before, dict(model.named_parameters())


@pytest.mark.parametrize("decoder_lr", [None, 0.5])
@pytest.mark.parametrize("factor", [1.0, 0.3, 0.0])
def test_sgd_moves_encoder_and_decoder_at_their_own_rates(decoder_lr: float | None, factor: float) -> None:
    rule = Sgd(lr=0.1, decoder_lr=decoder_lr, momentum=0, weight_decay=0.01)
    _, before, after = one_step(rule, factor)
    for name, tensor in before.items():
        rate = factor * (0.1 if ".encoder." in name or decoder_lr is None else decoder_lr)
        torch.testing.assert_close(after[name].detach(), tensor - rate * (1 + 0.01 * tensor))


@pytest.mark.parametrize("decoder_lr", [None, 0.05])
@pytest.mark.parametrize("factor", [1.0, 0.3])
def test_adamw_moves_encoder_and_decoder_at_their_own_rates(decoder_lr: float | None, factor: float) -> None:
    """Its first step is the rate times the gradient's sign, beside the decoupled decay."""
    rule = AdamW(lr=0.01, decoder_lr=decoder_lr, weight_decay=0.1)
    _, before, after = one_step(rule, factor)
    for name, tensor in before.items():
        rate = factor * (0.01 if ".encoder." in name or decoder_lr is None else decoder_lr)
        torch.testing.assert_close(after[name].detach(), tensor * (1 - 0.1 * rate) - rate, rtol=1e-5, atol=1e-6)


def test_learning_rates_are_the_base_rates_times_the_factor_however_often_it_is_set() -> None:
    optimizer = AdamW(lr=0.01, decoder_lr=0.1).build(built())
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.1]
    for factor in (0.5, 0.5, 0.0, 0.9):
        set_lr(optimizer, factor)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01 * factor, 0.1 * factor])


def test_momentum_and_nesterov_are_torchs() -> None:
    steps = []
    for settings in ({"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.0}):
        model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(model.weight)
        optimizer = Sgd(lr=1.0, weight_decay=0, **settings).build(model)
        for _ in range(2):
            model.weight.grad = torch.ones(1, 1)
            optimizer.step()
        steps.append(-model.weight.item())
    # Gradient 1 twice: 1 + 1.9; nesterov looks 0.9 of the velocity ahead: 1.9 + (1 + 0.9 * 1.9).
    assert steps == pytest.approx([2.9, 1.9 + 2.71, 2.0])


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: Sgd(lr=0), "lr"),
        (lambda: Sgd(lr=0.1, momentum=1.0), "momentum"),
        (lambda: Sgd(lr=0.1, momentum=0, nesterov=True), "nesterov"),
        (lambda: AdamW(lr=0.1, decoder_lr=-1), "decoder_lr"),
        (lambda: AdamW(lr=0.1, betas=(0.9, 1.0)), "betas"),
    ],
)
def test_rates_out_of_range_are_refused_before_anything_is_built(make: Any, key: str) -> None:
    with pytest.raises(ValueError, match=key):
        make()


def test_options_are_those_of_the_architecture_that_is_asked_for_at_last() -> None:
    def numbers(model: Any) -> int:
        return sum(parameter.numel() for parameter in model.parameters())

    base = {"model": {"arch": "unet", "encoder": TINY, "weights": "none", "options": {"decoder_channels": [16, 8]}}}
    for word in ("model.arch=fpn", "model.options=null"):
        over = merge(base, gather(["model.arch=fpn", word]))
        assert numbers(validate(Smp, over["model"]).build(4)) == numbers(small(arch="fpn", options=None).build(4))
    with pytest.raises(ValueError, match=r"model\.options"):
        small(arch="fpn").build(4)


@pytest.mark.parametrize(("wrong", "right"), [("imagnet", "imagenet"), ("non", "none")])
def test_a_misspelt_source_of_weights_is_answered_with_the_right_one(wrong: str, right: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean '{right}'"):
        small(weights=Path(wrong)).build(4)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("convnext_tiny", "tu-convnext_tiny"), ("tu-convnext_tony", "tu-convnext_tiny"), ("resnet-18", "resnet18")],
)
def test_an_encoder_that_is_neither_smps_nor_timms_is_answered_with_the_nearest(wrong: str, right: str) -> None:
    with pytest.raises(ValueError, match=rf"model\.encoder: '{wrong}' is not known; did you mean .*'{right}'"):
        small(encoder=wrong).build(4)


def test_images_that_a_network_cannot_take_are_the_users_error_with_their_shape() -> None:
    """One image of 32 pixels is a single value a channel in the pooling branch, which batch norm cannot take."""
    options = {"encoder_depth": 3, "encoder_output_stride": 8}
    model = small(arch="deeplabv3plus", options=options).build(4).train()
    with pytest.raises(ValueError, match=r"cannot take images of \(1, 3, 32, 32\)"):
        model(torch.zeros(1, 3, 32, 32))
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 4, 32, 32)


def test_two_heads_stand_on_one_decoder_with_weights_of_their_own_and_the_first_alone_is_asked_otherwise() -> None:
    one, two = (small(heads=heads).build(4).eval() for heads in (1, 2))
    images = torch.randn(2, 3, 33, 40)
    head = sum(p.numel() for p in one.network.segmentation_head.parameters())
    assert sum(p.numel() for p in two.parameters()) == sum(p.numel() for p in one.parameters()) + head
    first, second = two(images, both=True)
    assert first.shape == second.shape == (2, 4, 33, 40)
    assert torch.equal(two(images), first)
    assert not torch.equal(first, second)
    two.second.load_state_dict(two.network.segmentation_head.state_dict())
    torch.testing.assert_close(two(images, both=True)[1], first)
    assert not two.network.segmentation_head._forward_pre_hooks
