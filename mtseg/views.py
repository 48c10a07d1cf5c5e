"""View policies: what the labelled, the teacher's and the student's pictures look like, and how pixels become input."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from mtseg.colour import Colour, Pick, check_pick
from mtseg.geometry import Geometry
from mtseg.part import part
from mtseg.whiten import Standard

Side = Annotated[int, Field(ge=16)]
Triple = tuple[float, float, float]
Noise = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@part
class Policy:
    """Geometry and colours of one kind of view. `pick`: see `Painter`.

    `noise` is the standard deviation of normal noise that is added, on the device, to the normalised pixels.
    """

    geometry: Geometry = Geometry()
    colour: tuple[Colour, ...] = ()
    pick: Pick | None = None
    noise: Noise = 0.0

    def __post_init__(self) -> None:
        check_pick(self.pick, self.colour)


@part
class StudentPolicy:
    """The student's view of an unlabelled image; `geometry: shared` is the teacher's own draw of it."""

    geometry: Literal["shared"] | Geometry = Geometry()
    colour: tuple[Colour, ...] = ()
    pick: Pick | None = None
    noise: Noise = 0.0

    def __post_init__(self) -> None:
        check_pick(self.pick, self.colour)


@part
class Views:
    """The three view policies at one `crop` (height, width), and the normalisation of pixels.

    `mean` and `std` are those of the encoder's pretraining, for pixels in [0, 1]; the default is ImageNet's.
    `standard`: another normalisation in their place. `made`: by `workers`, which decode, warp and paint, or in batch on
    the `device`, where the images lie in memory and all that views do is to move by whole pixels and to mirror.
    """

    crop: tuple[Side, Side]
    labelled: Policy = Policy()
    teacher: Policy = Policy()
    student: StudentPolicy = StudentPolicy()
    mean: Triple = (0.485, 0.456, 0.406)
    std: Triple = (0.229, 0.224, 0.225)
    standard: Standard | None = None
    made: Literal["workers", "device"] = "workers"

    def __post_init__(self) -> None:
        if self.made == "device":
            for name in ("labelled", "teacher", "student"):
                _drawn_by_moving(name, getattr(self, name))
        if min(self.std) < 1e-6:
            raise ValueError(f"std: {self.std} divides pixels in [0, 1]; every entry must be at least 1e-6")

    def normalise(self, image: Tensor) -> Tensor:
        """uint8 pixels (B, H, W, 3) -> network input (B, 3, H, W) float32, on the same device."""
        if self.standard is not None:
            return self.standard(image)
        mean = torch.tensor(self.mean, device=image.device) * 255
        std = torch.tensor(self.std, device=image.device) * 255
        return ((image.float() - mean) / std).permute(0, 3, 1, 2).contiguous()


def _drawn_by_moving(name: str, policy: Policy | StudentPolicy) -> None:
    """Raises ValueError for a view that cannot be made in batch."""
    shape = policy.geometry
    plain = {"scale": (1, 1), "rotation": 0, "shear": 0, "area": None}
    whole = shape == "shared" or all(getattr(shape, key) == value for key, value in plain.items())
    if not whole or policy.colour:
        raise ValueError(
            f"{name}: views are made on the device by whole-pixel moves, mirrors and noise alone; give geometry "
            "{scale: [1, 1]} without rotation and shear, and no colour, or let workers make them (views.made=workers)"
        )
