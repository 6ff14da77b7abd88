"""Mask generators and renderers as a configuration names them: a name and the part's own resolved config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from factory.core.config import Config, parse
from factory.core.folder import RUN
from factory.core.runs import read_run
from factory.learn.base import NamesFile, UsesWeights
from factory.learn.weights import WeightsConfig
from factory.make.recipes.base import NOTHING, Provenance
from factory.masks.base import MaskGenerator, resolve_mask_generator
from factory.renderers.base import DressesClasses, Renderer, resolve_renderer
from manifests.labels import LabelScheme

PartT = TypeVar("PartT", MaskGenerator, Renderer)
RESOLVERS: dict[str, Callable[[str], type[MaskGenerator] | type[Renderer]]] = {
    "masks": resolve_mask_generator,
    "renderer": resolve_renderer,
}
"""Key of a configuration -> how the class of that part is found by its name."""


@dataclass(frozen=True)
class Part(Generic[PartT]):
    """A mask generator or a renderer. Small and picklable.

    Attributes:
        name: in its table. kind: its class. config: resolved.
    """

    name: str
    kind: type[PartT]
    config: Config

    def build(self, device: str = "cpu") -> PartT:
        """The generator or renderer itself."""
        return self.kind(self.config, device)

    @property
    def document(self) -> dict[str, Any]:
        """The part in run.yaml."""
        return {"name": self.name, **self.config.model_dump(mode="json")}

    @property
    def trained(self) -> bool:
        """Whether it draws with a trained network."""
        return has_network(self.kind)

    @property
    def weights_sha256(self) -> str | None:
        """Digest of its weights, None where it has none."""
        return self.config.weights_sha256 if isinstance(self.config, NamesFile) else None

    @property
    def starter(self) -> str | None:
        """Name of the starter weights or bank that it draws with."""
        part = self.build()
        return part.starter() if isinstance(part, UsesWeights) else None

    @property
    def precision(self) -> str:
        """Number format that its network computes in."""
        return self.config.precision if isinstance(self.config, WeightsConfig) else "fp32"


def provenance_of(*parts: MaskGenerator | Renderer) -> Provenance:
    """Data that the weights of parts were trained on."""
    behind = NOTHING
    for part in parts:
        if isinstance(part, UsesWeights):
            behind |= Provenance(*part.training_sources())
    return behind


def input_notes(size: tuple[int, int], *parts: MaskGenerator | Renderer) -> list[str]:
    """How the weights of parts read their inputs for tiles of a size (height, width), one line each."""
    return [note for part in parts if isinstance(part, UsesWeights) for note in part.input_notes(size)]


def has_network(kind: type[MaskGenerator] | type[Renderer]) -> bool:
    """Whether a part draws with a trained network."""
    return issubclass(kind.Config, WeightsConfig)


def mask_part(values: Mapping[str, Any], device: str) -> Part[MaskGenerator]:
    """Resolve the mask generator of a configuration: its name and keys, and its weights where it has some."""
    return _part(resolve_mask_generator, "masks", values, device)


def renderer_part(values: Mapping[str, Any], device: str) -> Part[Renderer]:
    """Resolve the renderer of a configuration, as `mask_part` does."""
    return _part(resolve_renderer, "renderer", values, device)


def _part(find: Callable[[str], type[PartT]], key: str, values: Mapping[str, Any], device: str) -> Part[PartT]:
    values = dict(values)
    name = str(values.pop("name", ""))
    kind = find(name)
    config = parse(kind.Config, values, f"{key} ({name})")
    part = kind(config, device)
    return Part(name, kind, part.resolved_config() if isinstance(part, UsesWeights) else config)


def dressed(renderer: Part[Renderer], scheme: LabelScheme, out: Path) -> Part[Renderer]:
    """The renderer with a look for every class that no role describes, where it has such.

    A run that was begun before there were looks goes on as it began.

    Args:
        renderer: resolved. scheme: of the masks. out: the data set's folder.
    """
    part = renderer.build()
    if not isinstance(part, DressesClasses):
        return renderer
    earlier = read_run(out).get("config", {}).get("renderer", {}) if (out / RUN).is_file() else {}
    if earlier.get("name") == renderer.name and "appearances" not in earlier:
        return renderer
    return replace(renderer, config=part.dressed(scheme))


def device_for(parts: Mapping[str, Mapping[str, Any]], device: str) -> str:
    """The device for the parts of a configuration; torch is imported only where one of them has a network.

    Args:
        parts: ``masks``, ``renderer`` or both, as configured. device: as typed.
    """
    kinds = [RESOLVERS[key](str(values.get("name", ""))) for key, values in parts.items()]
    if device in ("auto", "cpu") and not any(has_network(kind) for kind in kinds):
        return "cpu"
    from factory.core.devices import resolve_device

    return resolve_device(device)
