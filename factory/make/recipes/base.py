"""The Protocol of a recipe: how the rows of a manifest become tiles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import numpy.typing as npt

from factory.core.config import Config
from factory.core.runs import Sample as Sample
from factory.renderers.base import RealPixels
from manifests.labels import LabelScheme

Image = npt.NDArray[np.uint8]
Row = dict[str, Any]


@dataclass(frozen=True)
class Provenance:
    """Names of the data that a part was trained on or fitted to (``data set/group``), and their licences."""

    sources: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()

    def __or__(self, other: Provenance) -> Provenance:
        """Both together, each entry once, sorted."""
        return Provenance(
            tuple(sorted({*self.sources, *other.sources})), tuple(sorted({*self.licences, *other.licences}))
        )


NOTHING = Provenance()


class Maker(Protocol):
    """Makes tiles of rows. One for each process, as building one may load weights."""

    def make(self, rows: Sequence[Row]) -> Iterator[Sample]:
        """Yield the sample of each row, in order. Each depends on its own row alone."""
        ...


class Recipe(Protocol):
    """Names and resolved configs of the parts that make tiles of rows. Small, picklable and compared by value."""

    @property
    def scheme(self) -> LabelScheme:
        """The label scheme of the tiles."""
        ...

    @property
    def title(self) -> str:
        """The parts by name, e.g. ``ihc + stain``."""
        ...

    @property
    def changed(self) -> dict[str, Any]:
        """Configured values that are not the defaults, by key."""
        ...

    @property
    def document(self) -> dict[str, Any]:
        """The JSON-ready part of run.yaml from which `factory.make.recipes.recipe_of` builds the recipe again."""
        ...

    @property
    def trained(self) -> bool:
        """Whether a network takes part."""
        ...

    @property
    def makes_labels(self) -> bool:
        """Whether it makes the labels too; if not, the labels of a row are not part of a replay."""
        ...

    def maker(self) -> Maker:
        """Build what makes the tiles."""
        ...


class ReadsDocument(Protocol):
    """The class of a recipe that stands in run.yaml."""

    def from_document(
        self, config: Mapping[str, Any], device: str, *, where: Path, masks_of: Path | None = None
    ) -> Recipe:
        """Build the recipe of a run.yaml; see `factory.make.recipes.recipe_of`."""
        ...


MakerT = TypeVar("MakerT", covariant=True)


class BuildsMaker(Protocol[MakerT]):
    """The one ability of a recipe that `maker_of` needs, with the type of its maker."""

    def maker(self) -> MakerT:
        """Build what makes the tiles."""
        ...


_cached: tuple[object, object] | None = None


def maker_of(recipe: BuildsMaker[MakerT]) -> MakerT:
    """The maker of a recipe in this process. The latest one is kept, so that weights are loaded once."""
    global _cached
    if _cached is None or _cached[0] != recipe:
        _cached = recipe, recipe.maker()
    return cast(MakerT, _cached[1])


def changed_values(**configs: Config) -> dict[str, Any]:
    """Values that differ from the defaults, as ``part.key``, of configs by the name of their part."""
    return {
        f"{part}.{key}": value
        for part, config in configs.items()
        for key, value in config.model_dump(exclude_defaults=True).items()
    }


def columns_of(real: RealPixels | None) -> Row:
    """The columns of a row that say whether real pixels are in its image, whose, and under which licences."""
    if real is None:
        return {"real_pixels": False, "real_groups": None}  # the row may be of tiles whose masks these are
    return {"real_pixels": True, "real_groups": list(real.groups), "licence": "; ".join(real.licences)}


def precision_name(*precisions: str) -> str:
    """The coarsest of the number formats that parts compute in, as manifests name it."""
    return "bfloat16" if "bf16" in precisions else "float32"
