"""The estimate of memory, against what the allocator was asked for in a true step."""

import copy

import pytest
import torch
import trees
from runs import TINY, tiny
from smalls import small
from test_trainer import begin
from torch.profiler import ProfilerActivity, profile

from mtseg.cli.train import main
from mtseg.config import Config
from mtseg.data.drawing import SCENE_CLASSES
from mtseg.run.estimate import Estimate, estimate
from mtseg.settings.checked import validate
from mtseg.settings.strict_yaml import to_yaml
from mtseg.step import train_step
from mtseg.trainer import fit

LARGER = ("views.crop=[96, 96]", "batch={labelled: 4, unlabelled: 4}", "data.images=8")


PI = ("method.teacher={kind: itself, gradient: both}",)


def estimated(config: Config, classes: int, images: int, *, processes: int = 1) -> Estimate:
    network = config.model.build(classes, channels=config.views.channels, pretrained=False)
    return estimate(config, network, classes, images, processes=processes)


def peak(config: Config) -> int:
    """Bytes that the second step of a run holds at once, and that the run held before it."""
    state, stream = begin(config)
    train_step(config, state, stream[0])
    batch = stream[1]
    kept = [*state.student.state_dict().values(), *state.teacher.module.state_dict().values()]
    kept += [value for of in state.optimizer.state.values() for value in of.values() if isinstance(value, torch.Tensor)]
    state.optimizer.zero_grad(set_to_none=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        train_step(config, state, batch)
    held = highest = 0
    for event in seen.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            held += event.nbytes()
            highest = max(highest, held)
    return highest + sum(value.numel() * value.element_size() for value in kept)


@pytest.mark.parametrize(
    "words",
    [(), ("method.branches=[]",), ("accumulate=2",), ("recompute=true",), ("precision=bf16",), PI],
    ids=lambda words: " ".join(words) or "as it is",
)
def test_the_estimate_is_what_a_step_holds_within_a_third(words, tmp_path):
    config = tiny(tmp_path, *LARGER, *words)
    assert estimated(config, len(SCENE_CLASSES), 8).total == pytest.approx(peak(config), rel=1 / 3)


def test_the_estimate_is_right_too_where_the_answers_for_many_classes_outweigh_the_network(tmp_path):
    root = trees.ade20k(tmp_path / "data")
    config = tiny(tmp_path, f"data={{kind: ade20k, root: {root}}}")
    found = estimated(config, 150, 34)
    assert found.total == pytest.approx(peak(config), rel=1 / 3)
    assert found.answers > 0.7 * found.total


@pytest.mark.parametrize("recompute", ["true", "false"])
def test_a_stage_that_is_recomputed_is_held_while_it_is(recompute, tmp_path):
    """Most of this network is one stage: while that is recomputed, it is held after all."""
    deep = "model={kind: resnext, blocks: [1, 1, 8, 1], groups: 4, width: 4}"
    words = ["views.crop=[64, 64]", "views.made=workers", "batch={labelled: 12, unlabelled: 12}"]
    config = small(tmp_path, deep, *words, f"recompute={recompute}")
    assert estimated(config, 4, 40).total == pytest.approx(peak(config), rel=1 / 10)


def test_a_transformer_is_estimated_too(tmp_path):
    tree = {**TINY, "model": {"arch": "dpt", "encoder": "tu-test_vit", "weights": "none"}, "out": str(tmp_path)}
    config = validate(Config, tree)
    assert estimated(config, len(SCENE_CLASSES), 8).total == pytest.approx(peak(config), rel=1 / 3)


def test_the_network_stays_as_it_is(tmp_path):
    config = tiny(tmp_path, *LARGER, "norm=group")
    network = config.model.build(6).eval()
    before, kinds = copy.deepcopy(network.state_dict()), [type(module) for module in network.modules()]
    estimate(config, network, 6, 8)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [type(module) for module in network.modules()] == kinds
    assert not any(module.training for module in network.modules())


def test_processes_parts_and_recomputing_ask_for_less_and_optimizers_and_memories_for_more(tmp_path):
    def total(*words: str, processes: int = 1) -> int:
        return estimated(tiny(tmp_path, *LARGER, *words), 6, 8, processes=processes).total

    plain = total()
    assert total(processes=2) < 0.7 * plain
    assert all(total(word) < plain for word in ("accumulate=2", "recompute=true", "precision=bf16"))
    assert total("optimizer={kind: adamw, lr: 0.1}") > plain
    weights = estimated(tiny(tmp_path), 6, 8).weights // 2
    assert estimated(tiny(tmp_path, "method.teacher={kind: ensemble, every: 2}"), 6, 8).weights == 3 * weights
    peer = estimated(tiny(tmp_path, "method.teacher={kind: peer}"), 6, 8)
    assert peer.weights == 4 * weights
    assert peer.learning == 2 * estimated(tiny(tmp_path), 6, 8).learning
    memory = estimated(tiny(tmp_path, "method.teacher={kind: memory, size: [10, 20]}"), 6, 8).memory
    assert memory == 8 * 10 * 20 * (6 + 1) * 2


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("optimizer={kind: adamw, lr: 1e-3}",),
        ("method.teacher={kind: ensemble, every: 1, count: 3}",),
        ("method.teacher={kind: memory, size: [48, 64]}", "batch.unlabelled=4", "data.images=40"),
        ("method.teacher={kind: peer}",),
    ],
    ids=" ".join,
)
def test_a_checkpoint_is_as_large_as_is_said(words, tmp_path):
    config = tiny(tmp_path, *words, "steps=1")
    fit(config, quiet=True)
    (place,) = (tmp_path / "checkpoints").glob("step-*")
    size = sum(file.stat().st_size for file in place.iterdir())
    said = estimated(config, len(SCENE_CLASSES), len(config.data.build().unlabelled)).checkpoint(config)
    assert said == pytest.approx(size, rel=0.15)  # names and the manifest weigh something in a network this small


def test_a_dry_run_says_it(tmp_path, capsys):
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml({**TINY, "out": str(tmp_path / "run")}))
    assert main([str(path), "--dry-run"]) == 0
    assert "memory in a step: about" in capsys.readouterr().out
