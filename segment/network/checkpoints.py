"""Files of `segment train`: the kinds that their cards state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from factory.core import checkpoints

WEIGHTS_KIND = "segment-weights"
STATE_KIND = "segment-state"


def write_weights(path: Path, tensors: Mapping[str, torch.Tensor], card: Mapping[str, Any]) -> None:
    """Write weights of a segmentation network, and their card beside them (`factory.core.checkpoints`)."""
    checkpoints.write_weights(path, tensors, {**card, "kind": WEIGHTS_KIND})
