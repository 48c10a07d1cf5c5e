"""A run's networks: as they begin, and as a checkpoint in its folder has them."""

from pathlib import Path

import torch
from torch import nn

from mtseg.config import Config
from mtseg.models.norm import normed
from mtseg.precision import memory_format
from mtseg.run import checkpoint
from mtseg.settings.differences import differences, under

# Of model and norm, what matters only while a network learns: where it begins, and whose statistics it takes.
IN_TRAINING = ("model.weights:", "model.frozen:", "norm: process -> sync", "norm: sync -> process")


def network_of(
    config: Config, classes: int, *, device: torch.device, pretrained: bool = False, rgb: bool = True
) -> nn.Module:
    """The network of a run at step 0, on the device; its initial weights are drawn from PyTorch's generator."""
    built = config.model.build(classes, channels=config.views.channels, rgb=rgb, pretrained=pretrained)
    moved: nn.Module = normed(built, config.norm, device)
    return moved.to(device, memory_format=memory_format(config.precision, device))  # type: ignore[call-overload]


def networks_of(
    config: Config, classes: int, saved: checkpoint.Checkpoint, run: Path, *, device: torch.device
) -> dict[str, nn.Module]:
    """The student and the teacher of `saved`, a checkpoint of `run`. Raises ValueError where they do not fit."""
    student = network_of(config, classes, device=device)
    networks = {"student": student, "teacher": config.method.teacher.build(student, 0, classes).module}
    load_networks(networks, saved, run)
    return {name: network.eval() for name, network in networks.items()}


def load_networks(networks: dict[str, nn.Module], saved: checkpoint.Checkpoint, run: Path) -> None:
    """Put the weights of `saved` into the student and the teacher. Raises ValueError where they do not fit."""
    for name, network in networks.items():
        try:
            network.load_state_dict(getattr(saved, name))
        except RuntimeError as error:
            raise ValueError(
                f"{run}: the {name} of step {saved.step} does not fit the network of its config.yaml, whose weights "
                "have other names or sizes; take the model and the number of classes that it was trained with"
            ) from error


def other_network(one: Config, other: Config) -> list[str]:
    """The settings, `key: one -> other`, by which the networks of two runs are not the same; weights might fit yet."""
    lines = [line for line in differences(one, other) if under(line.partition(":")[0], ("model", "norm"))]
    return [line for line in lines if not line.startswith(IN_TRAINING)]
