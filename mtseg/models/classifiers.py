"""Networks that answer for whole images: logits (B, K), S = (); the paper's, and any classifier of timm."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from mtseg.models.convnet import Norm, NormedConv, conv13
from mtseg.models.shake import shake26
from mtseg.models.smp import one_of
from mtseg.models.weights import downloaded, load_encoder, of_timm, read_weights
from mtseg.models.whole import whole_of_timm
from mtseg.part import part

Heads = Literal[1, 2]
Disturb = Callable[[list[Tensor]], list[Tensor]]  # of maps (B, C, h, w)


@part
class ConvNet13:
    """The paper's ConvNet for 32x32 images, 3.12 million parameters at `width` 128.

    `norm: weight` is weight normalisation with mean-only batch normalisation, of all layers, initialised by the first
    batch (the paper's); `batch` is ordinary batch normalisation of the convolutions.
    """

    kind: Literal["convnet13"] = "convnet13"
    dense: ClassVar = False
    width: Annotated[int, Field(ge=1)] = 128
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    norm: Norm = "weight"
    heads: Heads = 1

    def build(self, classes: int, *, channels: int = 3, rgb: bool = True, pretrained: bool = True) -> "Classifier":
        """The network for `classes` classes, from images (B, 3, H, W), sides of at least 12, to logits (B, classes)."""
        _three(self.kind, channels, rgb)
        body = Body(*conv13(self.width, self.dropout, self.norm))

        def head() -> nn.Module:
            return Normed(self.width, classes) if self.norm == "weight" else nn.Linear(self.width, classes)

        return Classifier(body, head, self.heads)

    def downloads(self) -> bool:
        return False


@part
class ShakeShake26:
    """ResNet-26 2x`width`d with Shake-Shake, 26.2 million parameters at `width` 96, for sides divisible by 4."""

    kind: Literal["shake26"] = "shake26"
    dense: ClassVar = False
    sides: ClassVar = 4  # what an image's height and width must be divisible by
    width: Annotated[int, Field(ge=1)] = 96
    heads: Heads = 1

    def build(self, classes: int, *, channels: int = 3, rgb: bool = True, pretrained: bool = True) -> "Classifier":
        """The network for `classes` classes, from images (B, 3, H, W), sides divisible by 4, to logits (B, classes)."""
        _three(self.kind, channels, rgb)
        return Classifier(Body(*shake26(self.width)), lambda: nn.Linear(4 * self.width, classes), self.heads)

    def downloads(self) -> bool:
        return False


@part
class ResNeXt:
    """A post-activation ResNeXt (Xie et al. 2017): the paper's ResNeXt-152 32x4d has `blocks` 3, 8, 36, 3."""

    kind: Literal["resnext"] = "resnext"
    dense: ClassVar = False
    blocks: tuple[int, int, int, int] = (3, 8, 36, 3)
    groups: Annotated[int, Field(ge=1)] = 32
    width: Annotated[int, Field(ge=1)] = 4
    heads: Heads = 1

    def build(self, classes: int, *, channels: int = 3, rgb: bool = True, pretrained: bool = True) -> "Classifier":
        """The network for `classes` classes, from images (B, 3, H, W) to logits (B, classes)."""
        _three(self.kind, channels, rgb)
        from torchvision.models.resnet import Bottleneck, ResNet

        whole = ResNet(Bottleneck, list(self.blocks), groups=self.groups, width_per_group=self.width)
        width = whole.fc.in_features
        body = Body(*(module for name, module in whole.named_children() if name not in ("avgpool", "fc")))
        return Classifier(body, lambda: nn.Linear(width, classes), self.heads)

    def downloads(self) -> bool:
        return False


@part
class Timm:
    """A classifier of timm by name. `weights`: `none`, `imagenet` (downloaded once, explicitly, by build) or a file,
    .safetensors or .pth, of them, whose head is left."""

    kind: Literal["timm"] = "timm"
    dense: ClassVar = False
    name: str
    weights: Path = Path("imagenet")
    heads: Heads = 1

    def build(self, classes: int, *, channels: int = 3, rgb: bool = True, pretrained: bool = True) -> "Classifier":
        """The network for `classes` classes, from images (B, 3, H, W) to logits (B, classes).

        Raises ValueError for an unknown name, and for weights that are missing or do not fit.
        """
        _three(self.kind, channels, rgb)
        import timm

        plain = self.name.partition(".")[0]
        one_of("model.name", plain, timm.list_models())
        body = TimmBody(timm.create_model(plain, pretrained=False, num_classes=0))
        if pretrained and str(self.weights) != "none":
            whole = None if self.downloads() else whole_of_timm(plain)
            load_encoder(body.network, self._weights(), source=str(self.weights), whole=whole)
        return Classifier(body, lambda: nn.Linear(body.width, classes), self.heads)

    def downloads(self) -> bool:
        return str(self.weights) == "imagenet"

    def origin(self) -> str:
        """Where the network's ImageNet weights are; empty where that is not known."""
        return of_timm(self.name)

    def _weights(self) -> Mapping[str, Tensor]:
        import timm

        if not self.downloads():
            return read_weights(self.weights)
        make = timm.create_model
        return downloaded(self.name, lambda: make(self.name, pretrained=True, num_classes=0), origin=self.origin())


class Classifier(nn.Module):
    """An encoder of maps, their mean over the pixels, and one or two heads of logits."""

    def __init__(self, encoder: "Body | TimmBody", head: Callable[[], nn.Module], heads: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head()
        self.second = head() if heads == 2 else None

    def forward(self, images: Tensor, disturb: Disturb | None = None, *, both: bool = False) -> Any:
        """Logits (B, K) of `images` (B, 3, H, W); of `both` heads, a pair of them, where there are two.

        `disturb` is done to the encoder's maps before they are meaned.
        """
        maps = self.encoder(images)
        if disturb is not None:
            maps = self.encoder.disturbed(maps, disturb)
        features = self.encoder.pooled(maps)
        logits = self.head(features)
        return logits if self.second is None or not both else (logits, self.second(features))


class Body(nn.Sequential):
    """Layers from images to maps (B, C, h, w)."""

    def disturbed(self, maps: Tensor, disturb: Disturb) -> Tensor:
        return disturb([maps])[0]

    def pooled(self, maps: Tensor) -> Tensor:  # (B, C)
        return maps.mean((2, 3))


class TimmBody(nn.Module):
    """A classifier of timm up to its head."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    @property
    def width(self) -> int:
        """How many features there are of an image: some networks have a layer between the maps and the classes."""
        return int(getattr(self.network, "head_hidden_size", None) or self.network.num_features)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.network.forward_features(images)
        return maps

    def disturbed(self, maps: Tensor, disturb: Disturb) -> Tensor:
        """`maps` as the network has them, channels first or last, after what is done to them channels first.

        Raises ValueError where they are none, but tokens.
        """
        channels = self.network.num_features
        if maps.dim() != 4 or channels not in (maps.shape[1], maps.shape[3]):
            raise ValueError(
                f"method.branches.features: disturbs maps of features, and {type(self.network).__name__} gives "
                f"{tuple(maps.shape)} in their place; leave it out, or choose a model.name with maps, such as resnet50"
            )
        last = maps.shape[1] != channels
        (after,) = disturb([maps.permute(0, 3, 1, 2) if last else maps])
        return after.permute(0, 2, 3, 1) if last else after

    def pooled(self, maps: Tensor) -> Tensor:  # (B, C)
        features: Tensor = self.network.forward_head(maps)
        return features


class Normed(NormedConv):
    """A linear layer with weight normalisation and mean-only batch normalisation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, kernel=1)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features[:, :, None, None]).flatten(1)

    def settle(self, features: Tensor) -> None:
        super().settle(features[:, :, None, None])


def _three(kind: str, channels: int, rgb: bool) -> None:
    """Raises ValueError for images that are not red, green and blue."""
    if channels != 3 or not rgb:
        raise ValueError(
            f"model.kind: {kind} is for red, green and blue, and the images have {channels} channels "
            f"(data.channels.rgb: {str(rgb).lower()}); use model.kind=smp, or data of three"
        )
