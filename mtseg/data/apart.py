"""Pools that must share no file, where a run learns from one of them and is scored on another."""

from mtseg.data.files import Files
from mtseg.data.source import Source, Splits
from mtseg.data.tree import first

LEARNT = "a score of images that were learnt says nothing: take them out of one of the two"
HELD = "the checkpoint that they choose would be scored on the same images: take them out of one of the two"
CHOSEN = "what is chosen on val would be scored on the same images: take them out of one of the two"


def refuse_learnt_and_scored(splits: Splits) -> None:
    """Raises ValueError for files that are labelled, or held out, and in val or test, or in val and in test.

    They are told by their names. A test pool of exactly the images of val is no slip, and is let be. Images that are no
    files have names of their pools' own, and are not compared.
    """
    labelled, val, test, holdout = map(_names, (splits.labelled, splits.val, splits.test, splits.holdout))
    for key, pool, what, other, why in (
        ("val", val, "labelled", labelled, LEARNT),
        ("test", test, "labelled", labelled, LEARNT),
        ("val", val, "held out", holdout, HELD),
        ("test", test, "held out", holdout, HELD),
        ("test", test, "in val", val, CHOSEN),
    ):
        known = set(other)
        both = [name for name in pool if name in known]
        if both and not (why == CHOSEN and known == set(pool)):
            count = f"{len(both)} of {len(pool)} images"
            word = f" (data.labelled.without=[{key}], of a folder)" if what == "labelled" else ""
            raise ValueError(f"data.{key}: {count} are {what} too: {first(both)}; {why}{word}")


def seen_and_scored(splits: Splits, split: str) -> list[str]:
    """A sentence where images that are scored, those of `split`, are among the unlabelled ones, by their names."""
    scored, seen = _names(getattr(splits, split)), set(_names(splits.unlabelled))
    both = [name for name in scored if name in seen]
    if not both:
        return []
    return [
        f"{len(both)} of {len(scored)} {split} images are among the unlabelled ones ({first(both)}): what is scored "
        "has been trained on, if without its labels; take them out (data.unlabelled.without), or say so with the scores"
    ]


def _names(source: Source) -> list[str]:
    return [source.name(index) for index in range(len(source))] if isinstance(source, Files) else []
