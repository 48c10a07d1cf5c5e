"""Folders and globs: what is found below them, through links, and what is left out."""

import os
import shutil
import unicodedata
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import trees

from mtseg.config import load
from mtseg.data.imagefolder import ImageFolder
from mtseg.data.match import images
from mtseg.data.tree import Tree
from mtseg.inference.inputs import _named, items


def drawn(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A pool with a link to a folder beside it, one to a folder within it, and two that lead back to themselves."""
    root = drawn(tmp_path / "root", "pool/a.png", "pool/z/b.png", "archive/c.png", "archive/deep/d.png")
    for link, target in {"more": "../archive", "again": "z", "z/up": "..", "z/self": "."}.items():
        (root / "pool" / link).symlink_to(target)
    (root / "archive/back").symlink_to(root / "pool")
    return root


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_listed_names_may_be_composed_otherwise_than_those_on_the_disk(form, tmp_path):
    there = [unicodedata.normalize(form, name) for name in ("é/ü_1.png", "é/ü_2.png", "é/plain.png")]
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    tree = Tree(drawn(tmp_path, *there))
    for name in there:
        assert tree.admit(unicodedata.normalize(other, name), "a list") == name
        assert tree.admit(name, "a list") == name
    for gone in ("é/ö.png", "ü" * 200 + ".png", "ü" * 200 + "/é.png"):
        assert not tree.has(tree.admit(unicodedata.normalize(other, gone), "a list"))
    (tmp_path / unicodedata.normalize(other, there[0])).parent.mkdir()
    both = drawn(tmp_path, unicodedata.normalize(other, there[0]))
    for name in (there[0], unicodedata.normalize(other, there[0])):  # where both are there, each is itself
        assert Tree(both).admit(name, "a list") == name


FOUND = ["pool/a.png", "pool/more/c.png", "pool/more/deep/d.png", "pool/z/b.png"]


@pytest.mark.parametrize("entry", ["pool", "pool/**/*.png", "p*/**/*.png"])
def test_links_to_folders_are_followed_and_each_folder_is_searched_once(entry, linked):
    assert images(Tree(linked), entry, "unlabelled") == FOUND
    real = {os.path.realpath(linked / name) for name in images(Tree(linked), "**/*.png", "unlabelled")}
    assert len(real) == len(images(Tree(linked), ".", "unlabelled")) == 4


@pytest.mark.parametrize("entry", ["pool", "pool/**/*.png", "pool/more/*.png", "list.txt"])
def test_links_may_lead_outside_where_the_user_says_so(entry, tmp_path):
    root, disk = drawn(tmp_path / "root", "pool/a.png"), drawn(tmp_path / "disk", "b.png", "deep/c.png")
    (root / "pool/more").symlink_to(disk)
    (root / "pool/one.png").symlink_to(disk / "b.png")
    (disk / "back").symlink_to(root / "pool")
    (root / "list.txt").write_text("pool/more/b.png\npool/one.png\n")
    with pytest.raises(ValueError, match="allow_outside_root=true") if entry != "pool/more/*.png" else nullcontext():
        images(Tree(root), entry, "unlabelled")
    wanted = {
        "pool": ["pool/a.png", "pool/more/b.png", "pool/more/deep/c.png", "pool/one.png"],
        "pool/**/*.png": ["pool/a.png", "pool/more/b.png", "pool/more/deep/c.png", "pool/one.png"],
        "pool/more/*.png": ["pool/more/b.png"],
        "list.txt": ["pool/more/b.png", "pool/one.png"],
    }
    assert images(Tree(root, outside=True), entry, "unlabelled") == wanted[entry]


@pytest.mark.parametrize("entry", ["pool", "pool/**/*.png"])
def test_a_link_to_a_folder_outside_of_the_root_is_refused_by_name(entry, tmp_path):
    root, disk = drawn(tmp_path / "root", "pool/a.png"), drawn(tmp_path / "disk", "b.png")
    (root / "pool/more").symlink_to(disk)
    with pytest.raises(ValueError, match=rf"'pool/more' is a link to {disk}, which lies outside of {root}; copy it"):
        images(Tree(root), entry, "unlabelled")


def test_a_pool_may_itself_be_a_link_to_another_disk_and_hold_links_there(tmp_path):
    disk = drawn(tmp_path / "disk", "a.png", "b/c.png", "d/e.png")
    root = drawn(tmp_path / "root", "x.txt")
    (root / "pool").symlink_to(disk)
    (disk / "b/link").symlink_to(disk / "d")
    assert Tree(root).files("pool") == ["pool/a.png", "pool/b/c.png", "pool/d/e.png"]


@pytest.mark.parametrize("target", ["nowhere", "more"])
def test_a_link_that_leads_nowhere_is_refused_by_name(target, tmp_path):
    root = drawn(tmp_path / "root", "pool/a.png")
    (root / "pool/more").symlink_to(target)
    with pytest.raises(ValueError, match=r"root/pool/more: a link to '(nowhere|more)', where nothing is; mend it, or"):
        Tree(root).files("pool")


def test_a_folder_that_cannot_be_read_is_refused_by_name(tmp_path, monkeypatch):
    root, scandir = drawn(tmp_path / "root", "pool/a.png", "pool/shut/b.png"), os.scandir

    def refusing(path):
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(ValueError, match=r"root/pool/shut: this folder cannot be read \(Permission denied\); "):
        Tree(root).files("pool")


HIDDEN = ("pool/.ipynb_checkpoints/x-checkpoint.png", "pool/.y.png", "pool/day/._z.png", "pool/day/.old/deep/w.png")


@pytest.mark.parametrize("entry", ["pool", ".", "**/*.png", "pool/**/*.png", ["pool/*.png", "pool/*/*.png"]])
def test_hidden_files_and_folders_are_left_out(entry, tmp_path):
    root = drawn(tmp_path / "root", "pool/a.png", "pool/day/b.png", *HIDDEN)
    wanted = tuple(entry) if isinstance(entry, list) else entry
    assert images(Tree(root), wanted, "unlabelled") == ["pool/a.png", "pool/day/b.png"]


def test_a_hidden_folder_that_is_named_is_searched(tmp_path):
    root = drawn(tmp_path / "root", "pool/a.png", *HIDDEN)
    for entry in ("pool/day/.old", "pool/day/.old/**/*.png", "pool/*/.old/*/*.png"):
        assert images(Tree(root), entry, "unlabelled") == ["pool/day/.old/deep/w.png"]


def test_a_glob_with_two_stars_finds_what_the_standard_library_finds(tmp_path):
    names = ["a.png", "x/a.png", "x/y/a.png", "x/y/b1.jpg", "z/y/b2.jpg", "z/x/y/c[1].png"]
    root = drawn(tmp_path / "root", *names)
    for pattern in ("**/*.png", "x/**/*.png", "**/y/*", "**/y/**/b?.jpg", "*/**/b[1-9].jpg", "**/c[[]1].png", "q/**/*"):
        wanted = sorted(p.relative_to(root).as_posix() for p in root.glob(pattern) if p.is_file())
        assert Tree(root).glob(pattern) == wanted


def test_predict_follows_links_wherever_they_lead_and_leaves_hidden_folders_out(linked, tmp_path):
    drawn(linked, *HIDDEN)
    (linked / "pool/day/far").symlink_to(drawn(tmp_path / "disk", "e.png"))
    found = {item.said.removeprefix(f"{linked}/") for item in items([str(linked / "pool")], tmp_path / "out")}
    assert found == {*FOUND, "pool/day/far/e.png"}


def test_a_folder_of_classes_follows_links_and_leaves_hidden_folders_out(tmp_path):
    sides = [f"{side}/{name}/0.png" for side in ("train", "val") for name in ("cat", "dog")]
    root = drawn(tmp_path / "root", *sides, "train/cat/.ipynb_checkpoints/0.png", "train/.cache/x.png", "more/1.png")
    (root / "train/dog/more").symlink_to("../../more")
    splits = ImageFolder(root=root).build()
    assert splits.classes == ("cat", "dog")
    assert [splits.labelled.name(i) for i in range(len(splits.labelled))] == [
        "train/cat/0.png",
        "train/dog/0.png",
        "train/dog/more/1.png",
    ]
    (root / "train/cat/far").symlink_to(drawn(tmp_path / "disk", "2.png"))
    with pytest.raises(ValueError, match=r"'train/cat/far' is a link to .*disk, which lies outside of"):
        ImageFolder(root=root).build()
    assert len(ImageFolder(root=root, allow_outside_root=True).build().labelled) == 4
    shutil.rmtree(root / "train/dog")
    (root / "train/dog").symlink_to(tmp_path / "disk")  # a whole class may lie on another disk
    (root / "train/cat/far").unlink()
    assert len(ImageFolder(root=root).build().labelled) == 2


def test_what_a_file_system_recovered_is_nobodys_images(tmp_path):
    for name in ("photos/a.png", "lost+found/b.png"):
        trees.image(tmp_path / name, 1)
    assert Tree(tmp_path).files("") == ["photos/a.png"]


def test_a_file_in_a_folder_of_classes_that_is_a_link_out_of_the_root_is_refused(tmp_path):
    root = drawn(tmp_path / "root", "train/a/0.png", "train/b/0.png", "val/a/0.png", "val/b/0.png")
    drawn(tmp_path / "disk", "1.png")
    (root / "train/a/1.png").symlink_to(root / "train/b/0.png")
    assert len(ImageFolder(root=root).build().labelled) == 3
    (root / "train/a/2.png").symlink_to(tmp_path / "disk/1.png")
    with pytest.raises(ValueError, match=r"'train/a/2.png' is a link to .*allow_outside_root"):
        ImageFolder(root=root).build()
    assert len(ImageFolder(root=root, allow_outside_root=True).build().labelled) == 4


def test_predict_passes_over_links_to_what_is_gone(tmp_path):
    trees.image(tmp_path / "a.png", 1)
    for name in ("b.png", "latest"):
        (tmp_path / name).symlink_to("gone")
    assert _named(str(tmp_path)) == [str(tmp_path / "a.png")]


@pytest.mark.parametrize("kind", sorted(trees.BY_KIND))
def test_data_sets_that_are_links_to_another_disk_are_read_where_the_user_says_so(kind, tmp_path):
    root = trees.BY_KIND[kind](tmp_path / "data")
    words = ["configs/demo.yaml", f"configs/data/{'own' if kind == 'folder' else kind}.yaml", f"data.root={root}"]
    before = load(words).data.build()
    for number, path in enumerate([path for path in root.rglob("*") if path.is_file()]):
        path.rename(tmp_path / f"disk-{number}")
        path.symlink_to(tmp_path / f"disk-{number}")
    after = load([*words, "data.allow_outside_root=true"]).data.build()
    for pool in ("labelled", "unlabelled", "val"):
        ours, theirs = getattr(after, pool), getattr(before, pool)
        assert [ours.name(i) for i in range(len(ours))] == [theirs.name(i) for i in range(len(theirs))]
        np.testing.assert_array_equal(ours.image(0), theirs.image(0))
