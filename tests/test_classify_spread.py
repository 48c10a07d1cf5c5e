"""Classification in several processes and accumulated parts: the gradient of one step, whatever its pieces."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from processes import each
from smalls import small
from test_distributed import assert_equal
from torch import Tensor

from mtseg.config import Config
from mtseg.distributed import world
from mtseg.evaluate import evaluate
from mtseg.models.norm import level
from mtseg.state import batches_of, build
from mtseg.step import train_step
from mtseg.tally import Also
from mtseg.trainer import fit

CPU = torch.device("cpu")
ONE = "batch={labelled: 0, unlabelled: 8, consistency: all}"
SAME = ("model={kind: convnet13, width: 4, dropout: 0, norm: batch}", "norm=group", "optimizer={kind: sgd, lr: 0.1}")
ROWS = {
    "two pools": ["batch={labelled: 4, unlabelled: 8}"],
    "two pools, by all images": ["batch={labelled: 4, unlabelled: 8}", "method.normalise=batch"],
    "one stream": [ONE, "data.labels=20"],
    "one stream, by all images": [ONE, "data.labels=20", "method.normalise=batch"],
    "one stream, by workers": [ONE, "data.labels=20", "views.made=workers"],
    "cutmix with labelled images": [
        "batch={labelled: 4, unlabelled: 8}",
        "method.branches=[{mix: {kind: cutmix, p: 1, partner: labelled}}]",
    ],
    "temporal ensembling": ["batch={labelled: 4, unlabelled: 8}", "method.teacher={kind: memory, size: []}"],
}


def gradients(config: Config) -> list[dict[str, Tensor]]:
    """The student's gradient of each of two steps, in doubles."""
    splits = config.data.build()
    torch.set_default_dtype(torch.float64)
    try:
        state = build(config, splits, CPU)
    finally:
        torch.set_default_dtype(torch.float32)
    state.teacher.module.double()
    for network in (state.student, state.teacher.module):
        network.register_forward_pre_hook(lambda _, given: (given[0].double(), *given[1:]))
    found, batches = [], batches_of(config, splits, CPU)
    for step in range(2):
        train_step(config, state, batches[step])
        found.append({n: p.grad.clone() for n, p in state.student.named_parameters() if p.grad is not None})
    return found


def of_all(tmp: Path, *words: str) -> Callable[[], dict[str, list[dict[str, Tensor]]]]:
    return lambda: {name: gradients(small(tmp, *SAME, *row, *words)) for name, row in ROWS.items()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return of_all(tmp_path_factory.mktemp("alone"))()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("two")
    small(tmp)  # writes the images, once
    return each(2, tmp / "each", of_all(tmp))


@pytest.mark.parametrize("name", ROWS)
def test_the_gradient_of_two_processes_is_that_of_one(name, alone, two):
    for found in two:
        assert_equal(alone[name], found[name])


@pytest.mark.parametrize("name", ROWS)
def test_the_gradient_of_two_parts_is_that_of_the_whole(name, alone, tmp_path):
    assert_equal(alone[name], gradients(small(tmp_path, *SAME, *ROWS[name], "accumulate=2")))


def test_weights_means_and_scores_are_alike_in_all_processes_with_the_papers_normalisation(tmp_path):
    config = small(tmp_path, "batch={labelled: 4, unlabelled: 8}", "model.dropout=0")

    def work() -> tuple[list[Tensor], Tensor, dict]:
        splits = config.data.build()
        state, batches = build(config, splits, CPU), batches_of(config, splits, CPU)
        first = [value.clone() for value in state.student.state_dict().values()]
        for step in range(2):
            train_step(config, state, batches[step])
        networks = [state.student, state.teacher.module]
        values = torch.cat([value.flatten().double() for n in networks for value in n.state_dict().values()])
        how = {"classes": 4, "views": config.views, "batch": 5, "device": CPU}
        tally = evaluate(state.student, splits.test, **how, also=Also(images=True))
        assert sum(int(counts.sum()) for counts in tally.images.values()) == int(tally.confusion.counts.sum()) == 12
        assert world() in (1, 2)
        return first, values, tally.alone

    one, two = each(2, tmp_path / "each", work)
    assert torch.equal(one[1], two[1])
    assert one[2] == two[2]
    assert sorted(one[2]) == list(range(12))
    single = work()
    for value, other in zip(single[0], one[0], strict=True):  # the first batch, which sets the gains, is the whole one
        torch.testing.assert_close(value, other)


def test_means_of_the_papers_layers_are_levelled(tmp_path):
    def work() -> Tensor:
        network = small(tmp_path).model.build(4)
        network.head.mean.fill_(torch.distributed.get_rank())
        level([network])
        return network.head.mean

    small(tmp_path)
    for mean in each(2, tmp_path / "each", work):
        assert torch.equal(mean, torch.full_like(mean, 0.5))


def test_two_streams_asked_alike_are_not_divided(tmp_path):
    words = ["batch={labelled: 4, unlabelled: 8, consistency: all}", "accumulate=2"]
    with pytest.raises(ValueError, match=r"'all' of two streams .* recompute=true and precision=bf16 .*labelled=0"):
        fit(small(tmp_path, *words), quiet=True)
    fit(small(tmp_path, *words, "method.branches=[]"), quiet=True)


@pytest.mark.parametrize("norm", ["sync", "frozen", "group"])
def test_what_becomes_of_batch_normalisation_is_not_for_weight_normalisation(norm, tmp_path):
    with pytest.raises(ValueError, match=rf"norm: '{norm}' .* model.norm=batch"):
        small(tmp_path, f"norm={norm}")
    assert small(tmp_path, f"norm={norm}", "model.norm=batch").norm == norm


def test_labels_among_all_images_do_not_go_through_a_forward_of_their_own(tmp_path):
    with pytest.raises(ValueError, match=r"bn: 'separate' .* bn=joint"):
        small(tmp_path, ONE, "bn=separate")
