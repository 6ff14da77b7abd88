"""Training on pairs of condition map and image, as in pix2pix (Isola et al. 2017) and pix2pixHD (Wang et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import nn

from factory.core.config import Config
from factory.core.seeds import Stream
from factory.learn.paired import PairedTrainer, PairedTrainerConfig, Terms
from factory.learn.trainer import Crops
from factory.nets.contours import contrast, grey_of, sharpness, smoothness
from factory.nets.objectives import Adversarial, adversarial_loss, feature_matching
from factory.nets.perceptual import PerceptualDistance
from factory.renderers.learned.image_training import ImageTrainer, ImageTrainerConfig

_FEATURE_LAYERS = 4.0
"""pix2pixHD sums feature matching over the hidden layers of a discriminator, with weight 4 / (their number); ours is a
mean."""


class ImageLossWeights(Config):
    """Weights of the terms of the generator loss.

    Attributes:
        adversarial: of the discriminators. feature: feature matching, scaled as in pix2pixHD's code: a sum over layers,
            a mean over discriminators.
        perceptual: VGG19. l1: mean absolute difference from the paired image (pix2pix: 100).
        smoothness, contrast: of contours, L_s1 and L_s2 of Enhanced Sharp-GAN. sharpness: of Sharp-GAN, which they
            replace; see `factory.nets.contours`.
    """

    adversarial: float = Field(default=1.0, ge=0)
    feature: float = Field(default=0.0, ge=0)
    perceptual: float = Field(default=0.0, ge=0)
    l1: float = Field(default=0.0, ge=0)
    smoothness: float = Field(default=0.0, ge=0)
    contrast: float = Field(default=0.0, ge=0)
    sharpness: float = Field(default=0.0, ge=0)

    @property
    def of_contours(self) -> tuple[str, ...]:
        """Terms above 0 that need the contours of nuclei."""
        return tuple(name for name in ("smoothness", "contrast", "sharpness") if getattr(self, name))


class PairedImageConfig(ImageTrainerConfig, PairedTrainerConfig):
    """Training of a renderer on pairs.

    Attributes:
        discriminator_norm: normalisation layers of the discriminators.
        discriminator_loss, fooling: adversarial loss of the discriminators and of the generator, cross entropy or least
            squares.
        loss: weights of the generator loss. perceptual_weights: file of VGG19's, needed with ``loss.perceptual``.
        contrast_levels: lambda of the contour terms: the least difference in grey that is contrast, 0..1.
        smoothness_levels: divides the differences of L_s1; 1 in the paper, which leaves its gradient some 60 times
            smaller than that of L_s2. See `factory.nets.contours.smoothness`.
        contours_as_real: only the excess of the contour terms over those of the real images of the step counts, so that
            contours become as clear as real ones. In the papers they count in full; as training goes on such a network
            draws an outline around every nucleus.
    """

    added: ClassVar = PairedTrainerConfig.added | {"smoothness_levels"}

    discriminator_norm: str = Field(default="instance", pattern="^(batch|instance|none)$")
    discriminator_loss: Adversarial = "lsgan"
    fooling: Adversarial = "lsgan"
    loss: ImageLossWeights = ImageLossWeights()
    perceptual_weights: str | None = None
    contrast_levels: float = Field(default=0.1, gt=0, le=1)
    smoothness_levels: float = Field(default=1.0, gt=0, le=1)
    contours_as_real: bool = False

    @property
    def reasons_for_nuclei(self) -> list[str]:
        """Settings that need instances: the kind of condition map, and terms of the loss."""
        return [*super().reasons_for_nuclei, *(f"loss.{name}" for name in self.loss.of_contours)]

    @model_validator(mode="after")
    def _has_perceptual_weights(self) -> PairedImageConfig:
        if bool(self.loss.perceptual) != bool(self.perceptual_weights):
            raise ValueError(
                "perceptual_weights: expected a file of VGG19's weights with loss.perceptual above 0, none without; "
                "set loss.perceptual=0 where none are at hand"
            )
        return self


class PairedImageTrainer(ImageTrainer, PairedTrainer):
    """Trains a generator on pairs, against PatchGANs that see condition map and image."""

    _config: PairedImageConfig

    def set_generator(self, network: nn.Module) -> None:
        """Take a generator, and make discriminators and optimisers for it."""
        config = self._config
        self.oppose(network, self.in_channels + 3, config.discriminator_norm, config.discriminator_loss, config.loss)
        self._perceptual: nn.Module | None = None
        if config.perceptual_weights:
            self._perceptual = PerceptualDistance(Path(config.perceptual_weights)).to(self._device)

    def pair(self, crops: list[Crops]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return condition maps with stain references, and images."""
        return self.seen(crops), self.images(crops)

    def activated(self, output: torch.Tensor) -> torch.Tensor:
        """Return images in -1..1."""
        return output.tanh()

    def pre_tanh(self, network: nn.Module, seen: torch.Tensor) -> torch.Tensor:
        """Return the pre-tanh output for the sheet of samples, of always the same noise."""
        return super().pre_tanh(network, self.with_noise(seen, Stream.SAMPLE, 0))

    def terms(self, seen: torch.Tensor, real: torch.Tensor, made: torch.Tensor) -> Terms:
        """Return the terms of the generator loss with a weight above 0, those of contours apart."""
        config, weights = self._config, self._config.loss
        of_made = self.discriminated(seen, made)
        fooled = self.over_discriminators(adversarial_loss(found[-1], True, config.fooling) for found in of_made)
        terms = {"adversarial": fooled}
        if weights.feature:
            with torch.no_grad():
                of_real = self.discriminated(seen, real)
            matched = [feature_matching(m, r) for m, r in zip(of_made, of_real, strict=True)]
            terms["feature"] = _FEATURE_LAYERS * torch.stack(matched).mean()
        if self._perceptual is not None:
            terms["perceptual"] = self._perceptual(made, real)
        if weights.l1:
            terms["l1"] = (made.float() - real).abs().mean()
        return terms

    def extra_terms(self, real: torch.Tensor, made: torch.Tensor, crops: list[Crops]) -> Terms:
        """Return the contour terms with a weight above 0."""
        config = self._config
        if not config.loss.of_contours:
            return {}
        contours = torch.from_numpy(crops[4]).to(self._device)  # bool [N, H, W]
        measures: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
            "smoothness": partial(smoothness, levels=config.smoothness_levels),
            "contrast": partial(contrast, levels=config.contrast_levels),
            "sharpness": partial(sharpness, levels=config.contrast_levels),
        }
        grey = grey_of(made.float())
        terms = {name: measures[name](grey, contours) for name in config.loss.of_contours}
        if config.contours_as_real:
            like = grey_of(real.float())
            terms = {name: torch.relu(term - measures[name](like, contours)) for name, term in terms.items()}
        return terms
