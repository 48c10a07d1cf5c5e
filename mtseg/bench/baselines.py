"""What the loader is measured against: pipelines as the field writes them, from files to float tensors.

Each makes of a labelled image its view and its label, and of an unlabelled one a weak and a strong view of geometries
of their own: scale 0.5 to 2, a crop, mirrored or not; colours for the strong one.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageFilter, ImageOps
from torchvision import transforms as T

from mtseg.data.source import IGNORE

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALE = (0.5, 2.0)
Open = Callable[[Path, Path | None], list[Any]]  # the image, its mask or None -> all tensors


@dataclass(frozen=True)
class Pil:
    """PIL and torchvision, after the data sets of published semi-supervised methods."""

    crop: int

    def __call__(self, image: Path, mask: Path | None) -> list[Any]:
        picture = Image.open(image).convert("RGB")
        if mask is not None:
            seen, label = self._moved(picture, Image.open(mask))
            return [self._tensor(seen), np.array(label).astype(np.int64)]
        weak, strong = self._moved(picture, None)[0], self._moved(picture, None)[0]
        if random.random() < 0.8:
            strong = T.ColorJitter(0.5, 0.5, 0.5, 0.25)(strong)
        strong = T.RandomGrayscale(0.2)(strong)
        if random.random() < 0.5:
            strong = strong.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))
        return [self._tensor(weak), self._tensor(strong)]

    def _moved(self, image: Any, mask: Any) -> tuple[Any, Any]:
        factor = random.uniform(*SCALE)
        size = (round(image.width * factor), round(image.height * factor))
        image = image.resize(size, Image.Resampling.BILINEAR)
        mask = mask and mask.resize(size, Image.Resampling.NEAREST)
        border = (0, 0, max(0, self.crop - size[0]), max(0, self.crop - size[1]))
        image, mask = ImageOps.expand(image, border, 0), mask and ImageOps.expand(mask, border, IGNORE)
        left, top = random.randint(0, image.width - self.crop), random.randint(0, image.height - self.crop)
        box = (left, top, left + self.crop, top + self.crop)
        image, mask = image.crop(box), mask and mask.crop(box)
        if random.random() < 0.5:
            image, mask = ImageOps.mirror(image), mask and ImageOps.mirror(mask)
        return image, mask

    def _tensor(self, image: Any) -> Any:
        return T.Normalize(MEAN, STD)(T.ToTensor()(image))


class Albumentations:
    """Plain albumentations: RandomScale, padding and RandomCrop; OpenCV decodes. `first`: it crops before it scales."""

    def __init__(self, crop: int, *, first: bool) -> None:
        import albumentations as A  # by now told not to ask the network for its newest version (colour.py)
        from albumentations.pytorch import ToTensorV2

        if first:
            low = round(crop / SCALE[1])
            geometry = [A.RandomSizedCrop((low, round(crop / SCALE[0])), size=(crop, crop))]
        else:
            scale = (SCALE[0] - 1, SCALE[1] - 1)
            geometry = [
                A.RandomScale(scale, p=1.0),
                A.PadIfNeeded(crop, crop, fill_mask=IGNORE),
                A.RandomCrop(crop, crop),
            ]
        geometry.append(A.HorizontalFlip(p=0.5))
        colour = [
            A.ColorJitter((0.5, 1.5), (0.5, 1.5), (0.5, 1.5), (-0.25, 0.25), p=0.8),
            A.ToGray(p=0.2),
            A.GaussianBlur(sigma_limit=(0.1, 2.0), p=0.5),
        ]
        last = [A.Normalize(MEAN, STD), ToTensorV2()]
        self.weak, self.strong = A.Compose([*geometry, *last]), A.Compose([*geometry, *colour, *last])

    def __call__(self, image: Path, mask: Path | None) -> list[Any]:
        pixels = cv2.imread(str(image), cv2.IMREAD_COLOR_RGB)
        if mask is not None:
            seen = self.weak(image=pixels, mask=cv2.imread(str(mask), cv2.IMREAD_UNCHANGED))
            return [seen["image"], seen["mask"].long()]
        return [self.weak(image=pixels)["image"], self.strong(image=pixels)["image"]]
