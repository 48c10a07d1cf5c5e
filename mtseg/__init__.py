"""mtseg: semi-supervised semantic segmentation with Mean Teacher.

`fit` trains a run, `load` gives a trained one to predict with. Heavy libraries are imported when these are called.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from mtseg.data.source import Splits
    from mtseg.inference.trained import Trained

__version__ = "0.1.0"


def fit(
    words: Sequence[str | Path], *, splits: "Splits | None" = None, quiet: bool = False
) -> dict[str, dict[str, Any]]:
    """Train the run that `words` say, as `mtseg train` does; the scores of student and teacher at the last step.

    `splits`: images of a program's own (`mtseg.data.source`), for a config whose data is `{kind: given}`.
    """
    from mtseg.config import load as config_of
    from mtseg.trainer import fit as train

    return train(config_of([str(word) for word in words]), splits=splits, quiet=quiet)


def load(
    run: str | Path, words: Sequence[str] = (), *, at: str = "last", network: Literal["student", "teacher"] = "teacher"
) -> "Trained":
    """A trained run from its folder, for `load(RUN).predict(image)`; see `mtseg.inference.restored.load`."""
    from mtseg.inference.restored import load as of_folder

    return of_folder(Path(run), words, at=at, network=network)
