"""Inception v3, 2048 features of the last mean pool; with the weights of the FID (Heusel et al. 2017) a true FID.

Those weights (``pt_inception-2015-12-05``, TensorFlow's of 2015, 1008 outputs) belong to a network that differs from
torchvision's in three pools: means leave the padding out, and the last block takes a maximum (found by the authors of
pytorch-fid, Apache-2.0). A file with 1000 outputs is torchvision's or timm's own network: Inception's features too, but
another distance, which does not go by the name FID here. The published file is a pickle: convert it to safetensors.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.inception import Inception3, InceptionA, InceptionC, InceptionE

from factory.core.weights import read_header
from factory.score.features import Extractor
from factory.score.timm_features import Normalised, download, load_strictly
from manifests.errors import UserError
from manifests.files import sha256_file

_SIZE = (299, 299)
_FID_OUTPUTS = 1008


def inception(weights: Path | None) -> Extractor:
    """Inception v3 from a file, or timm's ImageNet weights fetched."""
    if weights is None:
        tag = "inception_v3.tv_in1k"
        network = Normalised(download(tag), [0.5] * 3, [0.5] * 3, _SIZE)
        return Extractor("inception", "Frechet distance (inception, torchvision's weights)", network, f"timm {tag}")
    shape = read_header(weights).get("fc.weight", {}).get("shape")
    if not shape or shape[1:] != [2048]:
        raise UserError(
            f"{weights}: expected Inception v3 with its layer fc, got a file without. "
            "Convert pt_inception-2015-12-05 to safetensors, or take torchvision's."
        )
    is_fid = shape[0] == _FID_OUTPUTS
    network = Normalised(build(is_fid, weights), [0.5] * 3, [0.5] * 3, _SIZE)
    name = "FID" if is_fid else "Frechet distance (inception, not the FID's weights)"
    return Extractor("inception", name, network, weights.name, sha256_file(weights))


def build(is_fid: bool, weights: Path) -> Inception3:
    """Torchvision's Inception v3 without its classifier, or the FID's variant of it, filled from a file."""
    network = Inception3(aux_logits=False, init_weights=False)
    network.fc = nn.Identity()
    if is_fid:
        for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
            getattr(network, name).__class__ = _FidA
        for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
            getattr(network, name).__class__ = _FidC
        network.Mixed_7b.__class__, network.Mixed_7c.__class__ = _FidEMean, _FidEMax
    load_strictly(network, weights, "inception", ("fc.", "AuxLogits."))
    return network


def _mean_pool(values: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(values, 3, stride=1, padding=1, count_include_pad=False)


class _FidA(InceptionA):  # type: ignore[misc]
    def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [
            self.branch1x1(x),
            self.branch5x5_2(self.branch5x5_1(x)),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            self.branch_pool(_mean_pool(x)),
        ]


class _FidC(InceptionC):  # type: ignore[misc]
    def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        return [
            self.branch1x1(x),
            self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x))),
            self.branch7x7dbl_5(self.branch7x7dbl_4(double)),
            self.branch_pool(_mean_pool(x)),
        ]


class _FidE(InceptionE):  # type: ignore[misc]
    def _pool(self, values: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return [
            self.branch1x1(x),
            torch.cat([self.branch3x3_2a(single), self.branch3x3_2b(single)], 1),
            torch.cat([self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)], 1),
            self.branch_pool(self._pool(x)),
        ]


class _FidEMean(_FidE):
    def _pool(self, values: torch.Tensor) -> torch.Tensor:
        return _mean_pool(values)


class _FidEMax(_FidE):
    def _pool(self, values: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(values, 3, stride=1, padding=1)
