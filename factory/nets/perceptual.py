"""Perceptual loss of pix2pixHD: distance of two images in the layers of VGG19 (Johnson et al. 2016)."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from factory.core.checkpoints import read_tensors
from manifests.errors import UserError

LAYERS = {1: 1 / 32, 6: 1 / 16, 11: 1 / 8, 20: 1 / 4, 29: 1.0}
"""relu1_1 to relu5_1 by their place in torchvision's ``vgg19().features``, and pix2pixHD's weights of them."""

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PerceptualDistance(nn.Module):
    """Weighted mean absolute differences in five layers of VGG19, whose weights are frozen.

    Args:
        path: safetensors of torchvision's ``vgg19`` (keys ``features.0.weight`` ...), e.g. written once with
            ``safetensors.torch.save_file(torchvision.models.vgg19(weights="DEFAULT").state_dict(), path)``.

    Raises:
        UserError: for a file that is missing, damaged, or of another network.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        from torchvision.models import vgg19

        with torch.device("meta"):  # the unused classifier would take half a gigabyte
            features = vgg19(weights=None).features[: max(LAYERS) + 1]
        tensors = {name.removeprefix("features."): tensor.float() for name, tensor in read_tensors(path).items()}
        try:
            features.load_state_dict({name: tensors[name] for name in features.state_dict()}, assign=True)
        except (KeyError, RuntimeError) as error:
            raise UserError(f"{path}: expected the weights of torchvision's vgg19, got other tensors.") from error
        self.features = features.requires_grad_(False).eval()
        self.mean, self.std = (nn.Buffer(torch.tensor(values)[:, None, None]) for values in (_MEAN, _STD))

    def forward(self, made: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """A scalar; both images float [N, 3, H, W] in -1..1."""
        terms = []
        a, b = ((image / 2 + 0.5 - self.mean) / self.std for image in (made, real))
        for place, layer in enumerate(self.features):
            a = layer(a)
            with torch.no_grad():
                b = layer(b)
            if place in LAYERS:
                terms.append(LAYERS[place] * F.l1_loss(a.float(), b.float()))
        return torch.stack(terms).sum()
