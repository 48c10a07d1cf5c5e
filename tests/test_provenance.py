"""What a run says of its data is true, is the same for the same images, and a run keeps to it."""

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import trees
from runs import tiny

from mtseg.data.camvid import Camvid
from mtseg.data.kinds import data_of
from mtseg.data.provenance import Expected, checked, digest, provenance, record
from mtseg.data.source import Subset
from mtseg.run.dry_run import facts
from mtseg.settings.words import gather
from mtseg.trainer import fit


def test_the_hash_is_of_the_sorted_names_whatever_their_order():
    assert digest(["b.jpg", "a.jpg"]) == hashlib.sha256(b"a.jpg\nb.jpg\n").hexdigest()
    assert digest(["ü"]) == hashlib.sha256("ü\n".encode()).hexdigest()
    assert len({digest([]), digest(["a"]), digest(["a", "b"]), digest(["a\nb"]), digest(["ab"])}) == 4


def test_a_run_prints_and_records_name_counts_and_hashes(tmp_path, capsys):
    root = trees.camvid(tmp_path / "camvid")
    config = tiny(tmp_path / "run", "data.kind=camvid", f"data.root={root}", "data.labels=1/4", "data.split_seed=2")
    splits = config.data.build()
    fit(config)
    said = json.loads((tmp_path / "run/splits.json").read_text())
    assert said["name"] == "camvid 1/4 seed 2"
    first = capsys.readouterr().out.splitlines()[0]
    for pool, count in (("labelled", 8), ("unlabelled", 34), ("val", 2), ("test", 3)):
        source = getattr(splits, pool)
        names = sorted(source.name(i) for i in range(len(source)))
        wanted = hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()
        files = [(root / source.name(i), root / (source.mask_name(i) or "")) for i in range(count)]
        scored = enumerate(files if pool in ("val", "test") else [])
        lines = sorted(f"{source.name(i)} {(a.stat().st_size, b.stat().st_size)}\n" for i, (a, b) in scored)
        order = hashlib.sha256("".join(f"{source.name(i)}\n" for i in range(count)).encode()).hexdigest()
        sizes = {"files": hashlib.sha256("".join(lines).encode()).hexdigest()} if lines else {}
        assert said[pool] == {"images": count, "sha256": wanted, "order": order} | sizes
        assert f"{count} {pool} ({wanted[:12]})" in first
    assert facts(config)["data"] == first


def test_a_run_is_not_continued_with_other_images(tmp_path):
    root = trees.camvid(tmp_path / "camvid")
    config = tiny(tmp_path / "run", "data.kind=camvid", f"data.root={root}", "steps=2")
    fit(config, quiet=True)
    fit(config, quiet=True)
    lines = (root / "train.txt").read_text().splitlines()
    (root / "train.txt").write_text("\n".join(reversed(lines)))
    with pytest.raises(ValueError, match=r"its labelled and unlabelled images in another order"):
        fit(config, quiet=True)
    (root / "train.txt").write_text("\n".join(lines[:-1]))
    with pytest.raises(ValueError, match=r"splits\.json: .*other images .labelled: 34 -> 33, unlabelled: 34 -> 33"):
        fit(config, quiet=True)


def test_a_run_is_not_continued_and_no_finished_one_described_with_other_masks_of_the_same_names(tmp_path):
    """What it was scored on would be another thing from then on, and its folder would say that it had always been."""
    root = trees.camvid(tmp_path / "camvid")
    config = tiny(tmp_path / "run", "data.kind=camvid", f"data.root={root}", "steps=2")
    fit(config, quiet=True)
    said = (config.out / "splits.json").read_bytes()
    masks = [next((root / folder).iterdir()) for folder in ("trainannot", "valannot")]
    shutil.copy(masks[0], masks[1])
    masks[1].write_bytes(masks[1].read_bytes() + b" ")
    for words in ([], ["steps=4", "accept_changes=[steps]"]):
        with pytest.raises(ValueError, match=r"splits\.json: the files of the val images, or their masks, are not"):
            fit(tiny(config.out, "data.kind=camvid", f"data.root={root}", "steps=2", *words), quiet=True)
    assert (config.out / "splits.json").read_bytes() == said


@pytest.mark.parametrize("pool", ["labelled", "unlabelled"])
def test_a_run_is_not_continued_with_its_images_in_another_order(pool, tmp_path):
    """Batches are drawn, and temporal ensembling remembers, by places in the pool."""
    splits = Camvid(root=trees.camvid(tmp_path / "camvid")).build()
    record(tmp_path, splits, continued=False)
    record(tmp_path, splits, continued=True)
    source = getattr(splits, pool)
    turned = replace(splits, **{pool: Subset(source, range(len(source))[::-1])})
    with pytest.raises(ValueError, match=rf"its {pool} images in another order"):
        record(tmp_path, turned, continued=True)


def test_a_run_that_is_begun_anew_records_its_own_images(tmp_path):
    splits = Camvid(root=trees.camvid(tmp_path / "camvid")).build()
    (tmp_path / "splits.json").write_text("{}")
    said = record(tmp_path, splits, continued=False)
    assert json.loads((tmp_path / "splits.json").read_text())["labelled"]["sha256"] == said.labelled.sha256
    assert said == provenance(splits)


@pytest.mark.parametrize("pool", ["labelled", "unlabelled", "val", "test"])
def test_a_count_that_differs_is_refused_with_both_numbers(pool, tmp_path):
    root: Path = trees.camvid(tmp_path / "camvid")
    splits = Camvid(root=root).build()
    found = len(getattr(splits, pool))
    assert checked(splits, Expected(**{pool: found})) is splits
    with pytest.raises(ValueError, match=rf"data\.expect\.{pool}: camvid all has {found} .*{found + 1} are expected"):
        Camvid(root=root, expect=Expected(**{pool: found + 1})).build()
    with pytest.raises(ValueError, match=pool):
        Expected(**{pool: -1})


def test_the_word_that_a_failed_expectation_names_takes_whatever_number_there_is(tmp_path):
    trees.camvid(tmp_path)
    (tmp_path / "recipe.yaml").write_text(f"data: {{kind: camvid, root: {tmp_path}, expect: {{val: 9}}}}")
    with pytest.raises(ValueError, match=r"data\.expect\.val: .* has 2 val images, and 9 are expected") as refusal:
        data_of(gather([str(tmp_path / "recipe.yaml")])["data"]).build()
    (word,) = re.findall(r"data\.expect=\w+", str(refusal.value))
    assert len(data_of(gather([str(tmp_path / "recipe.yaml"), word])["data"]).build().val) == 2
