"""The recipes of the paper's classification tables: their settings as published, and two steps of each kind."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from smalls import arrays

from mtseg.config import load
from mtseg.trainer import fit

ROOT = Path(__file__).parent.parent / "configs" / "recipe"
SIZES = {"svhn": (250, 500, 1000, "all"), "cifar10": (1000, 2000, 4000, "all")}
TRAIN = {"svhn": 73257, "cifar10": 50000}
CELLS = [
    (name, size, method) for name, sizes in SIZES.items() for size in sizes for method in ("supervised", "pi", "mt")
]
OTHERS = (
    *("svhn_500_extra100k_pi", "svhn_500_extra100k_mt", "svhn_500_extra500k_pi", "svhn_500_extra500k_mt"),
    *("cifar10_4000_te", "svhn_1000_te", "cifar10_4000_vat", "svhn_1000_vat", "cifar10_4000_fixmatch"),
    *("cifar10_4000_shake", "cifar10_1000_shake", "imagenet_10_mt", "cifar10_small"),
)
# From the paper's tables 1 and 2: test error and deviation.
PUBLISHED = {
    "svhn_250_mt": "4.35 +- 0.50",
    "svhn_500_pi": "6.83 +- 0.66",
    "svhn_1000_supervised": "12.32 +- 0.95",
    "svhn_500_extra100k_mt": "3.02 +- 0.16",
    "svhn_500_extra500k_pi": "3.26 +- 0.14",
    "cifar10_1000_mt": "21.55 +- 1.48",
    "cifar10_2000_mt": "15.73 +- 0.31",
    "cifar10_4000_mt": "12.31 +- 0.28",
    "cifar10_4000_supervised": "20.66 +- 0.57",
    "cifar10_4000_pi": "13.20 +- 0.27",
    "cifar10_all_supervised": "5.82 +- 0.15",
    "cifar10_4000_shake": "6.28 +- 0.15",
    "imagenet_10_mt": "9.11 +- 0.12",
}


def path(name):
    return str(ROOT / f"{name}.yaml")


def test_there_is_a_recipe_for_every_cell_of_the_tables():
    expected = {f"{name}_{size}_{method}" for name, size, method in CELLS} | set(OTHERS)
    assert {file.stem for file in ROOT.glob("*.yaml")} == expected | {
        "camvid_mt",
        "camvid_small",
        "photographs",
        "classes",
    }
    for name, number in PUBLISHED.items():
        assert number in Path(path(name)).read_text()


@pytest.mark.parametrize(("name", "size", "method"), CELLS)
def test_a_cell_has_the_settings_of_the_papers_code(name, size, method):
    """Section 4.3 of the notes on that code: steps, batches, weights, ramps, decays, moments."""
    config = load([path(f"{name}_{size}_{method}")])
    svhn, everything, alone = name == "svhn", size == "all", method == "supervised"
    steps, down = (180000, 0) if svhn else (150000, 25000)
    if alone:
        steps, down = (steps, 25000) if everything else (40000, 10000) if svhn else (size * 15 // 2, size)
    assert (config.steps, config.schedule.up, config.schedule.down) == (steps, 40000, down)
    assert (config.optimizer.lr, config.optimizer.down, config.optimizer.weight_decay) == (3e-3, down, 0)
    early = (0.99, 40000) if svhn else (None, 0)
    assert (config.optimizer.early_beta2, config.optimizer.early_steps) == early
    average = config.method.teacher.average if method == "pi" else config.method.teacher
    assert (average.decay, average.early_decay, average.early_steps) == (0.999, *early)
    assert (config.data.labels, config.data.set, config.data.val) == (size, name, 0)
    assert config.seed == config.data.split_seed == (0 if alone else 2000)
    for policy in (config.views.labelled, config.views.teacher, config.views.student):
        assert (policy.noise, policy.geometry.translate, policy.geometry.flip) == (0.15, 2, 0 if svhn else 0.5)
    assert config.views.standard.kind == ("image" if svhn else "zca")
    assert (config.model.width, config.model.norm, config.model.dropout) == (128, "weight", 0.5)
    if alone:
        assert (config.batch.labelled, config.method.branches) == (100, ())
        return
    apart = svhn and not everything
    labelled = TRAIN[name] if everything else size
    assert config.method.weight == (1 if apart else 100 if everything else 100 * labelled / 50000)
    assert (config.method.ramp.steps, config.method.normalise) == (40000, "batch")
    assert (config.batch.labelled, config.batch.unlabelled) == ((1, 99) if apart else (0, 100))
    assert config.batch.consistency == ("unlabelled" if apart else "all")
    own = (config.method.teacher.mode, getattr(config.method.teacher, "buffers", None))
    assert own == (("train", "own") if method == "mt" else ("train", None))


@pytest.mark.parametrize(("labels", "epochs", "length", "decay"), [(4000, 300, 350, 0.99), (1000, 180, 210, 0.97)])
def test_the_shake_shake_recipes_are_the_papers_epochs_in_steps(labels, epochs, length, decay):
    config = load([path(f"cifar10_{labels}_shake")])
    passes = (50000 - labels) // 388
    assert (config.steps, config.schedule.length) == (passes * epochs, passes * length)
    assert (config.method.ramp.steps, config.method.ramp.every) == (5 * passes, passes)
    assert (config.optimizer.lr, config.optimizer.nesterov, config.optimizer.weight_decay) == (0.2, True, 2e-4)
    assert (config.batch.labelled, config.batch.unlabelled, config.batch.consistency) == (124, 388, "all")
    assert config.method.logit_distance == pytest.approx(0.01 / 10)  # ours sums over classes, theirs means
    assert (config.method.teacher.decay, config.method.weight, config.data.unlabelled) == (decay, 100, "rest")


SMALL = ["steps=2", "eval.every=2", "workers=0", "device=cpu"]


@pytest.mark.parametrize(
    "name",
    [
        *("cifar10_4000_mt", "cifar10_4000_supervised", "cifar10_4000_pi", "cifar10_4000_te", "cifar10_4000_vat"),
        *("cifar10_4000_fixmatch", "cifar10_4000_shake", "cifar10_small"),
    ],
)
def test_a_recipe_takes_two_steps_on_a_data_set_in_miniature(name, tmp_path):
    (x, y), (x_test, y_test) = arrays(60, 0, 32, 10), arrays(10, 1, 32, 10)
    np.savez(tmp_path / "cifar10.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    config = load([path(name)])
    words = [f"data.root={tmp_path}", "data.labels=20", "model.width=4", f"out={tmp_path / 'run'}"]
    words += [f"batch.labelled={min(config.batch.labelled, 4)}", "batch.unlabelled=6"]
    if config.views.standard is not None:
        plain = {"mean": np.zeros(3072, np.float32), "matrix": np.eye(3072, dtype=np.float32)}  # a fit takes a minute
        np.savez(tmp_path / "zca.npz", **plain)
        words.append(f"views.standard.file={tmp_path / 'zca.npz'}")
    found = fit(load([path(name), *SMALL, *words]), quiet=True)
    assert 0 <= found["teacher"]["error"] <= 1


def test_the_svhn_and_imagenet_recipes_take_two_steps_too(tmp_path):
    from test_small import image_folder, svhn_tree

    root = svhn_tree(tmp_path / "svhn", {"train": 60, "test": 10, "extra": 30})
    words = [f"data.root={root}", "data.labels=10", "data.extra=20", "model.width=4", f"out={tmp_path / 'one'}"]
    found = fit(load([path("svhn_500_extra100k_mt"), *SMALL, *words, "batch.unlabelled=9"]), quiet=True)
    assert 0 <= found["student"]["top1"] <= 1
    root = image_folder(tmp_path / "imagenet")
    words = [f"data.root={root}", "data.per_class=2", "data.side=40", "views.crop=[32, 32]", f"out={tmp_path / 'two'}"]
    words += ["model={kind: resnext, blocks: [1, 1, 1, 1], groups: 2, width: 4, heads: 2}"]
    words += ["batch={labelled: 2, unlabelled: 3, consistency: all}", "eval.predictor.size=[32, 32]", "eval.batch=2"]
    found = fit(load([path("imagenet_10_mt"), *SMALL, *words]), quiet=True)
    assert 0 <= found["teacher"]["top1"] <= 1


def test_the_recipe_for_folders_of_classes_takes_two_steps(tmp_path):
    for side, count in (("train", 24), ("val", 8)):
        for image, label in zip(*arrays(count, 0, 64), strict=True):
            folder = tmp_path / side / "abcd"[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{len(list(folder.iterdir()))}.png")
    small = ["model.name=mobilenetv2_035", "model.weights=none", "views.crop=[32,32]", "eval.predictor.size=[32,32]"]
    words = [
        f"data.root={tmp_path}",
        "data.labels=8",
        "data.side=48",
        f"out={tmp_path / 'run'}",
        "steps=2",
        "workers=0",
    ]
    config = load([path("classes"), *small, *words, "batch.labelled=4", "batch.unlabelled=4", "device=cpu"])
    assert config.model.name == "mobilenetv2_035"
    assert 0 <= fit(config, quiet=True)["teacher"]["top1"] <= 1
