"""The source of files: masks belong to their images, bad images are passed over the same way everywhere."""

import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import trees
from PIL import Image

from mtseg.data.batch import BatchSizes
from mtseg.data.files import Files, Pool, files, packed
from mtseg.data.loading import loader
from mtseg.data.masks import in_order
from mtseg.data.source import IGNORE, Splits
from mtseg.data.stream import Stream
from mtseg.views import Views


def a_source(root: Path, count: int = 10, **keys: str) -> Files:
    """Image i is all i (modulo 200); so is its mask."""
    names, masks = [f"i/{i}.png" for i in range(count)], [f"m/{i}.png" for i in range(count)]
    for i in range(count):
        for name, shape in ((names[i], (8, 9, 3)), (masks[i], (8, 9))):
            (root / name).parent.mkdir(exist_ok=True)
            Image.fromarray(np.full(shape, i % 200, np.uint8)).save(root / name)
    return files(root, Pool(names, masks), in_order(200), **keys)  # type: ignore[arg-type]


def spoil(root: Path, *indices: int) -> None:
    for i in indices:
        os.truncate(root / f"i/{i}.png", 20)


def test_images_and_labels_are_those_of_the_names(tmp_path):
    source = a_source(tmp_path)
    assert len(source) == 10
    for i in range(10):
        assert source.name(i) == f"i/{i}.png"
        assert (source.image(i) == i).all()
        assert (source.label(i) == i).all()
    some = source.only([7, 2])
    assert [some.name(i) for i in range(len(some))] == ["i/7.png", "i/2.png"]
    assert (some.label(0) == 7).all()


def test_images_without_masks_have_no_label(tmp_path):
    a_source(tmp_path)
    source = files(tmp_path, Pool(["i/1.png"], []), in_order(2))
    with pytest.raises(ValueError, match=r"i/1\.png: an unlabelled image"):
        source.label(0)


def test_a_mask_of_another_size_is_refused_with_both(tmp_path):
    source = a_source(tmp_path)
    Image.fromarray(np.zeros((4, 9), np.uint8)).save(tmp_path / "m/3.png")
    with pytest.raises(ValueError, match=r"m/3\.png is \(4, 9\) and its image .*i/3\.png \(8, 9\).*nearest neighbour"):
        source.label(3)


def test_a_mask_drawn_on_the_turned_picture_is_told_from_other_sizes(tmp_path):
    source = a_source(tmp_path)
    Image.fromarray(np.zeros((9, 8), np.uint8)).save(tmp_path / "m/3.png")
    with pytest.raises(ValueError) as refusal:
        source.label(3)
    assert "EXIF" not in str(refusal.value)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(tmp_path / "i/3.png", exif=exif)
    with pytest.raises(ValueError, match=r"m/3\.png is \(9, 8\) .*EXIF orientation, which is not applied.*turn"):
        source.label(3)


def test_a_bad_image_is_an_error_by_default(tmp_path):
    source = a_source(tmp_path)
    spoil(tmp_path, 4)
    with pytest.raises(ValueError, match=r"i/4\.png: not a whole image"):
        source.image(4)


def test_skip_takes_the_next_readable_image_and_its_own_label_whatever_was_read_before(tmp_path, capsys):
    a_source(tmp_path, 300)
    spoil(tmp_path, 4, 5, 299)
    wanted = {4: 6, 5: 6, 299: 0, 3: 3}
    for order in ([4, 5, 299, 3], [3, 299, 5, 4]):
        source = a_source_of(tmp_path, 300)
        for i in order:
            assert (source.label(i) == wanted[i] % 200).all()
            assert (source.image(i) == wanted[i] % 200).all()
        said = capsys.readouterr().err.splitlines()
        assert sorted(line.split("/")[-1].split(":")[0] for line in said) == ["299.png", "4.png", "5.png"]


def a_source_of(root: Path, count: int) -> Files:
    pool = Pool([f"i/{i}.png" for i in range(count)], [f"m/{i}.png" for i in range(count)])
    return files(root, pool, in_order(256, void=None), "skip")


def test_a_batch_of_all_images_labels_what_it_shows_where_one_was_passed_over(tmp_path, capsys):
    """The next image of the pool, and not the next labelled one."""
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255)]
    for folder in "im":
        (tmp_path / folder).mkdir()
    for n, colour in enumerate(colours):
        Image.new("RGB", (32, 32), colour).save(tmp_path / f"i/{n}.png")
        Image.new("L", (32, 32), n).save(tmp_path / f"m/{n}.png")
    spoil(tmp_path, 2)
    labelled = Pool([f"i/{n}.png" for n in (0, 2, 5)], [f"m/{n}.png" for n in (0, 2, 5)])
    pool = Pool([f"i/{n}.png" for n in range(6)], [])
    own, every = (files(tmp_path, of, in_order(6, void=None), "skip") for of in (labelled, pool))
    splits = Splits(tuple("abcdef"), np.zeros((6, 3), np.uint8), own, every, own, own)
    views = Views(crop=(32, 32), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    sizes = BatchSizes(labelled=0, unlabelled=6, consistency="all")
    stream = Stream(splits, views=views, sizes=sizes, students=1, seed=0)
    (student,) = stream[0].students
    seen = [colours.index(tuple(image.reshape(-1, 3)[500].tolist())) for image in student.image]
    assert sorted(seen) == [0, 1, 3, 3, 4, 5]
    truths = [{int(v) for v in label.unique()} for label in student.label]
    assert [truth - {IGNORE} for truth in truths] == [{n} if n in (0, 5) else set() for n in seen]


def test_skip_gives_up_past_one_percent_with_the_list(tmp_path):
    a_source(tmp_path, 200)
    spoil(tmp_path, 10, 20, 30)
    source = a_source_of(tmp_path, 200)
    source.image(10)
    source.image(20)
    with pytest.raises(ValueError, match=r"on_bad_image: 3 of 200 .*more than 1 %") as refusal:
        source.image(30)
    assert str(refusal.value).splitlines()[1:] == ["  i/10.png", "  i/20.png", "  i/30.png"]


def test_skip_allows_one_bad_image_in_a_small_pool_and_not_two(tmp_path):
    a_source(tmp_path, 5)
    spoil(tmp_path, 1, 2)
    source = a_source_of(tmp_path, 5)
    with pytest.raises(ValueError, match=r"2 of 5 images cannot be read"):
        source.image(1)


def test_a_bad_mask_is_an_error_even_where_bad_images_are_skipped(tmp_path):
    a_source(tmp_path, 5)
    os.truncate(tmp_path / "m/2.png", 20)
    with pytest.raises(ValueError, match=r"m/2\.png: not a whole image"):
        a_source_of(tmp_path, 5).label(2)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_with_skipped_images_do_not_depend_on_the_workers(workers, tmp_path):
    root = trees.camvid(tmp_path, images=12)
    os.truncate(root / "train" / "0001TP_006720.jpg", 400)
    from mtseg.data.camvid import Camvid

    splits = Camvid(root=root, on_bad_image="skip").build()
    stream = Stream(splits, views=Views(crop=(32, 32)), sizes=BatchSizes(), students=1, seed=0)
    here = [stream[step] for step in range(4)]
    there = list(loader(stream, range(4), workers=workers, pin=False))
    for one, other in zip(here, there, strict=True):
        assert (one.labelled.image == other.labelled.image).all()
        assert (one.labelled.label == other.labelled.label).all()
        assert (one.students[0].image == other.students[0].image).all()


def test_100_000_names_open_fast_and_travel_small(tmp_path):
    start = time.process_time()
    names = [f"JPEGImages/2008_{i:06d}.jpg" for i in range(100_000)]
    source = files(tmp_path, Pool(names, names), in_order(21))
    letter = pickle.dumps(source)
    again = pickle.loads(letter)
    assert time.process_time() - start < 2
    assert len(letter) < 2.2 * sum(len(name) for name in names)
    assert (again.name(0), again.name(99_999)) == (names[0], names[-1])
    assert source.names.dtype.kind == "S"


def test_each_folder_is_listed_once(tmp_path, monkeypatch):
    from mtseg.data.ade20k import Ade20k

    root = trees.ade20k(tmp_path)
    asked: list[str] = []
    real = os.scandir
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", lambda place: asked.append(str(place)) or real(place))
        splits = Ade20k(root=root, labels="1/2").build()
    assert (len(splits.labelled), len(splits.val)) == (17, 2)
    wanted = [f"{kind}/{split}" for kind in ("annotations", "images") for split in ("training", "validation")]
    assert sorted(asked) == [str(root / name) for name in wanted]


def test_names_keep_their_letters_and_impossible_ones_are_refused():
    names = ["ä/ö.jpg", "写真.png", "a b.jpg"]
    source = Files(Path("x"), packed(names), None, in_order(2))
    assert [source.name(i) for i in range(3)] == names
    with pytest.raises(ValueError, match=r"not UTF-8; rename the file"):
        packed(["a\udcff.jpg"])
