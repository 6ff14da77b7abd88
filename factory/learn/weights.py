"""Base of the mask generators and renderers that draw with a trained network: finding and checking its weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import Field

from factory.core.config import Config
from factory.core.precision import Precision, resolve_precision
from factory.core.resolutions import LEARNT_MPP
from factory.core.starters import ANY, named_file, starter_name, starter_of, starters_of
from factory.core.weights import BEST, Card, read_card
from factory.nets import STRIDE
from manifests.errors import UserError
from manifests.labels import SCHEMES, LabelScheme

if TYPE_CHECKING:
    from torch import nn

    from factory.plan.request import Request

Settings = TypeVar("Settings", bound="WeightsConfig")


class WeightsConfig(Config):
    """Weights of a part, and the arithmetic that it draws with.

    Attributes:
        weights: "starter", the name of one (``depas-ki67``), a file written by `factory train`, or the folder of its
            run.
        weights_sha256: filled in when a data set is planned; other weights under that name are then refused.
        precision: fp32, bf16, or auto, which is bf16 where the machine computes it in hardware. Part of the result.
        threads: CPU threads of torch in each worker. Part of the result, so it does not follow the number of workers.
    """

    paths: ClassVar[frozenset[str]] = frozenset({"weights"})
    weights: str = ANY
    weights_sha256: str | None = None
    precision: Precision = "auto"
    threads: int = Field(default=1, ge=1)


class WeightedPart(ABC):
    """Base of the parts that draw with a network.

    Attributes:
        name: in its table. part: ``masks`` or ``renderer``, the prefix of its settings.
        kind: of its weights' files.
    """

    name: ClassVar[str]
    part: ClassVar[str]
    kind: ClassVar[str]
    Config: ClassVar[type[WeightsConfig]] = WeightsConfig

    def __init__(self, config: Any, device: str = "cpu") -> None:
        self.config, self.device = config, device

    def resolved_config(self) -> WeightsConfig:
        """Return the config with the sha256 of the weights and the number format filled in; see `UsesWeights`."""
        config: WeightsConfig = self.config
        return resolved(config, self.path_of(config), self.card, self.device, "make the data set anew")

    @classmethod
    def path_of(cls, config: WeightsConfig) -> Path:
        """Return the file that `weights` of a config names; see `weights_path`."""
        wanted = f"{cls._option()} {cls.name}: expected --set {cls.part}.weights=FILE, got none, and it has no"
        return weights_path(cls.name, config.weights, wanted, config.weights_sha256)

    @classmethod
    def card_of(cls, config: WeightsConfig) -> Card:
        """Return the card of the weights that a config names; see `read_card_of`."""
        return read_card_of(cls.path_of(config), cls.kind, cls.name, cls._option())

    @classmethod
    def _option(cls) -> str:
        return "--renderer" if cls.part == "renderer" else "--masks"

    @classmethod
    def known_schemes(cls, values: Mapping[str, Any]) -> tuple[LabelScheme, ...]:
        """Return the label schemes of the weights that typed values name: one, or those of all starters."""
        weights = str(values.get("weights", ANY))
        if weights == ANY and (starters := starters_of(cls.name)):
            return tuple(map(scheme_of, starters.values()))
        return (scheme_of(cls.card_of(WeightsConfig(weights=weights))),)

    def starter(self) -> str | None:
        """Return the name of the starter weights that it draws with; None for other weights."""
        return starter_name(self.path_of(self.config))

    def training_sources(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return sources and licences of the training data, for the metadata and the check for leaks."""
        return tuple(self.card.fields["sources"]), tuple(self.card.fields["licences"])

    def input_notes(self, size: tuple[int, int]) -> tuple[str, ...]:
        """Return notes on how the inputs were read for tiles of a size, one line each."""
        del size
        return ()

    @cached_property
    def card(self) -> Card:
        """Card of the weights."""
        return self.card_of(self.config)

    @cached_property
    def network(self) -> nn.Module:
        """The network with its weights, ready to draw."""
        import torch

        from factory.core.checkpoints import build_for
        from factory.nets.drawing import ready

        if self.device == "cpu":
            torch.set_num_threads(self.config.threads)
        path, described = self.path_of(self.config), self.card.fields["network"]
        network = build_for(path, lambda: self.build(described))
        load_weights(network, path)
        return ready(network, self.config.precision, self.device)

    @staticmethod
    @abstractmethod
    def build(network: Mapping[str, Any]) -> nn.Module:
        """Return the network that a card describes, with random weights."""

    def misfit(self, request: Request) -> str | None:
        """Return why the weights cannot serve a request (another scheme, resolution or size), or None."""
        scheme, mpp = scheme_of(self.card), float(self.card.fields["mpp"])
        if not self.takes(request.scheme, scheme):
            asked = request.scheme.name
            of_nuclei = self.part == "renderer" and scheme.ids("nucleus") and not request.scheme.ids("nucleus")
            without = ", without --masks" if of_nuclei else ""
            return (
                f"scheme: the weights of {self.name} draw {scheme.name}, got {asked}; make masks of {scheme.name} "
                f"(--scheme {scheme.name}{without}), or train weights: factory train {self.name} --data DATA --scheme "
                f"{asked}, then --set {self.part}.weights=runs/train/{self.name}"
            )
        if abs(request.mpp - mpp) > LEARNT_MPP * mpp:
            return (
                f"mpp: the weights of {self.name} were trained at {mpp:g} um per pixel, got {request.mpp:g}; make "
                f"masks at that resolution (--mpp {mpp:g})"
            )
        if request.height % self.stride or request.width % self.stride:
            return f"size: {self.name} draws multiples of {self.stride}, got {request.height}x{request.width}"
        return None

    @staticmethod
    def takes(scheme: LabelScheme, own: LabelScheme) -> bool:
        """Return whether weights trained on masks of the scheme `own` serve masks of `scheme`."""
        return scheme.name == own.name and len(scheme) == len(own)

    @property
    def stride(self) -> int:
        """Pixels that the sides of a tile must be multiples of; a U-Net halves them `depth` times."""
        return max(STRIDE, 1 << min(int(self.card.fields["network"].get("depth", 0)), 16))


def weights_path(name: str, weights: str | Path, wanted: str, sha256: str | None = None) -> Path:
    """Return the file of some weights: that of a run's folder, a file, a starter by name, or "starter", any of them.

    Args:
        name: of what draws with them. weights: as typed. wanted: start of the message where the package has none.
        sha256: of the starter, where it is known which one was meant.

    Raises:
        UserError: when there are no starter weights, or none by that name.
    """
    if str(weights) == ANY:
        if (found := starter_of(name, sha256)) is None:
            raise UserError(f"{wanted} starter weights.")
        return found
    if (starter := named_file(str(weights))) is not None:
        return starter
    path = Path(weights)
    return path / BEST if path.is_dir() else path


def read_card_of(path: Path, kind: str, name: str, option: str | None = None) -> Card:
    """Return the card of weights, without loading them.

    Args:
        path: of the file. kind: of it. name: of what draws with them. option: that chooses what draws, for messages.

    Raises:
        UserError: for weights that are missing, damaged, or another part's.
    """
    card = read_card(path, kind)
    if (found := card.fields.get("generator")) != name:
        advice = f"Use {option} {found}, or other weights" if option else "Use other weights"
        raise UserError(f"{path}: expected weights of {name}, got those of {found}. {advice}.")
    return card


def load_weights(network: nn.Module, path: Path) -> None:
    """Load weights into a network, as float32."""
    from factory.core.checkpoints import read_tensors

    try:
        network.load_state_dict({name: tensor.float() for name, tensor in read_tensors(path).items()})
    except RuntimeError as error:
        raise UserError(f"{path}: expected weights that fit their card, got others. Train them again.") from error


def resolved(config: Settings, path: Path, card: Card, device: str, otherwise: str) -> Settings:
    """Return a config with the sha256 of its weights and the number format filled in.

    Args:
        config: to resolve. path, card: of its weights. device: where they draw. otherwise: advice for other weights.
    """
    card.refuse_other(path, config.weights_sha256, otherwise)
    update = {"weights_sha256": card.sha256, "precision": resolve_precision(config.precision, device)}
    return config.model_copy(update=update)


def scheme_of(card: Card) -> LabelScheme:
    """Return the label scheme of weights: a shipped one if name and classes agree, else the one in the card."""
    scheme = LabelScheme.from_dict(card.fields["scheme"])
    shipped = SCHEMES.get(scheme.name)
    return shipped if shipped and shipped.names == scheme.names else scheme
