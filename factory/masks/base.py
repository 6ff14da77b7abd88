"""The Protocols of mask generators: what each must have, and what some can do besides."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np

from factory.core import config as core
from factory.core.registry import resolve
from factory.masks import MASKS
from factory.masks.allocate import Scores
from factory.plan.request import Request
from manifests.errors import UserError
from manifests.tile import Tile


class MaskGenerator(Protocol):
    """Draws score fields for requests; `factory.masks.allocate.allocate` turns them into labels.

    Implementations name this class as their base, so that mypy checks them where they are written.

    Attributes:
        schemes: names of the label schemes that it draws; ``"*"`` stands for any scheme that is not shipped.
        Config: class of its configuration.
        shift_bound: largest allocation shift of a tile unless another is configured; None where scores are not
            calibrated.
        config: the configuration it was built with. device: where a network of it runs.
    """

    schemes: ClassVar[tuple[str, ...]]
    Config: ClassVar[type[core.Config]]
    shift_bound: ClassVar[float | None] = None
    config: core.Config
    device: str

    def __init__(self, config: core.Config, device: str = "cpu") -> None:
        self.config, self.device = config, device

    @abstractmethod
    def refusal(self, request: Request) -> str | None:
        """Return why a request can never be met, or None."""

    @abstractmethod
    def draw(self, requests: Sequence[Request], rngs: Sequence[np.random.Generator]) -> list[Scores]:
        """Draw the scores of each request from its own generator, whatever else is in the batch."""


class TooFewNuclei(UserError):
    """Tiles hold too few whole nuclei to fit layouts to: `whole` of them."""

    def __init__(self, whole: int, least: int) -> None:
        super().__init__(f"--like: expected {least} whole nuclei or more, got {whole}. Name a larger data set.")
        self.whole = whole


@runtime_checkable
class FitsTiles(Protocol):
    """A mask generator that can be fitted to real instances without a training run (`factory make --like`)."""

    def fit_tiles(self, tiles: Sequence[Tile], request: Request, typed: frozenset[str]) -> core.Config:
        """Return the config with masks like real ones; deterministic.

        Args:
            tiles: real ones with instances. request: size and resolution of the tiles to be drawn.
            typed: fields of the config that a person set and that stay as they are.

        Raises:
            TooFewNuclei: when the tiles hold too little to fit to.
        """
        ...


@runtime_checkable
class Cautions(Protocol):
    """A mask generator that may meet a request otherwise than its config says."""

    def caution(self, request: Request) -> str | None:
        """Return how tiles of a request will differ from the config, or None."""
        ...


def resolve_mask_generator(name: str) -> type[MaskGenerator]:
    """Import the mask generator that the table lists under a name.

    Raises:
        UserError: for an unknown name, with the nearest known one.
    """
    found: type[MaskGenerator] = resolve(MASKS, name, "--masks")
    return found
