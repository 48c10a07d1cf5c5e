"""Measurements, in small: what they time is what they say, and timing changes nothing."""

import json
from importlib import import_module
from itertools import count

import numpy as np
import pytest
import torch
from runs import tiny

from mtseg import cli
from mtseg.bench import WHAT, confusion, names
from mtseg.bench.asked import machine
from mtseg.bench.baselines import Albumentations, Pil
from mtseg.bench.made import in_files
from mtseg.bench.networks import floor, forwards
from mtseg.bench.paired import Group, Ratio, timed
from mtseg.bench.phases import PHASES, phases
from mtseg.config import Config
from mtseg.data.stream import Stream
from mtseg.metrics import Confusion
from mtseg.state import State, build
from mtseg.step import train_step


def test_a_long_list_opens_in_a_few_times_its_own_reading_and_workers_share_it(capsys):
    assert cli.main(["bench", "names", "--size", "20000", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["names"], facts["workers"]) == (20_000, 8)
    assert facts["bytes_of_the_names"] == 20_000 * len("unlabelled/000/photo_00000000.jpg")
    assert facts["seconds_over_baseline"] < 100
    if names.OWN.is_file():
        assert facts["worker_over_parent"] < 0.5 < facts["worker_over_parent_as_strings"]


@pytest.mark.parametrize(("what", "clock"), [("startup", "wall"), ("waiting", "wall"), ("loss", "process CPU time")])
def test_the_clock_is_named_by_which_a_measurement_was_made(what, clock):
    assert machine(what, torch.device("cpu"), [0, 0])["clock"] == clock


def test_the_cache_is_measured_against_decoding(capsys):
    assert cli.main(["bench", "cache", "--size", "1", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["cache_bytes_an_image"] == 1024 * 2048 * 3 + 128  # and numpy's header
    assert all(facts[f"{suffix}_over_cache"] > 0 for suffix in ("jpg", "png"))


def test_what_a_worker_takes_for_itself_is_seen():
    if not names.OWN.is_file():
        pytest.skip("the system does not say")
    taken = names._growth(lambda: bytearray(b"x") * 30_000_000 and len(_KEPT.setdefault("it", b"y" * 30_000_000)))
    assert min(taken) > 29_000_000


_KEPT: dict[str, bytes] = {}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["name"], "choose from step, "),
        (["names", "--size", "0"], "at least 1"),
        (["loss", "--rounds", "0"], "at least 1"),
        (["step", "--case", "resnet1000"], "in no name of a case"),
    ],
)
def test_what_cannot_be_measured_is_answered_in_words(words, says, capsys):
    assert cli.main(["bench", *words]) == 1
    assert says in capsys.readouterr().err


def test_every_measurement_has_its_module():
    assert all(
        hasattr(import_module(f"mtseg.bench.{what}"), "measure") for what in WHAT if what not in ("names", "cache")
    )


def test_cases_are_measured_in_turn_forwards_and_backwards_after_one_that_does_not_count():
    said: list[str] = []
    ticks = count()  # a second a look
    cases = {name: lambda name=name: said.append(name) for name in "abc"}
    seconds = timed(cases, rounds=3, clock=lambda: float(next(ticks)))
    assert "".join(said[6:]) == "abc" + "cba" + "abc"
    assert {name: len(taken) for name, taken in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_ratio_is_of_each_round_and_its_spread_is_numpys_quartiles():
    rng = np.random.default_rng(0)
    top, bottom = rng.random(9) + 1, rng.random(9) + 1
    group = Group("", {"one": top.tolist(), "other": bottom.tolist()}, (Ratio("one", "other", at_most=2),))
    found = group.facts()["ratios"]["one / other"]
    oracle = np.percentile(top / bottom, [50, 25, 75])
    assert np.allclose([found["median"], found["low"], found["high"]], oracle, rtol=1e-3)
    assert found["target"] == "at most 2"


def stepping(tmp_path) -> tuple[Config, State, Stream]:
    config = tiny(tmp_path / "run")
    splits = config.data.build()
    stream = Stream(splits, views=config.views, sizes=config.batch, students=1, seed=0)
    return config, build(config, splits, torch.device("cpu")), stream


def test_the_floor_is_the_steps_own_forwards_and_updates_no_weight(tmp_path):
    config, state, stream = stepping(tmp_path)
    made = forwards(state, lambda: train_step(config, state, stream[0]))
    before = {name: value.clone() for name, value in state.student.named_parameters()}
    run = floor(made)
    again = forwards(state, run)
    assert [(f.network, f.training, f.gradient, f.given[0].shape) for f in again] == [
        (f.network, f.training, f.gradient, f.given[0].shape) for f in made
    ]
    assert all(torch.equal(f.given[0], g.given[0]) for f, g in zip(made, again, strict=True))
    assert all(torch.equal(value, before[name]) for name, value in state.student.named_parameters())
    assert all(value.grad is not None for value in state.student.parameters())


def test_phases_are_all_of_a_step_and_leave_it_as_it_was(tmp_path):
    config, state, stream = stepping(tmp_path)
    ticks, spans = count(), []

    def step() -> None:
        start = next(ticks)
        train_step(config, state, stream[0])
        spans.append(next(ticks) - start)

    backward = torch.Tensor.backward
    seconds = phases(state, step, rounds=2, clock=lambda: float(next(ticks)))
    assert list(seconds) == list(PHASES)
    # A look at the clock on either side of the step is not the step's.
    assert [sum(seconds[name][n] for name in PHASES) for n in range(2)] == [span + 2 for span in spans[1:]]
    assert all(min(seconds[name]) >= 1 for name in PHASES)
    assert torch.Tensor.backward is backward
    assert not {"answer", "update"} & set(vars(state.teacher))
    assert "forward" not in vars(state.student)


def test_numpys_ways_of_counting_count_the_same():
    rng = np.random.default_rng(0)
    said, label = (rng.integers(0, 5, (30, 40)).astype(np.uint8) for _ in range(2))
    label[:3] = 255
    ours = Confusion(5)
    ours.update(torch.from_numpy(said), torch.from_numpy(label))
    assert np.array_equal(confusion.masked(said, label, 5), ours.counts.numpy())
    hits, labelled, predicted = confusion.histograms(said, label, 5)
    counts = ours.counts.numpy()
    assert np.array_equal(hits, counts.diagonal())
    assert np.array_equal(predicted, counts.sum(0))
    assert np.array_equal(labelled, np.bincount(label[label < 255], minlength=5))


def test_the_fields_pipelines_give_what_a_step_needs(tmp_path):
    splits = in_files(tmp_path, 4, (80, 100))
    image, mask = (splits.labelled.root / of for of in (splits.labelled.name(0), splits.labelled.mask_name(0)))
    for opened in (Pil(64), Albumentations(64, first=False), Albumentations(64, first=True)):
        seen, label = opened(image, mask)
        assert (tuple(seen.shape), tuple(label.shape)) == ((3, 64, 64), (64, 64))
        assert set(np.unique(label)) <= {*range(7), 255}
        weak, strong = opened(image, None)
        assert tuple(weak.shape) == tuple(strong.shape) == (3, 64, 64)


SMALL = ["model.encoder=tu-test_resnet", "model.options={encoder_depth: 3, decoder_channels: [12, 8, 4]}"]


def test_the_steps_table_and_its_json_say_the_same(tmp_path, capsys):
    words = [
        "--case",
        "Unet mobilenet",
        "--rounds",
        "2",
        "--out",
        str(tmp_path / "of" / "step.json"),
        "views.crop=[32, 32]",
    ]
    assert cli.main(["bench", "step", *words, *SMALL]) == 0
    shown, facts = capsys.readouterr().out, json.loads((tmp_path / "of" / "step.json").read_text())
    (group,) = facts["groups"]
    share = group["ratios"]["its floor / the step"]
    assert 0.02 < share["median"] < 2
    assert f"| its floor / the step | **{share['median']:.3g}** |" in shown
    assert set(PHASES) < set(group["ms"])
    assert facts["machine"]["threads"] == 1
