"""Every file in configs/ loads, and every run described there takes two steps."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mtseg.config import differences, load, of_run, written
from mtseg.settings import gather, validate
from mtseg.trainer import fit

ROOT = Path(__file__).parent.parent / "configs"
FILES = sorted(ROOT.rglob("*.yaml"))
WHOLE = [path for path in FILES if path.parent.name in ("configs", "recipe")]
PARTS = [path for path in FILES if path not in WHOLE]
SMALL = [
    "steps=2",
    "eval.every=2",
    "workers=0",
    "batch={labelled: 2, unlabelled: 2}",
    "model.weights=none",
    "device=cpu",
]


def camvid(root: Path, *, images: int = 34, size: tuple[int, int] = (90, 120)) -> Path:
    """CamVid's tree in miniature: true names, lists and label values."""
    rng = np.random.default_rng(0)
    for split, count in (("train", images), ("val", 2), ("test", 3)):
        lines = []
        for kind in (split, f"{split}annot"):
            (root / kind).mkdir(parents=True)
        for i in range(count):
            name = f"0001TP_{6690 + 30 * i:06d}"
            mask = np.kron(rng.integers(0, 12, (3, 4)), np.ones((size[0] // 3, size[1] // 4), int)).astype(np.uint8)
            Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(root / split / f"{name}.jpg")
            Image.fromarray(mask).save(root / f"{split}annot" / f"{name}.png")
            lines.append(f"{split}/{name}.jpg {split}annot/{name}.png")
        (root / f"{split}.txt").write_text("\n".join(lines))
    return root


def takes_two_steps(words: list[str], folder: Path) -> None:
    kind = gather(words)["data"]["kind"]
    words = [*words, f"data.root={camvid(folder / 'data')}" if kind == "camvid" else "data.val=2"]
    found = fit(load([*words, *SMALL, f"out={folder / 'run'}"]), quiet=True)
    assert 0 <= found["teacher"]["mIoU"] <= 1


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_whole_config_takes_two_steps(path, tmp_path):
    takes_two_steps([str(path)], tmp_path)


@pytest.mark.parametrize("path", PARTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_partial_config_fits_onto_the_demo_and_takes_two_steps(path, tmp_path):
    takes_two_steps([str(ROOT / "demo.yaml"), str(path)], tmp_path)


def test_there_are_configs_of_both_kinds():
    assert {path.name for path in WHOLE} >= {"demo.yaml", "camvid_mt.yaml"}
    assert PARTS


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


def test_a_part_can_be_built_and_refused_in_python_too():
    from mtseg.ema import Ema

    with pytest.raises(ValueError, match="decay"):
        Ema(decay=1.5)
    with pytest.raises(ValueError, match="own"):
        Ema(mode="eval", buffers="own")
    assert validate(Ema, {"kind": "ema", "decay": 0.5}) == Ema(decay=0.5)
