"""Findings about the pools of a data set: what is in several of them, what is in none, and the classes in each."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from mtseg.data.files import Files
from mtseg.data.source import IGNORE
from mtseg.doctor.facts import Entry
from mtseg.doctor.finding import Finding, Severity, amount
from mtseg.doctor.suggest import void_first
from mtseg.doctor.survey import POOLS, Survey

FEW = 3  # images of a class below which chance decides what is learnt of it, or its score
FEW_SCORED = 20  # images below which a score is that of the images more than of the network

# Two pools that hold the same picture, how bad that is, and why.
SHARED: tuple[tuple[str, str, Severity, str], ...] = (
    ("labelled", "val", "error", "the scores are those of training images: take them out of one"),
    ("labelled", "test", "error", "the scores are those of training images: take them out of one"),
    ("unlabelled", "val", "warning", "the network sees what it is scored on, if without masks: take them out"),
    ("unlabelled", "test", "warning", "the network sees what it is scored on, if without masks: take them out"),
    ("val", "test", "warning", "what is chosen on val is then scored on the same: take them out of one"),
    ("labelled", "unlabelled", "note", "they are consistency's images too, as in the published methods"),
)
# Pools whose names are compared, where the files are not the same.
ALIKE = (("labelled", "val"), ("labelled", "test"), ("unlabelled", "val"), ("unlabelled", "test"))


@dataclass(frozen=True)
class Share:
    """What a class has of a pool's masks."""

    pixels: int
    images: int


def of_pools(survey: Survey, *, scored: str, unlabelled: bool, without: bool = False) -> Iterator[Finding]:
    """The findings. `scored`: the pool that is evaluated; `unlabelled`: whether the method uses unlabelled images;
    `without`: whether a setting leaves those of other pools out of them."""
    yield from _empty(survey, scored, unlabelled)
    yield from _alone(survey)
    yield from _repeated(survey)
    leaving = _leaving(survey) if without else ""
    for first, second, severity, why in SHARED:
        yield from _shared(survey, first, second, severity, why, leaving if first == "unlabelled" else "")
    yield from _twice(survey)
    for first, second in ALIKE:
        yield from _alike(survey, first, second)
    yield from _classes(survey, scored)


def shares(survey: Survey, pool: str) -> list[Share]:
    """Pixels and images of each class in a pool with masks; of IGNORE in the end."""
    pixels: Counter[int] = Counter()
    images: Counter[int] = Counter()
    for entry in survey.of(pool):
        for value, count in entry.mask.classes if entry.mask else ():
            pixels[value] += count
            images[value] += 1
    return [Share(pixels[value], images[value]) for value in (*range(len(survey.splits.classes)), IGNORE)]


def _empty(survey: Survey, scored: str, unlabelled: bool) -> Iterator[Finding]:
    if not survey.pools["labelled"]:
        yield Finding("error", "nothing-labelled", "no image is labelled, and there is nothing to learn classes from")
    if not survey.pools[scored]:
        yield Finding("error", "nothing-scored", f"{scored} is empty, and the run is scored on it; set eval.split")
    if not unlabelled:
        return
    known = {entry.image.name for entry in survey.of("labelled")}
    if not survey.pools["unlabelled"]:
        yield Finding("error", "nothing-unlabelled", "no image is unlabelled, and the method's branches need some")
    elif known >= {entry.image.name for entry in survey.of("unlabelled")}:
        text = (
            "every unlabelled image is a labelled one too, so consistency sees nothing new: add images, or lower "
            "labels, unless these are pseudo-labels"
        )
        yield Finding("warning", "nothing-unlabelled", text)


def _alone(survey: Survey) -> Iterator[Finding]:
    if len(survey.splits.classes) == 1:
        text = (
            f"{survey.splits.classes[0]!r} is the only class, so a constant would be learnt: name what is around it as "
            "one too, as in data.classes=[background, thing]"
        )
        yield Finding("error", "one-class", text)


def _repeated(survey: Survey) -> Iterator[Finding]:
    for pool in POOLS:
        counts = Counter(entry.image.name for entry in survey.of(pool))
        twice = tuple(name for name, count in counts.items() if count > 1)
        if twice:
            text = f"{pool}: {amount(len(twice), 'image')} listed more than once, so seen more often: {twice[0]}"
            yield Finding("warning", "repeated", text, twice)


def _leaving(survey: Survey) -> str:
    """The word that leaves the very files of val and test out of the unlabelled ones; empty: there are none."""
    names = {pool: {entry.image.name for entry in survey.of(pool)} for pool in ("unlabelled", "val", "test")}
    among = [pool for pool in ("val", "test") if names[pool] & names["unlabelled"]]
    return f"data.unlabelled.without=[{', '.join(among)}]" if among else ""


def _shared(
    survey: Survey, first: str, second: str, severity: Severity, why: str, suggestion: str
) -> Iterator[Finding]:
    """Pictures, told by their pixels, that are in both pools; named as each pool names them."""
    here, there = _by_digest(survey.of(first)), _by_digest(survey.of(second))
    both = [digest for digest in here if digest in there]
    if both:
        names = tuple(dict.fromkeys(name for digest in both for name in here[digest] + there[digest]))
        verb = "is" if len(both) == 1 else "are"
        other = "" if here[both[0]][0] == there[both[0]][0] else f" (there {there[both[0]][0]})"
        pictures = "picture" if len(both) == 1 else "pictures"
        text = f"{len(both)} {pictures} of {first} {verb} in {second} too, such as {here[both[0]][0]}{other}; {why}"
        yield Finding(severity, f"{first}-in-{second}", text, names, suggestion=suggestion)


def _by_digest(entries: list[Entry]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for entry in entries:
        if entry.image.digest:
            found.setdefault(entry.image.digest, []).append(entry.image.name)
    return found


def _twice(survey: Survey) -> Iterator[Finding]:
    """The same picture under several names of a pool; with several labels, at worst."""
    for pool in POOLS:
        groups = [list(dict.fromkeys(names)) for names in _by_digest(survey.of(pool)).values()]
        copies = [names for names in groups if len(names) > 1]
        if not copies:
            continue
        masks: dict[str, set[str]] = {}
        for entry in survey.of(pool):
            masks.setdefault(entry.image.digest, set()).add(entry.mask.digest if entry.mask else "")
        digest = {entry.image.name: entry.image.digest for entry in survey.of(pool)}
        contrary = [names for names in copies if len(masks[digest[names[0]]]) > 1]
        if contrary:
            text = f"{pool}: {' and '.join(contrary[0][:3])} are one picture with different masks; keep the right one"
            yield Finding("error", "labels-contradict", text, tuple(n for names in contrary for n in names))
        same = [names for names in copies if names not in contrary]
        if same:
            text = f"{pool}: {' and '.join(same[0][:3])} are one picture; keep one, or it counts {len(same[0])} times"
            yield Finding("warning", "duplicates", text, tuple(n for names in same for n in names))


def _alike(survey: Survey, first: str, second: str) -> Iterator[Finding]:
    """Names that differ by folder, case, punctuation or `copy` alone, of pictures that are not the same.

    Where most files of a pool have names that the other's have too, each counts its own from 0, and none is said.
    """
    here: dict[str, Entry] = {_key(entry.image.name): entry for entry in survey.of(first)}
    pairs = [(here[_key(e.image.name)], e) for e in survey.of(second) if _key(e.image.name) in here]
    pairs = [(one, other) for one, other in pairs if one.image.digest != other.image.digest]
    same = [pair for pair in pairs if len({PurePath(entry.image.name).stem for entry in pair}) == 1]
    if len(same) > min(len(survey.of(first)), len(survey.of(second))) / 2:
        pairs = [pair for pair in pairs if pair not in same]
    if pairs:
        one, other = pairs[0]
        text = (
            f"{amount(len(pairs), 'name')} of {first} and {second} are alike, such as {one.image.name} and "
            f"{other.image.name}, of different pictures; if one was made from the other, keep them in one pool"
        )
        yield Finding("note", "names-alike", text, tuple(e.image.name for pair in pairs for e in pair))


def _key(name: str) -> str:
    stem = re.sub(r"[\W_]*(copy|kopie|\(\d+\))+$", "", PurePath(name).stem.lower())
    return re.sub(r"[\W_]+", "", stem)


def _classes(survey: Survey, scored: str) -> Iterator[Finding]:
    """Classes that are nowhere, or hardly anywhere, in the pools that need them."""
    names = survey.splits.classes
    unlearnt = "it cannot be learnt"
    unscored = "its IoU is 0 where any pixel is predicted as it; where none is, it has none, and the mean is without it"
    for pool, why in (("labelled", unlearnt), (scored, unscored)):
        usable = [entry for entry in survey.of(pool) if entry.mask and entry.mask.classes]
        absent = [name for name, share in zip(names, shares(survey, pool), strict=False) if not share.images]
        if usable and absent:
            alone = pool == "labelled" and len(absent) == len(names) - 1  # which training refuses
            why = "nothing tells classes apart" if alone else why
            text = f"{', '.join(absent)}: in no mask of {pool}; {why}: choose other images, or mend the classes"
            text += _shifted(survey, pool, absent)
            code = f"class-absent-{'labelled' if pool == 'labelled' else 'scored'}"
            yield Finding("error" if alone else "warning", code, text)
    for pool, code in (("labelled", "class-rare"), (scored, "class-rare-scored")):
        few = [
            f"{name} ({share.images})"
            for name, share in zip(names, shares(survey, pool), strict=False)
            if 0 < share.images < min(FEW, len(survey.of(pool)))
        ]
        if few:
            named = f"in fewer than {FEW} images of {pool}: {', '.join(few)}"
            so = "they tell little of these classes" if pool == "labelled" else "their scores will be those of chance"
            yield Finding("warning", code, f"{named}; {so}")
    if 0 < (images := len(survey.of(scored))) < FEW_SCORED:
        text = f"{scored} has {amount(images, 'image')}: a score of so few is mostly chance; have more images scored"
        yield Finding("note", "few-scored", text)


def _shifted(survey: Survey, pool: str, absent: Sequence[str]) -> str:
    """What to look at where the last class alone is absent and nothing is void: is 0 void, each class one too low?"""
    source, names = getattr(survey.splits, pool), survey.splits.classes
    values = source.classes.table[: len(names)].tolist() if isinstance(source, Files) else []
    plain = len(names) > 2 and values == list(range(len(names)))
    if not plain or list(absent) != [names[-1]] or shares(survey, pool)[-1].images:
        return ""
    return f". Nothing is void: if 0 is, and classes begin at 1, all are one too low; then say {void_first(names)}"
