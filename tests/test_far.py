"""On an accelerator that is not there: nothing mixes tensors of two devices, and all is as on a CPU."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from far import FAR, far_away
from runs import tiny
from smalls import small
from test_classification import METHODS as OF_IMAGES
from test_trainer import METHODS as OF_MAPS
from test_trainer import files

import mtseg
from mtseg.cli.export import main as export
from mtseg.config import Config
from mtseg.inference.scoring import Wanted, score_run
from mtseg.state import batches_of, build
from mtseg.step import train_step
from mtseg.tally import Also
from mtseg.trainer import fit

WHOLE = ("temporal ensembling", "vat", "cutmix", "bands and thresholds", "two heads", "mixed", "two streams")
STEPS = [(tiny, words) for words in OF_MAPS.values()] + [(small, OF_IMAGES[name]) for name in WHOLE]
NAMES = [f"maps: {name}" for name in OF_MAPS] + [f"images: {name}" for name in WHOLE]
RUNS = {
    "windows, scales, pictures, masks": [
        "eval.predictor={kind: slide, window: [48, 48], augment: {scales: [0.5, 1.0], flip: true}}",
        *("eval.gallery=2", "diagnose_with_masks=true", "balance=0.5"),
    ],
    "parts of a batch, a teacher's scales": [
        *("accumulate=2", "recompute=true"),
        "method.teacher={kind: ema, augment: {scales: [1.0, 1.4], flip: true}}",
    ],
    "apart": ["bn=separate", "norm=group", "method.branches=[{}]"],
    "memory": OF_MAPS["temporal ensembling"],
    "peer, what targets remember": [
        *OF_MAPS["peer"],
        "method.target={kind: adaptive, start: 0.2, momentum: 0.5, per_class: true}",
    ],
}


def two_steps(config: Config, device: torch.device) -> list[dict[str, Any]]:
    """What is logged of the first two steps, the second with the health of its targets."""
    splits = config.data.build()
    state, batches = build(config, splits, device), batches_of(config, splits, device)
    said = [train_step(config, state, batches[step].to(device), watch=step == 1) for step in range(2)]
    return [{name: getattr(value, "tolist", lambda v=value: v)() for name, value in terms.items()} for terms in said]


@pytest.mark.parametrize(("of", "words"), STEPS, ids=NAMES)
def test_a_step_of_every_method_stays_on_its_device_and_is_that_of_a_cpu(of, words, tmp_path):
    config = of(tmp_path, *words)
    near = two_steps(config, torch.device("cpu"))
    with far_away():
        assert two_steps(config, FAR) == near


def all_left(run: Path, words: list[str]) -> dict[str, bytes]:
    """Of a run that was stopped on its way and continued."""
    fit(tiny(run, *words, "steps=2"), quiet=True)
    fit(tiny(run, *words, "accept_changes=[steps]"), quiet=True)
    return files(run, 4)


@pytest.mark.parametrize("words", RUNS.values(), ids=RUNS)
def test_a_run_with_its_evaluations_and_checkpoints_stays_on_its_device_and_is_that_of_a_cpu(words, tmp_path):
    near = all_left(tmp_path / "near", words)
    with far_away():
        assert all_left(tmp_path / "far", words) == near


def test_scores_and_predictions_of_a_network_in_use_are_those_of_a_cpu(tmp_path):
    run, image = tmp_path / "run", np.random.default_rng(0).integers(0, 256, (70, 80, 3), dtype=np.uint8)
    fit(tiny(run), quiet=True)
    assert export([str(run), "--to", "hf", "--out", str(tmp_path)]) == 0

    def used() -> list[Any]:
        found = [mtseg.load(place).predict(image) for place in (run, tmp_path / "hf")]
        wanted = Wanted(also=Also(boundary=0.02, images=True))
        return [
            *((one.classes.tolist(), one.confidence.tolist()) for one in found),
            score_run(run, RUNS["windows, scales, pictures, masks"][:1], wanted),
        ]

    near = used()
    with far_away():
        assert used() == near


def test_what_a_gpu_refuses_is_refused():
    with far_away():
        there, here, places = torch.zeros(3, device=FAR), torch.ones(3), torch.tensor([0, 2])
        assert there[places].tolist() == [0, 0]
        there[places] = torch.tensor(1.0)
        assert (there + torch.tensor(2.0)).tolist() == [3, 2, 3]
        for mixed in (
            lambda: there + here,
            lambda: here[places.to(FAR)],
            lambda: there.gather(0, places),
            lambda: there.masked_fill_(here > 0, 1),
            lambda: there.__setitem__(places, here[:2]),
            there.numpy,
        ):
            with pytest.raises(RuntimeError, match=r"two devices|numpy"):
                mixed()
