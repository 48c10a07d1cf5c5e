"""The setting of a run that begins as a network of another one; `warm_start` is what it does."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from mtseg.part import part


@part
class LoadFrom:
    """The student begins as a `network` of a finished run, in the place of `model.weights`.

    `run` is its folder: of the same network, normalisation and channels. Where its classes are others, what is of the
    classes begins anew. `at`: its checkpoint, the `last`, `best`, `holdout` or a step. It is read as a run begins; one
    that is continued needs it no more.
    """

    run: Path
    at: Literal["last", "best", "holdout"] | Annotated[int, Field(ge=0)] = "last"
    network: Literal["student", "teacher"] = "teacher"
