"""Histopathology-DatasetGAN (Rizvi et al.): a generator draws an image, and a labeller classifies its features.

Image and labels are functions of a row's seed, as for every image of a generator (`factory.joint.generators`). Labels
are predicted from the features of the pass that drew the image, so they match its noise as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from factory.core.config import parse
from factory.core.precision import Precision, resolve_precision
from factory.core.weights import Card, read_card
from factory.joint import HDGAN
from factory.joint.features import Shape
from factory.joint.generators import (
    GENERATOR,
    DrawConfig,
    Latents,
    OpenGenerator,
    draw_latents,
    generator_card,
    noise_of,
    open_generator,
)
from factory.joint.labeller import KIND, Labeller, read_labeller
from factory.joint.streaming import TILE_PX, StreamingLabeller
from factory.joint.stylegan2 import build
from factory.learn.weights import WeightsConfig, resolved, scheme_of, weights_path
from factory.nets.stylegan2 import StyleGan2Shape, Tap, sizes_of
from manifests.errors import UserError
from manifests.labels import LabelScheme
from manifests.tile import Tile

BESIDE = "generator.safetensors"
"""The generator's weights in the folder of a labeller."""

Image = npt.NDArray[np.uint8]


class HdganConfig(WeightsConfig):
    """Settings of a labeller at work.

    Attributes:
        weights: "starter", a folder that ``factory train hdgan`` wrote, or the file with the labeller in it.
        precision: of the labeller; the generator draws as it did for the annotated images.
        psi: truncation; null takes that of the annotated images.
        pool: tiles to choose from; null takes four for each that is asked, and none where nothing is asked.
        tolerance: the farthest that a tile may be from what was asked of it, in shares (cells: of the most asked).
        max_uncertainty: tiles are not chosen whose members disagree more, in nats: mean over the tenth of the pixels
            where they do most, as in DatasetGAN's code. max_pixel_uncertainty: pixels with more become 255, ignore.
        label_tile_px: side of the tiles that the labeller works in; it changes roundings, no more.
    """

    precision: Precision = "fp32"
    psi: float | None = Field(default=None, ge=0, le=2)
    pool: int | None = Field(default=None, ge=1, le=10_000_000)
    tolerance: float = Field(default=0.1, gt=0)
    max_uncertainty: float | None = Field(default=None, gt=0)
    max_pixel_uncertainty: float | None = Field(default=None, gt=0)
    label_tile_px: int = Field(default=TILE_PX, ge=1)


@dataclass(frozen=True)
class Drawn:
    """A generated image with its labels.

    Attributes:
        image: uint8 [H, W, 3]. tile: its labels. latent: float32 [z_dim].
        uncertainty, top_uncertainty, ignored: see `factory.joint.streaming.Labels`.
    """

    image: Image
    tile: Tile
    latent: Latents
    uncertainty: float | None
    top_uncertainty: float | None
    ignored: float


class Hdgan:
    """A generator and the labeller of its features.

    Args:
        config: resolved by `resolve_weights`. device: where both run.
    """

    Config = HdganConfig
    kind = KIND

    def __init__(self, config: HdganConfig, device: str = "cpu") -> None:
        self.config, self.device = config, device

    @classmethod
    def resolve_weights(cls, config: HdganConfig, device: str) -> HdganConfig:
        """The config with the labeller's digest and the truncation spelt out.

        Raises:
            UserError: for weights that are missing, damaged, not those of the sha256, or without their generator; for a
                bound of uncertainty that one classifier cannot have.
        """
        path, card = labeller_path(config.weights), cls.card_of(config)
        config = resolved(config, path, card, device, "make the data set anew")
        generator_beside(path, card)
        bounds = {"max-uncertainty": config.max_uncertainty, "max-pixel-uncertainty": config.max_pixel_uncertainty}
        for name, bound in bounds.items():
            if bound is not None and card.fields["network"]["members"] == 1:
                raise UserError(
                    f"--{name}: expected an ensemble, whose members can disagree, got one classifier in {path}. "
                    "Leave it out, or train with --set members=10."
                )
        return config.model_copy(update={"psi": drawing_of_card(card, path).psi}) if config.psi is None else config

    @classmethod
    def card_of(cls, config: HdganConfig) -> Card:
        """The labeller's card."""
        return read_card(labeller_path(config.weights), KIND)

    @cached_property
    def card(self) -> Card:
        """The labeller's card, without loading its weights."""
        return self.card_of(self.config)

    @cached_property
    def drawing(self) -> DrawConfig:
        """Settings of the generator: as for the annotated images, but with the config's truncation if there is one."""
        path = labeller_path(self.config.weights)
        how = drawing_of_card(self.card, path)
        update = {
            "weights": str(generator_beside(path, self.card)),
            "weights_sha256": self.card.fields["generator_sha256"],
            "psi": how.psi if self.config.psi is None else self.config.psi,
        }
        return how.model_copy(update=update)

    @cached_property
    def generator(self) -> OpenGenerator:
        """The generator, loaded."""
        how = self.drawing
        return open_generator(how.weights, self.device, precision=how.precision, threads=self.config.threads)

    @cached_property
    def labeller(self) -> Labeller:
        """The labeller, loaded."""
        return read_labeller(labeller_path(self.config.weights), self.generator.digest)

    @cached_property
    def _streaming(self) -> StreamingLabeller:
        precision = self.config.precision
        return StreamingLabeller(self.labeller.ensemble, self.labeller.channels, self.device, precision)

    @property
    def scheme(self) -> LabelScheme:
        """The classes of the labeller."""
        return scheme_of(self.card)

    @property
    def precision_name(self) -> str:
        """The coarsest number format that either computes in."""
        coarse = "bf16" in (self.config.precision, resolve_precision(self.drawing.precision, self.device))
        return "bfloat16" if coarse else "float32"

    def draw(self, seed: int) -> Drawn:
        """The tile of a seed."""
        latent = draw_latents([seed], self.generator.network.z_dim)[0]
        rngs = noise_of([seed], self.drawing)
        image, taps = self.generator.draw_with_taps(latent, rngs[0] if rngs else None, self.drawing.psi)
        labels = self._streaming.label(
            taps_of(taps, self.labeller.card["taps"]),
            self.generator.size,
            self.config.label_tile_px,
            self.config.max_pixel_uncertainty,
        )
        tile = tile_of(labels.semantic, self.scheme, self.generator.mpp)
        return Drawn(image, tile, latent, labels.uncertainty, labels.top_uncertainty, labels.ignored)


def labeller_path(weights: str) -> Path:
    """Return the file of a labeller; see `weights_path`."""
    return weights_path(HDGAN, weights, "--weights: expected a run of factory train hdgan, as there are no")


def generator_beside(path: Path, card: Card) -> Path:
    """The weights of the generator that a labeller is for, in the same folder."""
    digest = str(card.fields["generator_sha256"])
    beside = [path.parent / BESIDE, *sorted(path.parent.glob(f"{GENERATOR}-*.safetensors"))]
    for found in beside:
        if found.is_file() and generator_card(found).sha256 == digest:
            return found
    raise UserError(
        f"{path}: expected {BESIDE} beside it with the weights {digest[:12]}, which it was trained for, got none. "
        "Name a whole folder of factory train hdgan."
    )


def drawing_of_card(card: Card, path: Path) -> DrawConfig:
    """Settings of the generator for the images that a labeller was trained on."""
    return parse(DrawConfig, card.fields["drawing"], f"{path}: drawing")


def taps_of(taps: list[Tap], names: Sequence[str]) -> list[torch.Tensor]:
    """Features [C, h, w] of the named taps of one image."""
    known = {tap.name: tap.features[0] for tap in taps}
    missing = [name for name in names if name not in known]
    if missing:
        raise UserError(f"generator: expected the layer {missing[0]}, got one with {', '.join(known)}. Use another.")
    return [known[name] for name in names]


def tap_shapes(network: Mapping[str, Any]) -> dict[str, Shape]:
    """Channels, height and width of every tap by name, in order, of the generator of a card's ``network``."""
    with torch.device("meta"):  # no weights are drawn for the names and sizes of layers
        generator = build(network)
    shape = StyleGan2Shape(**{name: value for name, value in network.items() if name != "size"})
    return {
        f"{block.name}.{name}": (shape.channels(size), *size)
        for block, size in zip(generator.synthesis.blocks, sizes_of(generator.size), strict=True)
        for name in block.convolutions  # type: ignore[union-attr]
    }


def tile_of(semantic: npt.NDArray[np.uint8], scheme: LabelScheme, mpp: float) -> Tile:
    """Labels as a tile: where the scheme has nuclei, each 4-connected piece of them is an instance."""
    nuclei = scheme.ids("nucleus")
    if not nuclei:
        return Tile(semantic, np.zeros(semantic.shape, np.int32), mpp, scheme)
    inside = np.isin(semantic, nuclei).astype(np.uint8)
    _, instance = cv2.connectedComponents(inside, connectivity=4, ltype=cv2.CV_32S)
    return Tile(semantic, instance.astype(np.int32), mpp, scheme)
