"""What a run amounts to, for reading: its facts before, and pictures of its predictions."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mtseg.boards import refuse_missing
from mtseg.classifiers import Timm
from mtseg.config import Config, splits_of
from mtseg.data.channels import visible
from mtseg.data.provenance import Provenance, provenance, refuse_others
from mtseg.data.source import IGNORE, Pixels, Source, Splits
from mtseg.distributed import launched
from mtseg.duration import on_cpu
from mtseg.estimate import estimate
from mtseg.fits import refuse_uneven, refuse_useless
from mtseg.lock import refuse_unwritable
from mtseg.models import Smp
from mtseg.predictors import Whole, asked, joined
from mtseg.resume import standing
from mtseg.state import pick_device
from mtseg.views import Views

Image = NDArray[np.uint8]
NAME = 44  # characters of an image's name that stand beside it


def facts(config: Config) -> dict[str, str]:
    """What follows from a config: counts of images, passes, parameters.

    Reads the data set's lists, a few images and labels, and a weights file; writes nothing but what `data.cache` keeps.
    Raises ValueError for data, batches and folders that `fit` would refuse (but for one that a run writes to now), for
    weights that cannot be used, and where there is no image to evaluate on.
    """
    refuse_uneven(config, processes=launched())
    refuse_unwritable(config.out)
    refuse_missing(config.boards)
    splits = splits_of(config)
    refuse_useless(config, splits)
    config.views.check(splits.channels, rgb=splits.rgb)
    read_here = not config.model.downloads()
    network = config.model.build(len(splits.classes), channels=splits.channels, rgb=splits.rgb, pretrained=read_here)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    labelled, unlabelled = len(splits.labelled), len(splits.unlabelled)
    branches, crops = len(config.method.branches), config.crops[0]
    data, duration = provenance(splits), on_cpu(config, network, channels=splits.channels)
    return {
        "data": data.sentence(),
        **({"channels": f"{splits.channels}"} if splits.channels != 3 else {}),
        "classes": f"{len(splits.classes)}: {', '.join(splits.classes)}",
        "labelled images": f"{labelled}, {config.batch.labelled} a step, "
        f"{config.steps * config.batch.labelled / labelled:.1f} passes",
        "unlabelled images": f"{unlabelled}, {config.batch.unlabelled} a step, "
        f"{config.steps * config.batch.unlabelled / unlabelled:.1f} passes"
        if branches
        else "not used",
        "val, test images": f"{len(splits.val)}, {len(splits.test)}",
        **({"consistency weight": _weights(config)} if branches else {}),
        **({"weights": _fetched(config.model)} if isinstance(config.model, Smp | Timm) and not read_here else {}),
        "parameters": f"{parameters / 1e6:.2f} million",
        "student forward": f"{crops} crops of {config.views.crop[0]}x{config.views.crop[1]} a step",
        "memory in a step": estimate(
            config, network, len(splits.classes), unlabelled, processes=launched()
        ).sentence(),
        **({"time": f"{duration.sentence()}, on this CPU"} if duration else {}),
        "steps": f"{config.steps}, evaluated every {config.eval.every} on {config.eval.split}",
        "device": str(pick_device(config.device)),
        "folder": _folder(config, splits, data),
    }


def _folder(config: Config, splits: Splits, data: Provenance) -> str:
    """What is in the run's folder. Raises ValueError where that is another run, or one on other images."""
    found = standing(config)
    if found.saved is None:
        return "; ".join(found.sentences) or f"{config.out}, a new run"
    refuse_others(config.out, splits, data)
    done = () if found.saved.step < config.steps else (f"{config.out} is finished already",)
    return "; ".join([*found.sentences, *done])


def _fetched(model: Smp | Timm) -> str:
    return f"ImageNet's, fetched at the start from {model.origin() or 'its authors'} where they are not cached"


def _weights(config: Config) -> str:
    """The consistency weight at the first step, halfway and at the last, and whether its ramp comes to its end."""
    steps, method = config.steps, config.method
    first, half, last = (f"{method.weight_at(step, steps):.2g}" for step in (0, steps // 2, steps - 1))
    unfinished = method.unfinished(steps)
    return f"{first} at first, {half} halfway, {last} at last" + (f"; {unfinished}" if unfinished else "")


def percent(value: float | None) -> str:
    """A share as a percentage with two decimals; `absent` for a class that does not occur."""
    return "absent" if value is None else f"{100 * value:.2f}"


@torch.no_grad()
def predicted(network: torch.nn.Module, image: Pixels, views: Views) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """The class (*S) and its probability (*S) of every pixel of an image (H, W, C), or of it as a whole."""
    answer = asked(network.eval(), views, next(network.parameters()).device)
    classes, confidence = joined(Whole()(answer, torch.from_numpy(np.stack([image]))), (image.shape[0], image.shape[1]))
    return classes[0].cpu().numpy(), confidence[0].cpu().numpy()


def coloured(label: NDArray[Any], palette: Image) -> Image:
    """A label (*S) in the colours of its classes, IGNORE in white; (*S, 3)."""
    colours = np.full((max(256, len(palette)), 3), IGNORE, np.uint8)
    colours[: len(palette)] = palette
    return colours[label]


def gallery(
    path: Path, splits: Splits, source: Source, *, networks: dict[str, torch.nn.Module], views: Views, rows: int = 6
) -> None:
    """Draw `path`: a row an image of `source`, with its name, the truth, every network's prediction,
    the last's confidence."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    palette = splits.palette
    chosen = np.linspace(0, len(source) - 1, min(rows, len(source))).round().astype(int).tolist()
    titles = ["image", "truth", *networks, f"{list(networks)[-1]}'s confidence (light: 1)"]
    images = [source.image(index) for index in chosen]
    heights = [image.shape[0] / image.shape[1] for image in images]  # portraits and landscapes may be mixed
    figure = Figure(figsize=(2.6 * len(titles), 2.6 * sum(heights) + 0.9), layout="constrained")
    axes = figure.subplots(len(chosen), len(titles), squeeze=False, height_ratios=heights)
    unlabelled = False
    for row, index, image in zip(axes, chosen, images, strict=True):
        answers = [predicted(network, image, views) for network in networks.values()]
        shown = visible(image)
        maps = [coloured(label, palette) for label in (source.label(index), *(classes for classes, _ in answers))]
        panels = [shown, *(np.broadcast_to(panel, shown.shape) for panel in maps)]  # one class: of every pixel
        for axis, panel in zip(row, panels, strict=False):
            axis.imshow(panel, interpolation="nearest")
        unlabelled |= bool((source.label(index) == IGNORE).any())
        row[0].text(
            0, -0.02, _short(source.name(index)), transform=row[0].transAxes, va="top", fontsize=7, clip_on=False
        )
        row[-1].imshow(np.broadcast_to(answers[-1][1], image.shape[:2]), vmin=0, vmax=1, cmap="magma")
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=10)
    for axis in axes.flat:
        axis.set_axis_off()
    inks = [Patch(color=colour / 255, label=name) for name, colour in zip(splits.classes, palette, strict=True)]
    inks += [Patch(facecolor="white", edgecolor="grey", label="no class")] if unlabelled else []
    figure.legend(handles=inks, loc="outside lower center", ncols=min(8, len(inks)), frameon=False)
    FigureCanvasAgg(figure).print_png(str(path))


def _short(name: str) -> str:
    """The end of a long name."""
    return name if len(name) <= NAME else f"...{name[3 - NAME :]}"
