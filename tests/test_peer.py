"""Two students that teach each other (CPS, Chen et al. 2021), against the same step written out."""

import copy

import pytest
import torch
import torch.nn.functional as F
from runs import tiny
from torch import Tensor, nn

from mtseg.config import Config
from mtseg.data.batch import Batch
from mtseg.data.source import IGNORE
from mtseg.run import capture
from mtseg.run.replay import replay
from mtseg.saved import restore, snapshot
from mtseg.state import State, batches_of, build
from mtseg.step import train_step
from mtseg.trainer import fit

CPU = torch.device("cpu")
CPS = (
    "method.teacher={kind: peer}",
    "method.target={kind: hard, threshold: 0.0}",
    "method.distance={kind: cross_entropy}",
    "views.student.geometry=shared",
    "method.ramp={kind: constant}",
    "optimizer={kind: sgd, lr: 0.05, momentum: 0, weight_decay: 0}",
)


def begin(config: Config) -> tuple[State, Batch]:
    splits = config.data.build()
    return build(config, splits, CPU), batches_of(config, splits, CPU)[0]


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def same(some: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(value, others[name]) for name, value in some.items())


def test_a_step_is_that_of_two_networks_each_trained_on_the_labels_and_on_the_others_classes(tmp_path):
    """Without batch statistics, which answers in training mode and in evaluation do not share."""
    config = tiny(tmp_path, *CPS, "norm=group", "method.teacher.average={decay: 0.5}")
    state, batch = begin(config)
    assert state.peer is not None
    assert batch.teacher is not None
    pair = [copy.deepcopy(state.student), copy.deepcopy(state.peer.student)]
    labelled, label = batch.labelled.view(config.views).data, batch.labelled.label
    asked, seen = batch.teacher.view(config.views), batch.students[0].view(config.views)
    with torch.no_grad():
        said = [network(asked.data).argmax(1).where(seen.known[:, 0], IGNORE) for network in pair]
    losses = []
    for network, other in zip(pair, reversed(said), strict=True):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
        supervised = F.cross_entropy(network(labelled), label.long(), ignore_index=IGNORE)
        crossed = F.cross_entropy(network(seen.data), other, ignore_index=IGNORE)
        losses.append(supervised + config.method.weight * crossed)
        losses[-1].backward()
        optimizer.step()

    terms = train_step(config, state, batch)
    assert [float(terms["loss"]), float(terms["loss_peer"])] == pytest.approx([loss.item() for loss in losses])
    assert abs(losses[0] - losses[1]) > 1e-3
    for network, mine in zip(pair, (state.student, state.peer.student), strict=True):
        for (name, value), found in zip(network.named_parameters(), mine.parameters(), strict=True):
            torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-6, msg=name)
    assert same(weights(state.teacher.module), weights(state.student))  # the first update of an average copies


def test_the_first_begins_as_in_any_other_run_and_the_second_with_weights_of_its_own(tmp_path):
    state, _ = begin(tiny(tmp_path, *CPS))
    other, _ = begin(tiny(tmp_path))
    assert state.peer is not None
    assert same(weights(state.student), weights(other.student))
    drawn = [name for name, value in state.student.named_parameters() if value.dim() > 1]
    first, second = weights(state.student), weights(state.peer.student)
    assert drawn
    assert not any(torch.equal(first[name], second[name]) for name in drawn)


def test_encoder_weights_of_a_file_are_those_of_both(tmp_path):
    first, _ = begin(tiny(tmp_path, *CPS))
    file = tmp_path / "encoder.pth"
    torch.save(first.student.network.encoder.model.state_dict(), file)
    state, _ = begin(tiny(tmp_path, *CPS, f"model.weights={file}", "seed=1"))
    assert state.peer is not None
    assert same(weights(state.student.network.encoder), weights(first.student.network.encoder))
    assert same(weights(state.peer.student.network.encoder), weights(first.student.network.encoder))
    assert not torch.equal(
        state.student.network.segmentation_head[0].weight, state.peer.student.network.segmentation_head[0].weight
    )


@pytest.mark.parametrize("broken", [0, 1])
def test_where_either_is_not_finite_neither_is_updated(broken, tmp_path):
    config = tiny(tmp_path, *CPS)
    state, batch = begin(config)
    before = [weights(network) for learner in state.learners for network in learner.networks]
    hook = state.learners[broken].student.register_forward_hook(lambda _, __, logits: logits * torch.inf)
    train_step(config, state, batch)
    assert state.skipped == 1
    after = [weights(network) for learner in state.learners for network in learner.networks]
    assert all(same(one, other) for one, other in zip(before, after, strict=True))
    hook.remove()
    train_step(config, state, batch)
    assert state.skipped == 1
    assert not any(same(one, weights(of.student)) for one, of in zip(before[::2], state.learners, strict=True))


def test_clipping_is_of_each_by_its_own_gradient(tmp_path):
    config = tiny(tmp_path, *CPS, "clip=0.01")
    state, batch = begin(config)
    before = [weights(learner.student) for learner in state.learners]
    train_step(config, state, batch)
    for was, learner in zip(before, state.learners, strict=True):
        moved = [value.detach() - was[name] for name, value in learner.student.named_parameters()]
        assert torch.cat([values.flatten() for values in moved]).norm().item() == pytest.approx(0.05 * 0.01, rel=1e-3)


def test_both_learn_at_the_rate_of_the_step(tmp_path):
    config = tiny(tmp_path, *CPS, "schedule={kind: poly, power: 0.9}", "steps=10")
    splits = config.data.build()
    state, batches = build(config, splits, CPU), batches_of(config, splits, CPU)
    assert state.peer is not None
    for step in range(3):
        train_step(config, state, batches[step])
    for learner in state.learners:
        assert learner.optimizer.param_groups[-1]["lr"] == pytest.approx(0.05 * (1 - 2 / 10) ** 0.9)


def test_an_answer_leaves_the_batch_statistics_of_who_gives_it(tmp_path):
    config = tiny(tmp_path, *CPS)
    state, batch = begin(config)
    assert state.peer is not None
    assert batch.teacher is not None
    before = weights(state.peer.student)
    state.teacher.answer(state.student, batch.teacher.view(config.views), batch.teacher.index)
    assert same(weights(state.peer.student), before)


def test_an_answer_is_the_mean_over_the_scales_that_are_asked_for(tmp_path):
    config = tiny(tmp_path, *CPS, "norm=group", "method.teacher.augment={scales: [1.0], flip: true}")
    state, batch = begin(config)
    assert state.peer is not None
    assert batch.teacher is not None
    view = batch.teacher.view(config.views)
    answer = state.teacher.answer(state.student, view, batch.teacher.index).data
    with torch.no_grad():
        asked = [state.peer.student(view.data), state.peer.student(view.data.flip(-1)).flip(-1)]
    torch.testing.assert_close(answer, torch.stack([logits.softmax(1) for logits in asked]).mean(0))


def test_what_the_targets_of_the_second_remember_is_saved_and_is_its_own(tmp_path):
    words = (
        *CPS,
        "method.target={kind: adaptive, start: 0.15, momentum: 0.5}",
        "method.distance={kind: cross_entropy}",
    )
    config = tiny(tmp_path, *words)
    splits = config.data.build()
    state, batches = build(config, splits, CPU), batches_of(config, splits, CPU)
    assert state.peer is not None
    for step in range(2):
        train_step(config, state, batches[step])
    other = build(config, splits, CPU)
    assert other.peer is not None
    restore(other, snapshot(state), tmp_path)
    assert state.past.keys() == state.peer.past.keys() != set()
    assert same(other.past, state.past)
    assert same(other.peer.past, state.peer.past)
    assert not same(state.past, state.peer.past)


def test_a_captured_step_holds_both(tmp_path):
    config = tiny(tmp_path, *CPS)
    state, batch = begin(config)
    train_step(config, state, batch)
    config.out.mkdir(exist_ok=True)
    splits = config.data.build()
    path = capture.write(config, state, batch, classes=len(splits.classes), images=len(splits.unlabelled))
    again = capture.read(path, ()).state
    assert state.peer is not None
    assert again.peer is not None
    assert same(weights(again.peer.student), weights(state.peer.student))
    assert not same(weights(again.peer.student), weights(again.student))


def test_a_replay_looks_into_the_peer_too(tmp_path):
    config = tiny(tmp_path, *CPS)
    state, batch = begin(config)
    assert state.peer is not None
    state.peer.student.network.decoder.blocks[0].conv1[0].weight.data.fill_(torch.nan)
    train_step(config, state, batch)
    config.out.mkdir(exist_ok=True)
    splits = config.data.build()
    path = capture.write(config, state, batch, classes=len(splits.classes), images=len(splits.unlabelled))
    said = "\n".join(replay(path))
    assert "of the peer: not finite are network.decoder.blocks.0.conv1.0.weight" in said
    assert "first output that is not finite: peer." in said
    assert "the update was skipped" in said


def test_a_checkpoint_of_another_teacher_has_no_peer_and_is_refused(tmp_path):
    fit(tiny(tmp_path, "steps=2"), quiet=True)
    with pytest.raises(ValueError, match=r"method.teacher"):
        fit(tiny(tmp_path, *CPS, "accept_changes=[method.teacher.kind, method, views, optimizer, steps]"), quiet=True)


def test_without_branches_there_is_nothing_to_learn_from_a_peer(tmp_path):
    with pytest.raises(ValueError, match=r"'peer' learns .*method.teacher.kind=ema"):
        tiny(tmp_path, *CPS, "method.branches=[]")
