"""Features of timm's encoders: global mean of the last layer, weights from a safetensors file or timm's download."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from factory.core.weights import read_header
from factory.score.features import TIMM, Extractor
from manifests.errors import FaultError, UserError
from manifests.files import sha256_file


class Normalised(nn.Module):
    """A network behind its normalisation: float32 [N, 3, H, W] from 0 to 1 -> [N, d].

    Args:
        network: the encoder. mean, std: per channel. size: height and width that it needs; None takes any.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, mean: Any, std: Any, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.network, self.size = network, size
        self.register_buffer("mean", torch.tensor(mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, 3, 1, 1))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Resize where the network needs it, normalise, run."""
        if self.size is not None and tuple(pictures.shape[2:]) != self.size:
            # Parmar et al. 2022: what is made smaller without antialiasing gives other features.
            pictures = F.interpolate(pictures, self.size, mode="bicubic", antialias=True).clamp(0, 1)
        features: torch.Tensor = self.network((pictures - self.mean) / self.std)
        return features


def resnet50(weights: Path | None) -> Extractor:
    """ResNet-50, 2048 features; without a file timm's ImageNet weights are fetched."""
    if weights is not None:
        return _from_file("resnet50", "resnet50", weights)
    tag = "resnet50.tv_in1k"
    return _extractor("resnet50", download(tag), f"timm {tag}", None)


def any_encoder(name: str, weights: Path | None) -> Extractor:
    """An encoder of timm by its name."""
    assert weights is not None  # refused by `check_extractor`
    return _from_file(f"{TIMM}{name}", name, weights)


def download(tag: str) -> nn.Module:
    """A timm encoder with the weights that timm's hub has under that tag.

    Raises:
        FaultError: when they cannot be fetched.
    """
    import timm
    from huggingface_hub import constants

    name = tag.split(".")[0]
    advice = "Download a safetensors file elsewhere and give --feature-weights PATH, or use random-vgg16."
    try:  # asked once and plainly: the hub's client tries for most of a minute before it says so
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        pass  # an answer, if not a kind one
    except OSError as error:
        raise FaultError(
            f"--features {name}: expected to reach {constants.ENDPOINT} for its weights, got {error}. {advice}"
        ) from error
    try:
        return timm.create_model(tag, pretrained=True, num_classes=0)
    except (OSError, RuntimeError) as error:
        said = str(error).splitlines()[0]
        raise FaultError(f"--features {name}: expected timm's weights {tag}, got {said}. {advice}") from error


def load_strictly(network: nn.Module, path: Path, name: str, heads: tuple[str, ...]) -> None:
    """Fill a network from a safetensors file, all of it or nothing.

    Args:
        network: what to fill. path: the file. name: of the network, for the error.
        heads: beginnings of names in the file that are of a classifier and left out.

    Raises:
        UserError: when the file is of another network.
    """
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


def _from_file(shown: str, name: str, path: Path) -> Extractor:
    import timm

    try:
        network = timm.create_model(name, pretrained=False, num_classes=0)
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(
            f"--features {shown}: expected an encoder that timm has, got {str(error).splitlines()[0]}. "
            "timm.list_models() lists them."
        ) from error
    load_strictly(network, path, shown, _heads(network))
    return _extractor(shown, network, path.name, sha256_file(path))


def _heads(network: Any) -> tuple[str, ...]:
    classifier = network.default_cfg.get("classifier", ())
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    return tuple(f"{name}." for name in (*names, "fc", "classifier", "last_linear"))


def _extractor(shown: str, network: Any, origin: str, sha256: str | None) -> Extractor:
    cfg = network.default_cfg
    size = tuple(cfg["input_size"][1:]) if cfg.get("fixed_input_size") else None
    wrapped = Normalised(network, cfg["mean"], cfg["std"], size)
    return Extractor(shown, f"Frechet distance ({shown})", wrapped, origin, sha256)
