"""Pools that must share no image, because a run is scored on one of them."""

from mtseg.data.files import Pool
from mtseg.data.tree import first

LEARNT = "a score of images that were learnt says nothing: take them out of one of the two"
CHOSEN = "what is chosen on val would be scored on the same images: take them out of one of the two"


def kept_apart(labelled: Pool, val: Pool, test: Pool) -> None:
    """Raises ValueError for images, told by their names, that are labelled and scored, or in val and in test.

    A test pool of exactly the images of val is no slip, and is let be.
    """
    for key, pool, what, other, why in (
        ("val", val, "labelled", labelled, LEARNT),
        ("test", test, "labelled", labelled, LEARNT),
        ("test", test, "in val", val, CHOSEN),
    ):
        known = set(other.images)
        both = [name for name in pool.images if name in known]
        if both and not (why == CHOSEN and known == set(pool.images)):
            count = f"{len(both)} of {len(pool.images)} images"
            raise ValueError(f"data.{key}: {count} are {what} too: {first(both)}; {why}")
