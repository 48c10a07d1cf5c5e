"""A data set for the next round: a network's sure answers as labels, beside the labels that persons drew."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.progress import track

from mtseg.atomic import write_whole
from mtseg.data.folder import Folder
from mtseg.data.match import Images, Labelled, Masked
from mtseg.data.source import IGNORE, Source, Splits
from mtseg.inference import pictures
from mtseg.inference.inputs import distinct, identities, place
from mtseg.inference.records import recorded
from mtseg.inference.trained import Trained
from mtseg.settings.checked import dump
from mtseg.settings.strict_yaml import to_yaml

HEAD = """# {count} pseudo-labels, of a network and not of a person{beside}.
# A whole data set, to lay on a recipe, or on a data set's own file, whose keys it replaces; data.root= is left out.
# {scored}
"""
SCORED = "What is scored is what the run scored."
ALONE = "Scores on `val` say how well the network is imitated."
Pair = tuple[str, str]  # image and mask, as they lie in the folder


def share_kept(out: Path) -> float:
    """The share of the pixels of all masks that were predicted into `out` that have a class; 0 of none."""
    areas = [(line["size"][0] * line["size"][1], line["named"]) for line in recorded(out).values()]
    return float(sum(area * named for area, named in areas) / max(1, sum(area for area, _ in areas)))


def classes_kept(out: Path, classes: Sequence[str]) -> dict[str, float]:
    """Of the pixels of all masks in `out` that have a class, the share of each class, the commonest first."""
    counts = np.zeros(len(classes))
    for line in recorded(out).values():
        counts += np.array(line["shares"]) * line["size"][0] * line["size"][1]
    shares = counts / max(1, counts.sum())
    return {classes[i]: float(shares[i]) for i in np.argsort(-shares, kind="stable")}


def has_labels(out: Path) -> bool:
    """Whether `write` has put the labels that persons drew beside what was predicted into `out`."""
    return (out / "data.yaml").is_file() and (out / "labelled/mask").is_dir()


def _written(out: Path, kind: str, name: str) -> str:
    """The file in `out` that `predict` wrote: a TIFF where the image has a place on the ground, else a PNG."""
    tiff = f"{kind}/{name}.tif"
    return tiff if (out / tiff).is_file() else f"{kind}/{name}.png"


def write(trained: Trained, out: Path, splits: Splits | None = None) -> str:
    """Write data.yaml, and the lists that it names, for the folders `image` and `mask` in `out`; says what is in it.

    `splits`: the run's data, whose labelled images (those held out too) are labelled here, and whose val and test
    images are scored; all are copied into `out`, and are no pseudo-labels too. Without it, a tenth of the pseudo-labels
    is scored. A mask without any class is no label: its image is one of the unlabelled.
    """
    known = _known(splits) if splits else set()
    every = recorded(out)
    found = {
        n: line["named"] for n, line in sorted(every.items()) if (line.get("origin") or line["image"]) not in known
    }
    pairs = {name: (_written(out, "image", name), _written(out, "mask", name)) for name in found}
    there = [name for name, pair in pairs.items() if all((out / path).is_file() for path in pair)]
    sure = [pairs[name] for name in there if found[name] > 0]
    real = _copied(trained, out, splits.labelled, "labelled") if splits else []
    real += _copied(trained, out, splits.holdout, "holdout") if splits else []
    _listed(out, "labelled", [*real, *sure])
    _listed(out, "unlabelled", [(pairs[name][0], "None") for name in there])
    scored = {pool: _copied(trained, out, getattr(splits, pool), pool) for pool in ("val", "test")} if splits else {}
    for pool, of_pool in scored.items():
        if of_pool:
            _listed(out, pool, of_pool)
    data = Folder(
        root=out.resolve(),
        classes=trained.classes,
        palette=tuple(f"#{bytes(colour.tolist()).hex()}" for colour in trained.palette),
        labelled=Labelled(pairs="labelled.txt"),
        unlabelled=Images(images="unlabelled.txt"),
        val=Masked(pairs="val.txt") if scored.get("val") else 0.1,
        test=Masked(pairs="test.txt") if scored.get("test") else None,
        # All values, so that none is left to a file that this is laid on.
        mask_map={str(index): index for index in range(len(trained.classes))} | {str(IGNORE): "ignore"},
    )
    tree = dump(data)
    del tree["cache"], tree["on_bad_image"], tree["allow_outside_root"]  # these are whose machine it is
    beside = f", beside {len(real)} of persons" if real else ""
    head = HEAD.format(count=len(sure), beside=beside, scored=SCORED if scored.get("val") else ALONE)
    seen = dump(trained.views.labelled)  # as the run saw its labelled images, whatever recipe this is laid on
    views = {"labelled": {key: seen[key] for key in ("colour", "pick")}}
    write_whole(out / "data.yaml", head + to_yaml({"data": tree, "views": views}))
    none, left = len(there) - len(sure), len(every) - len(found)
    said = f"; {none} images have none, and stay unlabelled" if none else ""
    said += f"; {left} images that are labelled or scored already are left out" if left else ""
    return f"{len(sure)} pseudo-labels{beside}{said}"


def _known(splits: Splits) -> set[str]:
    """The images that are labelled or scored already."""
    return set.union(*map(identities, (splits.labelled, splits.holdout, splits.val, splits.test)))


def _copied(trained: Trained, out: Path, source: Source, pool: str) -> list[Pair]:
    """The images of a pool, and their labels in classes' numbers, as pictures under `out`/`pool`."""
    names = distinct([source.name(index) for index in range(len(source))])
    found = []
    for index, name in enumerate(track(names, f"copying {pool}", disable=len(names) < 2)):
        image, label = source.image(index), source.label(index)
        places = [place(out / pool / kind, name, ".png") for kind in ("image", "mask")]
        for path, picture, palette in zip(places, (image, label), (None, trained.palette), strict=True):
            pictures.write(path, pictures.strips(picture), (label.shape[0], label.shape[1]), palette)
        found.append((places[0].relative_to(out).as_posix(), places[1].relative_to(out).as_posix()))
    return found


def _listed(out: Path, pool: str, pairs: Sequence[Pair]) -> None:
    write_whole(out / f"{pool}.txt", "".join(f"{image}\t{mask}\n" for image, mask in pairs))
