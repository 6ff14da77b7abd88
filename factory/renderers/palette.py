"""A renderer without weights that paints every class in its colour, for data sets whose images do not matter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from factory.core.config import Config
from factory.renderers.base import Renderer
from factory.renderers.conditions import Condition, ConditionConfig


class PaletteConfig(Config):
    """No settings: the colours are the scheme's."""


class Palette(Renderer):
    """Renders label maps of any scheme as flat colours."""

    condition = ConditionConfig(kind="labels")
    label_origin = "exact"
    Config = PaletteConfig

    def render(
        self, conditions: Sequence[Condition], rngs: Sequence[np.random.Generator]
    ) -> list[npt.NDArray[np.uint8]]:
        """Render each condition map: uint8 [H, W, 3], RGB, without randomness."""
        del rngs
        return [np.take(c.scheme.palette, c.array[0].astype(np.uint8), axis=0) for c in conditions]
