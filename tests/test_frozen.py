"""A frozen encoder: what it starts from stays, to the bit, and the rest learns."""

import shutil
from pathlib import Path

import pytest
import timm
import torch
from runs import tiny
from safetensors.torch import load_file, save_file

import mtseg
from mtseg import cli
from mtseg.config import Config
from mtseg.models.smp import Smp
from mtseg.optim import AdamW, Sgd
from mtseg.run.estimate import estimate
from mtseg.trainer import fit

TINY = "tu-test_resnet"


@pytest.fixture(scope="session")
def file(tmp_path_factory) -> Path:
    torch.manual_seed(4)
    network = timm.create_model(TINY.removeprefix("tu-"))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # statistics that a forward in training mode would move
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(network.state_dict(), path)
    return path


def run_of(out: Path, file: Path, *words: str) -> Config:
    options = "{encoder_depth: 3, decoder_channels: [8, 8, 4]}"
    return tiny(out, f"model={{encoder: {TINY}, weights: {file}, frozen: true, options: {options}}}", *words)


def parts(weights: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Those of the encoder, and the others."""
    encoder = {name: tensor for name, tensor in weights.items() if ".encoder." in name}
    return encoder, {name: tensor for name, tensor in weights.items() if name not in encoder}


@pytest.mark.parametrize(
    "words",
    [
        ["optimizer={kind: sgd, lr: 0.1}"],
        ["optimizer={kind: adamw, lr: 0.1}", "clip=1.0"],
        ["norm=group"],
        ["recompute=true"],
        ["method.teacher={kind: ema, decay: 0.9, mode: train, buffers: own}"],
        ["method.branches=[{adversary: {}}]"],
    ],
    ids=str,
)
def test_a_frozen_encoder_stays_as_it_was_and_the_rest_learns(words, file, tmp_path):
    config = run_of(tmp_path / "run", file, *words)
    fit(config, quiet=True)
    torch.manual_seed(0)
    begun = config.model.build(7).state_dict()
    for network in ("student", "teacher"):
        encoder, rest = parts(load_file(tmp_path / f"run/checkpoints/step-00000004/{network}.safetensors"))
        assert len(encoder) > 20
        assert all(torch.equal(tensor, begun[name]) for name, tensor in encoder.items())
        assert not any(torch.equal(tensor, begun[name]) for name, tensor in rest.items() if "weight" in name)


def test_a_frozen_run_that_lost_its_end_ends_as_it_did(file, tmp_path):
    config = run_of(tmp_path / "run", file, "optimizer={kind: adamw, lr: 0.01}")
    last = tmp_path / "run/checkpoints/step-00000004"
    fit(config, quiet=True)
    before = [load_file(last / f"{name}.safetensors") for name in ("student", "teacher")]
    shutil.rmtree(last)
    fit(config, quiet=True)
    after = [load_file(last / f"{name}.safetensors") for name in ("student", "teacher")]
    assert all(torch.equal(one[name], other[name]) for one, other in zip(before, after, strict=True) for name in one)


def test_an_encoder_of_random_weights_is_not_frozen():
    with pytest.raises(ValueError, match=r"model\.frozen: true.*name weights, or .*model\.frozen=false"):
        Smp(encoder=TINY, weights=Path("none"), frozen=True).build(3)


@pytest.mark.parametrize("optimizer", [Sgd(lr=0.1), AdamW(lr=0.1, decoder_lr=1.0)], ids=lambda of: of.kind)
def test_the_optimizer_has_the_weights_that_learn_alone(optimizer, file):
    network = Smp(encoder=TINY, weights=file, frozen=True).build(3)
    groups = optimizer.build(network).param_groups
    assert {id(weight) for group in groups for weight in group["params"]} == {
        id(weight) for name, weight in network.named_parameters() if ".encoder." not in name
    }


def test_what_is_frozen_costs_a_step_less_memory(file, tmp_path):
    configs = [run_of(tmp_path, file, f"model.frozen={word}") for word in ("true", "false")]
    frozen, learning = (estimate(config, config.model.build(7), 7, 8) for config in configs)
    assert frozen.weights == learning.weights
    assert frozen.learning < learning.learning
    assert frozen.activations < learning.activations


def test_a_frozen_run_is_handed_on_and_answers_as_it_does(file, tmp_path):
    fit(run_of(tmp_path / "run", file), quiet=True)
    assert cli.main(["export", str(tmp_path / "run")]) == 0
    pixels = torch.randint(0, 256, (40, 52, 3), dtype=torch.uint8).numpy()
    ours, theirs = (mtseg.load(tmp_path / folder).predict(pixels).classes for folder in ("run", "run/export/hf"))
    assert (ours == theirs).all()
