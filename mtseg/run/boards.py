"""Where a run's numbers and pictures are shown, beside its own files: TensorBoard, and others that are asked for.

None of them is ever waited for: without an account, what would ask for one writes into the run's folder.
"""

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Name = Literal["tensorboard", "wandb", "mlflow", "trackio"]
PROJECT = "mtseg"


class Board(Protocol):
    """Takes values and pictures (h, w, 3) uint8 by key and step."""

    def number(self, key: str, value: float, step: int) -> None: ...

    def picture(self, key: str, pixels: NDArray[np.uint8], step: int) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in the run's folder; those of a stopped run after `start` are hidden."""

    def __init__(self, folder: Path, start: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)

    def number(self, key: str, value: float, step: int) -> None:
        self._writer.add_scalar(key, value, step)

    def picture(self, key: str, pixels: NDArray[np.uint8], step: int) -> None:
        self._writer.add_image(key, pixels, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """Weights & Biases: online with a key (WANDB_API_KEY, or from `wandb login`) or WANDB_MODE, offline without."""

    def __init__(self, folder: Path, start: int) -> None:
        self._library = _library("wandb")
        known = os.environ.get("WANDB_API_KEY") or getattr(getattr(self._library, "api", None), "api_key", None)
        mode = os.environ.get("WANDB_MODE") or ("online" if known else "offline")
        self._run = self._library.init(project=PROJECT, name=folder.name, dir=str(folder), mode=mode)

    def number(self, key: str, value: float, step: int) -> None:
        self._run.log({key: value}, step=step)

    def picture(self, key: str, pixels: NDArray[np.uint8], step: int) -> None:
        self._run.log({key: self._library.Image(pixels)}, step=step)

    def close(self) -> None:
        self._run.finish()


class Mlflow:
    """MLflow: where MLFLOW_TRACKING_URI says, or `mlruns` in the run's folder."""

    def __init__(self, folder: Path, start: int) -> None:
        self._library = _library("mlflow")
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            self._library.set_tracking_uri((folder.resolve() / "mlruns").as_uri())
        self._library.set_experiment(PROJECT)
        self._library.start_run(run_name=folder.name)

    def number(self, key: str, value: float, step: int) -> None:
        self._library.log_metric(key, value, step=step)

    def picture(self, key: str, pixels: NDArray[np.uint8], step: int) -> None:
        self._library.log_image(pixels, artifact_file=f"{key}/{step}.png")

    def close(self) -> None:
        self._library.end_run()


class Trackio:
    """trackio: files of the user, on this machine."""

    def __init__(self, folder: Path, start: int) -> None:
        self._library = _library("trackio")
        self._run = self._library.init(project=PROJECT, name=folder.name)

    def number(self, key: str, value: float, step: int) -> None:
        self._library.log({key: value}, step=step)

    def picture(self, key: str, pixels: NDArray[np.uint8], step: int) -> None:
        self._library.log({key: self._library.Image(pixels)}, step=step)

    def close(self) -> None:
        self._library.finish()


BOARDS: dict[str, Callable[[Path, int], Board]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": Mlflow,
    "trackio": Trackio,
}


def refuse_missing(names: Sequence[Name]) -> None:
    """Raises ValueError for a board whose library is not installed."""
    for name in names:
        _library(name)


def begun(name: Name, folder: Path, start: int) -> Board:
    """The board of a run that is at step `start`. Raises ValueError where it cannot be begun."""
    try:
        return BOARDS[name](folder, start)
    except (ValueError, OSError):
        raise
    except Exception as error:  # of any type: theirs
        raise ValueError(f"boards: {name} cannot be begun ({type(error).__name__}: {error}); leave it out") from error


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ValueError(f"boards: {name} is not installed ({error}); pip install {name}, or leave it out") from error
