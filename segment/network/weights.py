"""Trained weights: a network with its scheme, head and card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from factory.core import checkpoints
from factory.core.checkpoints import BEST, build_for, read_checkpoint
from factory.core.config import parse
from factory.core.precision import Precision
from manifests.errors import UserError
from manifests.labels import LabelScheme
from segment.data.references import stain_reference
from segment.data.stains import Stains, estimate_stains, restain
from segment.network import Symmetries
from segment.network.head import Head
from segment.network.inference import PLAIN, InferenceConfig, Maps, predict_maps
from segment.network.instances import InstanceConfig
from segment.network.networks import NetworkConfig, build

STARTER = Path(__file__).parents[1] / "starter" / "nuclei_he.safetensors"
"""Weights in the package: nuclei in H&E."""


WEIGHTS_KIND, STATE_KIND = "segment-weights", "segment-state"
"""Kinds of the files of `segment train`, as on their cards."""


@dataclass(frozen=True)
class Weights:
    """A network with its weights, on `device` and in eval mode.

    Attributes:
        network: with `head.channels` output channels. scheme: of its classes. head: meaning of its channels.
        instances: separation of nuclei, as chosen on validation.
        card: facts on the training. device: of the network. path: the file.
        inference: how the network is applied, as the card or the user says.
    """

    network: torch.nn.Module
    scheme: LabelScheme
    head: Head
    instances: InstanceConfig
    card: dict[str, Any]
    device: str
    path: Path
    inference: InferenceConfig = PLAIN

    @property
    def stain_reference(self) -> Stains | None:
        """Stains that every image gets before it goes through the network."""
        reference = self.inference.stain_reference
        return None if reference == "training" else reference

    def stains_of(self, parts: Iterable[npt.NDArray[np.uint8]]) -> Stains | None:
        """Stains of an image for `predict`, from parts of it, uint8 [H, W, 3].

        None where there is no reference to bring it to, or too little tissue to tell: such an image keeps its stains.
        """
        return None if self.stain_reference is None else estimate_stains(parts)

    def predict(
        self, image: npt.NDArray[np.uint8], precision: Precision = "fp32", stains: Stains | None = None
    ) -> Maps:
        """Probabilities and distance of an image or a part of it, uint8 [H, W, 3] of any size.

        Args:
            image: to be segmented. precision: of the arithmetic. stains: those that the image has (`stains_of`).
        """
        if self.stain_reference is not None and stains is not None:
            image = restain(image, stains, self.stain_reference)
        return predict_maps(self.network, self.head, image, self.device, precision, self.inference)


def load_weights(path: Path | str, device: str, tta: Symmetries | None = None, reference: str | None = None) -> Weights:
    """Load weights that `segment train` wrote.

    Args:
        path: the file, the run's folder, or "starter" (or its name) for the weights in the package.
        device: of the network. tta: test-time augmentation; None for that of the card.
        reference: "none", or images of the stain reference (`segment.data.references`); None for that of the card.
    """
    path = STARTER if str(path) in ("starter", STARTER.stem) and not Path(path).exists() else Path(path)
    path = path / BEST if path.is_dir() else path
    checkpoint = read_checkpoint(path, WEIGHTS_KIND)
    card = checkpoint.card
    try:
        scheme = LabelScheme.from_dict(card["scheme"])
        head = Head(len(scheme), bool(card["head"]["distance"]))
        instances = parse(InstanceConfig, card["instances"], str(path))
        inference = parse(InferenceConfig, card.get("inference", {}), str(path))
        described = parse(NetworkConfig, card["network"], str(path))
        network = build_for(path, lambda: build(described, head.channels))
        network.load_state_dict(checkpoint.tensors)  # half-precision tensors of small files are widened here
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: expected weights that fit their card, got: {_reason(error)}") from error
    network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    if tta is not None:
        inference = inference.model_copy(update={"test_time_augmentation": tta})
    if reference is not None:
        found = None if reference == "none" else stain_reference(Path(reference), scheme)
        inference = inference.model_copy(update={"stain_reference": found})
    return Weights(network, scheme, head, instances, card, device, path, inference)


def write_weights(path: Path, tensors: Mapping[str, torch.Tensor], card: Mapping[str, Any]) -> None:
    """Write weights of a segmentation network, and their card beside them (`factory.core.checkpoints`)."""
    checkpoints.write_weights(path, tensors, {**card, "kind": WEIGHTS_KIND})


def _reason(error: Exception) -> str:
    """Message of an error in one line; of torch's the second, because the first only names the network."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[min(len(lines), 2) - 1] if lines else type(error).__name__
