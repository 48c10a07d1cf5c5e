"""A picture of predictions: rows of images with the truth, what each network says, and how sure the last of them is."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mtseg.data.source import IGNORE, Pixels, Source, Splits
from mtseg.predictors import Whole, asked, joined
from mtseg.views import Views

Image = NDArray[np.uint8]
NAME = 44  # characters of an image's name that stand beside it


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
        shown = views.visible(image, rgb=splits.rgb)
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
