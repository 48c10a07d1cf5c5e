"""Every file in configs/ loads, and every run described there takes two steps."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from trees import BY_KIND, grey, rgbd

from mtseg import cli
from mtseg.config import load, of_run, rate_for, written
from mtseg.losses import Ohem
from mtseg.method import Method
from mtseg.predictors import Slide
from mtseg.run.logged import read
from mtseg.settings.checked import validate
from mtseg.settings.differences import differences
from mtseg.settings.words import gather
from mtseg.trainer import fit

ROOT = Path(__file__).parent.parent / "configs"
FILES = sorted(ROOT.rglob("*.yaml"))
WHOLE_IMAGES = ("cifar10", "svhn", "imagenet", "classes")  # recipes of which test_recipes.py takes two steps
FILES = [path for path in FILES if not (path.parent.name == "recipe" and path.name.startswith(WHOLE_IMAGES))]
PHOTOGRAPHS = ROOT / "recipe/photographs.yaml"  # the one recipe without a data set
WHOLE = [path for path in FILES if path.parent.name in ("configs", "recipe") and path != PHOTOGRAPHS]
CELLS = [path for path in FILES if path.parent.parent.name == "recipe"]  # configs/recipe/SET/SPLIT_METHOD.yaml
LADDERS = [path for path in FILES if path.parent.parent.name == "data"]  # configs/data/SET/SPLIT.yaml
PARTS = [path for path in FILES if path not in [*WHOLE, *LADDERS, *CELLS, PHOTOGRAPHS]]
SMALL = [
    "steps=2",
    "eval.every=2",
    "workers=0",
    "eval.gallery=0",
    "batch={labelled: 2, unlabelled: 2}",
    "model.weights=none",
    "device=cpu",
]


def takes_two_steps(words: list[str], folder: Path) -> None:
    data = gather(words)["data"]
    tree = BY_KIND.get(data["kind"])
    if "channels" in data:
        tree = rgbd if data["channels"]["rgb"] else grey
    words = [*words, f"data.root={tree(folder / 'data')}" if tree else "data.val=2"]
    config = load([*words, *SMALL, f"out={folder / 'run'}"])
    found = fit(config, quiet=True)
    assert 0 <= found["teacher"]["mIoU"] <= 1
    (trained,) = [line for line in read(config.out) if "train/loss" in line]
    assert trained["step"] == 2
    assert trained["train/loss"] > 0
    assert trained["train/gradient"] > 0
    assert ("train/loss_cons" in trained) == bool(config.method.branches)


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_whole_config_takes_two_steps(path, tmp_path):
    takes_two_steps([str(path)], tmp_path)


@pytest.mark.parametrize("path", PARTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_partial_config_fits_onto_the_demo_and_takes_two_steps(path, tmp_path):
    words = [str(ROOT / "demo.yaml"), str(path)]
    if path.stem == "distil":  # it wants a run to learn from
        takes_two_steps([*words[:1], "method.branches=[]"], taught := tmp_path / "taught")
        words.append(f"method.teacher.runs=[{taught / 'run'}]")
    takes_two_steps(words, tmp_path)


@pytest.mark.parametrize("recipe", ["demo", "recipe/camvid_small", "recipe/camvid_mt", "recipe/voc/92_unimatch"])
@pytest.mark.parametrize("path", [path for path in PARTS if path.parent.name == "model"], ids=lambda path: path.stem)
def test_a_network_can_be_laid_on_a_recipe_of_another(recipe, path):
    config, own = load([str(ROOT / f"{recipe}.yaml"), str(path)]), gather([str(path)])["model"]
    assert (config.model.arch, config.model.encoder) == (own["arch"], own["encoder"])
    assert config.model.build(3, pretrained=False)(torch.zeros(2, 3, 32, 48)).shape == (2, 3, 32, 48)


@pytest.mark.parametrize("name", ["own", "grey"])
def test_the_recipe_for_photographs_takes_two_steps_on_a_data_set(name, tmp_path):
    words = [str(PHOTOGRAPHS), str(ROOT / f"data/{name}.yaml")]
    of = load(words)
    assert (of.data.root, of.views.crop) == (Path(f"data/{name}"), (320, 320))
    takes_two_steps([*words, "views.crop=[48, 64]"], tmp_path)


def test_a_recipe_without_its_data_set_says_what_is_missing_and_where_it_is(capsys):
    lay = r"(?s)No file names a data set.*configs/data/own\.yaml"
    with pytest.raises(ValueError, match="missing key 'data'") as caught:
        load([str(PHOTOGRAPHS)])
    assert re.search(lay, str(caught.value))
    with pytest.raises(ValueError, match=lay):
        load([str(PHOTOGRAPHS), "data.root=data/own"])
    assert cli.main(["doctor", str(PHOTOGRAPHS)]) == 1
    assert re.search(lay, capsys.readouterr().err)
    with pytest.raises(ValueError, match="did you mean 'method'") as caught:
        load([str(ROOT / "demo.yaml"), "methd.weight=1"])
    assert "data set" not in str(caught.value)


def test_a_data_set_without_a_recipe_says_that_it_lacks_one():
    with pytest.raises(
        ValueError, match=r"(?s)missing key 'method'.*No file is a recipe: name one first.*recipe/photog"
    ):
        load([str(ROOT / "data/own.yaml"), "out=x"])


# As the papers and their lists have it: labelled, unlabelled (None: not stated by them), validation images.
PUBLISHED = {
    "voc/92": (92, 10490, 1449),
    "voc/183": (183, 10399, 1449),
    "voc/366": (366, 10216, 1449),
    "voc/732": (732, 9850, 1449),
    "voc/1464": (1464, 9118, 1449),
    "voc/cps_1_16": (662, 9920, 1449),
    "voc/cps_1_8": (1323, 9259, 1449),
    "voc/cps_1_4": (2646, 7936, 1449),
    "voc/u2pl_1_16": (662, 9920, 1449),
    "voc/u2pl_1_8": (1323, 9259, 1449),
    "voc/u2pl_1_4": (2646, 7936, 1449),
    "cityscapes/1_16": (186, 2789, 500),
    "cityscapes/1_8": (372, 2603, 500),
    "cityscapes/1_4": (744, 2231, 500),
    "cityscapes/1_2": (1488, 1487, 500),
    "ade20k/1_64": (316, 19894, 2000),
    "ade20k/1_32": (631, 19579, 2000),
    "ade20k/1_16": (1263, 18947, 2000),
    "ade20k/1_8": (2526, 17684, 2000),
    "ade20k/1_4": (5052, 15158, 2000),
    "coco/1_512": (232, None, 5000),
    "coco/1_256": (463, None, 5000),
    "coco/1_128": (925, None, 5000),
    "coco/1_64": (1849, None, 5000),
    "coco/1_32": (3697, None, 5000),
}


# Passes over the unlabelled images in UniMatch's published configs (ADE20K: ours), and COCO's 118,287 training images.
PASSES = {"voc": 80, "cityscapes": 240, "coco": 30, "ade20k": 60}


@pytest.mark.parametrize("path", CELLS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_cell_of_the_published_tables_has_its_splits_data_and_its_protocols_number_of_steps(path):
    """Epochs turned into steps: a step takes 8 unlabelled images, of supervised-only 16 labelled ones."""
    split, _, method = path.stem.rpartition("_")
    tree, ladder = gather([str(path)]), gather([str(ROOT / "data" / path.parent.name / f"{split}.yaml")])
    assert tree["data"] == ladder["data"]
    labelled, unlabelled, _ = PUBLISHED[f"{path.parent.name}/{split}"]
    unlabelled = 118287 - labelled if unlabelled is None else unlabelled
    config = load([str(path)])
    assert config.steps == PASSES[path.parent.name] * unlabelled // 8
    branches = {"supervised": 0, "unimatch": 3}[method]
    assert len(config.method.branches) == branches
    assert (config.batch.labelled, config.batch.unlabelled) == ((8, 8) if branches else (16, 8))
    assert config.out.name == f"{path.parent.name}_{path.stem}"
    if path.parent.name == "cityscapes":  # 200,000 pixels of the two labelled images of a process, of which it had four
        assert config.method.supervised == Ohem(threshold=0.7, keep=4 * 200_000)
        assert config.eval.predictor == Slide(window=(801, 801))
    if method == "supervised" and path.parent.name != "ade20k":
        assert f"steps={PASSES[path.parent.name] * (labelled // 16)}." in path.read_text()


def test_the_networks_of_the_published_cells_answer_without_dropout():
    config = load([str(ROOT / "recipe/voc/92_unimatch.yaml")])
    network = config.model.build(2, pretrained=False)
    assert [name for name, part in network.named_modules() if isinstance(part, nn.Dropout) and part.p > 0] == []


def test_every_published_split_has_a_cell_of_each_method():
    expected = {f"{split}_{method}" for split in PUBLISHED for method in ("supervised", "unimatch")}
    assert {f"{path.parent.name}/{path.stem}" for path in CELLS} == expected


@pytest.mark.parametrize("cell", ["voc/92_unimatch", "cityscapes/1_16_unimatch", "coco/1_32_supervised"])
def test_a_cell_takes_two_steps_on_its_data_set_in_miniature(cell, tmp_path):
    """With another encoder and crop, which alone make it slow, and a share of the miniature's images."""
    words = ["model.encoder=resnet18", "views.crop=[65, 65]", "data.split=null", "data.labels=1/2"]
    words += [f"data.expect.{pool}=null" for pool in ("labelled", "unlabelled", "val")]
    takes_two_steps([str(ROOT / "recipe" / f"{cell}.yaml"), *words], tmp_path)


def test_the_published_splits_have_a_config_each_with_the_published_counts():
    assert {f"{path.parent.name}/{path.stem}" for path in LADDERS} == set(PUBLISHED)
    for name, counts in PUBLISHED.items():
        data = load([str(ROOT / "demo.yaml"), str(ROOT / "data" / f"{name}.yaml")]).data
        assert (data.expect.labelled, data.expect.unlabelled, data.expect.val) == counts
        assert data.split == Path("splits") / name.partition("/")[2]
        assert data.unlabelled == "rest"


@pytest.mark.parametrize("name", ["voc/92", "cityscapes/1_16", "ade20k/1_64", "coco/1_512"])
def test_a_published_split_takes_two_steps_and_refuses_another_count(name, tmp_path):
    kind, _, split = name.partition("/")
    root = BY_KIND[kind](tmp_path / "data")
    pool = load([str(ROOT / "demo.yaml"), f"data={{kind: {kind}, root: {root}}}"]).data.build().labelled
    (root / "splits" / split).mkdir(parents=True)
    names = [pool.name(i) for i in range(len(pool))]
    (root / "splits" / split / "labeled.txt").write_text("\n".join(names[:3]))
    (root / "splits" / split / "unlabeled.txt").write_text("\n".join(names[3:]))
    words = [str(ROOT / "demo.yaml"), str(ROOT / "data" / f"{name}.yaml"), f"data.root={root}"]
    words += ["data.expect.val=2", *SMALL, f"out={tmp_path / 'run'}"]
    with pytest.raises(
        ValueError, match=rf"data\.expect\.labelled: {kind} {split} has 3 .* {PUBLISHED[name][0]} are exp"
    ):
        fit(load(words), quiet=True)
    found = fit(load([*words, "data.expect={labelled: 3, unlabelled: 31, val: 2}"]), quiet=True)
    assert 0 <= found["teacher"]["mIoU"] <= 1


def test_there_are_configs_of_both_kinds():
    assert {path.name for path in WHOLE} >= {"demo.yaml", "camvid_mt.yaml"}
    assert PARTS


ROWS = [path for path in sorted((ROOT / "method").glob("*.yaml")) if path.stem != "supervised"]
BASES = ("demo", "recipe/camvid_mt", "recipe/voc/92_unimatch", "recipe/cityscapes/1_16_unimatch")


@pytest.mark.parametrize("path", ROWS, ids=lambda path: path.stem)
def test_a_row_is_the_same_method_on_whatever_it_is_laid(path):
    row = validate(Method, gather([str(path)])["method"])
    for base in BASES:
        assert load([str(ROOT / f"{base}.yaml"), str(path)]).method == row


@pytest.mark.parametrize("base", BASES)
def test_supervised_only_is_the_recipes_loss_in_full_and_the_default_rows_average(base):
    """What else its method says is about branches, and it has none."""
    words = [str(ROOT / f"{base}.yaml"), str(ROOT / "method" / "supervised.yaml")]
    alone, found = load(words[:1]).method, load(words).method
    default = load([*words[:1], str(ROOT / "method" / "default.yaml")]).method
    assert (found.supervised, found.supervised_weight, found.branches) == (alone.supervised, 1.0, ())
    assert found.teacher == default.teacher


def test_the_supervised_row_can_be_laid_on_a_teacher_with_statistics_of_its_own():
    paper = str(ROOT / "method" / "mean_teacher_paper.yaml")
    found = load([str(ROOT / "demo.yaml"), paper, str(ROOT / "method" / "supervised.yaml")]).method
    assert (found.branches, found.supervised_weight) == ((), 1.0)


@pytest.mark.parametrize("path", ["demo", "recipe/camvid_mt", "recipe/camvid_small", "recipe/photographs"])
def test_what_a_user_begins_with_is_the_default_row(path):
    words = [str(ROOT / f"{path}.yaml"), str(ROOT / "data/own.yaml")]
    assert differences(load(words), load([*words, str(ROOT / "method" / "default.yaml")])) == []


@pytest.mark.parametrize("row", ["default", "fixmatch", "supervised"])
@pytest.mark.parametrize("recipe", ["camvid_mt", "camvid_small", "photographs"])
def test_classes_of_photographs_are_balanced_whatever_row_and_data_are_laid_on_the_recipe(recipe, row):
    words = [ROOT / f"recipe/{recipe}.yaml", ROOT / f"method/{row}.yaml", ROOT / "data/own.yaml"]
    assert load(list(map(str, words))).balance == 0.5


def test_the_default_row_has_one_weight_in_a_run_of_any_length():
    for steps in (10, 1200, 40_000):
        method = load([str(ROOT / "demo.yaml"), f"steps={steps}"]).method
        assert [method.weight_at(step, steps) for step in (0, steps // 3, steps - 1)] == [method.weight] * 3


def test_the_demos_labelled_images_have_the_students_colours_whatever_row_is_laid_on_it():
    """Colours are half of what the scenes are solved by: without them supervised-only would not be a fair baseline."""
    demo = load([str(ROOT / "demo.yaml")]).views
    assert demo.colours("labelled") == demo.colours("student") != ((), None)
    augseg = load([str(ROOT / "demo.yaml"), str(ROOT / "method/augseg.yaml")]).views
    assert augseg.colours("student") != augseg.colours("labelled") == demo.colours("labelled")


@pytest.mark.parametrize("name", [path.stem for path in (ROOT / "data").glob("*.yaml") if path.stem != "scenes"])
def test_photographs_that_are_labelled_keep_their_colours_on_any_recipe(name, tmp_path):
    picks = tmp_path / "picks.yaml"
    picks.write_text("views: {labelled: {colour: [{name: ToGray}, {name: Equalize}], pick: [1, 2]}}\nsteps: 3")
    for recipe in ([ROOT / "demo.yaml"], [ROOT / "demo.yaml", picks]):
        words = [*map(str, recipe), str(ROOT / "data" / f"{name}.yaml")]
        assert load(words).views.colours("labelled") == ((), None)


def test_the_resolved_config_of_a_run_is_the_config(tmp_path):
    config = load([str(ROOT / "demo.yaml"), f"out={tmp_path}", "optimizer.lr=1e-3"])
    (tmp_path / "config.yaml").write_text(written(config))
    assert of_run(tmp_path) == config
    assert config.optimizer.lr == 0.001
    assert differences(config, of_run(tmp_path)) == []


def test_where_and_how_fast_a_run_computes_is_no_difference(tmp_path):
    config = load([str(ROOT / "demo.yaml"), f"out={tmp_path}"])
    moved = load([str(ROOT / "demo.yaml"), "out=elsewhere", "workers=7", "device=cpu", "log_every=3"])
    assert differences(config, moved) == []
    assert differences(config, load([str(ROOT / "demo.yaml"), "steps=7"])) == [f"steps: {config.steps} -> 7"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["method.teacher.decya=0.9"], ["method.teacher.decya", "decay"]),
        (["optimizer.lr=fast"], ["optimizer.lr", "number", "fast"]),
        (["optimizer.lr=-1"], ["optimizer.lr", "-1"]),
        (["method.teacher.buffers=own"], ["method.teacher", "eval", "own", "train"]),
        (["method.frame=source", "method.branches=[{mix: {kind: cutmix}}]"], ["method", "frame", "student"]),
        (["views.crop=[8, 64]"], ["views.crop[0]", "16"]),
        (["model.heads=2"], ["model.heads: 2", "method.logit_distance", "0.01"]),
        (["data.kind=scene"], ["data.kind", "'scene'", "'scenes'"]),
        (["views.student.colour=[{name: Jitter}]"], ["views.student.colour[0]", "ColorJitter"]),
        (["views.student.colour=[{name: Rotate}]"], ["views.student.colour[0]", "'Rotate'"]),
        (["views.student.geometry=share"], ["views.student.geometry", "shared"]),
        (["views.teacher.geometry.scale=[2, 1]"], ["views.teacher.geometry", "scale", "low <= high"]),
    ],
)
def test_a_mistake_is_one_message_with_path_value_and_remedy(words, says):
    with pytest.raises(ValueError) as refusal:
        load([str(ROOT / "demo.yaml"), *words])
    message = str(refusal.value)
    assert "\n" not in message
    for word in says:
        assert word in message


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("lr=0.1", r"lr: unknown key \(value 0\.1\); did you mean 'optimizer\.lr'\? known keys: data, "),
        ("method.decay=0.9", r"did you mean 'method\.teacher\.decay' or 'method\.teacher\.average\.decay' or "),
        ("stepz=3", r"did you mean 'steps'\?"),
        ("batch=2", r"batch: expected a mapping of labelled, unlabelled, consistency, got 2"),
        ("views.crop=[64, 96, 3]", r"^views\.crop: expected 2 values \[height, width\], got 3$"),
        ("views.crop=64", r"^views\.crop: expected a list of 2 values \[height, width\], got 64; write \[64, 64\]$"),
        ("views.crop=[64]", r"^views\.crop: expected 2 values \[height, width\], got 1$"),
        ("data.size=64", r"^data\.size: expected a list of 2 values \[height, width\], got 64; write \[64, 64\]$"),
        (
            "eval.predictor={kind: slide, window: 64}",
            r"window: expected a list of 2 values \[height, width\], got 64; write \[64, 64\]$",
        ),
        ("views.teacher.geometry.scale=2", r"scale: expected a list of 2 values \[low, high\], got 2; write \[2, 2\]$"),
        ("views.teacher.geometry.area=[1]", r"area: expected 2 values \[low, high\], got 1$"),
        ("views.mean=[]", r"^views\.mean: expected at least 1 value, got 0$"),
        ("base=other.yaml", r"^base: unknown key .*name "),
        ("device=gpu", r"device: 'gpu' is no device; use auto, cpu, cuda, or cuda:1"),
        ("device=cuda:100", r"device: 'cuda:100' is no device"),
    ],
)
def test_a_word_that_belongs_elsewhere_is_answered_with_where(word, says):
    with pytest.raises(ValueError, match=says):
        load([str(ROOT / "demo.yaml"), word])


def test_a_part_can_be_built_and_refused_in_python_too():
    from mtseg.ema import Ema
    from mtseg.geometry import Geometry

    with pytest.raises(
        ValueError, match=r"^scale: \[0\.0, 1\.0\]; give 0\.001 <= low <= high <= 1000, such as [^\n]*$"
    ):
        Geometry(scale=(0, 1))
    with pytest.raises(ValueError, match="decay"):
        Ema(decay=1.5)
    with pytest.raises(ValueError, match="own"):
        Ema(mode="eval", buffers="own")
    assert validate(Ema, {"kind": "ema", "decay": 0.5}) == Ema(decay=0.5)


def test_a_batch_changed_by_word_is_answered_with_the_scaled_rate_and_nothing_is_scaled():
    """Goyal et al. 2017: twice the images a step, twice the learning rate; it is said, not done."""
    recipe = str(ROOT / "recipe/voc/92_unimatch.yaml")
    sentence = rate_for([recipe, "batch.labelled=4"])
    assert sentence is not None
    assert "optimizer.lr=0.0005" in sentence
    assert "optimizer.decoder_lr=0.005" in sentence
    assert load([recipe, "batch.labelled=4"]).optimizer.lr == 1e-3
    for words in ([], ["batch.unlabelled=4"], ["batch.labelled=4", "optimizer.lr=5e-4"], ["batch.labelled=8"]):
        assert rate_for([recipe, *words]) is None


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["optimizer.kind=adam"], "optimizer: missing key 'lr': kind adam in place of adamw begins anew, "),
        (["data.kind=camvid"], "data: missing key 'root': kind camvid in place of scenes begins anew, "),
        (["{none}", "data.kind=camvid"], "data: missing key 'root': kind camvid in place of scenes begins anew, "),
        (["{over}"], "optimizer: missing key 'lr': kind adam in place of adamw begins anew, "),
    ],
)
def test_a_missing_key_that_another_kind_dropped_is_told_so(words, line, tmp_path):
    (tmp_path / "over.yaml").write_text("optimizer: {kind: adam}\n")
    (tmp_path / "none.yaml").write_text("steps: 3\n")
    places = {name: str(tmp_path / f"{name}.yaml") for name in ("over", "none")}
    demo = str(ROOT / "demo.yaml")
    with pytest.raises(ValueError) as refusal:
        load([demo, *(word.format(**places) for word in words)])
    assert str(refusal.value).startswith(line)
    key = line.partition("'")[2].partition("'")[0]
    assert str(refusal.value).endswith(f"; give {line.partition(':')[0]}.{key} too")


def test_that_another_kind_began_anew_is_said_once_and_where_it_did():
    with pytest.raises(ValueError) as refusal:
        load([str(ROOT / "demo.yaml"), "data.kind=folder"])
    first, *others = str(refusal.value).splitlines()
    assert "begins anew, without the keys of scenes (size, images, " in first
    assert [line.rpartition(" ")[2] for line in others] == ["'classes'", "'labelled'", "'val'"]


def test_a_word_below_geometry_shared_is_refused_and_its_remedy_is_taken(tmp_path):
    words = [str(ROOT / "demo.yaml"), str(ROOT / "method/fixmatch.yaml")]
    with pytest.raises(
        ValueError, match=r"views\.student\.geometry is set to 'shared'.*geometry=\{\"rotation\": 5\}'$"
    ):
        load([*words, "views.student.geometry.rotation=5"])
    assert load([*words, 'views.student.geometry={"rotation": 5}']).views.student.geometry.rotation == 5


CAMVID = str(ROOT / "recipe/camvid_mt.yaml")


@pytest.mark.parametrize(
    ("word", "says", "taken"),
    [
        ("steps=1e4", "; write 10000", ["steps=10000"]),
        ("views.crop=321", "; write [321, 321]", ["views.crop=[321, 321]"]),
        (
            "eval.predictor={kind: slide, window: 96}",
            "; write [96, 96]",
            ["eval.predictor={kind: slide, window: [96, 96]}"],
        ),
        ("batch=8", "; say batch.labelled=8 batch.unlabelled=8", ["batch.labelled=8", "batch.unlabelled=8"]),
        ("data.labels=0.125", "; a share is written as 1/8", ["data.labels=1/8"]),
        ("data.labels=0.3", "; a share is written as 3/10", ["data.labels=3/10"]),
    ],
)
def test_a_number_in_place_of_something_else_is_answered_with_how_that_is_written_and_that_is_taken(word, says, taken):
    with pytest.raises(ValueError) as refusal:
        load([CAMVID, "out=x", word])
    assert str(refusal.value).endswith(says)
    load([CAMVID, "out=x", *taken])


@pytest.mark.parametrize(
    "word", ["steps=1.5", "views.crop=true", "eval=5", "model=3", "data.labels=1.0", "data.labels=1.5"]
)
def test_a_number_that_may_mean_several_things_is_answered_with_the_rule_alone(word):
    with pytest.raises(ValueError, match=r"expected .*, got [\w.]+$"):
        load([CAMVID, "out=x", word])
