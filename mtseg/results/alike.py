"""Whether runs that stand side by side were scored on the same images."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mtseg.config import Config, of_run
from mtseg.data.kinds import Data
from mtseg.data.provenance import recorded


class Images(NamedTuple):
    """The images that a run scores: the data and the split they are of, and their hash; empty: it is not known."""

    data: Data
    split: str
    sha256: str


def images_of(run: Path, config: Config) -> Images:
    """Those that the run in a folder scores, whose config it is."""
    return Images(config.data, config.eval.split, recorded(run, config.eval.split)[1])


def apart(one: Images, other: Images) -> str:
    """By what hashes the images of two runs differ though their data are called alike; empty: they do not, or it is not
    known. Runs of other data settings (another `data.seed`, other lists) may have others."""
    if (one.data, one.split) != (other.data, other.split) or one.sha256 == other.sha256:
        return ""
    hashes = f"images of {one.split}: {one.sha256[:12]} -> {other.sha256[:12]}"
    return hashes if one.sha256 and other.sha256 else ""


def refuse_apart(runs: Sequence[Path]) -> None:
    """Raises ValueError where two of the runs were scored on other images, though their data are called alike."""
    seen: list[tuple[Path, Images]] = []
    for run in runs:
        images = images_of(run, of_run(run))
        for earlier, others in seen:
            if hashes := apart(others, images):
                raise ValueError(
                    f"{earlier} and {run} were scored on other images ({hashes}): files came or went between them; "
                    "train again what was scored on those that are no more, or score all anew with tools/eval.py and "
                    "name the file: --scores eval_test.json"
                )
        seen.append((run, images))
