"""Generators made of counters: the same for the same, and for nothing else."""

from itertools import product

import numpy as np
import torch

from mtseg.randomness import generator, reseed_torch


def test_generators_differ_in_seed_purpose_and_every_counter_also_in_their_number():
    counters = [(), (0,), (0, 0), (1,), (0, 1), (1, 0), (2**31,)]
    keys = list(product((0, 1, 2**32 + 1), ("order", "mixing"), counters))
    drawn = [generator(seed, purpose, *rest).integers(2**63) for seed, purpose, rest in keys]
    assert len(set(drawn)) == len(keys)
    assert drawn == [generator(seed, purpose, *rest).integers(2**63) for seed, purpose, rest in keys]


def test_torch_is_reseeded_whatever_was_drawn_before():
    reseed_torch(3, "dropout", 7)
    first = torch.rand(4)
    np.random.default_rng().random(5)
    torch.rand(9)
    reseed_torch(3, "dropout", 7)
    assert torch.equal(torch.rand(4), first)
    reseed_torch(3, "dropout", 8)
    assert not torch.equal(torch.rand(4), first)
