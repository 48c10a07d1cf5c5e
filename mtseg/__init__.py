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
    words: str | Path | Sequence[str | Path], *, splits: "Splits | None" = None, quiet: bool = False
) -> dict[str, dict[str, Any]]:
    """Train the run that `words` (or one) say, as `mtseg train` does; the scores of student and teacher at the end.

    `splits`: images of a program's own (`mtseg.data.source`), for a config whose data is `{kind: given}`.
    """
    from mtseg.config import load as config_of
    from mtseg.trainer import fit as train

    return train(config_of(_listed(words)), splits=splits, quiet=quiet)


def load(
    run: str | Path,
    words: str | Sequence[str] = (),
    *,
    at: str = "last",
    network: Literal["student", "teacher"] = "teacher",
) -> "Trained":
    """A trained run from its folder, for `load(RUN).predict(image)`; see `mtseg.inference.restored.load`."""
    from mtseg.inference.restored import load as of_folder

    return of_folder(Path(run), _listed(words), at=at, network=network)


def _listed(words: str | Path | Sequence[str | Path]) -> list[str]:
    return [str(word) for word in ([words] if isinstance(words, str | Path) else words)]
