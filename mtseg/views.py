"""View policies: what the labelled, the teacher's and the student's pictures look like, and how pixels become input."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from mtseg.colour import Colour, Pick, check_pick
from mtseg.geometry import Geometry
from mtseg.part import part

Side = Annotated[int, Field(ge=16)]
Triple = tuple[float, float, float]


@part
class Policy:
    """Geometry and colours of one kind of view. `pick`: see `Painter`."""

    geometry: Geometry = Geometry()
    colour: tuple[Colour, ...] = ()
    pick: Pick | None = None

    def __post_init__(self) -> None:
        check_pick(self.pick, self.colour)


@part
class StudentPolicy:
    """The student's view of an unlabelled image; `geometry: shared` is the teacher's own draw of it."""

    geometry: Literal["shared"] | Geometry = Geometry()
    colour: tuple[Colour, ...] = ()
    pick: Pick | None = None

    def __post_init__(self) -> None:
        check_pick(self.pick, self.colour)


@part
class Views:
    """The three view policies at one `crop` (height, width), and the normalisation of pixels.

    `mean` and `std` are those of the encoder's pretraining, for pixels in [0, 1]; the default is ImageNet's.
    """

    crop: tuple[Side, Side]
    labelled: Policy = Policy()
    teacher: Policy = Policy()
    student: StudentPolicy = StudentPolicy()
    mean: Triple = (0.485, 0.456, 0.406)
    std: Triple = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if min(self.std) < 1e-6:
            raise ValueError(f"std: {self.std} divides pixels in [0, 1]; every entry must be at least 1e-6")

    def normalise(self, image: Tensor) -> Tensor:
        """uint8 pixels (B, H, W, 3) -> network input (B, 3, H, W) float32, on the same device."""
        mean = torch.tensor(self.mean, device=image.device)[:, None, None] * 255
        std = torch.tensor(self.std, device=image.device)[:, None, None] * 255
        # Bytes are moved before they are four times as many, and the maps are then written once.
        return image.permute(0, 3, 1, 2).contiguous().float().sub_(mean).div_(std)
