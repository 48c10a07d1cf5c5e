"""What a user may mean by values that are no class: a word for the command line, and in what it is a guess."""

import json
import shlex
from collections import Counter
from collections.abc import Sequence

from mtseg.data.files import Files
from mtseg.data.masks import code_of
from mtseg.data.palette import voc_colours
from mtseg.data.source import IGNORE, Splits
from mtseg.doctor.facts import Mask

BLACK, WHITE = 0x000000, 0xFFFFFF
VOID = {WHITE, 0xE0E0C0}  # colours that no class has where palettes are VOC's
WHITE_OF_16_BITS = 65535
FEW = 30  # different colours beyond which a mask is a photograph, or was saved lossy once
Guess = tuple[str, str]  # the word, and the end of a sentence


def mask_map(masks: Sequence[Mask], splits: Splits) -> Guess:
    """A `data.mask_map=` (or other) word after which the values of `masks` are classes; empty where none is plain."""
    odd = [mask for mask in masks if mask.colours and len(mask.raw) > FEW]
    if odd and (sound := [mask for mask in masks if mask.colours and mask not in odd]):
        word, why = mask_map([mask for mask in masks if mask not in odd], splits)
        more = f" (and {len(odd) - 1} more)" if len(odd) > 1 else ""
        return word, (
            f"{why}, by {len(sound)} of {len(sound) + len(odd)} masks; {odd[0].name}{more} holds {len(odd[0].raw)} "
            "different colours, no palette: was it resized or saved as JPEG once?"
        )
    sums: Counter[tuple[bool, int]] = Counter()
    for mask in masks:
        sums.update({(mask.colours, value): pixels for value, pixels in mask.raw})
    values = sorted(value for colours, value in sums if not colours)
    if not values:
        return _of_colours([colour for (_, colour), _ in sums.most_common()], splits)
    mixed = len(values) < len(sums)
    return ("", "; some masks have colours and some have not") if mixed else _of_values(values, splits)


def _of_values(values: list[int], splits: Splits) -> Guess:
    classes, count = splits.classes, len(splits.classes)
    table = splits.labelled.classes.table if isinstance(splits.labelled, Files) else None
    rest = [value for value in values if table is None or table[min(value, len(table) - 1)] != IGNORE]
    order = "; if their order is that of the classes, map them as suggested"
    if values == [0, IGNORE] and count == 2:
        return _word(_paired(values, classes)), ""
    if len(rest) == count:
        return _word(_paired(rest, classes)), order
    if len(values) == count and len(rest) == count - 1 and IGNORE in values:
        return _word(_paired(values, classes)), (
            f"; data.ignore takes {IGNORE} for void: where it is a class, and their order is that of the classes, map "
            "them as suggested"
        )
    if rest == list(range(count + 1)):
        return "", (
            f"; there is one value more than classes, and which is void is not guessed: data.ignore={count} where it "
            f"is the last, {void_first(classes)} where it is 0; or name one more class"
        )
    if count < len(rest) == rest[-1] + 1:
        named = [*classes, *(f"class {value}" for value in rest[count:])]
        text = f"; the masks hold {len(rest)} values and data.classes has {count}: name the others too"
        return f"data.classes={json.dumps(named)}", text
    if WHITE_OF_16_BITS in rest and IGNORE in values:
        return "", (
            f"; {WHITE_OF_16_BITS} is white in masks of 16 bits as {IGNORE} is in those of 8: say in data.mask_map "
            f"that it is the class that {IGNORE} is, or save all masks alike"
        )
    return "data.other=ignore", "; if these values mean nothing, ignore them as suggested; else map them in mask_map"


def void_first(classes: tuple[str, ...]) -> str:
    """The word by which 0 is void and classes begin at 1, as a shell takes it."""
    return shlex.quote(_word({"0": "ignore"} | _paired(list(range(1, len(classes) + 1)), classes)))


def _paired(values: list[int], classes: tuple[str, ...]) -> dict[str, str]:
    return {str(value): name for value, name in zip(values, classes, strict=True)}


def _of_colours(colours: list[int], splits: Splits) -> Guess:
    """The data set's own palette, or VOC's, where it has all of them, and more than black and what is void; else their
    number is what can be said."""
    if {*colours} == {BLACK, WHITE} and len(splits.classes) == 2:
        return _word(dict(zip(("#000000", "#ffffff"), splits.classes, strict=True))), "; pictures show two classes so"
    for inks, whose in ((splits.palette, "data.palette"), (voc_colours(len(splits.classes)), "VOC's palette")):
        palette = dict(zip(code_of(inks[None])[0].tolist(), splits.classes, strict=True))
        unknown = [colour for colour in colours if colour not in palette]
        plain = {*colours} <= {BLACK, *VOID}
        if not (plain or {*unknown} - VOID) and len(palette) == len(splits.classes):
            words = {f"#{c:06x}": n for c, n in palette.items()} | {f"#{c:06x}": "ignore" for c in unknown}
            return _word(words), f"; they are the colours of {whose}, map them as suggested"
    if len(colours) > FEW:
        return "", f"; {len(colours)} different colours are no palette: were the masks resized or saved as JPEG once?"
    named = ", ".join(f"#{colour:06x}" for colour in colours)
    return "", f"; the masks hold {named}: say in data.mask_map which class each is"


def _word(words: dict[str, str]) -> str:
    return "data.mask_map={" + ", ".join(f"{json.dumps(key)}: {json.dumps(name)}" for key, name in words.items()) + "}"
