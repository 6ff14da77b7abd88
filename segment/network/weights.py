"""Trained weights as the commands use them: a network, what its output means, and its card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from factory.core.checkpoints import BEST, read_checkpoint
from factory.core.config import parse
from manifests.errors import UserError
from manifests.labels import LabelScheme
from segment.network.checkpoints import WEIGHTS_KIND
from segment.network.head import Head
from segment.network.instances import InstanceConfig
from segment.network.networks import NetworkConfig, build

STARTER = Path(__file__).parents[1] / "starter" / "nuclei_he.safetensors"
"""Weights that come with the package: nuclei in H&E (its card is in the file and beside it)."""


@dataclass(frozen=True)
class Weights:
    """A network with its weights, on `device` and in eval mode.

    Attributes:
        network: gives `head.channels` channels. scheme: of its classes. head: what its channels mean.
        instances: how nuclei are read off its output, as chosen on validation.
        card: what is known of the training. device: where the network is. path: the file.
    """

    network: torch.nn.Module
    scheme: LabelScheme
    head: Head
    instances: InstanceConfig
    card: dict[str, Any]
    device: str
    path: Path

    @property
    def mpp(self) -> float | None:
        """Micrometres per pixel of the training tiles; None where they differ."""
        values = self.card.get("mpp", [])
        return float(values[0]) if len(values) == 1 else None


def load_weights(path: Path | str, device: str) -> Weights:
    """Load weights that `segment train` wrote.

    Args:
        path: the file, the run's folder, or "starter" (or its name) for those that come with the package.
        device: where the network is to compute.

    Raises:
        UserError: when the file is missing, damaged, no safetensors or of another network.
    """
    path = STARTER if str(path) in ("starter", STARTER.stem) and not Path(path).exists() else Path(path)
    path = path / BEST if path.is_dir() else path
    checkpoint = read_checkpoint(path, WEIGHTS_KIND)
    card = checkpoint.card
    try:
        scheme = LabelScheme.from_dict(card["scheme"])
        head = Head(len(scheme), bool(card["head"]["distance"]))
        instances = parse(InstanceConfig, card["instances"], str(path))
        network = build(parse(NetworkConfig, card["network"], str(path)), head.channels)
        network.load_state_dict(checkpoint.tensors)  # half-precision tensors of small files are widened here
    except (KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{path}: expected weights that fit their card, got: {_said(error)}") from error
    network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return Weights(network, scheme, head, instances, card, device, path)


def _said(error: Exception) -> str:
    """What an error says: of torch's, whose first line only names the network, the second."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[min(len(lines), 2) - 1] if lines else type(error).__name__
