"""Sampling of training batches: the tile, and its part, for every place of every batch.

A batch depends only on the configuration and the step. So the sampler has no state to save, and training resumed at
step k has the same batches as uninterrupted training.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from pydantic import Field

from factory.core.config import Config
from segment.data.augmentation import AugmentConfig
from segment.data.mixing import Shares
from segment.data.stains import Stains
from segment.data.tiles import Batch, Tiles


class SamplingConfig(Config):
    """Sampling of tiles within a source.

    Attributes:
        class_balance: share of the crops around a pixel of a class, with equal shares of all classes of a source (a
            third, after nnU-Net, Isensee 2021); other crops take the tiles in turn, anywhere in them.
    """

    class_balance: float = Field(default=1 / 3, ge=0, le=1)


class Draw(IntEnum):
    """Random streams of training. Numbers are frozen: a new use takes a new number."""

    ORDER = 100
    VIEW = 101
    CLASS = 102
    SUBSET = 103


def draw_generator(seed: int, stream: Draw, *position: int) -> np.random.Generator:
    """The generator for one place of a stream, e.g. (step, slot), independent of other places."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(int(stream), *position))))


@dataclass(frozen=True)
class Slot:
    """Content of one place of a batch: a tile of one of the lists, and the class to centre on, None for any place."""

    source: int
    position: int
    wanted: int | None = None


@dataclass(frozen=True)
class MixingSampler:
    """Draws batches from two lists of tiles in given proportions, some of the crops by class.

    After any number of batches the share of the second list is exact to half a tile, and so is the share of crops by
    class in each list. The other crops go through each list in a new random order every epoch.

    Attributes:
        tiles: one or two lists. second: shares of the second list. batch: tiles per batch. seed: of all draws.
        crop: its height and width in pixels. augment: strength of augmentation. class_balance: share of crops by class.
        references: further stains for `augment.macenko`.
    """

    tiles: tuple[Tiles, ...]
    second: Shares
    batch: int
    seed: int
    crop: tuple[int, int]
    augment: AugmentConfig
    class_balance: float = 0.0
    references: tuple[Stains, ...] = ()

    def plan(self, step: int) -> list[Slot]:
        """Content of the batch of a step."""
        before, after = step * self.batch, (step + 1) * self.batch
        second = self.second.drawn(before), self.second.drawn(after)
        first = before - second[0], after - second[1]
        return [
            self._slot(source, drawn)
            for source, (start, stop) in enumerate((first, second))
            for drawn in range(start, stop)
        ]

    def _slot(self, source: int, drawn: int) -> Slot:
        """The crop number `drawn` of a list."""
        tiles, by_class = self.tiles[source], _quota(drawn, self.class_balance)
        if _quota(drawn + 1, self.class_balance) > by_class:
            found = tiles.draw_class(draw_generator(self.seed, Draw.CLASS, source, drawn))
            if found:
                return Slot(source, position=found[1], wanted=found[0])
        epoch, offset = divmod(drawn - by_class, len(tiles))
        weights = None if tiles.weights is None else tiles.weights.tobytes()
        return Slot(source, int(_order(self.seed, source, epoch, len(tiles), weights)[offset]))

    def draw(self, step: int) -> Batch:
        """The batch of a step; always the same for the same step."""
        crops = []
        for number, slot in enumerate(self.plan(step)):
            rng = draw_generator(self.seed, Draw.VIEW, step, number)
            reference = self._draw_reference(rng)
            tiles = self.tiles[slot.source]
            crops.append(tiles.crop(slot.position, rng, self.crop, self.augment, slot.wanted, reference))
        distances = [crop.distances for crop in crops if crop.distances is not None]
        return Batch(
            np.stack([crop.image for crop in crops]),
            np.stack([crop.labels for crop in crops]),
            np.stack(distances) if len(distances) == len(crops) else None,
        )

    def _draw_reference(self, rng: np.random.Generator) -> Stains | None:
        """Stains that a crop gets: of a tile of the first list (the real ones), or of a further reference."""
        config = self.augment.macenko
        if not config.probability or rng.random() >= config.probability:
            return None
        if self.references and rng.random() < 0.5:
            return self.references[int(rng.integers(len(self.references)))]
        return self.tiles[0].stains(int(rng.integers(len(self.tiles[0]))))


def _quota(crops: int, share: float) -> int:
    """Number of the first `crops` crops that belong to a share of them, rounded to whole crops."""
    return int(np.floor(crops * share + 0.5))


@lru_cache(maxsize=8)
def _order(seed: int, source: int, epoch: int, n: int, float64s: bytes | None = None) -> npt.NDArray[np.int64]:
    """A round of n tiles in random order: each once, or with weights of mean 1 each so often, to less than one time."""
    rng = draw_generator(seed, Draw.ORDER, source, epoch)
    if float64s is None:
        return rng.permutation(n)
    weights = np.frombuffer(float64s)
    upper = np.cumsum(weights) / np.sum(weights)
    drawn = np.searchsorted(upper, (np.arange(n) + rng.random()) / n, side="right")
    return rng.permutation(np.minimum(drawn, int(np.flatnonzero(weights)[-1])))
