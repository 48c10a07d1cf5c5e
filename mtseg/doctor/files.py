"""Findings about single files: what cannot be read or understood, and what is in the masks."""

from collections.abc import Iterator, Set
from dataclasses import replace

from mtseg.data.source import IGNORE, Splits
from mtseg.doctor.facts import Counts, Image, Mask
from mtseg.doctor.finding import Finding, Severity, amount
from mtseg.doctor.suggest import Guess, mask_map
from mtseg.doctor.survey import Survey

LARGE = 8_000_000  # pixels of an image that take some tenths of a second to decode
MOSTLY = 0.5


def of_files(survey: Survey, *, maps: bool) -> Iterator[Finding]:
    """The findings, those about images first. `maps`: the data set has a `mask_map`, so that one may be suggested."""
    entries = survey.distinct()
    images = [entry.image for entry in entries]
    yield from _faults(images, skipped=_skipped(survey))
    yield from _turned(images)
    yield from _large(survey, images)
    yield from _grey(images)
    masks = list({entry.mask.name: entry.mask for entry in survey.of("labelled", "val", "test") if entry.mask}.values())
    for finding in _faults(masks):
        guess = _in_colours([mask for mask in masks if mask.name in finding.files], masks, survey.splits)
        hinted = maps and finding.code == "mask-channels"
        yield replace(finding, text=finding.text + guess[1], suggestion=guess[0]) if hinted else finding
    yield from _no_class(survey, masks, maps)
    yield from _two_values(survey, masks, maps)
    yield from _of_one_kind(survey)


def _in_colours(these: list[Mask], masks: list[Mask], splits: Splits) -> Guess:
    """What to do about masks of several channels; where others have one, a map of colours would be theirs too."""
    plain = [mask for mask in masks if mask not in these and not mask.colours and mask.raw]
    if not plain:
        return mask_map(these, splits)
    it = "it" if len(these) == 1 else "them"
    return "", f"; {amount(len(plain), 'mask')} of {len(masks)} have one channel: save {it} with one channel too"


def _skipped(survey: Survey) -> set[str]:
    """The training images that `on_bad_image: skip` passes over, as long as they are not too many."""
    names: set[str] = set()
    for pool in ("labelled", "unlabelled"):
        if getattr(getattr(survey.splits, pool), "on_bad_image", "error") == "skip":
            bad = {entry.image.name for entry in survey.of(pool) if entry.image.fault}
            names |= bad if len(bad) <= max(1, len(survey.of(pool)) // 100) else set()
    return names - {entry.image.name for entry in survey.of("val", "test")}


def _faults(facts: list[Image] | list[Mask], skipped: Set[str] = frozenset()) -> Iterator[Finding]:
    """One finding for each kind of fault, with the sentence of its first file; those outside of the set come later."""
    groups: dict[tuple[Severity, str], list[Image | Mask]] = {}
    for fact in facts:
        if fact.fault and fact.fault.code != "labels-outside":
            severity: Severity = "warning" if fact.name in skipped else "error"
            groups.setdefault((severity, fact.fault.code), []).append(fact)
    for (severity, code), group in groups.items():
        assert group[0].fault is not None
        passed = "; passed over, as on_bad_image: skip asks" if severity == "warning" else ""
        text = f"{group[0].fault.text}{_more(len(group))}{passed}"
        yield Finding(severity, code, text, tuple(fact.name for fact in group))


def _more(count: int) -> str:
    return f" (and {count - 1} more like it)" if count > 1 else ""


def _turned(images: list[Image]) -> Iterator[Finding]:
    turned = [image for image in images if image.orientation != 1]
    if turned:
        text = (
            f"{turned[0].name}: EXIF orientation {turned[0].orientation}{_more(len(turned))}; it is not applied, so "
            "the network sees a turned picture: turn the pixels (mogrify -auto-orient, or PIL.ImageOps."
            "exif_transpose), or strip the mark"
        )
        yield Finding("warning", "exif-orientation", text, tuple(image.name for image in turned))


def _large(survey: Survey, images: list[Image]) -> Iterator[Finding]:
    large = sorted((image for image in images if image.size[0] * image.size[1] > LARGE), key=lambda i: i.size)[::-1]
    if large and getattr(survey.splits.labelled, "cache", None) is None:
        h, w = large[0].size
        text = (
            f"{large[0].name}: {w} x {h}, {h * w / 1e6:.0f} million pixels{_more(len(large))}; every view of it "
            f"decodes the whole file, slow over {LARGE // 10**6} million: keep what is decoded (data.cache=DIR), cut "
            "it into tiles, or store it smaller"
        )
        yield Finding("warning", "image-large", text, tuple(image.name for image in large))


def _grey(images: list[Image]) -> Iterator[Finding]:
    grey = [image for image in images if image.grey]
    if grey and len(grey) < len([image for image in images if image.digest]):
        text = f"{amount(len(grey), 'image')} of {len(images)} are grey, the others have colours; is that meant?"
        yield Finding("note", "image-grey", text, tuple(image.name for image in grey))


def _no_class(survey: Survey, masks: list[Mask], maps: bool) -> Iterator[Finding]:
    """Masks with values that are no class, the worst first; and what may be meant by them."""
    classes = survey.splits.classes
    drawn = {mask.name: _beyond(mask.classes, len(classes)) for mask in masks}
    wrong = {mask.name: sum(n for _, n in mask.wrong or drawn[mask.name]) for mask in masks}
    worst = sorted((mask for mask in masks if wrong[mask.name]), key=lambda mask: -wrong[mask.name])
    if worst:
        held = f"a label is 0 to {len(classes) - 1} or {IGNORE}"
        text = worst[0].fault.text if worst[0].fault else f"{worst[0].name}: value {drawn[worst[0].name][0][0]}; {held}"
        names = tuple(mask.name for mask in worst)
        suggestion, why = mask_map(masks, survey.splits) if maps else ("", "")
        yield Finding("error", "labels-outside", f"{text}{_more(len(worst))}{why}", names, suggestion)


def _beyond(counts: Counts, classes: int) -> Counts:
    return tuple((value, n) for value, n in counts if value >= classes and value != IGNORE)


def _two_values(survey: Survey, masks: list[Mask], maps: bool) -> Iterator[Finding]:
    """Masks of 0 and 255 alone where 255 is ignored: those of two classes, as pictures show them, mostly."""
    usable = [mask for mask in masks if not mask.fault and not mask.colours]
    shown = [m for m in usable if dict(m.raw).keys() == {0, IGNORE} and dict(m.raw)[IGNORE] == m.ignored]
    everywhere = len(shown) == len([mask for mask in usable if dict(mask.raw).keys() != {0}])
    if shown and (everywhere or len(survey.splits.classes) == 2):
        maps = maps and everywhere and len(survey.splits.classes) == 2
        suggestion, why = mask_map(usable, survey.splits) if maps else ("", "")
        text = (
            f"{shown[0].name}: holds 0 and 255 alone{_more(len(shown))}, and 255 is ignored, so nothing but class "
            f"{survey.splits.classes[0]!r} is learnt from it; as pictures show two classes, 255 is the second{why}"
        )
        names = tuple(mask.name for mask in shown)
        yield Finding("error" if everywhere else "warning", "mask-0-255", text, names, suggestion)


def _of_one_kind(survey: Survey) -> Iterator[Finding]:
    """Masks that teach nothing, or one class alone; and how much is ignored."""
    for pool in ("labelled", "val"):
        usable = [e.mask for e in survey.of(pool) if e.mask and not e.mask.fault and e.mask.pixels > 1]
        empty = [mask for mask in usable if [value for value, _ in mask.classes] == [IGNORE]]
        if empty:
            text = f"{pool}: {empty[0].name}: every pixel is ignored{_more(len(empty))}; label it, or leave it out"
            yield Finding("warning", "mask-all-ignored", text, tuple(mask.name for mask in empty))
        single = [mask for mask in usable if len([value for value, _ in mask.classes if value != IGNORE]) == 1]
        if single:
            everywhere = len(single) == len(usable) and len(survey.splits.classes) > 1
            text = f"{pool}: {amount(len(single), 'mask')} of {len(usable)} hold one class alone: {single[0].name}"
            text += "; no border is ever seen: are these the masks that were drawn?" if everywhere else ""
            names = tuple(mask.name for mask in single)
            yield Finding("warning" if everywhere else "note", "mask-single-class", text, names)
        yield from _ignored(pool, usable)


def _ignored(pool: str, masks: list[Mask]) -> Iterator[Finding]:
    total = sum(n for mask in masks for _, n in mask.classes)
    share = sum(mask.ignored for mask in masks) / max(1, total)
    if share > MOSTLY:
        worst = tuple(mask.name for mask in sorted(masks, key=lambda mask: -mask.ignored) if mask.ignored)
        text = f"{pool}: {share:.0%} of the pixels are ignored; is one of the values, such as 255, a class of its own?"
        yield Finding("warning", "mostly-ignored", text, worst)
