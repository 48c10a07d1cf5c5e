"""The kinds of data sets, and the one that words or a tree of settings describe."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, get_args, get_type_hints

from pydantic import Field

from mtseg.data.ade20k import Ade20k
from mtseg.data.camvid import Camvid
from mtseg.data.channels import PLAIN, Channels
from mtseg.data.cityscapes import Cityscapes
from mtseg.data.coco import Coco
from mtseg.data.folder import Folder
from mtseg.data.given import Given
from mtseg.data.idd import Idd
from mtseg.data.imagefolder import ImageFolder
from mtseg.data.scenes import Scenes
from mtseg.data.small import Small
from mtseg.data.voc import Voc
from mtseg.part import part
from mtseg.settings.checked import takes, validate
from mtseg.settings.complaints import NOWHERE
from mtseg.settings.words import gathered

Data = Annotated[
    Scenes | Folder | Camvid | Voc | Cityscapes | Ade20k | Coco | Idd | Small | ImageFolder | Given,
    Field(discriminator="kind"),
]
# The keys of data that choose images, set so that they choose all of them.
EVERY: dict[str, Any] = {"labels": "all", "per_class": None, "split": None, "unlabelled": "all", "expect": {}}


@part
class _Data:
    data: Data


def channels_of(data: Data) -> Channels:
    """What the images consist of that a run's network is asked about: a kind's `channels`, where it has them."""
    found = getattr(data, "channels", PLAIN)
    return found if isinstance(found, Channels) else PLAIN


def training_data(words: Sequence[str]) -> Data:
    """The data set of command-line words with all its training images labelled, whatever share the words ask for.

    Raises ValueError as `load` does, and for a kind that takes no lists.
    """
    given, anew = gathered(words)
    tree = given.get("data", {})
    hints = _kinds().get(str(tree.get("kind"))) if isinstance(tree, dict) else None
    if hints is None:
        return data_of(tree, anew)  # which says what is wrong
    if "split" not in hints:
        others = [f"data.{key}" for key in ("labels", "per_class") if key in hints]
        remedy = f"set {' or '.join(others)} instead" if others else "its own keys say which images are labelled"
        raise ValueError(f"data.kind: {tree['kind']} has no files to list (no key data.split); {remedy}")
    every = {key: value for key, value in EVERY.items() if key in hints and takes(hints[key], value)}
    return data_of(tree | every, anew)


def _kinds() -> dict[str, dict[str, Any]]:
    """The keys of each kind of data, with their types."""
    hints = [get_type_hints(member) for member in get_args(get_type_hints(_Data)["data"])]
    return {kind: of for of in hints for kind in get_args(of["kind"])}


def data_of(tree: Any, anew: Mapping[str, str] = NOWHERE) -> Data:
    """The data set that a tree of settings describes, `anew` as in `validate`. Raises ValueError as `load` does."""
    return validate(_Data, {"data": tree}, anew=anew).data
