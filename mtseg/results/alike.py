"""Whether runs may stand side by side: what of their settings may differ, and that they were scored on the same."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mtseg.config import Config, of_run
from mtseg.data.provenance import recorded
from mtseg.settings.complaints import near
from mtseg.settings.differences import differences, names_of_settings, under

# What makes a method, and so may differ between rows: not how large crops are, nor what labelled images go through.
OF_A_METHOD = (
    *("method", "views.student", "views.teacher", "model.heads", "bn"),
    *("views.labelled.colour", "views.labelled.noise", "views.labelled.pick"),
)
MANY = 4  # settings of the data, more of which are named as one


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


def refuse_unknown(runs: Sequence[tuple[str, Path]], vary: Sequence[str]) -> None:
    known = sorted({setting for _, run in runs for setting in names_of_settings(of_run(run))}) if vary else []
    for key in vary:
        if key not in known:
            raise ValueError(f"--vary {key}: no setting of these runs{near(key, known, '; ')}")


def refuse_scored_otherwise(runs: Sequence[Path]) -> None:
    """Raises ValueError where runs did not score the same split in the same way while they trained."""
    first, begun = runs[0], of_run(runs[0]).eval
    for run in runs:
        now = of_run(run).eval
        for key, before, after in (
            ("eval.split", begun.split, now.split),
            ("eval.predictor", begun.predictor.sentence(), now.predictor.sentence()),
        ):
            if before != after:
                raise ValueError(
                    f"{key}: {first} was scored by {before}, and {run} by {after}, which is not one column; score all "
                    "alike with tools/eval.py, and name the file: --scores eval_test.json"
                )


def _keys(lines: Iterable[str]) -> list[str]:
    """What lets differences pass: their settings; of data, which may have a hundred, the whole where there are many."""
    keys = [line.partition(":")[0] for line in lines]
    many = sum(under(key, ["data"]) for key in keys) > MANY
    return list(dict.fromkeys("data" if many and under(key, ["data"]) else key for key in keys))


def refuse_unlike(
    runs: Sequence[tuple[str, Path]],
    found: Mapping[str, Iterable[int]],
    *,
    full: str,
    vary: Sequence[str],
) -> None:
    """Raises ValueError where methods, by their names in `found`, have other seeds than each other, and where runs
    differ in more than OF_A_METHOD, seeds and the keys in `vary`; `full` may have a number of labels of its own."""
    if len({tuple(sorted(seeds)) for seeds in found.values()}) > 1:
        shown = "; ".join(f"{name}: {sorted(seeds)}" for name, seeds in found.items())
        raise ValueError(f"the rows have different seeds ({shown}); train what is missing")
    own = (*OF_A_METHOD, *vary)
    begun = next((run for name, run in runs if name != full), runs[0][1])
    for name, run in runs:
        with_as_many = next(other for known, other in runs if (known == full) is (name == full))
        unlike = {
            line: other
            for other, of_labels in ((begun, False), (with_as_many, True))
            for line in differences(of_run(other), of_run(run))
            if line.startswith("data.labels:") is of_labels
            and not under(line.partition(":")[0], own)
            and not line.partition(":")[0].endswith("seed")
        }
        if unlike:
            other, listed = next(iter(unlike.values())), "\n  ".join(unlike)
            keys = " ".join(f"--vary {key}" for key in _keys(unlike))
            raise ValueError(
                f"{other} and {run} differ in more than method and seed:\n  {listed}\n"
                f"If that is what is compared, say so: {keys}"
            )
