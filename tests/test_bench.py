"""Measurements, in small."""

import json

import pytest

from mtseg import bench, cli


def test_a_long_list_opens_in_a_few_times_its_own_reading_and_workers_share_it(capsys):
    assert cli.main(["bench", "names", "--size", "20000", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["names"], facts["workers"]) == (20_000, 8)
    assert facts["bytes_of_the_names"] == 20_000 * len("unlabelled/000/photo_00000000.jpg")
    assert facts["seconds_over_baseline"] < 100
    if bench.OWN.is_file():
        assert facts["worker_over_parent"] < 0.5 < facts["worker_over_parent_as_strings"]


def test_the_cache_is_measured_against_decoding(capsys):
    assert cli.main(["bench", "cache", "--size", "1", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["cache_bytes_an_image"] == 1024 * 2048 * 3 + 128  # and numpy's header
    assert all(facts[f"{suffix}_over_cache"] > 0 for suffix in ("jpg", "png"))


def test_what_a_worker_takes_for_itself_is_seen():
    if not bench.OWN.is_file():
        pytest.skip("the system does not say")
    taken = bench._growth(lambda: bytearray(b"x") * 30_000_000 and len(_KEPT.setdefault("it", b"y" * 30_000_000)))
    assert min(taken) > 29_000_000


_KEPT: dict[str, bytes] = {}


@pytest.mark.parametrize(
    ("words", "says"), [(["name"], "choose from names, cache"), (["names", "--size", "0"], "at least 1")]
)
def test_what_cannot_be_measured_is_answered_in_words(words, says, capsys):
    assert cli.main(["bench", *words]) == 1
    assert says in capsys.readouterr().err
