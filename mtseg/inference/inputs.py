"""Which images the words of `mtseg predict` name, and what each is called under the output folder."""

import glob
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mtseg.data.channels import PLAIN, Channels
from mtseg.data.decode import header
from mtseg.data.files import Files
from mtseg.data.lists import read_list
from mtseg.data.match import LISTS
from mtseg.data.search import search
from mtseg.data.source import Pixels, Source, Splits
from mtseg.data.tree import first, is_image, without_suffix
from mtseg.data.unread import REMEDY, sentence, unread
from mtseg.data.video import Frames, is_video

KINDS = ("mask", "overlay", "confidence", "image")  # of outputs, each in a folder of its name
ORIENTED = (".jpg", ".jpeg", ".tif", ".tiff", ".webp")  # of cameras that note how they were held
CLAIM = "prediction.json"  # says in the folder of outputs whose they are


@dataclass(frozen=True)
class Item:
    """An image to predict. `said`: as its user knows it; `name`: of its outputs, relative and without suffix; `path`:
    its (first) file, where it is one; `frame`: of a video, `#` and its number."""

    said: str
    name: str
    read: Callable[[], Pixels]  # (H, W, C)
    files: Callable[[], Sequence[Path]] = tuple  # what it is read from
    frame: str = ""

    @property
    def path(self) -> Path | None:
        """Its first file, where it is read from one."""
        return next(iter(self.files()), None)

    @property
    def origin(self) -> str:
        """Its file from / on (and its frame), by whatever words and links to folders it is named; "" where it has none,
        or where it cannot be told which it has: `read` says why."""
        try:
            path = self.path
        except ValueError:
            return ""
        return "" if path is None else f"{os.path.realpath(path.parent)}/{path.name}{self.frame}"

    def stamp(self) -> list[list[int]]:
        """Size and time of the files that it is read from; another one: it may be another image. Raises as `read`."""
        found = (path.stat() for path in self.files() if path.exists())
        return [[file.st_size, file.st_mtime_ns] for file in found]


def items(words: Sequence[str], out: Path, channels: Channels = PLAIN) -> list[Item]:
    """The images of files, folders (at any depth), globs and lists (.txt, .tsv, .json; relative to the list).

    In the order of their paths, each once, without what was predicted into `out` before. A name is the image's path
    from the folder that all of them share, without suffix, or with it where two images differ in nothing else. A video,
    named as a file or by a glob for videos, is its frames, called clip.mp4/000000 and so on.
    `channels` says which further files belong to each image.

    Raises ValueError for a word that names no image.
    """
    paths = sorted({os.path.normpath(Path(path).absolute()) for word in words for path in _named(word)})
    if (out / CLAIM).is_file():
        made = [os.path.normpath(out.absolute() / kind) for kind in KINDS]
        paths = [path for path in paths if not any(Path(path).is_relative_to(folder) for folder in made)]
    if not paths:
        raise ValueError("name images: files, folders, globs or lists; or --pool unlabelled")
    base = os.path.commonpath([Path(path).parent for path in paths])
    names = distinct([os.path.relpath(path, base) for path in paths])
    found: list[Item] = []
    for path, name in zip(paths, names, strict=True):
        found += _frames(path, name, channels) if is_video(path) else [_still(path, name, channels)]
    return found


def pool_items(splits: Splits, pool: str) -> list[Item]:
    """The images of a pool of the run's data; those of `unlabelled` that are not labelled too."""
    source: Source = getattr(splits, pool)
    names = [source.name(index) for index in range(len(source))]
    known = {splits.labelled.name(i) for i in range(len(splits.labelled))} if pool == "unlabelled" else set()
    chosen = [index for index, name in enumerate(names) if name not in known]
    if not chosen:
        raise ValueError(f"--pool: this data set has no {pool} images; name another, or files")
    called = distinct([names[index] for index in chosen])
    found = [_of_source(source, index, name) for index, name in zip(chosen, called, strict=True)]
    return sorted(found, key=lambda item: item.name)


def identities(source: Source) -> set[str]:
    """By what images of a pool are known again, whatever they are named by: their files, or else their names."""
    every = (_of_source(source, index, "") for index in range(len(source)))
    return {item.origin or item.said for item in every}


def _of_source(source: Source, index: int, name: str) -> Item:
    return Item(source.name(index), name, partial(source.image, index), partial(_files, source, index))


def shard(of: Sequence[Item], part: str) -> list[Item]:
    """The images of `i/n`, i from 1 to n: each n-th. Raises ValueError for what is no such part."""
    i, _, n = part.partition("/")
    if not (i.isdigit() and n.isdigit() and 1 <= int(i) <= int(n)):
        raise ValueError(f"--shard: {part!r} is no part; write i/n with i from 1 to n, as in 1/4")
    return list(of[int(i) - 1 :: int(n)])


def place(out: Path, name: str, suffix: str) -> Path:
    """The file of an output called `name` in folder `out`. Raises ValueError for one that would lie elsewhere."""
    if name.startswith("/") or ".." in name.split("/") or not name.isprintable() or not _utf8(name):
        raise ValueError(f"{name!a}: no name for a file under {out}; rename the image (letters, digits, no `..`)")
    path = out / f"{name}{suffix}"
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(out)):
        raise ValueError(f"{path} leads out of {out} by a link; take the link away, or choose another --out")
    return path


def _named(word: str) -> list[str]:
    path = Path(word)
    if path.is_dir():
        found = [str(path / name) for name in search(path, set(), strict=False) if is_image(name)]
        found = [name for name in found if Path(name).is_file()]  # not links to what is gone
    elif path.suffix.lower() in LISTS:
        found = [str(path.parent / entry.image) for entry in read_list(path)]
    elif not path.exists() and not glob.has_magic(word) and not is_image(word) and not is_video(word):
        raise ValueError(f"{word}: no such file or folder; name a file, a folder, a glob or a list of images")
    elif path.is_file() or not glob.has_magic(word):
        found = [word]  # one that is not there is a failure of that image alone
    else:
        names = glob.glob(word, recursive=True)  # noqa: PTH207  Path's takes no absolute pattern
        found = [name for name in names if is_image(name) or (is_video(word) and is_video(name))]
    if not found:
        raise ValueError(f"{word}: names no image; name a file, a folder, a glob or a list of images")
    return found


def passed_over(words: Sequence[str]) -> str:
    """The files in the folders of `words` that are pictures of a kind that is not read; empty: none are."""
    folders = [Path(word) for word in words if Path(word).is_dir()]
    counts = unread(name for folder in folders for name in search(folder, set(), strict=False))
    return f"{counts.total()} not read: {sentence(counts)}; {REMEDY}" if counts else ""


def lying(wanted: Sequence[Item]) -> str:
    """The photographs that their EXIF orientation turns for those who view them; empty: none are."""
    turned = []
    for item in wanted:
        with suppress(ValueError, OSError):
            if (path := item.path) is not None and path.suffix.lower() in ORIENTED and header(path).orientation != 1:
                turned.append(item.said)
    if not turned:
        return ""
    return (
        f"look: {len(turned)} predicted as stored, not as their EXIF orientation turns them for those who view them "
        f"({first(turned)}): masks lie as the pixels do"
    )


def distinct(paths: Sequence[str]) -> list[str]:
    """The paths without suffix, with it where they would be the same. Raises ValueError where they still are."""
    plain = [without_suffix(path.replace(os.sep, "/")) for path in paths]
    often = Counter(plain)
    names = [path if often[short] > 1 else short for path, short in zip(paths, plain, strict=True)]
    twice = [name for name, number in Counter(names).items() if number > 1]
    if twice:
        raise ValueError(f"several images would be called {first(twice)}; rename them, or predict them one by one")
    return names


def _still(path: str, name: str, channels: Channels) -> Item:
    file = Path(path)
    return Item(path, name, partial(channels.read, file), lambda: [file, *map(Path, channels.names_of(path))])


def _files(source: Source, index: int) -> list[Path]:
    return source.sources(index) if isinstance(source, Files) else []


def _frames(path: str, name: str, channels: Channels) -> list[Item]:
    """The frames of a video; of one that is cut off, the first that is missing too, which will fail."""
    if not Path(path).is_file():
        return [_still(path, name, channels)]  # and will be told as an image that is not there
    frames = Frames(Path(path))
    return [
        Item(f"{path}#{index}", f"{name}/{index:06d}", partial(frames.read, index), lambda: [frames.path], f"#{index}")
        for index in range(frames.count + frames.cut_off)
    ]


def _utf8(name: str) -> bool:
    try:
        return bool(name.encode())
    except UnicodeEncodeError:
        return False
