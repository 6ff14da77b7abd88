"""Segmentation networks by name, and pretrained weights of their encoders.

To add a network, write a class with the methods of `Architecture` and a line in
`segment.network.NETWORKS`. Only this module imports segmentation_models_pytorch.
"""

from __future__ import annotations

import contextlib
import difflib
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Protocol

import torch
from pydantic import PositiveInt
from torch import nn

from factory.core.checkpoints import read_tensors
from factory.core.config import Config
from factory.core.registry import resolve
from manifests.errors import FaultError, UserError
from segment.network import NETWORKS

DIVISOR = 32
"""Sides of an input are multiples of this: every network here halves five times."""

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of RGB in ImageNet, with which inputs are normalised for its encoder weights."""


class Architecture(Protocol):
    """An entry of `NETWORKS`. `tests/segment/network/test_networks.py` checks every entry.

    Attributes:
        default_encoder: its encoder unless another is given.
    """

    default_encoder: str

    def encoders(self) -> Sequence[str]:
        """Names of the encoders that it can have."""
        ...

    def accepts(self, encoder: str) -> bool:
        """Whether it can have an encoder, which may also be one that `encoders` does not list."""
        ...

    def build(self, encoder: str, in_channels: int, classes: int, decoder: Sequence[int] | None) -> nn.Module:
        """A network float32 [N, in_channels, H, W] -> [N, classes, H, W], for sides that are multiples of `DIVISOR`.

        Its attribute `encoder` is a module. Weights are drawn from torch's global generator.

        Args:
            encoder: its name. in_channels, classes: channels of input and output.
            decoder: channels of the decoder's five scales, coarsest first; None for the published ones.

        Raises:
            UserError: for an encoder or a decoder that does not work.
        """
        ...


class Unet:
    """U-Net (Ronneberger et al. 2015) with an encoder of segmentation_models_pytorch, or ``tu-<timm model>``."""

    model = "Unet"
    default_encoder = "mobilenet_v2"  # on a CPU it trains twice as fast as resnet18

    def encoders(self) -> list[str]:
        """Encoders of segmentation_models_pytorch, without deprecated names and transformers without a half scale."""
        from segmentation_models_pytorch.encoders import encoders

        return sorted(name for name in encoders if not name.startswith(("timm-", "mit_")))

    def accepts(self, encoder: str) -> bool:
        """Whether it is listed, or a model of timm."""
        import timm

        is_timm = encoder.startswith("tu-") and timm.is_model(encoder.removeprefix("tu-").split(".")[0])
        return is_timm or encoder in self.encoders()

    def build(self, encoder: str, in_channels: int, classes: int, decoder: Sequence[int] | None) -> nn.Module:
        """Build the network; `Architecture` has the contract."""
        import segmentation_models_pytorch as smp

        widths = {} if decoder is None else {"decoder_channels": tuple(decoder)}
        try:
            network: nn.Module = getattr(smp, self.model)(
                encoder_name=encoder, encoder_weights=None, in_channels=in_channels, classes=classes, **widths
            )
        except (ValueError, RuntimeError, NotImplementedError) as error:
            raise UserError(f"--encoder: expected one that {self.model} can use, got {encoder!r} ({error}).") from error
        return network


class UnetPlusPlus(Unet):
    """UNet++ (Zhou et al. 2018), whose skip connections are nested and dense."""

    model = "UnetPlusPlus"


def architecture(name: str) -> Architecture:
    """The architecture of a name in `NETWORKS`.

    Raises:
        UserError: for an unknown name, with the nearest known one.
    """
    found: Architecture = resolve(NETWORKS, name, "--net")()
    return found


class NetworkConfig(Config):
    """A network.

    Attributes:
        name: in `NETWORKS`. encoder: null takes the default one of the network.
        decoder: channels of the decoder's five scales, coarsest first; null takes the published ones. Smaller ones make
            UNet++ several times as fast. Not for SegNet, whose decoder mirrors its encoder.
    """

    added: ClassVar = frozenset({"decoder"})
    name: str = "unetplusplus"
    encoder: str | None = None
    decoder: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt, PositiveInt] | None = None

    def resolved(self) -> NetworkConfig:
        """The same with the encoder's name.

        Raises:
            UserError: for an unknown network or encoder, with the nearest known name.
        """
        of_name = architecture(self.name)
        encoder, known = self.encoder or of_name.default_encoder, of_name.encoders()
        if not of_name.accepts(encoder):
            near = difflib.get_close_matches(encoder, known, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}."
            raise UserError(f"--encoder: expected an encoder of {self.name}, got {encoder!r}. {hint}")
        return NetworkConfig(name=self.name, encoder=encoder, decoder=self.decoder)


def build(config: NetworkConfig, channels: int, in_channels: int = 3) -> nn.Module:
    """Build a network with random weights, drawn from torch's global generator.

    Args:
        config: name and encoder.
        channels: of the output (`segment.network.head`).
        in_channels: channels of the image.
    """
    config = config.resolved()
    return architecture(config.name).build(str(config.encoder), in_channels, channels, config.decoder)


def to_input(images: torch.Tensor) -> torch.Tensor:
    """Convert images to network input: uint8 [N, H, W, 3] -> normalised float32 [N, 3, H, W].

    The memory layout stays that of the images, torch's channels_last, on which convolutions are fastest.
    """
    mean, std = (torch.tensor(values, device=images.device) for values in (MEAN, STD))
    return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def load_encoder_weights(network: nn.Module, config: NetworkConfig, weights: str) -> None:
    """Load encoder weights from a safetensors file, with the names of segmentation_models_pytorch.

    Args:
        network: of `build` for `config`.
        config: name and encoder.
        weights: a path, or "imagenet" to download them.

    Raises:
        UserError: when the file is not safetensors or not of this encoder; weights are never loaded in part.
        FaultError: when the download fails.
    """
    path = encoder_file(config, weights)
    tensors = read_tensors(path)
    encoder = network.encoder
    assert isinstance(encoder, nn.Module)
    own = encoder.state_dict()
    # A classifier after the encoder is not part of it; any other tensor belongs to a different encoder.
    tensors = {name: t for name, t in tensors.items() if not name.startswith(("fc.", "classifier.", "last_linear."))}
    wrong = sorted(own.keys() ^ tensors.keys()) or [n for n in own if own[n].shape != tensors[n].shape]
    if wrong:
        raise UserError(
            f"{path}: expected weights of the encoder {config.resolved().encoder}, "
            f"got a file that differs at {wrong[0]} ({len(wrong)} in all). Choose the matching --encoder."
        )
    encoder.load_state_dict(tensors)


def encoder_file(config: NetworkConfig, weights: str) -> Path:
    """The file of encoder weights: a path, or "imagenet" from the cache or the network."""
    return _download(config) if weights == "imagenet" else Path(weights)


def check_fit(config: NetworkConfig, channels: int, crop: tuple[int, int], encoder_weights: str | None) -> None:
    """Check before a run that the network works, with an empty crop.

    Args:
        config: name and encoder. channels: of the output. crop: height and width.
        encoder_weights: as in `load_encoder_weights`; None for random ones.
    """
    with torch.random.fork_rng(devices=[]):
        network = build(config, channels)
    if encoder_weights:
        load_encoder_weights(network, config, encoder_weights)
    try:
        with torch.inference_mode():
            shape = tuple(network.eval()(torch.zeros(1, 3, *crop)).shape)
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--encoder: expected one that takes crops of {crop[0]}x{crop[1]}, got {config.resolved().encoder} "
            f"({reason}). Choose another --encoder or --crop."
        ) from error
    if shape != (1, channels, *crop):
        raise UserError(
            f"--encoder: expected an output of {crop[0]}x{crop[1]}, got {shape[2]}x{shape[3]} "
            f"with {config.resolved().encoder}. Choose another --encoder or --crop."
        )


def _download(config: NetworkConfig) -> Path:
    """ImageNet weights of an encoder in the Hugging Face cache, fetched if needed."""
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
    try:  # a quick request first: the hub's client would retry for half a minute
        with contextlib.suppress(urllib.error.HTTPError):  # the server answers
            urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=10).close()
        return Path(huggingface_hub.hf_hub_download(**wanted))
    except OSError as error:  # of urllib and of the hub's client
        raise FaultError(
            f"--encoder-weights imagenet: expected to reach {constants.ENDPOINT}/{source['repo_id']}, "
            f"got {error}. Download its model.safetensors elsewhere and give --encoder-weights PATH."
        ) from error
