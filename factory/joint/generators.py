"""Trained generators of images, ready to draw: `open_generator`. An image is a function of its row's seed alone.

The latent is z, drawn from the seed by `Stream.LATENT`; the noise of every layer comes from `Stream.RENDER`. How else
images are drawn (weights, truncation, noise) is a `DrawConfig`, which stands in run.yaml and is read back by
`drawing_of`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from factory.core.checkpoints import build_for
from factory.core.config import parse
from factory.core.precision import Precision, autocast, resolve_precision
from factory.core.runs import read_run
from factory.core.seeds import Stream, generator
from factory.core.weights import Card
from factory.joint import DRAWING as DRAWING
from factory.joint import NoiseInput
from factory.joint.stylegan2 import SAMPLE_PSI, WEIGHTS_KIND, build, pixels_of
from factory.learn.weights import WeightsConfig, load_weights, read_card_of, resolved, weights_path
from factory.nets.stylegan2 import Generator, Tap
from manifests.errors import UserError

GENERATOR = "stylegan2"
Image = npt.NDArray[np.uint8]
Latents = npt.NDArray[np.float32]
Rngs = Sequence[np.random.Generator] | None


class DrawConfig(WeightsConfig):
    """Settings of a generator at work.

    Attributes:
        psi: truncation: styles are drawn to their mean by it, 1 leaves them as they are.
        noise: ``drawn`` for each image, or the ``constant`` maps that belong to the weights.
        precision: fp32 where nothing else is asked, as labels are read off the features.
    """

    psi: float = Field(default=SAMPLE_PSI, ge=0, le=2)
    noise: NoiseInput = "drawn"
    precision: Precision = "fp32"


class OpenGenerator:
    """A generator with its weights; made by `open_generator`.

    Attributes:
        network: in eval mode. card: of the weights. digest: sha256 of card and tensors, as rows keep it.
        size: height and width of the images. mpp: micrometres per pixel. device: where it is.
    """

    def __init__(self, network: Generator, card: Card, device: str, precision: Precision) -> None:
        self.network, self.card, self.device = network, card, device
        self.digest, self.size, self.mpp = card.sha256, network.size, float(card.fields["mpp"])
        self._precision = precision

    def draw(self, latents: Latents, rngs: Rngs, psi: float) -> Image:
        """Images uint8 [N, H, W, 3], RGB, each drawn by itself, so that no batch changes a bit of it.

        Args:
            latents: float32 [N, z_dim]. rngs: of the noise, one for each; None takes the weights' constant noise.
            psi: of the truncation.
        """
        images = np.zeros((len(latents), *self.size, 3), np.uint8)
        for number, latent in enumerate(latents):
            with self._computing():
                inputs = self._inputs(latent, None if rngs is None else rngs[number], psi)
                images[number] = pixels_of(self.network.synthesis(*inputs))[0]
        return images

    def draw_with_taps(self, latent: Latents, rng: np.random.Generator | None, psi: float) -> tuple[Image, list[Tap]]:
        """One image uint8 [H, W, 3] of a latent [z_dim], and what every convolution gave on the way, [1, C, h, w]."""
        with self._computing():
            taps: list[Tap] = []
            image = self.network.synthesis(*self._inputs(latent, rng, psi), taps)
        return pixels_of(image)[0], taps

    def styles(self, latents: Latents) -> Latents:
        """Styles float32 [N, w_dim] of latents [N, z_dim], not truncated."""
        with torch.inference_mode():
            styles: Latents = self.network.mapping(torch.from_numpy(latents).to(self.device)).float().cpu().numpy()
        return styles

    def _inputs(
        self, latent: Latents, rng: np.random.Generator | None, psi: float
    ) -> tuple[torch.Tensor, list[torch.Tensor] | None]:
        """Styles for every layer, [1, layers, w_dim], and the noise of every convolution; None for the weights' own."""
        synthesis, mapping = self.network.synthesis, self.network.mapping
        ws = mapping.truncated(mapping(torch.from_numpy(latent[None]).to(self.device)), synthesis.layers, psi)
        if rng is None:
            return ws, None
        return ws, [drawn.to(self.device) for drawn in self.network.noise([rng])]

    @contextmanager
    def _computing(self) -> Iterator[None]:
        with torch.inference_mode(), autocast(self._precision, self.device):
            yield


def draw_latents(seeds: Sequence[int], z_dim: int) -> Latents:
    """Latents float32 [N, z_dim] of rows, each from its own seed."""
    drawn = [generator(seed, Stream.LATENT).standard_normal(z_dim, np.float32) for seed in seeds]
    return np.stack(drawn) if drawn else np.zeros((0, z_dim), np.float32)


def noise_of(seeds: Sequence[int], config: DrawConfig) -> Rngs:
    """Random generators for the noise of rows, as `OpenGenerator.draw` takes them; None for constant noise."""
    return None if config.noise == "constant" else [generator(seed, Stream.RENDER) for seed in seeds]


def generator_path(weights: str | Path) -> Path:
    """Return the weights' file of a generator; see `weights_path`."""
    return weights_path(GENERATOR, weights, "--weights: expected a run's folder or a file, as there are no")


def generator_card(weights: str | Path) -> Card:
    """Return the card of a generator's weights, without loading them; see `read_card_of`."""
    return read_card_of(generator_path(weights), WEIGHTS_KIND, GENERATOR)


def open_generator(
    weights: str | Path, device: str = "cpu", *, precision: Precision = "fp32", threads: int | None = None
) -> OpenGenerator:
    """Load a generator.

    Args:
        weights: a run's folder, a file, or ``starter``. device: where it draws. precision: of its convolutions.
        threads: of torch on a CPU; None leaves them as they are.
    """
    card = generator_card(weights)
    if device == "cpu" and threads is not None:
        torch.set_num_threads(threads)
    path = generator_path(weights)
    network = build_for(path, lambda: build(card.fields["network"]))
    load_weights(network, path)
    network = network.eval().requires_grad_(False).to(device)
    return OpenGenerator(network, card, device, resolve_precision(precision, device))


def resolve_weights(config: DrawConfig, device: str) -> DrawConfig:
    """The config with the weights' digest and the precision spelt out."""
    path, card = generator_path(config.weights), generator_card(config.weights)
    return resolved(config, path, card, device, "draw anew")


def drawing_of(root: Path) -> DrawConfig:
    """Settings that the images of a data set were drawn with; of `factory sample`, or of annotated images.

    Raises:
        UserError: for a data set whose images no such generator drew.
    """
    config = read_run(root)["config"]
    if DRAWING not in config:
        raise UserError(
            f"{root}: expected images that a generator drew (factory sample, factory annotate import), got others."
        )
    return parse(DrawConfig, config[DRAWING], f"{root}/run.yaml: {DRAWING}")
