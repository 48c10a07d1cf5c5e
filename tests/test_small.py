"""Small images: the paper's choice of labels, published lists, readers, whitening."""

import dataclasses
import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat
from smalls import CLASSES, arrays, small, write
from torch import tensor

import mtseg
from mtseg import cli
from mtseg.cli.doctor import main as mtseg_doctor
from mtseg.data.choose import balanced, listed
from mtseg.data.divide import divide
from mtseg.data.imagefolder import ImageFolder
from mtseg.data.provenance import digest, files_of, provenance, record, recorded
from mtseg.data.small import Small
from mtseg.data.source import UNKNOWN, refuse_one_class
from mtseg.inference.scoring import score_run
from mtseg.trainer import fit
from mtseg.whiten import PerImage, Zca, fit_zca

LABELS = np.random.default_rng(3).permutation(np.arange(200) % 5)


def numbers(pool):
    return [int(pool.name(i).partition("-")[2]) for i in range(len(pool))]


def built(folder, **keys):
    path = folder / "small.npz"
    return Small(set="npz", root=path if path.is_file() else write(path), **keys).build()


@pytest.mark.parametrize("seed", [0, 2000, 2009])
def test_the_labelled_images_are_those_of_the_papers_procedure(seed):
    """Literally: numpy's legacy generator, classes ascending, `choice` without replacement among a class's images."""
    legacy = np.random.RandomState(seed)
    expected = []
    for label in range(5):
        places = [i for i in range(200) if LABELS[i] == label]
        expected += list(legacy.choice(places, 7, replace=False))
    found = balanced(LABELS, 7, np.random.RandomState(seed), "abcde")
    assert found.tolist() == expected


def test_the_held_out_images_are_drawn_first_by_shuffling_a_mask_and_the_labels_then_among_the_rest(tmp_path):
    splits = built(tmp_path, labels=8, val=10, split_seed=5)
    _, y = arrays(40, 0)
    legacy = np.random.RandomState(5)
    mask = np.arange(40) < 10
    legacy.shuffle(mask)
    rest = np.arange(40)[~mask]
    chosen = [rest[legacy.choice(np.flatnonzero(y[rest] == label), 2, replace=False)] for label in range(4)]
    assert numbers(splits.val) == np.arange(40)[mask].tolist()
    assert numbers(splits.labelled) == np.concatenate(chosen).tolist()
    assert numbers(splits.unlabelled) == rest.tolist()


def test_pools_have_as_many_images_of_each_class_as_asked_for_and_rest_is_without_them(tmp_path):
    splits = built(tmp_path, per_class=3, unlabelled="rest")
    labels = [int(splits.labelled.label(i)) for i in range(12)]
    assert np.bincount(labels).tolist() == [3, 3, 3, 3]
    assert sorted(numbers(splits.labelled) + numbers(splits.unlabelled)) == list(range(40))
    assert len(built(tmp_path).labelled) == 40
    again = pickle.loads(pickle.dumps(splits))
    assert provenance(again) == provenance(splits)


def test_hashes_are_of_pixels_since_names_are_only_places(tmp_path):
    path = write(tmp_path / "small.npz")
    said = provenance(built(tmp_path, per_class=3))
    with np.load(path) as found:
        kept = dict(found)
    order = np.random.default_rng(3).permutation(40)
    np.savez(path, **kept | {key: kept[key][order] for key in ("x_train", "y_train")})
    other = provenance(built(tmp_path, per_class=3))
    assert other.unlabelled == said.unlabelled  # the same images, in another order
    assert other.labelled.images == said.labelled.images
    assert other.labelled.sha256 != said.labelled.sha256  # of which one seed draws others
    size = str(kept["x_test"].shape[1:]).encode()
    lines = sorted(hashlib.blake2b(x.tobytes(), key=size, digest_size=16).hexdigest() for x in kept["x_test"])
    assert said.test.sha256 == hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def test_a_run_whose_record_is_of_names_goes_on_and_one_of_other_pixels_does_not(tmp_path):
    path = write(tmp_path / "small.npz")
    splits = built(tmp_path, per_class=3)
    pools = {pool: getattr(splits, pool) for pool in ("labelled", "unlabelled", "val", "test")}
    names = {pool: [source.name(i) for i in range(len(source))] for pool, source in pools.items()}
    of_names = {pool: {"images": len(of), "sha256": digest(of)} for pool, of in names.items()}
    (tmp_path / "splits.json").write_text(json.dumps({"name": "npz"} | of_names))
    said = record(tmp_path, splits, continued=True)
    assert json.loads((tmp_path / "splits.json").read_text())["test"]["sha256"] == said.test.sha256
    with np.load(path) as found:
        kept = dict(found)
    np.savez(path, **kept | {"x_train": 255 - kept["x_train"]})
    with pytest.raises(ValueError, match=r"begun with other images .labelled: 12 -> 12, unlabelled: 40 -> 40.;"):
        record(tmp_path, built(tmp_path, per_class=3), continued=True)


@pytest.mark.parametrize(
    ("key", "changed", "says"),
    [
        ("y_train", lambda y: (y + 1) % CLASSES, "begun with other classes of the labelled images"),
        ("y_test", lambda y: (y + 1) % CLASSES, "begun with other classes of the test images"),
        ("classes", lambda names: names[::-1], r"begun with other classes \(a, b, c, d -> d, c, b, a\)"),
    ],
)
def test_a_run_is_not_continued_with_other_labels_or_names_of_classes(key, changed, says, tmp_path):
    path = write(tmp_path / "small.npz")
    with np.load(path) as found:
        kept = dict(found) | {"classes": np.array(list("abcd"))}
    np.savez(path, **kept)
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{i}\n" for i in range(8)))
    one = built(tmp_path, split=listed)
    record(tmp_path, one, continued=False)
    record(tmp_path, built(tmp_path, split=listed), continued=True)
    scored = recorded(tmp_path, "test")
    np.savez(path, **kept | {key: changed(kept[key])})
    other = built(tmp_path, split=listed)
    with pytest.raises(ValueError, match=says):
        record(tmp_path, other, continued=True)
    assert (files_of(other.test) != scored.files) == (key == "y_test")  # by which eval and tables tell them apart


def test_the_split_tool_says_the_hashes_that_runs_say_of_its_lists(tmp_path):
    splits = built(tmp_path)
    (rung,) = divide(splits, ["8"], tmp_path / "lists")
    read = provenance(built(tmp_path, split=tmp_path / "lists/8", unlabelled="rest"))
    assert [rung[pool]["sha256"] for pool in ("labelled", "unlabelled")] == [
        read.labelled.sha256,
        read.unlabelled.sha256,
    ]


LINES = "3_airplane.png airplane\n7_bird.png bird\n\n"


@pytest.mark.parametrize(("text", "expected"), [(LINES, [3, 7]), ("7\n3\n", [7, 3]), ("\ufeff7_x.png\n", [7])])
def test_label_lists_of_files_and_of_numbers_are_read(tmp_path, text, expected):
    path = tmp_path / "00.txt"
    path.write_text(text, encoding="utf-8")
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    assert listed(path, labels, ("airplane", "bird"), []).tolist() == expected


def test_an_array_that_names_no_image_or_one_twice_is_refused_with_which(tmp_path):
    for values, says in (([3, 1, 3], "image 3 is named twice, on place 0 and place 2;"), ([], "names no image;")):
        np.save(tmp_path / "list.npy", np.array(values, np.int64))
        with pytest.raises(ValueError, match=rf"list\.npy: {says}"):
            listed(tmp_path / "list.npy", LABELS, "abcde", [])


def test_an_array_of_numbers_is_a_list(tmp_path):
    np.save(tmp_path / "list.npy", np.array([5, 1], np.uint16))
    assert listed(tmp_path / "list.npy", LABELS, "abcde", []).tolist() == [5, 1]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("3_bird.png bird", ["line 1", "image 3", "'airplane'", "'bird'", "order"]),
        ("8", ["image 8", "8 training images"]),
        ("1\n\n2\n1", ["image 1 is named twice, on line 1 and line 4;"]),
        ("2_airplane.png\n2", ["image 2 is named twice, on line 1 and line 2;"]),
        ("", ["names no image;", "data.labels"]),
        ("\n\n", ["names no image;"]),
        ("bird.png bird", ["line 1", "number"]),
        ("1 airplane 2", ["line 1"]),
    ],
)
def test_a_list_that_does_not_fit_is_answered_with_its_line(tmp_path, text, says):
    (tmp_path / "00.txt").write_text(text)
    with pytest.raises(ValueError) as refusal:
        listed(tmp_path / "00.txt", np.array([0, 0, 0, 0, 1, 1, 1, 1]), ("airplane", "bird"), [])
    for word in says:
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"labels": 6}, "multiple"),
        ({"labels": 44}, r"class 0 \(.*\) has 10"),
        ({"labels": 4, "per_class": 1}, "keep one"),
        ({"unlabelled": "rest"}, "'rest' leaves nothing"),
        ({"val": 40}, "leaves none"),
        ({"extra": 3}, "only svhn"),
        ({"split": "nothing.txt"}, "no file"),
    ],
)
def test_impossible_choices_are_refused(tmp_path, keys, says):
    with pytest.raises(ValueError, match=says):
        built(tmp_path, **keys)


def test_a_class_without_an_image_to_label_is_refused_and_not_left_out(tmp_path):
    with pytest.raises(ValueError, match=r"class 3 \(d\) has 0; ask for fewer, add images of it"):
        balanced(np.array([0, 1, 2, 2, 1, 0]), 1, np.random.RandomState(0), "abcd")


def test_the_lists_that_the_split_tool_writes_are_read(tmp_path):
    divide(built(tmp_path), ["8"], tmp_path / "lists")
    splits = built(tmp_path, split=tmp_path / "lists/8", unlabelled="rest")
    names = (tmp_path / "lists/8/labelled.txt").read_text().split()
    assert [splits.labelled.name(i) for i in range(8)] == names
    assert len(splits.unlabelled) == 32


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"y_train": np.arange(8) % 4 + 0.7}, "whole numbers"),
        ({"y_test": np.array(list("01230123"))}, "whole numbers"),
        ({"y_train": np.arange(8).reshape(2, 4) % 4}, "row of values"),
        ({"classes": np.array(list("abca"))}, "'a' twice"),
        ({"classes": np.array([list("ab"), list("cd")])}, "row of values"),
        ({"x_test": np.zeros((8, 28, 28, 3), np.uint8)}, "one size"),
    ],
)
def test_arrays_that_would_be_misread_are_refused(tmp_path, wrong, says):
    x = np.zeros((8, 32, 32, 3), np.uint8)
    given = {"x_train": x, "y_train": np.arange(8) % 4, "x_test": x, "y_test": np.arange(8) % 4} | wrong
    np.savez(tmp_path / "small.npz", **given)
    with pytest.raises(ValueError, match=rf"small\.npz: .*{says}"):
        Small(set="npz", root=tmp_path / "small.npz").build()


def test_a_column_of_labels_is_a_row_of_them(tmp_path):
    x, y = arrays(8, 0)
    np.savez(tmp_path / "small.npz", x_train=x, y_train=y[:, None], x_test=x, y_test=y)
    splits = Small(set="npz", root=tmp_path / "small.npz").build()
    assert [int(splits.labelled.label(i)) for i in range(8)] == y.tolist()


@pytest.mark.parametrize("wrong", ["bytes", "float", "labels", "missing"])
def test_a_file_of_other_arrays_is_refused_with_what_is_wanted(tmp_path, wrong):
    path, (x, y) = tmp_path / "small.npz", arrays(8, 0)
    given = {"x_train": x, "y_train": y, "x_test": x, "y_test": y}
    if wrong == "float":
        given["x_train"] = x.astype(np.float32)
    elif wrong == "labels":
        given["y_test"] = y - 1
    elif wrong == "missing":
        del given["y_test"]
    np.savez(path, **given)
    if wrong == "bytes":
        path.write_bytes(b"not an archive")
    with pytest.raises(ValueError, match=r"small\.npz: .*(x_train|uint8)"):
        Small(set="npz", root=path).build()


def svhn_tree(root, counts):
    root.mkdir()
    rng = np.random.default_rng(0)
    for side, count in counts.items():
        images, labels = rng.integers(0, 256, (32, 32, 3, count), dtype=np.uint8), np.arange(count)[:, None] % 10 + 1
        savemat(root / f"{side}_32x32.mat", {"X": images, "y": labels.astype(np.uint8)})
    return root


def test_svhn_is_read_with_ten_for_zero_and_extra_images_behind_drawn_last(tmp_path):
    root = svhn_tree(tmp_path / "svhn", {"train": 60, "test": 10, "extra": 30})
    splits = Small(set="svhn", root=root, labels=10, extra=7, split_seed=4).build()
    assert sorted(int(splits.labelled.label(i)) for i in range(10)) == list(range(10))
    legacy = np.random.RandomState(4)
    labels = (np.arange(60) + 1) % 10
    for digit in range(10):
        legacy.choice(np.flatnonzero(labels == digit), 1, replace=False)
    mask = np.arange(30) < 7
    legacy.shuffle(mask)
    names = [splits.unlabelled.name(i) for i in range(len(splits.unlabelled))]
    assert names == [f"train-{i}" for i in range(60)] + [f"extra-{i}" for i in np.flatnonzero(mask)]


def test_the_digit_zero_may_be_its_own_label(tmp_path):
    root = svhn_tree(tmp_path / "svhn", {"train": 20, "test": 10})
    digits = np.arange(20) % 10
    savemat(root / "train_32x32.mat", {"X": np.zeros((32, 32, 3, 20), np.uint8), "y": digits[:, None]})
    splits = Small(set="svhn", root=root).build()
    assert [int(splits.labelled.label(i)) for i in range(20)] == digits.tolist()


@pytest.mark.parametrize("side", ["train", "test", "extra"])
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"y": np.arange(20)[:, None] % 10 + 6}, "y holds 11; .* 1 to 9, and 10"),
        ({"y": np.arange(20)[:, None] % 10 - 9}, "y holds -9;"),
        ({"y": np.arange(20)[:, None] % 10 + 0.5}, r"y holds 0\.5;"),
        ({"y": np.full((20, 1), np.nan)}, "y holds nan;"),
        ({"y": np.arange(19)[:, None] % 10}, "19 labels y of 20 images X"),
        ({"y": np.arange(21)[:, None] % 10}, "21 labels y of 20 images X"),
        ({"y": np.arange(20).reshape(2, 10) % 10}, "row of values"),
        ({"X": np.zeros((32, 32, 3, 20))}, r"X is float64 \(32, 32, 3, 20\); .* uint8 \(32, 32, 3, N\)"),
        ({"X": np.zeros((20, 32, 32, 3), np.uint8)}, r"X is uint8 \(20, 32, 32, 3\)"),
        ({"X": np.zeros((24, 24, 3, 20), np.uint8)}, r"X is uint8 \(24, 24, 3, 20\)"),
        ({"X": np.zeros((32, 32, 3, 0), np.uint8), "y": np.zeros((0, 1))}, "X is uint8 .*at least one"),
    ],
)
def test_a_file_of_svhn_whose_arrays_are_not_svhns_is_refused_by_name(wrong, says, side, tmp_path):
    root = svhn_tree(tmp_path / "svhn", {"train": 20, "test": 10, "extra": 20})
    given = {"X": np.zeros((32, 32, 3, 20), np.uint8), "y": np.arange(20)[:, None] % 10 + 1} | wrong
    savemat(root / f"{side}_32x32.mat", given)
    with pytest.raises(ValueError, match=rf"{side}_32x32\.mat: .*{says}"):
        Small(set="svhn", root=root, extra=5).build()


def test_a_missing_data_set_is_answered_with_its_guide(tmp_path):
    for name in ("cifar10", "cifar100", "svhn"):
        (tmp_path / name).mkdir()
        with pytest.raises(ValueError, match=rf"datasets/{name}/README"):
            Small(set=name, root=tmp_path / name).build()


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_damaged_file_of_cifar_is_not_called_absent(name, tmp_path):
    folder = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[name]
    (tmp_path / folder).mkdir()
    for file in ("data_batch_1", "test_batch", "train", "test"):
        (tmp_path / folder / file).write_bytes(b"half of it")
    with pytest.raises(ValueError, match=r"is missing or damaged \(its checksum .*; get it again"):
        Small(set=name, root=tmp_path).build()


@pytest.mark.parametrize("names", [{}, {"classes": np.array(["thing"])}], ids=str)
def test_one_class_of_whole_images_is_answered_with_a_remedy_that_they_have(names, tmp_path):
    """`data.classes`, of which the first remedy is, is no setting of arrays or of folders."""
    x, y = arrays(8, 0)
    np.savez(tmp_path / "one.npz", x_train=x, y_train=y * 0, x_test=x, y_test=y * 0, **names)
    splits = Small(set="npz", root=tmp_path / "one.npz").build()
    with pytest.raises(ValueError, match=r" alone, .*; where whole images have classes, give images of a second one"):
        refuse_one_class(splits)


def image_folder(root, count=4):
    from PIL import Image

    for side, number in (("train", count), ("val", 2)):
        for name in ("cat", "dog", "eel"):
            (root / side / name).mkdir(parents=True)
            for i in range(number):
                Image.new("RGB", (40 + i, 30), (i, 0, 0)).save(root / side / name / f"{name}_{i}.png")
    return root


def test_a_folder_of_classes_is_read_and_lists_name_its_files(tmp_path):
    root = image_folder(tmp_path / "own")
    splits = ImageFolder(root=root, per_class=2, side=16).build()
    assert splits.classes == ("cat", "dog", "eel")
    assert sorted(int(splits.labelled.label(i)) for i in range(6)) == [0, 0, 1, 1, 2, 2]
    assert len(splits.unlabelled) == 12
    assert splits.val.image(0).shape == (16, 21, 3)
    assert splits.labelled.image(0).shape[0] == 30
    (root / "list.txt").write_text("dog_3.png dog\ncat_0.png cat\n")
    splits = ImageFolder(root=root, split="list.txt", unlabelled="rest").build()
    assert [splits.labelled.name(i) for i in range(2)] == ["train/dog/dog_3.png", "train/cat/cat_0.png"]
    assert len(splits.unlabelled) == 10


def numbered_folder(root, count=4):
    """Images of the same file names in each class, one of them deeper, and with a blank."""
    from PIL import Image

    for side in ("train", "val"):
        for name in ("cat", "dog"):
            (root / side / name / "day 1").mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (8, 8), (i, 0, 0)).save(root / side / name / f"{i:03d}.png")
            Image.new("RGB", (8, 8)).save(root / side / name / "day 1" / f"{name} 9.png")
    return root


def test_a_folder_of_classes_is_split_and_the_lists_are_read(tmp_path):
    root = numbered_folder(tmp_path / "own")
    for how in ("random", "balanced"):
        divide(ImageFolder(root=root).build(), ["9"], tmp_path / how, how=how)
        wanted = (tmp_path / how / "9/labelled.txt").read_text().splitlines()
        for split in (tmp_path / how / "9", tmp_path / how / "9/labelled.txt"):
            splits = ImageFolder(root=root, split=split, unlabelled="rest").build()
            assert [splits.labelled.name(i) for i in range(9)] == wanted
            assert len(splits.unlabelled) == 1
    assert any(" " in name for name in wanted)  # of ten images two


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("train/dog/001.png", "dog/001.png"),
        ("dog/001.png", "dog/001.png"),
        ("cat/001.png cat", "cat/001.png"),
        ("001.png cat", "cat/001.png"),
        ("001.png\tdog", "dog/001.png"),
        ("cat 9.png", "cat/day 1/cat 9.png"),
        ("day 1/dog 9.png dog", "dog/day 1/dog 9.png"),
        ("6", "dog/001.png"),
    ],
)
def test_a_line_names_an_image_by_so_much_of_its_path_as_tells_it_apart(line, wanted, tmp_path):
    root = numbered_folder(tmp_path / "own")
    (root / "list.txt").write_text(f"{line}\n")
    splits = ImageFolder(root=root, split="list.txt").build()
    assert [splits.labelled.name(i) for i in range(len(splits.labelled))] == [f"train/{wanted}"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("001.png", r"'001\.png' may be train/cat/001\.png or train/dog/001\.png; write CLASS/FILE"),
        ("dog/001.png cat", r"image 6 is of class 'dog' here and 'cat' in the list"),
        ("001.png eel", r"is of class 'cat' here and 'eel' in the list"),
        ("7_cat.png cat", r"'7_cat\.png cat' is neither a training image nor its number"),
        ("eel/001.png", "neither a training image nor its number"),
    ],
)
def test_a_line_that_names_no_image_or_one_of_several_is_refused(line, says, tmp_path):
    root = numbered_folder(tmp_path / "own")
    (root / "list.txt").write_text(f"\n{line}\n")
    with pytest.raises(ValueError, match=rf"list\.txt, line 2: .*{says}"):
        ImageFolder(root=root, split="list.txt").build()


def test_folders_of_other_classes_are_refused(tmp_path):
    root = image_folder(tmp_path / "own")
    (root / "val" / "eel").rename(root / "val" / "fox")
    with pytest.raises(ValueError, match=r"other folders of classes.*lacks eel and has fox"):
        ImageFolder(root=root).build()
    (root / "val" / "eel").mkdir()
    with pytest.raises(ValueError, match=r"other folders of classes.*: it has fox"):
        ImageFolder(root=root).build()
    (root / "val" / "fox").rename(root / "train" / "fox")
    with pytest.raises(ValueError, match=r"other folders of classes.*: it lacks fox;"):
        ImageFolder(root=root).build()
    with pytest.raises(ValueError, match="no two folders"):
        ImageFolder(root=tmp_path / "nothing").build()


def test_whitened_images_have_covariance_one_but_for_the_regulariser(tmp_path):
    """Along an axis of variance d the whitened variance is d / (d + 0.1), and nothing is correlated."""
    images = np.random.default_rng(0).integers(0, 256, (400, 4, 4, 3), dtype=np.uint8)
    images[..., 1] = images[..., 0] // 2 + images[..., 1] // 2  # correlated channels
    mean, matrix = fit_zca(images)
    np.savez(tmp_path / "zca.npz", mean=mean, matrix=matrix)
    white = Zca(file=tmp_path / "zca.npz")(torch.from_numpy(images)).permute(0, 2, 3, 1).reshape(400, 48).double()
    rows = images.reshape(400, 48).astype(np.float64)
    rows -= rows.mean(1, keepdims=True)
    rows *= 55 / np.sqrt((rows**2).sum(1, keepdims=True))
    d, axes = np.linalg.eigh(np.cov(rows.T))
    assert d.max() > 1
    expected = (axes * (d / (d + 0.1))) @ axes.T
    np.testing.assert_allclose(np.cov(white.numpy().T), expected, atol=2e-3)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-5)
    assert white.mean(0).abs().max() < 1e-3


def test_a_run_keeps_to_the_whitening_that_it_was_begun_with(tmp_path):
    for name, scale in (("one", 1.0), ("other", 2.0)):
        (tmp_path / name).mkdir()
        np.savez(
            tmp_path / name / "zca.npz", mean=np.zeros(768, np.float32), matrix=np.eye(768, dtype=np.float32) * scale
        )
    standard = "views.standard={kind: zca, file: %s}"
    begun = small(tmp_path, standard % (tmp_path / "one/zca.npz"), "steps=2")
    fit(begun, quiet=True)
    run, other = Path(begun.out), standard % (tmp_path / "other/zca.npz")
    with pytest.raises(ValueError, match=r"another whitening .* by which .* was begun"):
        fit(small(tmp_path, other, "accept_changes=[steps, views]"), quiet=True)
    with pytest.raises(ValueError, match="another whitening"):
        score_run(run, [other])
    with pytest.raises(ValueError, match="another whitening"):
        mtseg.load(run, [other])
    assert score_run(run)["images"] == 12
    fit(small(tmp_path, standard % (tmp_path / "one/zca.npz"), "accept_changes=[steps]"), quiet=True)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_images_are_whitened_in_full_precision_whatever_the_networks(precision, tmp_path):
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (60, 4, 4, 3), dtype=np.uint8))
    mean, matrix = fit_zca(images.numpy())
    np.savez(tmp_path / "zca.npz", mean=mean, matrix=matrix)
    white = Zca(file=tmp_path / "zca.npz")
    with torch.autocast("cpu", precision):
        low = white(images)
    assert low.dtype == torch.float32
    assert torch.equal(low, white(images))


def test_a_flat_image_is_whitened_to_finite_numbers(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 2, 2, 3), dtype=np.uint8)
    mean, matrix = fit_zca(images)
    np.savez(tmp_path / "zca.npz", mean=mean, matrix=matrix)
    assert Zca(file=tmp_path / "zca.npz")(torch.full((1, 2, 2, 3), 9, dtype=torch.uint8)).isfinite().all()


def test_a_whitening_that_is_missing_or_of_another_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"prepare\.py ROOT --zca"):
        Zca(file=tmp_path / "none.npz")(torch.zeros((1, 2, 2, 3), dtype=torch.uint8))
    np.savez(tmp_path / "zca.npz", mean=np.zeros(12, np.float32), matrix=np.eye(12, dtype=np.float32))
    with pytest.raises(ValueError, match="12 values, and these have 27"):
        Zca(file=tmp_path / "zca.npz")(torch.zeros((1, 3, 3, 3), dtype=torch.uint8))
    np.savez(tmp_path / "nan.npz", mean=np.zeros(12, np.float32), matrix=np.full((12, 12), np.nan, np.float32))
    with pytest.raises(ValueError, match="not finite"):
        Zca(file=tmp_path / "nan.npz")(torch.zeros((1, 2, 2, 3), dtype=torch.uint8))


def test_an_image_by_its_own_has_mean_zero_and_deviation_one_over_all_its_values():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 99, (3, 5, 4, 3), dtype=np.uint8))
    found = PerImage()(images)
    plain = images.double().permute(0, 3, 1, 2)
    expected = (plain - plain.mean((1, 2, 3), keepdim=True)) / plain.flatten(1).std(1, correction=0)[
        :, None, None, None
    ]
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)
    assert torch.equal(PerImage()(torch.full((1, 2, 2, 3), 7, dtype=torch.uint8)), tensor(0.0).expand(1, 3, 2, 2))


def test_an_image_is_asked_about_at_the_side_at_which_the_run_was_scored(tmp_path, capsys):
    """Large photographs whose class is their colour in the middle, at a scale that a centre of 32 cannot see."""
    from PIL import Image

    root, colours = tmp_path / "own", {"cat": (220, 30, 30), "dog": (30, 30, 220)}
    for side, number in (("train", 6), ("val", 3)):
        for name, colour in colours.items():
            (root / side / name).mkdir(parents=True)
            for i in range(number):
                image = Image.new("RGB", (320 + i, 240), colour)
                image.paste((20 * i, 200, 20 * i), (120, 80, 200, 160))  # the same in all classes
                image.save(root / side / name / f"{i}.png")
    config = small(
        tmp_path / "run",
        f"data={{kind: image_folder, root: {root}, side: 36}}",
        "views={crop: [32, 32], made: workers, labelled: {geometry: {area: [0.5, 1], flip: 0.5}}}",
        "views.teacher={geometry: {area: [0.5, 1]}}",
        "views.student={geometry: {area: [0.5, 1]}}",
        "eval={every: 20, split: val, predictor: {kind: centre, size: [32, 32]}}",
        "workers=0",
        "steps=20",
    )
    fit(config, quiet=True)
    network, val = mtseg.load(config.out), config.data.build().val
    for index in range(len(val)):
        evaluated, asked = network.predict(val.image(index)), network.predict(root / val.name(index))
        assert int(asked.classes) == int(evaluated.classes)
        assert float(asked.confidence) == float(evaluated.confidence)
    by_hand = np.asarray(Image.open(root / val.name(0)))
    assert float(network.predict(by_hand).confidence) == float(network.predict(val.image(0)).confidence)
    words = ["predict", str(config.out), str(root / "val"), "--out", str(tmp_path / "out")]
    assert cli.main(words) == 0
    assert cli.main([*words, "--set", "data.side=20"]) == 1
    assert "holds predictions with other side; choose another --out" in capsys.readouterr().err
    bare = dataclasses.replace(network, side=None)
    assert float(bare.predict(by_hand).confidence) != float(network.predict(by_hand).confidence)


def test_images_that_nobody_has_labelled_join_the_unlabelled_pool_and_no_other(tmp_path):
    from PIL import Image

    root = image_folder(tmp_path / "own")
    (root / "unlabelled/deep").mkdir(parents=True)
    for name in ("unlabelled/x.png", "unlabelled/deep/y.png"):
        Image.new("RGB", (40, 30), (9, 9, 9)).save(root / name)
    both = {"unlabelled/x.png", "unlabelled/deep/y.png"}
    for choice, known in (("all", 12), ("rest", 9)):
        splits = ImageFolder(root=root, labels=3, unlabelled=choice).build()
        names = [splits.unlabelled.name(i) for i in range(len(splits.unlabelled))]
        assert len(names) == known + 2
        assert both < set(names)
        assert {int(splits.unlabelled.label(names.index(name))) for name in both} == {UNKNOWN}
        assert not both & {splits.labelled.name(i) for i in range(len(splits.labelled))}
        assert splits.unlabelled.image(names.index("unlabelled/x.png")).max() == 9
    assert len(ImageFolder(root=root, unlabelled="rest").build().unlabelled) == 2
    config = small(
        tmp_path / "run",
        f"data={{kind: image_folder, root: {root}, labels: 3, side: 16}}",
        "views={crop: [16, 16], made: workers, labelled: {geometry: {area: [0.5, 1]}}}",
        "views.teacher={geometry: {area: [0.5, 1]}}",
        "views.student={geometry: {area: [0.5, 1]}}",
        "eval={every: 2, split: val, predictor: {kind: centre, size: [16, 16]}}",
        "batch={labelled: 0, unlabelled: 7, consistency: all}",
        "workers=0",
        "steps=2",
    )
    assert fit(config, quiet=True)["teacher"]["top1"] is not None


def test_the_doctor_sees_how_photographs_in_folders_of_classes_were_held(tmp_path, capsys):
    from PIL import Image

    root = image_folder(tmp_path / "own")
    mark = Image.Exif()
    mark[0x0112] = 6
    Image.new("RGB", (40, 30)).save(root / "train/cat/cat_0.png", exif=mark)
    words = [f"data={{kind: image_folder, root: {root}}}", "model.weights=none", "model.name=resnet10t"]
    recipe = str(Path(__file__).parent.parent / "configs/recipe/classes.yaml")
    mtseg_doctor([recipe, *words, "device=cpu"])
    (said,) = [line for line in capsys.readouterr().out.splitlines() if "exif-orientation" in line]
    assert "cat_0.png: EXIF orientation 6" in said
