"""Random generators: each derives from a row's seed and a stream with a frozen number."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """Purposes of random streams. Numbers are frozen: a new purpose takes a new number."""

    PLAN = 0
    MASK = 1
    TIES = 2
    CONDITION = 3
    RENDER = 4
    FIT = 5
    DRAW = 6
    TRAIN_ORDER = 7
    TRAIN_VIEW = 8
    TRAIN_NOISE = 9
    SAMPLE = 10
    JITTER = 11
    LATENT = 12


def generator(seed: int, stream: Stream, attempt: int = 0) -> np.random.Generator:
    """The generator of one stream of one row: ``SeedSequence(seed, spawn_key=(stream, attempt))``."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(int(stream), attempt))))


def row_seed(seed: int, index: int) -> int:
    """The uint64 seed of row `index` of a plan with that seed."""
    state = np.random.SeedSequence(seed, spawn_key=(int(Stream.PLAN), index)).generate_state(1, np.uint64)
    return int(state[0])
