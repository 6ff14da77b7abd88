"""Which tile, and which part of it, every slot of every batch shows.

A batch is a function of the configuration and the step, and of nothing else. So the sampler has no state to save, and
training that goes on at step k sees the batches that unbroken training would have seen.
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
from segment.data.tiles import Batch, Tiles


class SamplingConfig(Config):
    """How tiles are chosen beside the mix of sources.

    Attributes:
        class_balance: share of the views that look for a class, every class of a source as often (a third, after
            nnU-Net, Isensee 2021); the others walk through the tiles and cut anywhere.
    """

    class_balance: float = Field(default=1 / 3, ge=0, le=1)


class Draw(IntEnum):
    """What a random stream of training is for. Numbers are frozen: a new use takes a new number."""

    ORDER = 100
    VIEW = 101
    CLASS = 102
    SUBSET = 103


def draw_generator(seed: int, stream: Draw, *position: int) -> np.random.Generator:
    """The generator for one place of a stream, e.g. (step, slot); drawing elsewhere does not move it."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(int(stream), *position))))


@dataclass(frozen=True)
class Slot:
    """What one place of a batch shows: a tile of one of the lists, and the class looked for in it, None for any."""

    source: int
    position: int
    wanted: int | None = None


@dataclass(frozen=True)
class MixingSampler:
    """Draws batches from two lists of tiles in a fixed proportion, some of the views by class.

    After any number of batches the second list's share is met to half a tile, and so is the share of views that look
    for a class, in each list. The other views walk each list in a new random order every time round.

    Attributes:
        tiles: one or two lists. second_share: share of the second. batch: tiles per batch. seed: of everything drawn.
        crop: pixels of a view. augment: how views differ. class_balance: share of views that look for a class.
    """

    tiles: tuple[Tiles, ...]
    second_share: float
    batch: int
    seed: int
    crop: tuple[int, int]
    augment: AugmentConfig
    class_balance: float = 0.0

    def plan(self, step: int) -> list[Slot]:
        """What the batch of a step holds."""
        before, after = step * self.batch, (step + 1) * self.batch
        second = _quota(before, self.second_share), _quota(after, self.second_share)
        first = before - second[0], after - second[1]
        return [
            self._slot(source, drawn)
            for source, (start, stop) in enumerate((first, second))
            for drawn in range(start, stop)
        ]

    def _slot(self, source: int, drawn: int) -> Slot:
        """The view number `drawn` of a list."""
        tiles, by_class = self.tiles[source], _quota(drawn, self.class_balance)
        if _quota(drawn + 1, self.class_balance) > by_class:
            found = tiles.draw_class(draw_generator(self.seed, Draw.CLASS, source, drawn))
            if found:
                return Slot(source, position=found[1], wanted=found[0])
        epoch, offset = divmod(drawn - by_class, len(tiles))
        return Slot(source, int(_order(self.seed, source, epoch, len(tiles))[offset]))

    def draw(self, step: int) -> Batch:
        """The batch of a step; always the same for the same step."""
        crops = []
        for number, slot in enumerate(self.plan(step)):
            rng = draw_generator(self.seed, Draw.VIEW, step, number)
            crops.append(self.tiles[slot.source].view(slot.position, rng, self.crop, self.augment, slot.wanted))
        distances = [crop.distances for crop in crops if crop.distances is not None]
        return Batch(
            np.stack([crop.image for crop in crops]),
            np.stack([crop.labels for crop in crops]),
            np.stack(distances) if len(distances) == len(crops) else None,
        )


def _quota(views: int, share: float) -> int:
    """How many of the first `views` views belong to a share of them, to half a view."""
    return int(np.floor(views * share + 0.5))


@lru_cache(maxsize=8)
def _order(seed: int, source: int, epoch: int, n: int) -> npt.NDArray[np.int64]:
    return draw_generator(seed, Draw.ORDER, source, epoch).permutation(n)
