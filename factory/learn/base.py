"""The Protocols of what draws with trained weights or a bank, whichever table it stands in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from factory.core.config import Config
from manifests.labels import LabelScheme


@runtime_checkable
class UsesWeights(Protocol):
    """A mask generator or renderer that draws with a file: the weights of a network, or a bank of real tissue.

    `factory.learn.weights` has the base class of those with a network.
    """

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


@runtime_checkable
class NamesFile(Protocol):
    """The config of such a part."""

    @property
    def weights_sha256(self) -> str | None:
        """Digest of the file, None until it is resolved."""
        ...
