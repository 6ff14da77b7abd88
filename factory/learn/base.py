"""The Protocol of what draws with trained weights, whichever table it stands in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from factory.core.config import Config
from manifests.labels import LabelScheme


@runtime_checkable
class UsesWeights(Protocol):
    """A mask generator or renderer whose work is a trained network's. `factory.learn.weights` has the base class."""

    @classmethod
    def default_scheme(cls, values: Mapping[str, Any]) -> LabelScheme:
        """Return the label scheme that the weights were trained on, used where no scheme was chosen.

        Args:
            values: of the part's config, as typed.

        Raises:
            UserError: for weights that are missing, damaged, or another part's.
        """
        ...

    def resolved_config(self) -> Config:
        """Return the config with the weights' sha256 and the number format filled in.

        Raises:
            UserError: for weights that are missing, damaged, another part's, or not those of the sha256.
        """
        ...

    def training_sources(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return sources (``data set/group``) and licences of the data behind the weights."""
        ...

    def input_notes(self, size: tuple[int, int]) -> tuple[str, ...]:
        """Return how the inputs were read for tiles of a size (height, width), one line each."""
        ...
