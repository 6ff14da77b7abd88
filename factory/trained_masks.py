"""Mask generators with weights: where these are from, what they draw, and how logits become scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from factory.composition import Request, Scores, check
from factory.core.config import Config
from factory.core.precision import Precision, resolve_precision
from factory.core.resolutions import LEARNT_MPP
from factory.core.weights import BEST, Card, read_card
from factory.nets import STRIDE
from manifests.errors import UserError
from manifests.labels import SCHEMES, LabelScheme

if TYPE_CHECKING:
    import torch
    from torch import nn

STARTER = Path(__file__).parent / "starter"
WEIGHTS_KIND = "generator-weights"
SURE = 2.0
"""Log-odds, 88 %, beyond which a network's certainty is not asked any further."""
_LEAST_PX = np.float32(1e-3)


class TrainedConfig(Config):
    """Which weights a generator draws with, and how it computes.

    Attributes:
        weights: "starter", a file that `factory train` wrote, or its run's folder.
        weights_sha256: filled in when an order is resolved; other weights under that name are then refused.
        precision: fp32, bf16, or auto: bf16 where the machine computes it in hardware. Part of the result.
        threads: of torch, in each worker; part of the result, so it is never taken from the number of workers.
    """

    weights: str = "starter"
    weights_sha256: str | None = None
    precision: Precision = "auto"
    threads: int = Field(default=1, ge=1)


class TrainedMasks(ABC):
    """Base of the generators whose scores are a network's logits."""

    name: ClassVar[str]
    Config: ClassVar[type[TrainedConfig]] = TrainedConfig
    schemes: tuple[str, ...] = ("tissue",)
    """What the starter weights draw; other weights may draw any scheme."""
    uses_torch = True
    from_weights = True
    shift_bound = 4.0
    """`MakeConfig.shift_bound` unless another is asked for: `SURE` log-odds, and two pixels from the border."""

    def __init__(self, config: TrainedConfig, device: str = "cpu") -> None:
        self.config, self.device = config, device

    @classmethod
    def settle(cls, config: Any, device: str) -> Any:
        """The config with weights and precision spelt out.

        Raises:
            UserError: for weights that are missing, damaged, another generator's, or not those of the sha256.
        """
        card = cls.card_of(config)
        if config.weights_sha256 not in (None, card.sha256):
            raise UserError(
                f"{weights_path(cls.name, config.weights)}: expected the weights {config.weights_sha256[:12]}..., "
                f"got {card.sha256[:12]}.... Put those back, or make the data set anew."
            )
        settled = {"weights_sha256": card.sha256, "precision": resolve_precision(config.precision, device)}
        return config.model_copy(update=settled)

    @classmethod
    def card_of(cls, config: TrainedConfig) -> Card:
        """The card of the weights that a config names.

        Raises:
            UserError: for weights that are missing, damaged, or another generator's.
        """
        path = weights_path(cls.name, config.weights)
        card = read_card(path, WEIGHTS_KIND)
        if card.fields.get("generator") != cls.name:
            raise UserError(
                f"{path}: expected weights of {cls.name}, got those of {card.fields.get('generator')}. "
                f"Use --masks {card.fields.get('generator')}, or other weights."
            )
        return card

    @classmethod
    def default_scheme(cls, values: Mapping[str, Any]) -> LabelScheme:
        """The scheme of the weights that the typed values of the config name, used where nothing was asked."""
        return scheme_of(cls.card_of(TrainedConfig(weights=str(values.get("weights", "starter")))))

    @classmethod
    def provenance(cls, config: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Sources and licences of what the weights were trained on, for the metadata and the guard against leaks."""
        fields = cls.card_of(config).fields
        return tuple(fields["sources"]), tuple(fields["licences"])

    @classmethod
    def notes(cls, config: Any, size: tuple[int, int]) -> tuple[str, ...]:
        """What a person should know of how the inputs were read for tiles of a size, one line each."""
        del config, size
        return ()

    @cached_property
    def card(self) -> Card:
        """The card of the weights."""
        return self.card_of(self.config)

    @cached_property
    def network(self) -> nn.Module:
        """The network, ready to draw from."""
        import torch

        from factory.core.checkpoints import read_tensors
        from factory.nets.drawing import ready

        if self.device == "cpu":
            torch.set_num_threads(self.config.threads)
        path = weights_path(self.name, self.config.weights)
        network = self.build(self.card.fields["network"])
        try:
            network.load_state_dict({key: tensor.float() for key, tensor in read_tensors(path).items()})
        except RuntimeError as error:
            raise UserError(f"{path}: expected weights that fit their card, got others. Train them again.") from error
        return ready(network, self.config.precision, self.device)

    @staticmethod
    @abstractmethod
    def build(network: Mapping[str, Any]) -> nn.Module:
        """The network of a card, with any weights."""

    @abstractmethod
    def logits(self, request: Request, rng: np.random.Generator) -> npt.NDArray[np.float32]:
        """What the network says of one tile, sharpened as at the end of its training: float32 [K, H, W]."""

    def said(self, *inputs: torch.Tensor) -> npt.NDArray[np.float32]:
        """What the network says of the inputs of one tile: float32 [K, H, W]."""
        import torch

        with torch.inference_mode():
            logits: npt.NDArray[np.float32] = self.network(*(part.to(self.device) for part in inputs))[0].cpu().numpy()
        return logits

    def refusal(self, request: Request) -> str | None:
        """Why a request can never be met, or None."""
        scheme, mpp = scheme_of(self.card), float(self.card.fields["mpp"])
        if request.scheme.name != scheme.name or len(request.scheme) != len(scheme):
            return f"scheme: the weights of {self.name} draw {scheme.name}, got {request.scheme.name}"
        if abs(request.mpp - mpp) > LEARNT_MPP * mpp:
            return f"mpp: the weights of {self.name} were trained at {mpp:g} um per pixel, got {request.mpp:g}"
        if request.height % STRIDE or request.width % STRIDE:
            return f"size: {self.name} draws multiples of {STRIDE}, got {request.height}x{request.width}"
        if request.cells:
            return f"cells: {self.name} draws regions, got {request.cells} cells"
        return check(request)

    def draw(self, requests: Sequence[Request], rngs: Sequence[np.random.Generator]) -> list[Scores]:
        """Score fields for every request, each computed by itself, so that no batch changes a bit of it."""
        return [to_scores(self.logits(request, rng)) for request, rng in zip(requests, rngs, strict=True)]


def weights_path(name: str, weights: str) -> Path:
    """The file that a config's `weights` means for a generator.

    Raises:
        UserError: when there are no starter weights for it.
    """
    if weights == "starter":
        found = sorted(STARTER.glob(f"{name}-*.safetensors"))
        if not found:
            raise UserError(
                f"--masks {name}: expected --set masks.weights=FILE, got none, and it has no starter weights."
            )
        return found[0]
    path = Path(weights)
    return path / BEST if path.is_dir() else path


def scheme_of(card: Card) -> LabelScheme:
    """The scheme that weights draw; a shipped one where the name and the classes are those."""
    scheme = LabelScheme.from_dict(card.fields["scheme"])
    shipped = SCHEMES.get(scheme.name)
    return shipped if shipped and shipped.names == scheme.names else scheme


def to_scores(logits: npt.NDArray[np.float32]) -> Scores:
    """Logits of a network as calibrated scores; where nothing is asked, the network's own decision stands.

    Args:
        logits: float32 [K, H, W]; K = 1 is the logit of the second class against the first.
    """
    if len(logits) == 1:
        field = settled(logits[0])
        own = float(np.count_nonzero(field > 0)) / field.size
        return Scores(np.stack([np.zeros_like(field), field]), (1.0 - own, own), calibrated=True)
    order = np.partition(logits, -2, axis=0)
    best, second = order[-1], order[-2]
    margins = (settled(np.where(field == best, field - second, field - best)) for field in logits)
    fields = np.stack([np.float32(0.5) * margin for margin in margins])  # so that two of them differ by one margin
    shares = np.bincount(fields.argmax(0).ravel(), minlength=len(fields)) / best.size
    return Scores(fields, tuple(shares.tolist()), calibrated=True)


def settled(margin: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A margin of log-odds whose sure pixels are ranked by their distance to the nearest pixel that decides otherwise.

    A network that was trained to be sure says nothing more by how sure it is: deep in tissue its logits are whatever
    its layers left there, a checkerboard as a rule, and a threshold moved that far would cut along it. Beyond `SURE`
    log-odds a pixel counts `SURE` + its distance in pixels (smoothed by a Gaussian of 1 pixel, which parts the many
    that are equally far), so that a threshold moved far takes tissue from its border inwards, or adds it from there
    outwards. The sign, which is the network's decision, stays; and so does a margin of one sign alone.

    Args:
        margin: float32 [H, W], above 0 where the network takes the class.

    Returns:
        float32 [H, W]: log-odds up to `SURE`, pixels beyond.
    """
    inside = margin > 0
    if inside.all() or not inside.any():  # no border to measure from
        return margin
    far = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 5)
    far -= cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, 5)
    far = np.maximum(np.abs(cv2.GaussianBlur(far, (0, 0), 1.0)), _LEAST_PX) + np.float32(SURE)
    found: npt.NDArray[np.float32] = np.where(np.abs(margin) > SURE, np.copysign(far, margin), margin)
    return found
