"""Training on pairs of condition map and image, as in pix2pix (Isola et al. 2017) and pix2pixHD (Wang et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn

from factory.core.config import Config
from factory.core.precision import autocast
from factory.core.seeds import Stream, generator
from factory.learn.trainer import Crops, TrainerConfig
from factory.nets.contours import contrast, grey_of, sharpness, smoothness
from factory.nets.discriminators import PatchDiscriminator, Scales, refuse_small_crops
from factory.nets.objectives import Adversarial, adversarial_loss, feature_matching
from factory.nets.perceptual import PerceptualDistance
from factory.renderers.conditions import ConditionConfig
from factory.renderers.learned.image_training import ImageTrainer, NetworkInputs
from manifests.labels import LabelScheme

_FEATURE_LAYERS = 4.0
"""pix2pixHD sums feature matching over the hidden layers of a discriminator, with weight 4 / (their number); ours is a
mean."""


class ImageLossWeights(Config):
    """Weights of the terms of the generator loss.

    Attributes:
        adversarial: mean over the discriminators. feature: feature matching, scaled as in pix2pixHD's code.
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


class PairedTrainerConfig(TrainerConfig):
    """Training on pairs.

    Attributes:
        condition, look, look_jitter: inputs of the network, see `NetworkInputs`.
        discriminator_width, discriminator_depth: of each PatchGAN. discriminators: at 100, 50 ... % of the size.
        discriminator_norm: their normalisation layers.
        discriminator_loss, fooling: adversarial loss of the discriminators and of the generator, cross entropy or least
            squares.
        loss: weights of the generator loss. perceptual_weights: file of VGG19's, needed with ``loss.perceptual``.
        contrast_levels: lambda of the contour terms: the least difference in grey that is contrast, 0..1.
        contours_as_real: only the excess of the contour terms over those of the real images of the step counts, so that
            contours become as clear as real ones. In the papers they count in full; as training goes on such a network
            draws an outline around every nucleus.
    """

    condition: ConditionConfig = ConditionConfig()
    look: bool = False
    look_jitter: float = Field(default=0.0, ge=0, le=0.5)
    batch: int = Field(default=1, ge=1)
    discriminator_width: int = Field(default=64, ge=1)
    discriminator_depth: int = Field(default=3, ge=1, le=5)
    discriminators: int = Field(default=1, ge=1, le=3)
    discriminator_norm: str = Field(default="instance", pattern="^(batch|instance|none)$")
    discriminator_loss: Adversarial = "lsgan"
    fooling: Adversarial = "lsgan"
    loss: ImageLossWeights = ImageLossWeights()
    perceptual_weights: str | None = None
    contrast_levels: float = Field(default=0.1, gt=0, le=1)
    contours_as_real: bool = False

    @property
    def inputs(self) -> NetworkInputs:
        """Inputs of the network."""
        return NetworkInputs(self.condition, self.look, self.look_jitter, self.loss.of_contours)

    def check_data(self, scheme: LabelScheme, mpp: float) -> None:
        """Refuse masks that the inputs cannot be made of; see `NetworkInputs.check`."""
        self.inputs.check(scheme, mpp)

    @model_validator(mode="after")
    def _discriminators_fit(self) -> PairedTrainerConfig:
        refuse_small_crops(self.size, self.discriminator_depth, self.discriminators)
        if bool(self.loss.perceptual) != bool(self.perceptual_weights):
            raise ValueError(
                "perceptual_weights: expected a file of VGG19's weights with loss.perceptual above 0, none without; "
                "set loss.perceptual=0 where none are at hand"
            )
        return self


def _layout_for(network: nn.Module) -> torch.memory_format:
    """Return the memory format for training: channels last, unless the network has transposed convolutions.

    On a CPU that takes 18 % less time a step (pix2pixhd_light), but many times as long with transposed convolutions.
    """
    transposed = any(isinstance(layer, nn.ConvTranspose2d) for layer in network.modules())
    return torch.contiguous_format if transposed else torch.channels_last


class PairedTrainer(ImageTrainer):
    """Trains a generator on pairs, against PatchGANs that see condition map and image."""

    _config: PairedTrainerConfig
    noise_channels = 0
    """Channels of Gaussian noise after those of the condition map and the stain reference."""

    def __init__(self, config: PairedTrainerConfig, scheme: LabelScheme, device: str) -> None:
        super().__init__(config, config.inputs, scheme, device)

    def set_generator(self, network: nn.Module) -> None:
        """Take a generator, and make discriminators and optimisers for it."""
        config = self._config
        width, depth, norm = config.discriminator_width, config.discriminator_depth, config.discriminator_norm
        discriminators = [
            PatchDiscriminator(self.in_channels + 3, width, depth, norm) for _ in range(config.discriminators)
        ]
        self._layout = _layout_for(network)
        self._discriminators = Scales(discriminators).to(self._device).to(memory_format=self._layout)
        self._network = network.to(self._device).to(memory_format=self._layout)
        self.networks = {"generator": self._network, "discriminators": self._discriminators}
        self._perceptual: nn.Module | None = None
        if config.perceptual_weights:
            self._perceptual = PerceptualDistance(Path(config.perceptual_weights)).to(self._device)
        self.optimise()

    def step(self, crops: list[Crops], step: int, epoch: int) -> dict[str, torch.Tensor]:
        """Train the discriminators on real and generated images, then the generator."""
        del epoch
        config = self._config
        seen, real = (part.contiguous(memory_format=self._layout) for part in (self.seen(crops), self.images(crops)))
        with autocast(config.precision, self._device):
            made = self.made(seen, step)

            # Discriminators.
            self.optimisers["adam_discriminators"].zero_grad(set_to_none=True)
            of_real, of_made = self._discriminator(seen, real), self._discriminator(seen, made.detach())
            kind = config.discriminator_loss
            losses = [
                adversarial_loss(r[-1], True, kind) + adversarial_loss(m[-1], False, kind)
                for r, m in zip(of_real, of_made, strict=True)
            ]
            discriminator_loss = 0.5 * torch.stack(losses).mean()
        discriminator_loss.backward()  # type: ignore[no-untyped-call]
        self.optimisers["adam_discriminators"].step()

        # Generator.
        self.optimisers["adam_generator"].zero_grad(set_to_none=True)
        self._discriminators.requires_grad_(False)
        with autocast(config.precision, self._device):
            terms = self._terms(seen, real, made)
        if config.loss.of_contours:
            terms |= self._terms_of_contours(made, real, torch.from_numpy(crops[4]).to(self._device))
        total = torch.stack([getattr(config.loss, name) * value for name, value in terms.items()]).sum()
        total.backward()  # type: ignore[no-untyped-call]
        self._discriminators.requires_grad_(True)
        self.optimisers["adam_generator"].step()
        return {name: value.detach() for name, value in {**terms, "discriminators": discriminator_loss}.items()}

    def made(self, seen: torch.Tensor, step: int) -> torch.Tensor:
        """Generate the images of a training step, float [N, 3, H, W] in -1..1."""
        made: torch.Tensor = self._network(self._with_noise(seen, Stream.TRAIN_NOISE, step)).tanh()
        return made

    def pre_tanh(self, network: nn.Module, seen: torch.Tensor) -> torch.Tensor:
        """Return the pre-tanh output for the sheet of samples, of always the same noise."""
        return super().pre_tanh(network, self._with_noise(seen, Stream.SAMPLE, 0))

    def _with_noise(self, seen: torch.Tensor, stream: Stream, step: int) -> torch.Tensor:
        if not self.noise_channels:
            return seen
        rng = generator(self._config.seed, stream, step)
        noise = torch.from_numpy(rng.standard_normal((len(seen), self.noise_channels, *seen.shape[2:]), np.float32))
        return torch.cat([seen, noise.to(self._device)], 1)

    def _discriminator(self, seen: torch.Tensor, image: torch.Tensor) -> list[list[torch.Tensor]]:
        features: list[list[torch.Tensor]] = self._discriminators(torch.cat([seen, image.to(seen.dtype)], 1))
        return features

    def _terms(self, seen: torch.Tensor, real: torch.Tensor, made: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the terms of the generator loss with a weight above 0."""
        config, weights = self._config, self._config.loss
        of_made = self._discriminator(seen, made)
        terms = {
            "adversarial": torch.stack([adversarial_loss(found[-1], True, config.fooling) for found in of_made]).mean()
        }
        if weights.feature:
            with torch.no_grad():
                of_real = self._discriminator(seen, real)
            matched = [feature_matching(m, r) for m, r in zip(of_made, of_real, strict=True)]
            terms["feature"] = _FEATURE_LAYERS * torch.stack(matched).mean()
        if self._perceptual is not None:
            terms["perceptual"] = self._perceptual(made, real)
        if weights.l1:
            terms["l1"] = (made.float() - real).abs().mean()
        return terms

    def _terms_of_contours(
        self, made: torch.Tensor, real: torch.Tensor, contours: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Compute the contour terms with a weight above 0; contours bool [N, H, W]."""
        config = self._config
        measures: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
            "smoothness": smoothness,
            "contrast": partial(contrast, levels=config.contrast_levels),
            "sharpness": partial(sharpness, levels=config.contrast_levels),
        }
        grey = grey_of(made.float())
        terms = {name: measures[name](grey, contours) for name in config.loss.of_contours}
        if config.contours_as_real:
            like = grey_of(real.float())
            terms = {name: torch.relu(term - measures[name](like, contours)) for name, term in terms.items()}
        return terms
