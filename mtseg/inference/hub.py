"""A network as a folder for Hugging Face's hub: `mtseg.load` loads it, and mostly segmentation-models-pytorch does."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file

from mtseg.atomic import digest_of, write_whole
from mtseg.config import Config
from mtseg.data.channels import PLAIN, Channels
from mtseg.data.palette import check_named, inks
from mtseg.data.source import IGNORE
from mtseg.device import Device, pick_device
from mtseg.evaluate import Evaluation
from mtseg.inference.trained import Name, Trained
from mtseg.models import dpt
from mtseg.models.norm import Grouped, Norm, normed
from mtseg.models.smp import Padded, Smp
from mtseg.part import part
from mtseg.predictors import Predictor, Whole
from mtseg.settings.checked import dump, validate
from mtseg.settings.complaints import show
from mtseg.settings.merge import merge
from mtseg.settings.words import gather
from mtseg.views import Policy, StudentPolicy, Views

FILE = "mtseg.json"  # what the weights mean
WEIGHTS = "model.safetensors"
CARD = """---
library_name: {library}
pipeline_tag: image-segmentation
tags: [semantic-segmentation, semi-supervised, mean-teacher]
---
# {arch} on {encoder}, {count} classes

The {network} of a run of mtseg after {step} steps: {arch} with encoder {encoder}, {count} classes.

Classes: {classes}.

{scores}

## Use

With mtseg, which normalises, pads and asks as the run did ({protocol}):

```python
import mtseg

prediction = mtseg.load("{name}").predict("photo.jpg")  # prediction.classes, prediction.confidence
```

{bare}

It takes {images}: {normalised}.
Sides must be multiples of {stride} (mtseg replicates the edges and cuts the answer).
It gives logits (batch, {count}, height, width). `{file}` says the same for programs.

Say here what it was trained on, under which licence, and what it is not good for.
"""
BARE = """With segmentation-models-pytorch, the bare network:

```python
import segmentation_models_pytorch as smp

model = smp.from_pretrained("{name}").eval()
```{otherwise}"""
OTHERWISE = """

It takes images as they are: what the run does besides ({protocol}) is not in it, and the scores above are of that."""
NOT_BARE = "segmentation-models-pytorch cannot load it: {why}. `mtseg.load(...).network` is the network."


@part
class Handed:
    """What a folder says of its weights. `norm` is as the run's; `device` is where they are loaded."""

    model: Smp
    views: Views
    eval: Evaluation
    classes: Annotated[tuple[str, ...], Field(min_length=1, max_length=IGNORE)]
    palette: tuple[str, ...]
    step: Annotated[int, Field(ge=0)]
    network: Name
    channels: Channels = PLAIN
    norm: Norm = "process"
    device: Device = "auto"

    def __post_init__(self) -> None:
        check_named(self.classes, self.palette)
        self.views.check(self.channels.count, rgb=self.channels.rgb)


def write(trained: Trained, config: Config, folder: Path, *, network: Name, scores: str) -> Path:
    """Fill `folder` with weights, configurations and a model card. `scores`: a sentence for the card."""
    padded, model = cast(Padded, trained.network), cast(Smp, config.model)
    views = replace(config.views, labelled=Policy(), teacher=Policy(), student=StudentPolicy())
    handed = Handed(
        model=replace(model, weights=Path("none")),
        views=views,
        eval=Evaluation(batch=config.eval.batch, predictor=trained.predictor),
        classes=trained.classes,
        palette=tuple(bytes(colour.tolist()).hex() for colour in trained.palette),
        step=trained.step,
        network=network,
        channels=trained.channels,
        norm="process" if config.norm == "sync" else config.norm,  # which differ in training only
    )
    why, name = _not_bare(config, padded), folder.resolve().name
    folder.mkdir(parents=True, exist_ok=True)
    told = dump(handed)
    for shown in ("labelled", "teacher", "student"):  # in training: what was, is not said, and is not asked for
        del told["views"][shown]
    write_whole(folder / FILE, json.dumps(told, indent=1))
    card = CARD.format(
        name=name,
        library="mtseg" if why else "segmentation-models-pytorch",
        bare=NOT_BARE.format(why=why) if why else BARE.format(name=name, otherwise=_otherwise(trained.predictor)),
        network=network,
        step=trained.step,
        arch=model.arch,
        encoder=model.encoder,
        count=len(trained.classes),
        classes=", ".join(trained.classes),
        scores=scores,
        protocol=trained.predictor.sentence(),
        images=_images(trained.channels),
        normalised=views.normalisation,
        stride=padded.stride,
        file=FILE,
    )
    write_whole(folder / "README.md", card)  # before the weights: the library would write a card of its own
    try:
        padded.network.save_pretrained(folder)
    except SafetensorError as error:
        (folder / WEIGHTS).unlink(missing_ok=True)
        (folder / FILE).unlink(missing_ok=True)  # by which it would be taken for a network
        raise OSError(
            f"{folder / WEIGHTS}: not written ({error}); make room, and give the same command again"
        ) from error
    shutil.copymode(folder / "README.md", folder / WEIGHTS)  # which the library lets none but the owner read
    return folder


def _otherwise(predictor: Predictor) -> str:
    return "" if predictor == Whole() else OTHERWISE.format(protocol=predictor.sentence())


def _not_bare(config: Config, padded: Padded) -> str:
    """Why the library would build another network than this one; empty: it builds this."""
    if any(isinstance(module, Grouped) for module in padded.modules()):
        return f"the network has group normalisation in the place of batch normalisation (`norm: {config.norm}`)"
    if isinstance(config.model, Smp) and config.model.arch == "dpt" and not dpt.fits(padded.network):
        return "its DPT is for patches of a power of two pixels alone"
    return ""


def _images(channels: Channels) -> str:
    count = "1 channel" if channels.count == 1 else f"{channels.count} channels"
    kind = "RGB images" if channels == PLAIN else f"images of {count}, as {FILE} lays them,"
    return f"{kind} (batch, {channels.count}, height, width)"


def holds(folder: Path) -> bool:
    """Whether a folder is one that `write` filled."""
    return (folder / FILE).is_file()


def read(folder: Path, words: Sequence[str] = ()) -> tuple[Trained, Handed]:
    """The network of a folder that `write` filled, with `words` laid on what the folder says; raises as `laid`."""
    return laid(folder, gather(words))


def laid(folder: Path, given: dict[str, Any]) -> tuple[Trained, Handed]:
    """The network of a folder that `write` filled, with settings `given` laid on what the folder says.

    Raises ValueError for a folder that is not whole, and where the weights do not fit.
    """
    handed = described(folder, given)
    try:
        device = pick_device(handed.device)
        padded = handed.model.build(
            len(handed.classes), channels=handed.channels.count, rgb=handed.channels.rgb, pretrained=False
        )
        normed(padded, handed.norm, device)
    except ValueError as error:
        raise ValueError(f"{folder / FILE}: {error}") from error
    try:
        padded.network.load_state_dict(load_file(folder / WEIGHTS))
    except Exception as error:  # what a damaged file raises is up to its reader
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{folder / WEIGHTS}: does not fit {FILE} ({reason}); export the run again") from error
    network = padded.to(device).eval()
    palette = inks(" ".join(handed.palette))
    views, asking = handed.views, handed.eval.predictor
    return Trained(network, views, asking, handed.classes, palette, handed.step, handed.channels), handed


def described(folder: Path, given: dict[str, Any]) -> Handed:
    """What such a folder says of its weights, with settings `given` laid on it; ValueError where that cannot be."""
    try:
        tree: Any = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{folder / FILE}: cannot be read ({error}); export the run again") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{folder / FILE}: expected a mapping of keys, got {show(tree)}; export the run again")
    return validate(Handed, merge(tree, given), origin=str(folder / FILE))


def nothing_else(folder: Path, handed: Handed) -> ValueError:
    """What to say where another network of the run is asked for."""
    held = f"the {handed.network} of step {handed.step}"
    return ValueError(f"{folder}: holds {held} and nothing else; name the run's own folder")


def weights(folder: Path, network: str) -> str:
    """A network's name and the SHA-256 of its weights."""
    return f"{network} {digest_of(folder / WEIGHTS)}"
