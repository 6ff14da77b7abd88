"""Extractors with published weights: encoders of timm, and the Inception v3 of the FID."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from torchvision.models.inception import Inception3, InceptionA, InceptionC, InceptionE

from factory.core.weights import read_header
from factory.score.features import Extractor
from manifests.errors import FaultError, UserError
from manifests.files import sha256_file

_INCEPTION_SIZE = (299, 299)
_FID_OUTPUTS = 1008


class Normalised(nn.Module):
    """A network behind its normalisation: float32 [N, 3, H, W] from 0 to 1 -> [N, d]; `size` None takes any size."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, mean: Any, std: Any, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.network, self.size = network, size
        self.register_buffer("mean", torch.tensor(mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, 3, 1, 1))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Resizes and normalises as the network needs it."""
        features: torch.Tensor = self.network(self._normalised(pictures))
        return features

    def layers(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        """Returns the outputs of the stages of timm's encoder, fine to coarse."""
        stages: Any = self.network.forward_intermediates
        found: list[torch.Tensor] = stages(self._normalised(pictures), intermediates_only=True)
        return found

    def _normalised(self, pictures: torch.Tensor) -> torch.Tensor:
        if self.size is not None and tuple(pictures.shape[2:]) != self.size:
            # Shrinking without antialiasing changes the features (Parmar et al. 2022).
            pictures = F.interpolate(pictures, self.size, mode="bicubic", antialias=True).clamp(0, 1)
        return (pictures - self.mean) / self.std


def resnet50(weights: Path | None) -> Extractor:
    """Opens ResNet-50, 2048 features; without a file timm's ImageNet weights are downloaded."""
    if weights is not None:
        return any_encoder("resnet50", "resnet50", weights)
    tag = "resnet50.tv_in1k"
    return _of_timm("resnet50", _download(tag), f"timm {tag}", None)


def any_encoder(shown: str, name: str, path: Path) -> Extractor:
    """Opens an encoder of timm by its name and a safetensors file: the mean over the last layer's positions."""
    import timm

    try:
        network: Any = timm.create_model(name, pretrained=False, num_classes=0)
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(
            f"--features {shown}: expected an encoder that timm has, got {str(error).splitlines()[0]}. "
            "timm.list_models() lists them."
        ) from error
    named = network.default_cfg.get("classifier", ())
    heads = (*((named,) if isinstance(named, str) else named), "fc", "classifier", "last_linear")
    _load_strictly(network, path, shown, tuple(f"{name}." for name in heads))
    return _of_timm(shown, network, path.name, sha256_file(path))


def _of_timm(shown: str, network: Any, origin: str, sha256: str | None) -> Extractor:
    cfg = network.default_cfg
    size = tuple(cfg["input_size"][1:]) if cfg.get("fixed_input_size") else None
    wrapped = Normalised(network, cfg["mean"], cfg["std"], size)
    return Extractor(shown, f"Frechet distance ({shown})", wrapped, origin, sha256)


def _download(tag: str) -> nn.Module:
    """Downloads a timm encoder with its weights from timm's hub."""
    import timm
    from huggingface_hub import constants

    name = tag.split(".")[0]
    advice = "Download a safetensors file elsewhere and give --feature-weights PATH, or use random-vgg16."
    try:  # one plain request first: the hub's client retries for most of a minute before it fails
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        pass  # the hub answers
    except OSError as error:
        raise FaultError(
            f"--features {name}: expected to reach {constants.ENDPOINT} for its weights, got {error}. {advice}"
        ) from error
    try:
        return timm.create_model(tag, pretrained=True, num_classes=0)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise FaultError(f"--features {name}: expected timm's weights {tag}, got {reason}. {advice}") from error


def _load_strictly(network: nn.Module, path: Path, name: str, heads: tuple[str, ...]) -> None:
    """Fills every tensor of a network from its file, which may hold more: tensors that begin with one of `heads`."""
    read_header(path)
    own = network.state_dict()
    tensors = {key: value for key, value in load_file(path).items() if key in own or not key.startswith(heads)}
    counters = {key for key in own if key.endswith("num_batches_tracked")} - tensors.keys()  # older files lack them
    wrong = sorted((own.keys() ^ tensors.keys()) - counters)
    wrong = wrong or [key for key in tensors if own[key].shape != tensors[key].shape]
    if wrong:
        raise UserError(
            f"{path}: expected weights of {name}, got a file that differs at {wrong[0]} ({len(wrong)} in all). "
            "Give the matching --features."
        )
    network.load_state_dict({**own, **tensors})


def inception(weights: Path | None) -> Extractor:
    """Opens Inception v3, 2048 features of the last mean pool; without a file timm's ImageNet weights are downloaded.

    With the weights of the FID (Heusel et al. 2017) the distance is a true FID. Those weights
    (``pt_inception-2015-12-05``, TensorFlow's of 2015, 1008 outputs) need a network that differs from torchvision's in
    its pools: means leave the padding out, and the last block takes a maximum (found by the authors of pytorch-fid,
    Apache-2.0). A file with 1000 outputs is torchvision's or timm's own network; its distance is not called FID here.
    The published file is a pickle: convert it to safetensors.
    """
    if weights is None:
        tag = "inception_v3.tv_in1k"
        network = Normalised(_download(tag), [0.5] * 3, [0.5] * 3, _INCEPTION_SIZE)
        return Extractor("inception", "Frechet distance (inception, torchvision's weights)", network, f"timm {tag}")
    shape = read_header(weights).get("fc.weight", {}).get("shape")
    if not shape or shape[1:] != [2048]:
        raise UserError(
            f"{weights}: expected Inception v3 with its layer fc, got a file without. "
            "Convert pt_inception-2015-12-05 to safetensors, or take torchvision's."
        )
    is_fid = shape[0] == _FID_OUTPUTS
    filled = Inception3(aux_logits=False, init_weights=False)
    filled.fc = nn.Identity()
    if is_fid:
        _use_pools_of_fid(filled)
    _load_strictly(filled, weights, "inception", ("fc.", "AuxLogits."))
    network = Normalised(filled, [0.5] * 3, [0.5] * 3, _INCEPTION_SIZE)
    name = "FID" if is_fid else "Frechet distance (inception, not the FID's weights)"
    return Extractor("inception", name, network, weights.name, sha256_file(weights))


def _use_pools_of_fid(network: Inception3) -> None:
    """Gives the blocks of torchvision's Inception v3 the pools of the FID's network."""
    mean = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    for name, block in network.named_children():
        if isinstance(block, InceptionA | InceptionC | InceptionE):
            pool = nn.MaxPool2d(3, stride=1, padding=1) if name == "Mixed_7c" else mean
            block.__class__ = _with_pool(type(block), pool)


def _with_pool(block: type[nn.Module], pool: nn.Module) -> type[nn.Module]:
    """Returns a subclass of an Inception block whose last branch, the pooled one, uses another pool."""

    class Pooled(block):  # type: ignore[misc, valid-type]
        def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            *others, _ = super()._forward(x)  # the last branch is computed twice: a 1x1 convolution, which is cheap
            return [*others, self.branch_pool(pool(x))]

    return Pooled
