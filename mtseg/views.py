"""View policies: what the labelled, the teacher's and the student's pictures look like, and how pixels become input."""

import math
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from mtseg.colour import Colour, Pick, check_pick
from mtseg.data.channels import visible
from mtseg.data.source import Pixels
from mtseg.geometry import Geometry, Probability
from mtseg.part import HEIGHT_WIDTH, part
from mtseg.whiten import Standard

Side = Annotated[int, Field(ge=16)]
PerChannel = Annotated[tuple[float, ...], Field(min_length=1)]
Noise = Annotated[float, Field(ge=0, allow_inf_nan=False)]
SPREAD = 10  # standard deviations from the mean that are black, and white, in pictures
_REMEDY = "give an entry for each, in views.std too: `mtseg doctor` computes them, and prints the line"


@part
class Policy:
    """Geometry and colours of one kind of view.

    The colours follow one another, each with its probability; with `pick`, a number of them, uniform in that range, is
    drawn, with replacement, and applied in the order drawn. `colour: student` is the student's, drawn anew, with its
    `pick`: in the paper every input has the same noise. `noise` is the standard deviation of normal
    noise that is added, on the device, to the normalised pixels.
    """

    geometry: Geometry = Geometry()
    colour: Literal["student"] | tuple[Colour, ...] = ()
    pick: Pick | None = None
    noise: Noise = 0.0

    def __post_init__(self) -> None:
        if self.colour != "student":
            check_pick(self.pick, self.colour)
        elif self.pick is not None:
            raise ValueError(
                f"pick: {list(self.pick)}, and colour: student takes the student's; set views.student.pick"
            )


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

    `mean` and `std` have an entry for each channel, of pixels in [0, 1]: for red, green and blue those of the encoder's
    pretraining (the default is ImageNet's), for others those of the data, which the doctor computes. `standard`:
    another normalisation in their place. `made`: by `workers`, which decode, warp and paint, or in batch on the
    `device`, where the images lie in memory and all that views do is to move by whole pixels and to mirror.

    A share `oversample` of the labelled views are placed on a pixel of a class that is drawn alike from those that the
    image's label has, so that what is small or rare is seen where crops show a part of an image; the others lie
    anywhere. In nnU-Net (Isensee et al. 2021) it is a third, of the classes but the background.

    With probability `copy_paste` a labelled view gets what is small in another labelled image pasted onto it, labels
    and all: of a view of that image, drawn anew, the half of the classes in it, rounded down, that have the fewest
    pixels there. Of two classes it is the one that this view shows less of. Ghiasi et al. (2021) paste single objects.
    """

    crop: Annotated[tuple[Side, Side], HEIGHT_WIDTH]
    labelled: Policy = Policy()
    teacher: Policy = Policy()
    student: StudentPolicy = StudentPolicy()
    mean: PerChannel = (0.485, 0.456, 0.406)
    std: PerChannel = (0.229, 0.224, 0.225)
    standard: Standard | None = None
    made: Literal["workers", "device"] = "workers"
    oversample: Probability = 0.0
    copy_paste: Probability = 0.0

    def __post_init__(self) -> None:
        if self.made == "device":
            for name in ("labelled", "teacher", "student"):
                _drawn_by_moving(name, getattr(self, name).geometry, self.colours(name)[0])
            for name, what in {"oversample": "places crops by", "copy_paste": "cuts things out along"}.items():
                if share := getattr(self, name):
                    raise ValueError(
                        f"{name}: {share:g} {what} the classes of pixels, and images that lie on the device have a "
                        "class as wholes; use 0, or views.made=workers"
                    )
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} entries and std {len(self.std)}; give one for each channel")
        if min(self.std) < 1e-6:
            raise ValueError(f"std: {self.std} divides pixels in [0, 1]; every entry must be at least 1e-6")

    @property
    def channels(self) -> int:
        """How many channels the normalisation is of."""
        return len(self.mean)

    @property
    def normalisation(self) -> str:
        """What `normalise` does, in words."""
        if self.standard is not None:
            return self.standard.sentence
        return f"values in [0, 1], minus {list(self.mean)}, divided by {list(self.std)}"

    def visible(self, image: Pixels, *, rgb: bool) -> NDArray[np.uint8]:  # (H, W, 3)
        """What is shown of an image (H, W, C). Of one without red, green and blue, of which few fill their range, it is
        the mean of these views in grey, and the farther from it the more is pressed together (Lupton et al. 1999):
        arsinh of the standard deviations, so that what is dim and what is bright can both be told."""
        if not rgb and self.standard is None:
            off = (image / np.float32(255) - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
            image = 127.5 + 127.5 * np.arcsinh(off) / math.asinh(SPREAD)
        return visible(image)

    def colours(self, view: str) -> tuple[tuple[Colour, ...], Pick | None]:
        """The colours of the `labelled`, `teacher` or `student` view, and how many of them are picked (`Painter`)."""
        policy = getattr(self, view)
        policy = self.student if policy.colour == "student" else policy
        return policy.colour, policy.pick

    def check(self, channels: int, *, rgb: bool) -> None:
        """Raises ValueError where these views cannot be those of images of so many channels, `rgb` first or not."""
        if channels != self.channels:
            raise ValueError(
                f"views.mean: {self.channels} entries, and the images have {channels} channels (data.channels): "
                f"{_REMEDY}"
            )
        for name, why in ({} if rgb else self.refused_colours(channels)).items():
            raise ValueError(
                f"views.{name}.colour: {why}, and the images have no red, green and blue (data.channels.rgb is false), "
                f"so colours change all channels; {self._without_colours(name)}"
            )

    def _without_colours(self, view: str) -> str:
        """What to do about a view's colours where images have none."""
        where = "student" if getattr(self, view).colour == "student" else view
        also = f" and views.{where}.pick=null" if getattr(self, where).pick else ""
        return (
            f"set views.{where}.colour=[]{also}, or colour to what changes any: [{{name: RandomBrightnessContrast, "
            "p: 0.8, params: {brightness_by_max: false}}, {name: RandomGamma, p: 0.5}, {name: GaussianBlur, p: 0.5}]"
        )

    def refused_colours(self, channels: int) -> dict[str, str]:
        """By views whose colours cannot change all of so many channels: why."""
        found = {}
        for name in ("student", "labelled", "teacher"):  # the student's first: others may have them from it
            try:
                for colour in self.colours(name)[0]:
                    colour.check(channels)
            except ValueError as error:
                found[name] = str(error)
        return found

    def normalise(self, image: Tensor) -> Tensor:
        """Pixels (B, H, W, C) in [0, 255] -> network input (B, C, H, W) float32, on the same device."""
        if image.shape[3] != self.channels:
            raise ValueError(f"an image of {image.shape[3]} channels, and views.mean is of {self.channels}; {_REMEDY}")
        if self.standard is not None:
            return self.standard(image)
        mean, std = (
            (torch.tensor(of)[:, None, None] * 255).to(image.device, non_blocking=True) for of in (self.mean, self.std)
        )
        # Bytes are moved before they are four times as many, and the maps are then written once.
        return image.permute(0, 3, 1, 2).contiguous().to(torch.float32, copy=True).sub_(mean).div_(std)


def _drawn_by_moving(name: str, shape: Literal["shared"] | Geometry, colours: tuple[Colour, ...]) -> None:
    """Raises ValueError for a view that cannot be made in batch."""
    plain = {"scale": (1, 1), "rotation": 0, "shear": 0, "area": None}
    whole = shape == "shared" or all(getattr(shape, key) == value for key, value in plain.items())
    if not whole or colours:
        raise ValueError(
            f"{name}: views are made on the device by whole-pixel moves, mirrors and noise alone; give geometry "
            "{scale: [1, 1]} without rotation and shear, and no colour, or let workers make them (views.made=workers)"
        )
