"""All randomness is a function of counters: the run's seed, what it is for, and where in the run it is."""

import zlib

import numpy as np
import torch


def generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """An independent generator for each (seed, purpose, counters); the same ones give the same numbers anywhere."""
    # The number of counters too: a SeedSequence takes [s, p] and [s, p, 0] for the same.
    return np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), len(counters), *counters]))


def reseed_torch(seed: int, purpose: str, *counters: int) -> None:
    """Set torch's global generator (dropout and parameter initialisation accept no other) from counters."""
    torch.manual_seed(int(generator(seed, purpose, *counters).integers(2**63)))
