"""About how long a run takes on a CPU: the time of one crop, and how many a step takes as long as."""

import time
from dataclasses import dataclass
from statistics import mean, median

import torch
from torch import nn

from mtseg.config import Config
from mtseg.lessons import teaching
from mtseg.run.log import lasting

BACKWARD = 2  # forwards that a backward takes as long as
TRIED, TRIES = 0.5, 9  # seconds, and how often at most


@dataclass(frozen=True)
class Duration:
    """Seconds: of one crop's `forward`, and of all steps of a run, which is a guess."""

    forward: float
    steps: float

    def sentence(self) -> str:
        return f"about {lasting(self.steps)}, without evaluations"


def on_cpu(config: Config, network: nn.Module, classes: int, *, channels: int) -> Duration | None:
    """Of a run of `config`, whose `network` is tried on a crop, as are those of the runs that teach it; None where it
    will be on a GPU, and nothing is tried.

    Raises ValueError where a network fails on a crop, and for runs that cannot teach.
    """
    if config.device != "cpu" and (config.device != "auto" or torch.cuda.is_available()):
        return None
    forward = tried(network, config.views.crop, channels=channels)
    slower = [tried(other, config.views.crop, channels=channels) - forward for other in teaching(config, classes)]
    more = config.crops[1] * config.method.teacher.cost * mean(slower or [0.0])  # a step: each answers as often
    return Duration(forward, config.steps * (forward * forwards(config) + more))


def forwards(config: Config) -> float:
    """Of single crops in a step, with backwards counted as such."""
    (crops, asked), method = config.crops, config.method
    adversaries = [branch.adversary for branch in method.branches if branch.adversary]
    searches = sum(1 + (1 + BACKWARD) * adversary.iterations for adversary in adversaries)
    answers = method.teacher.cost * (1 + BACKWARD * (getattr(method.teacher, "gradient", "student") == "both"))
    return config.students * ((1 + BACKWARD) * crops + asked * (answers + searches))


def tried(network: nn.Module, crop: tuple[int, int], *, channels: int) -> float:
    """The seconds of a forward of one crop, the median of some. Raises ValueError where the network fails on it."""
    images, took = torch.zeros(1, channels, *crop), [0.0]
    try:
        with torch.inference_mode():
            network.eval()(images)  # the first is slower than any other
            while sum(took) < TRIED and len(took) <= TRIES:
                begun = time.perf_counter()
                network(images)
                took.append(time.perf_counter() - begun)
    except RuntimeError as error:
        raise ValueError(f"model: fails on a crop of {crop[0]} x {crop[1]}: {error}") from error
    return median(took[1:])
