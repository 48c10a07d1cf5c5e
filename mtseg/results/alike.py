"""Whether runs that stand side by side were scored on the same images."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mtseg.config import Config, of_run
from mtseg.data.provenance import recorded
from mtseg.settings.differences import differences, under


class Images(NamedTuple):
    """The images that a run scores: the config and the split they are of, the hash of their names and that of their
    files; empty: it is not known."""

    config: Config
    split: str
    sha256: str
    files: str


def images_of(run: Path, config: Config) -> Images:
    """Those that the run in a folder scores, whose config it is."""
    _, names, files = recorded(run, config.eval.split)
    return Images(config, config.eval.split, names, files)


def apart(one: Images, other: Images) -> str:
    """By what hashes the images of two runs differ though their data are called alike; empty: they do not, or it is not
    known. Runs of other data settings (another `data.seed`, other lists) may have others; where data lie is none."""
    if one.split != other.split or any(under(key, ["data"]) for key in _settings(one.config, other.config)):
        return ""
    return _unlike(f"images of {one.split}", one.sha256, other.sha256) or _unlike(
        f"files of the {one.split} images", one.files, other.files
    )


def _settings(one: Config, other: Config) -> list[str]:
    return [line.partition(":")[0] for line in differences(one, other)]


def _unlike(what: str, one: str, other: str) -> str:
    return f"{what}: {one[:12]} -> {other[:12]}" if one and other and one != other else ""


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
                    f"{earlier} and {run} were scored on other images ({hashes}): files came or went between them, "
                    "or were changed; "
                    "train again what was scored on those that are no more, or score all anew with tools/eval.py and "
                    "name the file: --scores eval_test.json"
                )
        seen.append((run, images))
