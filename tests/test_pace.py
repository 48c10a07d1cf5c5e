"""What a run's pace depends on: how far loading runs ahead, and how long it is waited for."""

import json
import os
import re
import time
from collections.abc import Iterator

import pytest
from runs import tiny
from torch.utils.data import Dataset

from mtseg.data.loading import loader
from mtseg.run import log
from mtseg.settings.differences import differences
from mtseg.trainer import fit


class Made(Dataset[int]):
    """Batch n is n; a file of its name says that it was made."""

    def __init__(self, folder):
        self.folder = folder

    def __getitem__(self, step):
        (self.folder / str(step)).touch()
        return step


@pytest.mark.parametrize(("workers", "prefetch"), [(2, 1), (2, 3), (1, 4)])
def test_loading_runs_ahead_by_as_many_batches_as_prefetch_says(tmp_path, workers, prefetch):
    batches = loader(Made(tmp_path), range(40), workers=workers, pin=False, prefetch=prefetch)
    first = next(batches)
    ahead, until = 1 + workers * prefetch, time.monotonic() + 10
    while len(list(tmp_path.iterdir())) < ahead and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.2)  # as long as it may be tempted to make more
    made = len(list(tmp_path.iterdir()))
    assert [first, *batches] == list(range(40))  # to the end, so that no worker is left where the next line fails
    assert made == ahead


def test_workers_are_the_same_processes_from_the_first_batch_to_the_last():
    """There is one iterator for the run, so that nothing would be persistent that is not."""

    class Process(Dataset[int]):
        def __getitem__(self, step):
            return os.getpid()

    assert len(set(loader(Process(), range(30), workers=2, pin=False))) == 2


def test_a_run_may_go_on_at_another_pace(tmp_path):
    assert differences(tiny(tmp_path), tiny(tmp_path, "prefetch=1", "workers=2", "loader_timeout=9")) == []


def test_the_share_of_waiting_is_that_of_the_clock_and_no_part_of_the_metrics(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(log.time, "perf_counter", lambda: now[0])
    shown: dict[str, list[float]] = {}

    def batches() -> Iterator[int]:
        for seconds in (3.0, 1.0, 2.0):
            now[0] += seconds
            yield 0

    with log.Log(tmp_path, total=3, quiet=True) as record:
        monkeypatch.setattr(record, "_show", lambda key, value, step: shown.setdefault(key, []).append(value))
        for step, _ in enumerate(record.awaited(batches()), start=1):
            now[0] += 1.0  # the step
            if step == 2:
                since, now[0] = now[0], now[0] + 50.0
                record.evaluated(step, "val", {name: {"mIoU": 0.5} for name in ("student", "teacher")})
                record.paused(step, since=since)
            else:
                record.train(step, {"train/loss": 1.0}, images_per_step=4)
    assert shown["train/waiting"] == [3 / 4, 2 / 3]  # the evaluation's time is nobody's
    assert "waiting" not in (tmp_path / "metrics.jsonl").read_text()


def test_a_run_shows_how_long_it_waited(tmp_path, capsys):
    config = tiny(tmp_path, "steps=2")
    fit(config)
    lines = [line for line in capsys.readouterr().out.splitlines() if "images/s" in line]
    shares = [int(re.search(r"waiting (\d+)%", line)[1]) for line in lines]
    assert len(shares) == 2
    assert all(0 < share <= 100 for share in shares)  # without workers every batch is waited for
    assert not any("train/waiting" in json.loads(line) for line in (tmp_path / "metrics.jsonl").open())


def test_a_record_says_how_long_the_run_will_last_at_the_pace_since_the_last_one(tmp_path, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(log.time, "perf_counter", lambda: now[0])
    with log.Log(tmp_path, total=100) as record:
        for step, passed in ((10, 400.0), (20, 2.0), (100, 8.0)):
            now[0] += passed
            record.train(step, {"train/loss": 1.0}, images_per_step=4)
    ends = [line.rpartition("  left ")[2] for line in capsys.readouterr().out.splitlines() if "images/s" in line]
    assert ends == ["60 min", "16 s", "0 s"]  # 90 steps of 40 s, 80 of 0.2 s


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (89, "89 s"),
        (90, "2 min"),
        (5399, "90 min"),
        (5400, "1.5 h"),
        (36000, "10 h"),
        (4.9 * 86400, "4.9 days"),
    ],
)
def test_a_time_is_said_in_two_digits_or_three(seconds, text):
    assert log.lasting(seconds) == text
