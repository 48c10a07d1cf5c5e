"""The teacher's answer in the student's frame (inverse warping) against the teacher's forward."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mtseg.bench.asked import Asked
from mtseg.bench.made import CLASSES
from mtseg.bench.paired import Group, Ratio, clock_of, timed
from mtseg.data.batch import Crops
from mtseg.geometry import Geometry, View
from mtseg.models.smp import Smp
from mtseg.randomness import generator
from mtseg.views import Views

CASES = {"4 of 320x320": (4, 320), "2 of 512x512": (2, 512)}


def measure(asked: Asked) -> Iterator[Group]:
    """A group for each of CASES, of 21 classes; the forward is DeepLabV3+'s with ResNet-50, in eval mode."""
    device = torch.device(asked.device)
    network = Smp(encoder="resnet50", weights="none").build(len(CLASSES)).to(device).eval()  # type: ignore[arg-type]
    for name, (count, side) in CASES.items():
        if asked.case in name:
            yield _measured(name, network, [_view(which, count, side, device) for which in range(2)], asked)


@torch.no_grad()
def _measured(name: str, network: nn.Module, views: list[View], asked: Asked) -> Group:
    given, seen = views
    answer = View(network(given.data).softmax(1), given.warp, given.known)
    cases = {
        "inverse warp": lambda: answer.seen_from(seen),
        "the answer alone": lambda: _alone(answer, seen),
        "copy": lambda: answer.data.clone(),
        "teacher's forward": lambda: network(given.data),
    }
    seconds = timed(cases, rounds=asked.rounds, clock=clock_of(given.data.device))
    ratios = (Ratio("inverse warp", "teacher's forward"), Ratio("inverse warp", "the answer alone"))
    return Group(name, seconds, ratios)


def _view(which: int, count: int, side: int, device: torch.device) -> View:
    geometry, image = Geometry(scale=(0.75, 1.5), rotation=10), (side * 5 // 4, side * 5 // 4)
    warps = [
        torch.from_numpy(geometry.sample(generator(which, "to measure", slot), crop=(side, side), image=image))
        for slot in range(count)
    ]
    pixels = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, device=device)
    crops = Crops(pixels, torch.stack(warps), torch.tensor([image] * count), torch.arange(count))
    return crops.view(Views(crop=(side, side)))


def _alone(answer: View, seen: View) -> Tensor:
    """The sampling of the probabilities, without what is known of them."""
    theta = (torch.linalg.inv(answer.warp) @ seen.warp)[:, :2].to(answer.data.device, torch.float32)
    grid = F.affine_grid(theta, [len(theta), 1, *seen.size], align_corners=False)
    return F.grid_sample(answer.data, grid, padding_mode="border", align_corners=False)
