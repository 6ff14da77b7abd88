"""Recipes: the ways in which rows of a manifest become tiles. `base.Recipe` is the Protocol that all of them meet.

A recipe is found again from run.yaml by a key that only it writes. Adding one is a file here and a line below.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from factory.core.registry import resolve
from factory.make.recipes.base import ReadsDocument, Recipe

BY_KEY: dict[str, str] = {
    "masks_of": "factory.make.recipes.given_masks:GivenMasks",
    "exemplar": "factory.make.recipes.copies:CopiesRecipe",
    "hdgan": "factory.make.recipes.joint:JointRecipe",
    "drawing": "factory.make.recipes.samples:SampleRecipe",
    "masks": "factory.make.recipes.masks_and_renderer:MasksAndRenderer",
}
"""Key of run.yaml -> the recipe that wrote it. The first one found counts: ``hdgan`` stands beside ``drawing``."""


def recipe_of(config: Mapping[str, Any], device: str, *, where: Path, masks_of: Path | None = None) -> Recipe:
    """The recipe of a data set.

    Args:
        config: the ``config`` of its run.yaml. device: where networks run. where: the data set's folder, for messages.
        masks_of: the data set whose masks it was drawn on, where it was.
    """
    key = next((key for key in BY_KEY if key in config), "masks")
    kind: ReadsDocument = resolve(BY_KEY, key, f"{where}")
    return kind.from_document(config, device, where=where, masks_of=masks_of)
