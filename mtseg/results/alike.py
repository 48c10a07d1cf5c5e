"""Whether runs that stand side by side were scored on the same images."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mtseg.config import Config, of_run
from mtseg.data.kinds import Data
from mtseg.data.provenance import recorded
from mtseg.settings.differences import differences


class Images(NamedTuple):
    """The images that a run scores: the data and the split they are of, and their hash; empty: it is not known."""

    data: Data
    split: str
    sha256: str


def images_of(run: Path, config: Config) -> Images:
    """Those that the run in a folder scores, whose config it is."""
    return Images(config.data, config.eval.split, recorded(run, config.eval.split).sha256)


def apart(one: Images, other: Images) -> str:
    """By what hashes the images of two runs differ though their data are called alike; empty: they do not, or it is not
    known. Runs of other data settings (another `data.seed`, other lists) may have others."""
    if (one.data, one.split) != (other.data, other.split) or one.sha256 == other.sha256:
        return ""
    hashes = f"images of {one.split}: {one.sha256[:12]} -> {other.sha256[:12]}"
    return hashes if one.sha256 and other.sha256 else ""


def refuse_unpaired(runs: Sequence[Path], pools: Sequence[str]) -> None:
    """Raises ValueError where runs of one seed, which are compared as a pair, have other images in one of `pools`."""
    first: dict[int, Path] = {}
    for run in runs:
        config = of_run(run)
        other = first.setdefault(config.seed, run)
        for pool in pools:
            (_, one, files), (_, two, others) = recorded(other, pool), recorded(run, pool)
            if one == two and files and others:
                one, two = files, others  # of the same names
            if one and two and one != two:
                why = differences(of_run(other).data, config.data) or ["their lists are other ones"]
                raise ValueError(
                    f"{other} and {run} are of seed {config.seed} both, and have other {pool} images "
                    f"({one[:12]} -> {two[:12]}; data: {', '.join(why)}), so their difference is not the methods'; "
                    "train one of them again on the images of the other, or say what of the data is compared: --vary "
                    "data..."
                )


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
