"""The Protocols of renderers: what each must have, and what some can do besides."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from factory.core import config as core
from factory.core.registry import resolve
from factory.plan.request import Request
from factory.renderers import RENDERERS
from factory.renderers.conditions import Condition, ConditionConfig
from manifests.labels import LabelScheme

Image = npt.NDArray[np.uint8]


class Renderer(Protocol):
    """Draws images on condition maps.

    Implementations name this class as their base, so that mypy checks them where they are written.

    Attributes:
        Config: class of its configuration.
        label_origin: ``exact`` where the image shows what the mask says by construction, ``conditioned`` where a
            network was given the mask.
        config: the configuration it was built with. device: where a network of it runs.
    """

    Config: ClassVar[type[core.Config]]
    label_origin: Literal["exact", "conditioned"]
    config: core.Config
    device: str

    def __init__(self, config: core.Config, device: str = "cpu") -> None:
        self.config, self.device = config, device

    @property
    @abstractmethod
    def condition(self) -> ConditionConfig:
        """The kind of condition map that it draws on."""

    @abstractmethod
    def render(self, conditions: Sequence[Condition], rngs: Sequence[np.random.Generator]) -> list[Image]:
        """Draw the image of each condition map from its own generator, whatever else is in the batch.

        Returns:
            RGB images, uint8 [H, W, 3], one for each condition map and of its size.
        """

    def refusal(self, request: Request) -> str | None:
        """Return why masks of a request can never be rendered, or None."""
        del request
        return None


@runtime_checkable
class FitsImages(Protocol):
    """A renderer that can be fitted to real images without a training run (`factory make --like`)."""

    def fit_images(self, images: Sequence[Image], scheme: LabelScheme) -> core.Config:
        """Return the config with the stain of real images; deterministic.

        Args:
            images: RGB, uint8 [H, W, 3]. scheme: of the masks to be rendered.

        Raises:
            UserError: when no image shows stained tissue.
        """
        ...


@runtime_checkable
class FitsDataset(Protocol):
    """A renderer that can be fitted to a data set with its labels without a training run (`factory make --like`)."""

    @classmethod
    def fit_dataset(cls, root: Path) -> dict[str, str]:
        """Return values of the config fitted to the train split of a data set; deterministic.

        Raises:
            UserError: when the data set holds nothing to fit to.
        """
        ...


@runtime_checkable
class DressesClasses(Protocol):
    """A renderer that draws classes which no role describes, each in a look of its own."""

    def dressed(self, scheme: LabelScheme) -> core.Config:
        """Return the config that names the look of every such class of a scheme; deterministic."""
        ...


@dataclass(frozen=True)
class RealPixels:
    """Whose pixels are in an image.

    Attributes:
        groups: patients or slides, ``data set/group``. licences: of these.
    """

    groups: tuple[str, ...]
    licences: tuple[str, ...]


@runtime_checkable
class CopiesPixels(Protocol):
    """A renderer whose images hold pixels of real ones."""

    def render_with_sources(
        self, conditions: Sequence[Condition], rngs: Sequence[np.random.Generator]
    ) -> list[tuple[Image, RealPixels]]:
        """Render as `Renderer.render` does, and say of each image whose pixels it holds."""
        ...


def render_traced(
    renderer: Renderer, conditions: Sequence[Condition], rngs: Sequence[np.random.Generator]
) -> list[tuple[Image, RealPixels | None]]:
    """Render, and say of each image whose pixels it holds; None where it holds none."""
    if isinstance(renderer, CopiesPixels):
        return [*renderer.render_with_sources(conditions, rngs)]
    return [(image, None) for image in renderer.render(conditions, rngs)]


def resolve_renderer(name: str) -> type[Renderer]:
    """Import the renderer that the table lists under a name.

    Raises:
        UserError: for an unknown name, with the nearest known one.
    """
    found: type[Renderer] = resolve(RENDERERS, name, "--renderer")
    return found
