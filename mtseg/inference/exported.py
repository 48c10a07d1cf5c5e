"""A folder that `mtseg export` made, with data to score it on: the folder says how to ask, words say which images."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from mtseg.data.channels import PLAIN
from mtseg.data.kinds import data_of
from mtseg.data.source import Splits
from mtseg.inference import hub
from mtseg.inference.hub import Handed
from mtseg.settings.checked import dump, validate
from mtseg.settings.merge import merge
from mtseg.settings.words import gather
from mtseg.views import Policy, StudentPolicy, Views


class Opened(NamedTuple):
    """What `Restored` is of a run; what the folder says is in the place of its config."""

    config: Handed
    splits: Splits
    networks: dict[str, nn.Module]
    step: int


def opened(folder: Path, words: Sequence[str], *, at: str, networks: Sequence[str]) -> Opened:
    """The network of a folder, which is that of `at` and one of `networks`, and the data that `words` describe.

    Raises ValueError where it is another one, and for data of other classes, channels or normalisation.
    """
    given: dict[str, Any] = gather(words)
    data = given.pop("data", None)
    if data is None:
        raise ValueError(
            f"{folder}: an exported network without data to score it on; name them as for training: "
            "configs/data/own.yaml data.root=PATH"
        )
    views = given.pop("views", {})
    trained, handed = hub.laid(folder, given)
    if at not in ("last", str(handed.step)) or handed.network not in networks:
        raise hub.nothing_else(folder, handed)
    said = validate(Views, merge(dump(handed.views), views))
    if replace(said, labelled=Policy(), teacher=Policy(), student=StudentPolicy()) != handed.views:
        raise ValueError(
            f"views: the words say others than {folder / hub.FILE}, by which the network was trained; leave them out, "
            "or give the same"
        )
    described = data_of(data)
    channels, splits = getattr(described, "channels", PLAIN), described.build()
    if splits.classes != handed.classes:
        raise ValueError(
            f"data: its classes are {', '.join(splits.classes)}, and those of {folder / hub.FILE} are "
            f"{', '.join(handed.classes)}; give data of the same classes in the same order"
        )
    if channels != handed.channels:
        raise ValueError(
            f"data.channels: {channels} and in {folder / hub.FILE} {handed.channels}; give data of the same channels"
        )
    return Opened(handed, splits, {handed.network: trained.network}, handed.step)
