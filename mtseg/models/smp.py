"""Networks: segmentation-models-pytorch by architecture and encoder name, padded to any image size."""

import copy
import difflib
import inspect
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch.distributed as dist
import torch.nn.functional as F
from pydantic import JsonValue
from torch import Tensor, nn

from mtseg.device import of_compiling, out_of_memory
from mtseg.models import dpt
from mtseg.models.weights import downloaded, load_encoder, of_channels, of_timm, read_weights
from mtseg.models.whole import whole_of
from mtseg.part import part

# Arguments of smp's architectures that other keys say, or that change what the network returns.
NOT_OPTIONS = (
    "encoder_name",
    "encoder_weights",
    "classes",
    "in_channels",
    "aux_params",
    "activation",
    "kwargs",
)
OF_A_DEVICE = ("CUDA error", "cuDNN error", "CUBLAS", "NCCL")  # errors that say nothing of the images


@part
class Smp:
    """A network of segmentation-models-pytorch.

    `arch` is one of its architectures (`unet`, `deeplabv3plus`, `segformer`, ...), `encoder` one of its encoders
    or `tu-NAME` for timm's. `weights`: `none`, `imagenet` (downloaded once, explicitly, by build) or a file,
    .safetensors or .pth, of encoder weights. `options` are further arguments of the architecture; null: none. With 2
    `heads`, a second one, beside the first on the same decoder, answers the consistency (`method.logit_distance`). A
    `frozen` encoder is never trained: its weights, and its statistics, stay those that it starts from.
    """

    kind: Literal["smp"] = "smp"
    dense: ClassVar = True
    arch: str = "deeplabv3plus"
    encoder: str = "resnet50"
    weights: Path = Path("imagenet")
    options: dict[str, JsonValue] | None = None
    heads: Literal[1, 2] = 1
    frozen: bool = False

    def build(self, classes: int, *, channels: int = 3, rgb: bool = True, pretrained: bool = True) -> "Padded":
        """The network for `classes` classes, from images (B, channels, H, W) to logits (B, classes, H, W).

        Weights of RGB networks are adapted to other channels, of which with `rgb` the first three are red, green and
        blue (`of_channels`). `pretrained=False` leaves the initial weights out, for a network that is about to be
        loaded. Raises ValueError for an unknown name or option, and for weights that are missing or do not fit; so
        does the network's first forward where its maps are not as large as its images.
        """
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in (self.options or {}).items()}
        architecture, encoder = _architecture(self.arch, options), self._known_encoder()
        if self.arch == "dpt":
            options["dynamic_img_size"] = True  # any size, where its encoder has a fixed one
        make = partial(architecture, encoder_name=encoder, classes=classes, **options)
        try:
            network = make(encoder_weights=None, in_channels=channels)
        except Exception as error:  # of any type: the library checks few of its arguments
            raise ValueError(
                f"model: {self.arch} with encoder {encoder} and options {self.options or {}} cannot be built: {error}; "
                "options belong to one architecture (model.options=null drops them)"
            ) from error
        if pretrained:
            which = True if encoder.startswith("tu-") else "imagenet"  # timm's names say which weights
            known = partial(make, encoder_weights=which, in_channels=3)
            self._begin(network.encoder, lambda: known().encoder, channels=channels, rgb=rgb)
        stride = dpt.fitted(network) if self.arch == "dpt" else int(network.encoder.output_stride)
        return Padded(network, stride=stride, heads=self.heads, frozen=self.frozen)

    def downloads(self) -> bool:
        """Whether `build` asks the network for weights."""
        return str(self.weights) == "imagenet"

    def origin(self) -> str:
        """Where the encoder's ImageNet weights are; empty where that is not known."""
        import segmentation_models_pytorch as smp

        if self.encoder.startswith("tu-"):
            return of_timm(self.encoder.removeprefix("tu-"))
        settings = smp.encoders.encoders.get(self.encoder, {}).get("pretrained_settings") or {}
        repository = settings.get("imagenet", {}).get("repo_id")
        return f"huggingface.co/{repository}" if repository else ""

    def _known_encoder(self) -> str:
        import segmentation_models_pytorch as smp
        import timm

        of_timm = self.encoder.startswith("tu-")
        name, dot, tag = self.encoder.partition(".") if of_timm else (self.encoder, "", "")
        if not of_timm or not timm.is_model(name.removeprefix("tu-")):  # to list timm's takes as long as to build one
            one_of("model.encoder", name, [*smp.encoders.encoders, *(f"tu-{known}" for known in timm.list_models())])
        return name + dot + tag  # timm: NAME.PRETRAINED_TAG

    def _begin(self, encoder: nn.Module, donor: Callable[[], nn.Module], *, channels: int, rgb: bool) -> None:
        """Put the weights of the file, or of the encoder that `donor` makes with ImageNet's, into `encoder`."""
        if str(self.weights) == "none":
            if self.frozen:
                raise ValueError(
                    "model.frozen: true, and the encoder starts from random weights (model.weights: none), which it "
                    "would keep; name weights, or let it learn with model.frozen=false"
                )
            return
        down, source = self.downloads(), str(self.weights)
        whole = None if down else whole_of(encoder, self.encoder)
        weights = downloaded(self.encoder, donor, origin=self.origin()) if down else read_weights(self.weights)
        weights = of_channels(weights, encoder, channels, rgb=rgb, whole=whole)
        timm = "" if self.encoder.startswith("tu-") else " (timm's names are those of the encoders tu-NAME)"
        load_encoder(encoder, weights, source=source, whole=whole, hint=timm)


class Padded(nn.Module):
    """A network that needs sides divisible by its stride, for any size: edges are replicated, then cut off.

    A `frozen` encoder's weights want no gradient, and it never is in training mode.
    """

    second: nn.Module | None  # the head beside the network's own

    def __init__(self, network: Any, *, stride: int, heads: int = 1, frozen: bool = False) -> None:
        super().__init__()
        self.network, self.stride, self.frozen = network, stride, frozen
        if frozen:
            network.encoder.requires_grad_(False)
        self.second = _like_new(network.segmentation_head) if heads == 2 else None

    def train(self, mode: bool = True) -> "Padded":
        super().train(mode)
        if self.frozen:
            self.network.encoder.eval()
        return self

    def forward(
        self, images: Tensor, disturb: Callable[[list[Tensor]], list[Tensor]] | None = None, *, both: bool = False
    ) -> Any:
        """Logits (B, K, H, W) of `images` (B, 3, H, W); of `both` heads, a pair of them, where there are two.

        `disturb` is done to the encoder's features on their way to the decoder.
        """
        h, w = images.shape[-2:]
        down, right = -h % self.stride, -w % self.stride
        if down or right:
            images = F.pad(images, (0, right, 0, down), mode="replicate")
        decoded: list[Tensor] = []
        with ExitStack() as hooks:
            if disturb is not None:
                hook = self.network.encoder.register_forward_hook(lambda _, __, found: _through(disturb, found))
                hooks.callback(hook.remove)
            if both:
                head = self.network.segmentation_head
                hooks.callback(head.register_forward_pre_hook(lambda _, maps: decoded.append(maps[0])).remove)
            logits = self._logits(images)[..., :h, :w]
        second = self.second if both else None
        return logits if second is None else (logits, second(decoded[0])[..., :h, :w])

    def _logits(self, images: Tensor) -> Tensor:
        try:
            logits: Tensor = self.network(images)
        except (RuntimeError, ValueError) as error:
            if out_of_memory(error) or of_compiling(error) or isinstance(error, dist.DistError):
                raise
            if any(of in str(error) for of in OF_A_DEVICE):
                raise
            raise ValueError(
                f"model: the network cannot take images of {tuple(images.shape)} (batch, channels, height, width): "
                f"{' '.join(str(error).split())[:300]}; choose larger batches, another views.crop or another model.arch"
            ) from error
        if logits.shape[-2:] != images.shape[-2:]:  # to cut these would be to train on an enlarged corner
            raise ValueError(
                f"model: the maps are {tuple(logits.shape[-2:])} for images of {tuple(images.shape[-2:])} (height, "
                f"width); divide model.options.upsampling by {logits.shape[-1] / images.shape[-1]:g}"
            )
        return logits


def _through(disturb: Callable[[list[Tensor]], list[Tensor]], found: Any) -> Any:
    """What an encoder `found`, its features disturbed. Of DPT's, features come beside tokens and without the image."""
    if not isinstance(found, tuple):
        return disturb(found)
    features, tokens = found
    return disturb([features[0], *features])[1:], tokens


def _like_new(module: nn.Module) -> nn.Module:
    """A copy of `module` with initial weights of its own."""
    twin = copy.deepcopy(module)
    for inner in twin.modules():
        reset = getattr(inner, "reset_parameters", None)
        if callable(reset):
            reset()
    return twin


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(encoder parameters, all others): what is pretrained, and what starts from nothing."""
    encoder = {id(p) for name, p in model.named_parameters() if ".encoder." in f".{name}"}
    parameters = list(model.parameters())
    return [p for p in parameters if id(p) in encoder], [p for p in parameters if id(p) not in encoder]


def _architecture(name: str, options: Mapping[str, Any]) -> Any:
    import segmentation_models_pytorch as smp

    known = dict(smp.MODEL_ARCHITECTURES_MAPPING)
    architecture = known[one_of("model.arch", name, list(known))]
    settable = [key for key in inspect.signature(architecture).parameters if key not in NOT_OPTIONS]
    for key in options:
        one_of("model.options", key, settable)
    return architecture


def one_of(key: str, value: str, known: list[str]) -> str:
    """`value`, which is among `known`. Raises ValueError, with the nearest, where it is not."""
    if value in known:
        return value
    near = difflib.get_close_matches(value, known, n=3)
    among = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(known)}"
    raise ValueError(f"{key}: {value!r} is not known; {among}")
