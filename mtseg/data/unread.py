"""Files among the images that are pictures or videos, and are not read: of which kinds they are, and how many."""

from collections import Counter
from collections.abc import Iterable
from pathlib import PurePath

from mtseg.data.video import SUFFIXES as VIDEOS

PICTURES = (
    ".heic .heif .hif .avif .jfif .jpe .jif .jp2 .j2k .jpx .jxl .mpo .gif .apng .ppm .pgm .pbm .pnm .tga .exr .hdr"
)
RAW = ".raw .dng .cr2 .cr3 .crw .nef .nrw .arw .srf .sr2 .orf .rw2 .raf .pef .srw .x3f .3fr .iiq"
DRAWINGS = ".svg .psd .xcf .eps .ico .pcx .dds"
KINDS = frozenset([*PICTURES.split(), *RAW.split(), *DRAWINGS.split(), *VIDEOS, ".wmv", ".3gp", ".flv"])
REMEDY = "convert what is wanted to PNG (photographs also to JPEG)"


def unread(names: Iterable[str]) -> Counter[str]:
    """How many of the files are of which kind that is not read."""
    suffixes = (PurePath(name).suffix.lower() for name in names)
    return Counter(suffix for suffix in suffixes if suffix in KINDS)


def sentence(counts: Counter[str]) -> str:
    """`.heic (1000), .jfif (1)`, the commonest first."""
    return ", ".join(f"{suffix} ({count})" for suffix, count in counts.most_common())
