"""Tiles of real pixels composed again, with the pixel of the bank that each of their pixels was taken from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from factory.bank.bank import Bank
from factory.core.runs import read_run
from factory.core.seeds import Stream, generator
from factory.joint import EXEMPLAR
from factory.make.parts import renderer_part
from factory.make.recipes.copies import CopiesRecipe
from factory.plan.rows import request_of
from factory.renderers.conditions import draw_condition
from factory.renderers.exemplar.exemplar import Exemplar
from manifests.dataset import Sample
from manifests.errors import FaultError, UserError

Traced = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]
"""Image uint8 [H, W, 3], and the pixel of the bank that each of its pixels was taken from, int64 [H, W]."""


@dataclass(frozen=True)
class Composer:
    """What composes the tiles of a data set again: the bank that they are from, and a function of a stored tile."""

    bank: Bank
    compose: Callable[[Sample], Traced]


def composer_of(root: Path) -> Composer:
    """Find what composed the tiles of a data set.

    Labels are taken from the store, so neither the mask generator nor the data set of the masks is needed.

    Raises:
        UserError: when run.yaml names no renderer that composes tiles from a bank, or the bank is missing or another.
    """
    config = read_run(root)["config"]
    if EXEMPLAR in config:
        return _joint_composer(CopiesRecipe.from_document(config))
    if not isinstance(config.get("renderer"), dict):
        raise UserError(f"{root}: expected tiles of factory make or factory render, got run.yaml without a renderer.")
    renderer = renderer_part(config["renderer"], "cpu").build()
    if not isinstance(renderer, Exemplar):
        raise UserError(f"{root}: expected tiles composed from a bank, got renderer {config['renderer'].get('name')}.")

    def compose(sample: Sample) -> Traced:
        seed = sample.row["seed"]
        condition = draw_condition(renderer.condition, sample.tile, generator(seed, Stream.CONDITION))
        composed = renderer.compose(condition, generator(seed, Stream.RENDER))
        return composed.image, composed.origin

    return Composer(renderer.bank, compose)


def _joint_composer(recipe: CopiesRecipe) -> Composer:
    """What copies image and labels together."""
    maker = recipe.maker()

    def compose(sample: Sample) -> Traced:
        copied = maker.part.draw(request_of(sample.row, recipe.scheme), sample.row["seed"], maker.masks)
        if copied is None:
            raise FaultError(
                f"{sample.row['sample_id']}: expected a tile as asked, got none. Install the versions that made it."
            )
        return copied.image, copied.origin

    return Composer(maker.part.bank, compose)
