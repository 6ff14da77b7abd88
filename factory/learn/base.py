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
    def known_schemes(cls, values: Mapping[str, Any]) -> tuple[LabelScheme, ...]:
        """Return the label schemes that the weights were trained on, for requests without a scheme.

        Args:
            values: of the part's config, as typed. Where they name no weights, several starters may serve.

        Raises:
            UserError: for weights that are missing, damaged, or another part's.
        """
        ...

    @staticmethod
    def takes(scheme: LabelScheme, own: LabelScheme) -> bool:
        """Return whether weights trained on masks of the scheme `own` serve masks of `scheme`."""
        ...

    def starter(self) -> str | None:
        """Return the name of the starter that it draws with; None for other files."""
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
