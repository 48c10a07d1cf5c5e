"""Several processes train as one does: the same batch, the same gradient, the same scores."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import Program, each
from runs import tiny
from safetensors.torch import load_file
from test_trainer import METHODS
from torch import Tensor

from mtseg.config import Config
from mtseg.data.batch import Batch
from mtseg.data.source import Subset
from mtseg.data.stream import Stream
from mtseg.distil import FrozenTeacher
from mtseg.distributed import highest, rank, same, same_everywhere, taken, world
from mtseg.evaluate import evaluate
from mtseg.signals import Stopped
from mtseg.state import State, build
from mtseg.step import train_step
from mtseg.tally import Also
from mtseg.torchrun import joined, losses_told
from mtseg.trainer import fit

CPU = torch.device("cpu")
# Statistics of a batch are other ones in parts of it, so that nothing but GroupNorm can be compared to rounding.
SAME = ("norm=group", "batch={labelled: 4, unlabelled: 4}", "views.crop=[32, 32]")
MIXED_PI = [
    "method.teacher={kind: itself, mode: eval, gradient: both}",
    "views.student.geometry=shared",
    "method.weight=10",
]
ROWS = METHODS | {  # whose partners, of other processes, pass gradients back
    "pi, cutmix": [*MIXED_PI, "method.branches=[{mix: {kind: cutmix, p: 1.0}}]"],
    "pi, mixup": [*MIXED_PI, "method.branches=[{mix: {kind: mixup}}]"],
}


def begin(config: Config) -> tuple[State, Callable[[int], Batch]]:
    """A run whose networks compute in doubles, and this process's part of its batches, unevenly labelled."""
    splits = config.data.build()
    students = config.method.views_of_student if config.method.branches else None
    stream = Stream(
        splits, views=config.views, sizes=config.batch, students=students, seed=config.seed, share=(rank(), world())
    )
    torch.set_default_dtype(torch.float64)
    try:
        state = build(config, splits, CPU)
    finally:
        torch.set_default_dtype(torch.float32)
    members = [member.module for member in getattr(state.teacher, "teachers", [])]
    members += [state.teacher.panel] if isinstance(state.teacher, FrozenTeacher) else []
    for network in {network for learner in state.learners for network in learner.networks}.union(members):
        network.double()
        network.register_forward_pre_hook(lambda _, given: (given[0].double(), *given[1:]))

    def batch(step: int) -> Batch:
        found = stream[step]
        here = len(found.labelled.image)
        for row in range(here):
            slot = rank() * here + row
            found.labelled.label[row, : 8 * slot] = 255  # type: ignore[index]
        return found

    return state, batch


def gradients(config: Config, steps: int) -> list[dict[str, Tensor]]:
    """The students' gradients of each step."""
    found = []
    state, batch = begin(config)
    for step in range(steps):
        train_step(config, state, batch(step))
        students = torch.nn.ModuleList(learner.student for learner in state.learners)
        found.append({n: p.grad.clone() for n, p in students.named_parameters() if p.grad is not None})
    return found


def assert_equal(some: list[dict[str, Tensor]], others: list[dict[str, Tensor]], bound: float = 1e-12) -> None:
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        assert one.keys() == other.keys()
        largest = max(float(value.abs().max()) for value in one.values())
        assert largest > 0
        for name, value in one.items():
            assert float((value - other[name]).abs().max()) <= bound * largest, name


def of_all(tmp: Path, *words: str) -> Callable[[], dict[str, list[dict[str, Tensor]]]]:
    return lambda: {name: gradients(tiny(tmp / "run", *row, *SAME, *words), 2) for name, row in ROWS.items()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return of_all(tmp_path_factory.mktemp("alone"))()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("two")
    return each(2, tmp / "each", of_all(tmp))


@pytest.mark.parametrize("name", ROWS)
def test_the_gradient_of_two_processes_is_that_of_one_with_uneven_labels_for_every_method(name, alone, two):
    for found in two:
        assert_equal(alone[name], found[name])


@pytest.mark.slow
def test_the_gradient_of_four_processes_is_that_of_one_with_uneven_labels_for_every_method(alone, tmp_path):
    for found in each(4, tmp_path / "each", of_all(tmp_path), seconds=600):
        for name in ROWS:
            assert_equal(alone[name], found[name])


@pytest.mark.parametrize("name", [name for name in ROWS if not name.startswith("pi") and name != "cutout, bands, dice"])
def test_the_gradient_of_two_parts_is_that_of_the_whole_for_every_method(name, alone, tmp_path):
    words = [word for word in ROWS[name] if "ohem" not in word]
    whole = alone[name] if words == ROWS[name] else gradients(tiny(tmp_path, *words, *SAME), 2)
    assert_equal(whole, gradients(tiny(tmp_path, *words, *SAME, "accumulate=2"), 2))


def test_the_gradient_of_two_processes_in_two_parts_each_is_that_of_one_in_one(tmp_path):
    def found(*words: str) -> list[dict[str, Tensor]]:
        return gradients(tiny(tmp_path / "run", *METHODS["mean teacher"], *SAME, *words), 2)

    whole = found()
    for one in each(2, tmp_path / "each", lambda: found("accumulate=2")):
        assert_equal(whole, one)


def test_every_process_and_step_drops_out_by_numbers_of_its_own(tmp_path):
    def drawn() -> list[int]:
        state, batch = begin(tiny(tmp_path / "run", *SAME))
        seeds: list[int] = []
        with pytest.MonkeyPatch.context() as patch:
            for step in range(2):
                patch.setattr(torch, "manual_seed", seeds.append)
                train_step(tiny(tmp_path / "run", *SAME), state, batch(step))
        return seeds

    first, second = each(2, tmp_path / "each", drawn)
    assert len({*first, *second}) == len(first) + len(second) >= 4


@pytest.mark.parametrize("word", ["method.supervised={kind: ohem}", "method.supervised={kind: dice}", ROWS["pi"][0]])
def test_what_needs_a_whole_batch_is_not_accumulated(word, tmp_path):
    with pytest.raises(ValueError, match=r"accumulate: .*accumulate=1"):
        tiny(tmp_path, word, "accumulate=2")


def test_a_batch_that_cannot_be_divided_is_refused_with_the_key(tmp_path):
    with pytest.raises(ValueError, match=r"batch.unlabelled: 3 images .* 1 processes with accumulate=2"):
        fit(tiny(tmp_path / "run", "batch.unlabelled=3", "accumulate=2"), quiet=True)
    fit(tiny(tmp_path / "run", "batch.unlabelled=3", "accumulate=2", "method.branches=[]"), quiet=True)


def test_rate_ramp_and_average_step_once_however_many_parts(tmp_path):
    for parts in (1, 2):
        config = tiny(tmp_path, *SAME, f"accumulate={parts}", "schedule={kind: poly, power: 1.0}")
        state, batch = begin(config)
        weights = [train_step(config, state, batch(step))["weight"] for step in range(2)]
        assert state.optimizer.param_groups[0]["lr"] == pytest.approx(0.05 * (1 - 1 / 4))
        assert weights == [config.method.weight_at(step, 4) for step in range(2)]
        assert state.teacher.state_dict()["updates"] == 2  # type: ignore[attr-defined]


EACH_OWN = {  # statistics of each process's own images, as the networks have them
    "mean teacher": [],
    "paper's teacher": METHODS["paper's teacher"],
    "ensemble's current": METHODS["ensemble's current"],
    "temporal ensembling": METHODS["temporal ensembling"],
}


def whole_state(config: Config, steps: int) -> dict[str, Tensor]:
    splits = config.data.build()
    stream = Stream(splits, views=config.views, sizes=config.batch, students=1, seed=0, share=(rank(), world()))
    state = build(config, splits, CPU)
    for step in range(steps):
        train_step(config, state, stream[step])
    found = {"memory": state.teacher.said} if hasattr(state.teacher, "said") else {}
    networks = {"student": state.student, "teacher": state.teacher.module}
    return found | {f"{n} {key}": v for n, net in networks.items() for key, v in net.state_dict().items()}


def scored(config: Config, images: int) -> dict[str, Any]:
    """All that an evaluation counts of the first `images` images, of which one has another size."""
    splits = config.data.build()
    state = build(config, splits, CPU)
    source = OneSmaller(Subset(splits.val, [i % len(splits.val) for i in range(images)]))
    tally = evaluate(
        state.student.eval(),
        source,
        classes=len(splits.classes),
        views=config.views,
        batch=2,
        device=CPU,
        also=Also(boundary=0.1, images=True),
    )
    assert tally.boundary is not None
    return {
        "confusion": tally.confusion.counts,
        "boundary": torch.stack([tally.boundary.hits, tally.boundary.labelled, tally.boundary.predicted]),
        "calibration": tally.calibration.error(),
        "images": tally.images,
        "sizes": tally.sizes,
        "alone": tally.alone,
    }


class OneSmaller:
    """A source of images with names of their own, the second of which is smaller than the others."""

    def __init__(self, source: Subset) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def name(self, index: int) -> str:
        return f"image {index}"

    def image(self, index: int) -> np.ndarray:
        return self.source.image(index)[: 40 if index == 1 else None]

    def label(self, index: int) -> np.ndarray:
        return self.source.label(index)[: 40 if index == 1 else None]


RUN = (*SAME, "steps=4", "eval.every=2", "data.val=3", "seed=1")


def together(tmp: Path) -> dict[str, Any]:
    """What is asked of two processes at once, as they cost seconds to start."""
    found: dict[str, Any] = {name: whole_state(tiny(tmp, *words), 5) for name, words in EACH_OWN.items()}
    values = torch.arange(12.0).view(6, 2)[rank() * 3 : rank() * 3 + 3]
    found["taken"] = [taken(values, wanted) for wanted in WANTED]
    found["scores"] = [scored(tiny(tmp), images) for images in IMAGES]
    found["fit"] = fit(tiny(tmp / "two", *RUN), quiet=True)
    found["half"] = ended(lambda: fit(tiny(tmp / "half", *RUN), quiet=True), "next", OSError("a broken disk"))
    found["asked"] = ended(lambda: fit(tiny(tmp / "asked", *RUN), quiet=True), "signal")
    found["not finite"] = skipping(tiny(tmp, *SAME))
    return found


def skipping(config: Config) -> list[Any]:
    """A step in which the second process's loss is not finite, and one in which all is well."""
    state, batch = begin(config)
    before = [value.clone() for value in state.student.state_dict().values()]
    counts = []
    for step in range(2):
        given = batch(step)
        if step == 0 and rank() == 1:
            hook = state.student.register_forward_hook(lambda _, __, logits: logits * torch.inf)
        train_step(config, state, given)
        if step == 0 and rank() == 1:
            hook.remove()
        same = all(torch.equal(a, b) for a, b in zip(before, state.student.state_dict().values(), strict=True))
        counts.append((state.step, state.skipped, same))
    return counts


WANTED = [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [1, 2, 3, 4, 5, 0], [3, 3], [0, 0, 0, 0, 5, 1, 2, 3]]
IMAGES = [1, 2, 3, 4, 7]


def ended(work: Callable[[], Any], how: str, error: Exception | None = None) -> str:
    """How training ends where the second process alone meets something in its third step."""
    steps = []

    def taking(config: Config, state: State, batch: Batch, **options: bool) -> Any:
        terms = train_step(config, state, batch, **options)
        steps.append(state.step)
        if rank() == 1 and state.step == 3 and how == "signal":
            os.kill(os.getpid(), signal.SIGUSR1)
        return terms

    def image(self: Any, index: int) -> Any:
        if error is not None and rank() == 1 and len(steps) == 3:
            raise error
        return read(self, index)

    read = Subset.image
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mtseg.trainer.train_step", taking)
        patch.setattr(Subset, "image", image)
        try:
            work()
        except (ValueError, Stopped) as end:
            return f"{len(steps)} steps, {type(end).__name__}: {end}"
    return "not at all"


@pytest.fixture(scope="module")
def met(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("met")
    return tmp, each(2, tmp / "each", lambda: together(tmp))


@pytest.mark.parametrize("name", EACH_OWN)
def test_after_5_steps_all_weights_averages_and_statistics_are_equal_in_all_processes(name, met, tmp_path):
    (one, other), start = [found[name] for found in met[1]], whole_state(tiny(tmp_path, *EACH_OWN[name]), 0)
    assert one.keys() == other.keys() == start.keys()
    for key, value in one.items():
        assert torch.equal(value, other[key]), key
    moved = [key for key, value in one.items() if not torch.equal(value, start[key])]
    assert {"student", "teacher"} <= {key.split()[0] for key in moved}
    assert any("running_var" in key for key in moved)


def test_rows_of_other_processes_are_the_rows_of_the_whole(met):
    whole = torch.arange(12.0).view(6, 2)
    for which, wanted in enumerate(WANTED):
        assert torch.equal(torch.cat([found["taken"][which] for found in met[1]]), whole[wanted])


@pytest.mark.parametrize("which", range(len(IMAGES)), ids=[f"{count} images" for count in IMAGES])
def test_an_evaluation_counts_the_same_in_any_number_of_processes(which, met, tmp_path):
    alone = scored(tiny(tmp_path), IMAGES[which])
    assert alone["confusion"].sum() > 0
    for found in (process["scores"][which] for process in met[1]):
        assert torch.equal(found["confusion"], alone["confusion"])
        assert torch.equal(found["boundary"], alone["boundary"])
        assert found["calibration"] == pytest.approx(alone["calibration"], abs=1e-12)
        assert found["sizes"] == alone["sizes"]
        assert found["alone"] == alone["alone"]
        assert sorted(found["alone"]) == list(range(len(found["alone"])))
        assert found["images"].keys() == alone["images"].keys()
        assert all(torch.equal(found["images"][name], counts) for name, counts in alone["images"].items())


def test_a_step_that_is_not_finite_in_one_process_is_skipped_by_all(met):
    for found in met[1]:
        assert found["not finite"] == [(1, 1, True), (2, 1, False)]


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").open()]


def assert_runs_equal(one: Path, other: Path) -> None:
    """To rounding in single precision, and the same lines."""
    assert [line["step"] for line in lines(one)] == [line["step"] for line in lines(other)]
    for some, others in zip(lines(one), lines(other), strict=True):
        assert some.keys() == others.keys()
        for key, value in some.items():
            if key.startswith("train/"):
                assert others[key] == pytest.approx(value, rel=1e-3, abs=1e-4), key
    weights = [load_file(run / "checkpoints/step-00000004/teacher.safetensors") for run in (one, other)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-4)


def test_a_run_of_two_processes_is_the_run_of_one_and_one_writes_it(met, tmp_path):
    tmp, processes = met
    scores = fit(tiny(tmp_path / "one", *RUN), quiet=True)
    assert processes[0]["fit"] == processes[1]["fit"]
    assert processes[0]["fit"]["teacher"]["mIoU"] == pytest.approx(scores["teacher"]["mIoU"], abs=0.02)
    assert_runs_equal(tmp_path / "one", tmp / "two")


@pytest.mark.parametrize(
    ("how", "end"),
    [("half", "3 steps, .*(a broken disk|process 1 could not go on)"), ("asked", "3 steps, Stopped.*saved at step 3")],
)
def test_what_one_process_meets_ends_all_after_the_same_step_saved_and_one_process_continues(how, end, met, tmp_path):
    tmp, processes = met
    assert all(re.search(end, found[how]) for found in processes), processes
    assert (tmp / how / "checkpoints/step-00000003").is_dir()
    fit(tiny(tmp / how, *RUN), quiet=True)
    fit(tiny(tmp_path / "one", *RUN), quiet=True)
    assert_runs_equal(tmp_path / "one", tmp / how)


def without_a_board(folder: Path) -> str:
    """What a process says where the first one's board cannot begin."""

    def begun(*_: object) -> None:
        raise ValueError("no board here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mtseg.run.log.begun", begun)
        try:
            fit(tiny(folder / "boardless", *RUN, "boards=[tensorboard]"), quiet=True)
        except ValueError as error:
            return str(error)
    return "nothing"


def test_all_processes_hear_why_the_first_cannot_open_its_log(tmp_path):
    first, second = each(2, tmp_path / "each", lambda: without_a_board(tmp_path))
    assert first == "no board here"
    assert "process 0 could not go on: ValueError: no board here" in second


LEFT = """
import gc, weakref, torch
import torch.distributed as dist
from torch import nn
from mtseg.distributed import highest
from mtseg.torchrun import joined
from mtseg.running import running
with joined(torch.device("cpu"), 60):
    asked = running(nn.Linear(2, 2), torch.zeros(1, 2), compiled=False, recompute=False)
    asked(torch.ones(1, 2)).sum().backward()
    group = weakref.ref(dist.group.WORLD)
    del asked
gc.collect()
print("the group is", "gone" if group() is None else "held")
"""


def as_torchrun_says() -> list[dict[str, str]]:
    """What torchrun tells each of two processes."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(found.getsockname()[1]), "WORLD_SIZE": "2"}
    return [place | {"RANK": str(rank)} for rank in range(2)]


def left_alone(told: dict[str, str]) -> None:
    os.environ.update(told)
    with losses_told(), joined(torch.device("cpu"), 60):
        highest(torch.ones(1))
        if told["RANK"] == "1":
            os._exit(0)
        highest(torch.ones(1))


def test_a_process_whose_others_are_gone_says_so():
    first, second = [Program(partial(left_alone, told)) for told in as_torchrun_says()]
    assert (first.ended(), second.ended()) == (1, 0)
    assert "another process of this run has ended or hangs" in first.stderr


def test_no_thread_of_the_group_is_left_to_meet_the_interpreter_s_end():
    """One that reaches for the interpreter while that ends aborts the process, after a run that has finished."""
    command = [sys.executable, "-c", LEFT]
    two = [subprocess.Popen(command, env=os.environ | told, stdout=subprocess.PIPE) for told in as_torchrun_says()]
    for process in two:
        said, _ = process.communicate(timeout=100)
        assert (process.returncode, said) == (0, b"the group is gone\n")


def test_weights_that_one_process_cannot_read_end_all_with_the_cause(tmp_path):
    (tmp_path / "bad.pth").write_bytes(b"no tensors")

    def told() -> str:
        config = tiny(tmp_path / "run", f"model.weights={tmp_path / 'bad.pth'}")
        with pytest.raises(ValueError, match="not a readable file of tensors") as caught:
            build(config, config.data.build(), CPU)
        return str(caught.value)

    first, second = each(2, tmp_path / "each", told, seconds=40)
    assert first.startswith("model.weights")
    assert "process 0 could not go on" in second


def test_all_processes_begin_with_the_first_ones_weights_and_statistics(tmp_path):
    def begun() -> tuple[bool, list[float]]:
        torch.manual_seed(rank())
        network = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 1), torch.nn.BatchNorm2d(3))
        network[1].running_mean.fill_(5.0 + rank())
        before = same_everywhere([network])
        same(network)
        assert not before
        return same_everywhere([network]), network[1].running_mean.tolist()

    assert each(2, tmp_path / "each", begun) == [(True, [5.0] * 3)] * 2


def test_a_group_of_nccl_alone_is_refused_with_what_to_begin(tmp_path):
    def told() -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("torch.distributed.get_backend", lambda: "nccl")
            with pytest.raises(ValueError, match="cpu:gloo,cuda:nccl") as caught:
                fit(tiny(tmp_path / "run"), quiet=True)
        return str(caught.value)

    assert len(set(each(2, tmp_path / "each", told))) == 1
