"""Segmentation networks by name, and the weights that their encoders may start from.

Adding a network is a function ``(encoder, in_channels, classes) -> Module``, a line in `segment.network.NETWORKS` and
one in `DEFAULT_ENCODERS`; the module has an attribute `encoder`, and takes sides that are multiples of `DIVISOR`. The
only importer of segmentation_models_pytorch.
"""

from __future__ import annotations

import contextlib
import difflib
import urllib.error
import urllib.request
from pathlib import Path

import torch
from torch import nn

from factory.core.checkpoints import read_tensors
from factory.core.config import Config
from factory.core.registry import resolve
from manifests.errors import FaultError, UserError
from segment.network import NETWORKS

DEFAULT_ENCODERS: dict[str, str] = {"unetplusplus": "mobilenet_v2", "segnet": "vgg16_bn"}
"""The encoder unless another is asked for; on a CPU mobilenet_v2 trains twice as fast as resnet18."""

DIVISOR = 32
"""Sides of an input are multiples of this: every network here halves five times."""

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""RGB mean and deviation that inputs are normalised with: ImageNet's, so that encoder weights from there fit."""


class NetworkConfig(Config):
    """Which network; `encoder` null takes the network's own default."""

    name: str = "unetplusplus"
    encoder: str | None = None

    def resolved(self) -> NetworkConfig:
        """The same with the encoder spelt out.

        Raises:
            UserError: for an unknown network or encoder, with the nearest known name.
        """
        resolve(NETWORKS, self.name, "--net")
        encoder = self.encoder or DEFAULT_ENCODERS[self.name]
        known = encoder_names(self.name)
        if encoder not in known and not (self.name == "unetplusplus" and _is_timm(encoder)):
            near = difflib.get_close_matches(encoder, known, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}."
            raise UserError(f"--encoder: expected an encoder of {self.name}, got {encoder!r}. {hint}")
        return NetworkConfig(name=self.name, encoder=encoder)


def encoder_names(network: str) -> list[str]:
    """Encoders that a network of the table can have (UNet++ also takes ``tu-<timm model>``)."""
    if network == "segnet":
        return ["vgg16_bn"]
    from segmentation_models_pytorch.encoders import encoders

    # UNet++ has no stage for the transformers' missing half scale, and the timm- names are deprecated.
    return sorted(name for name in encoders if not name.startswith(("timm-", "mit_")))


def _is_timm(encoder: str) -> bool:
    import timm

    return encoder.startswith("tu-") and timm.is_model(encoder.removeprefix("tu-").split(".")[0])


def build(config: NetworkConfig, channels: int, in_channels: int = 3) -> nn.Module:
    """Build a network with random weights, drawn from torch's global generator.

    Args:
        config: name and encoder.
        channels: of the output (`segment.network.head`).
        in_channels: channels of the image.
    """
    config = config.resolved()
    network: nn.Module = resolve(NETWORKS, config.name, "--net")(config.encoder, in_channels, channels)
    return network


def unetplusplus(encoder: str, in_channels: int, classes: int) -> nn.Module:
    """UNet++ (Zhou et al. 2018) with an encoder of segmentation_models_pytorch."""
    import segmentation_models_pytorch as smp

    try:
        network: nn.Module = smp.UnetPlusPlus(
            encoder_name=encoder, encoder_weights=None, in_channels=in_channels, classes=classes
        )
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"--encoder: expected one that UNet++ can use, got {encoder!r} ({error}).") from error
    return network


def to_input(images: torch.Tensor) -> torch.Tensor:
    """uint8 [N, H, W, 3] -> normalised float32 [N, 3, H, W]: the one place where images become network input.

    The memory stays in the order of the image, which is torch's channels_last: convolutions on a CPU and on tensor
    cores are fastest on it.
    """
    mean, std = (torch.tensor(values, device=images.device) for values in (MEAN, STD))
    return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def load_encoder_weights(network: nn.Module, config: NetworkConfig, weights: str) -> None:
    """Start the encoder from weights in a safetensors file, named as segmentation_models_pytorch names them.

    Args:
        network: what `build` gave for `config`.
        config: name and encoder.
        weights: a path, or "imagenet" to download them.

    Raises:
        UserError: when the file is not safetensors or is not of this encoder; nothing is loaded in part.
        FaultError: when the download fails.
    """
    path = encoder_file(config, weights)
    tensors = read_tensors(path)
    encoder = network.encoder
    assert isinstance(encoder, nn.Module)
    own = encoder.state_dict()
    # A classifier behind the encoder is no part of it; anything else that is left over is another encoder's.
    tensors = {name: t for name, t in tensors.items() if not name.startswith(("fc.", "classifier.", "last_linear."))}
    wrong = sorted(own.keys() ^ tensors.keys()) or [n for n in own if own[n].shape != tensors[n].shape]
    if wrong:
        raise UserError(
            f"{path}: expected weights of the encoder {config.resolved().encoder}, "
            f"got a file that differs at {wrong[0]} ({len(wrong)} in all). Choose the matching --encoder."
        )
    encoder.load_state_dict(tensors)


def encoder_file(config: NetworkConfig, weights: str) -> Path:
    """The file of encoder weights: a path as it is, "imagenet" fetched or found in the cache.

    Raises:
        FaultError: when the download fails.
    """
    return _download(config) if weights == "imagenet" else Path(weights)


def check_fit(config: NetworkConfig, channels: int, crop: tuple[int, int], encoder_weights: str | None) -> None:
    """Build the network once and push an empty crop through it, so that what does not fit is said before a run begins.

    Args:
        config: name and encoder. channels: of the output. crop: height and width that it is to take.
        encoder_weights: as in `load_encoder_weights`; None for random ones.

    Raises:
        UserError: naming the encoder and what it said.
    """
    with torch.random.fork_rng(devices=[]):
        network = build(config, channels)
    if encoder_weights:
        load_encoder_weights(network, config, encoder_weights)
    try:
        with torch.inference_mode():
            shape = tuple(network.eval()(torch.zeros(1, 3, *crop)).shape)
    except (AssertionError, RuntimeError, ValueError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--encoder: expected one that takes crops of {crop[0]}x{crop[1]}, got {config.resolved().encoder} "
            f"({said}). Choose another --encoder or --crop."
        ) from error
    if shape != (1, channels, *crop):
        raise UserError(
            f"--encoder: expected an output of {crop[0]}x{crop[1]}, got {shape[2]}x{shape[3]} "
            f"with {config.resolved().encoder}. Choose another --encoder or --crop."
        )


def _download(config: NetworkConfig) -> Path:
    """Fetch ImageNet weights of an encoder into the Hugging Face cache, or find them there."""
    import huggingface_hub
    from huggingface_hub import constants, try_to_load_from_cache
    from segmentation_models_pytorch.encoders import encoders

    name = str(config.resolved().encoder)
    source = encoders.get(name, {}).get("pretrained_settings", {}).get("imagenet")
    if source is None:
        raise UserError(f"--encoder-weights: expected an encoder with ImageNet weights, got {name}. Give a file.")
    wanted = {"repo_id": source["repo_id"], "filename": "model.safetensors", "revision": source["revision"]}
    cached = try_to_load_from_cache(**wanted)
    if isinstance(cached, str):
        return Path(cached)
    try:  # asked once and plainly: the hub's client would try for half a minute before it says so
        with contextlib.suppress(urllib.error.HTTPError):  # an answer, if not a kind one
            urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=10).close()
        return Path(huggingface_hub.hf_hub_download(**wanted))
    except OSError as error:  # urllib's and the hub client's errors alike
        raise FaultError(
            f"--encoder-weights imagenet: expected to reach {constants.ENDPOINT}/{source['repo_id']}, "
            f"got {error}. Download its model.safetensors elsewhere and give --encoder-weights PATH."
        ) from error
