"""Small generators with their cards, for the tests of what is drawn with them."""

from __future__ import annotations

from pathlib import Path

import torch

from factory.core.checkpoints import write_weights
from factory.core.weights import BEST
from factory.joint.stylegan2 import WEIGHTS_KIND
from factory.nets.stylegan2 import Generator, StyleGan2Shape
from manifests import get_scheme

SHAPE = StyleGan2Shape(z_dim=6, w_dim=5, mapping_layers=2, channel_base=192, channel_max=8)
SIZE = (32, 48)


def write_generator(folder: Path, seed: int = 0, size: tuple[int, int] = SIZE, **fields: object) -> Path:
    """Random weights whose noise counts, with a card, as a training run leaves them; returns the folder."""
    torch.manual_seed(seed)
    network = Generator(SHAPE, size)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("noise_strength", "bias")):
                parameter.add_(torch.randn_like(parameter) * 0.3)
        network.mapping.w_avg.copy_(network.mapping(torch.randn(64, SHAPE.z_dim)).mean(0))
    card = {
        "kind": WEIGHTS_KIND, "generator": "stylegan2", "mpp": 0.5, "trained_size": list(size),
        "network": {**SHAPE.model_dump(mode="json"), "size": list(size)}, "scheme": get_scheme("tissue").to_dict(),
        "sources": ["slides/p1"], "licences": ["test"], "use": "tests",
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder / BEST, network.state_dict(), {**card, **fields})
    return folder
