"""Trainer of StyleGAN2-ADA (Karras et al. 2020a, 2020b): images from noise, learnt from images without their masks.

A labeller reads labels off its features later (Histopathology-DatasetGAN). Constants that no paper states are those of
StyleGAN2-ADA's public code, whose automatic configuration DatasetGAN's authors used.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import nn

from factory.core.precision import autocast
from factory.core.seeds import Stream, generator
from factory.learn.crops import ImageCrops, Tiles
from factory.learn.trainer import Crops, Trainer, TrainerConfig
from factory.nets.ada import PIPES, AdaController, augmented, draw_uniforms
from factory.nets.objectives import adversarial_loss
from factory.nets.stylegan2 import Discriminator, Generator, StyleGan2Shape
from factory.nets.stylegan2_losses import (
    LazyAdam,
    ema_beta,
    ema_kimg_of,
    follow,
    path_length_penalty,
    path_lengths,
    r1_gamma_of,
    r1_penalty,
)
from manifests.labels import LabelScheme

WEIGHTS_KIND = "joint-weights"
SAMPLE_PSI = 0.7
"""Truncation of the sheets of samples, as in Histopathology-DatasetGAN."""

_SAMPLES = 8
_PHASES = 4


class StyleGan2Config(TrainerConfig):
    """Settings of StyleGAN2-ADA's training.

    Attributes:
        network: shape of both networks. mbstd_group_size: images in a group of the minibatch standard deviation.
        r1_gamma: weight of R1; null takes 0.0002 H W / batch. d_reg_interval: steps between two R1 penalties.
        pl_weight: weight of path length regularisation; 0 for none. pl_decay: of its running mean.
        pl_batch_shrink: divisor of the batch for path lengths. g_reg_interval: steps between two path lengths.
        style_mixing_prob: share of images with two styles. w_avg_beta: decay of the running mean of styles.
        ema_kimg: half-life of the averaged generator in thousands of images; null takes batch x 10 / 32.
        ema_rampup: largest half-life as a share of the images seen; null for no ramp.
        augpipe: one of `factory.nets.ada.PIPES`, or ``noaug``. augment_p: initial probability of each augmentation,
            constant if ``ada_target`` is null. ada_target, ada_interval, ada_kimg: see `AdaController`.
        ema: 0, because the trainer averages its generator itself.
    """

    network: StyleGan2Shape = StyleGan2Shape()
    learning_rate: float = Field(default=2.5e-3, gt=0)
    beta1: float = Field(default=0.0, ge=0, lt=1)
    beta2: float = Field(default=0.99, ge=0, lt=1)
    ema: float = Field(default=0.0, ge=0, lt=1)
    mbstd_group_size: int = Field(default=4, ge=1)
    r1_gamma: float | None = Field(default=None, ge=0)
    d_reg_interval: int = Field(default=16, ge=1)
    pl_weight: float = Field(default=2.0, ge=0)
    pl_decay: float = Field(default=0.01, gt=0, le=1)
    pl_batch_shrink: int = Field(default=2, ge=1)
    g_reg_interval: int = Field(default=4, ge=1)
    style_mixing_prob: float = Field(default=0.9, ge=0, le=1)
    w_avg_beta: float = Field(default=0.995, ge=0, lt=1)
    ema_kimg: float | None = Field(default=None, gt=0)
    ema_rampup: float | None = Field(default=0.05, gt=0)
    augpipe: str = "bgc"
    augment_p: float = Field(default=0.0, ge=0, le=1)
    ada_target: float | None = Field(default=0.6, ge=-1, le=1)
    ada_interval: int = Field(default=4, ge=1)
    ada_kimg: float = Field(default=500.0, gt=0)

    @property
    def gamma(self) -> float:
        """Weight of R1."""
        return r1_gamma_of(self.size, self.batch) if self.r1_gamma is None else self.r1_gamma

    @model_validator(mode="after")
    def _consistent(self) -> StyleGan2Config:
        if self.ema:
            raise ValueError(f"ema: expected 0, as ema_kimg sets how slowly weights are averaged, got {self.ema}")
        if self.augpipe != "noaug" and self.augpipe not in PIPES:
            raise ValueError(f"augpipe: expected noaug or one of {', '.join(PIPES)}, got {self.augpipe!r}")
        if self.augpipe == "noaug" and self.augment_p:
            raise ValueError(f"augment_p: expected 0 with noaug, which augments nothing, got {self.augment_p:g}")
        return self


class StyleGan2Trainer(Trainer):
    """Trains a `Generator` against a `Discriminator`, and keeps the running mean of the generator.

    Args:
        config: how to train. scheme: of the masks, which serve only to drop crops of air. device: where to train.
    """

    Config = StyleGan2Config
    images_alone = True
    kept = "average"
    kind = WEIGHTS_KIND

    def __init__(self, config: StyleGan2Config, scheme: LabelScheme, device: str) -> None:
        del scheme
        self._config, self._device = config, device
        self.shape = {**config.network.model_dump(mode="json"), "size": list(config.size)}
        self._generator = Generator(config.network, config.size).to(device)
        self._discriminator = Discriminator(config.network, config.size, config.mbstd_group_size).to(device)
        self._average = copy.deepcopy(self._generator).requires_grad_(False)
        self.networks: dict[str, nn.Module] = {
            "generator": self._generator, "discriminator": self._discriminator, "average": self._average,
        }  # fmt: skip
        rates = (config.learning_rate, (config.beta1, config.beta2))
        self.optimisers: dict[str, torch.optim.Optimizer] = {
            "adam_generator": LazyAdam(
                self._generator.parameters(), *rates, config.g_reg_interval if config.pl_weight else 0
            ),
            "adam_discriminator": LazyAdam(
                self._discriminator.parameters(), *rates, config.d_reg_interval if config.gamma else 0
            ),
        }
        self._ada = AdaController(config.ada_target or 0.0, config.ada_interval, config.ada_kimg, config.augment_p)
        self._path_mean, self._path_penalty, self._r1 = (torch.zeros((), device=device) for _ in range(3))

    def draw_from(self, tiles: Tiles) -> Callable[[int], list[Crops]]:
        """Return step -> images uint8 [N, H, W, 3]."""
        config = self._config
        crops = ImageCrops(tiles, config.size, config.batch, config.seed, config.max_background)
        return lambda step: [np.ascontiguousarray(crops.draw(step)[..., 1:4])]

    def step(self, crops: list[Crops], step: int, epoch: int) -> dict[str, torch.Tensor]:
        """Take a step of the generator, then of the discriminator, each with its regulariser when that is due."""
        del epoch
        config = self._config
        real = torch.from_numpy(crops[0]).to(self._device).permute(0, 3, 1, 2).float() / 127.5 - 1.0

        # Generator.
        self._discriminator.requires_grad_(False)
        generator_loss = adversarial_loss(self._logits(*self._made(step, 0, len(real))), True, "bce")
        self.descend("generator", generator_loss)
        if config.pl_weight and step % config.g_reg_interval == 0:
            self._regularise_paths(step, len(real))
        self._discriminator.requires_grad_(True)

        # Discriminator.
        with torch.no_grad():
            made, draws = self._made(step, 2, len(real))
        of_made, of_real = self._logits(made, draws), self._logits(real, draws)
        discriminator_loss = adversarial_loss(of_made, False, "bce") + adversarial_loss(of_real, True, "bce")
        self.descend("discriminator", discriminator_loss)
        if config.gamma and step % config.d_reg_interval == 0:
            self._penalise_gradients(real, step)

        # Average and augmentation.
        kimg = ema_kimg_of(config.batch) if config.ema_kimg is None else config.ema_kimg
        follow(self._average, self._generator, ema_beta(config.batch, step * config.batch, kimg, config.ema_rampup))
        if config.ada_target is not None and config.augpipe != "noaug":
            self._ada.follow(of_real, step)
        figures = {"augment_p": torch.tensor(self._ada.p), "r_t": torch.tensor(self._ada.r_t)}
        return {
            "generator": generator_loss.detach(), "discriminator": discriminator_loss.detach(),
            "r1": self._r1, "path_length": self._path_penalty, **figures,
        }  # fmt: skip

    def _regularise_paths(self, step: int, batch: int) -> None:
        """Regularise path lengths, in float32: a gradient of a gradient is too coarse in bfloat16."""
        config = self._config
        draws = self._draws(step, 1)
        ws = self._styles(draws, max(batch // config.pl_batch_shrink, 1))
        images = self._generator.synthesis(ws, self._noise(draws, len(ws)))
        lengths = path_lengths(images, ws, draws.normal(images.shape))
        self._path_penalty, self._path_mean = path_length_penalty(lengths, self._path_mean, config.pl_decay)
        self.descend("generator", self._path_penalty * (config.pl_weight * config.g_reg_interval))
        self._path_penalty = self._path_penalty.detach()

    def _penalise_gradients(self, real: torch.Tensor, step: int) -> None:
        """Take a step on R1, through the augmentation, in float32 for the same reason."""
        config = self._config
        real = real.detach().requires_grad_(True)
        penalty = r1_penalty(self._discriminator(self._augmented(real, self._draws(step, 3))), real)
        self.descend("discriminator", penalty * (config.gamma / 2 * config.d_reg_interval))
        self._r1 = penalty.detach()

    def _draws(self, step: int, phase: int) -> _PhaseDraws:
        seed = int(generator(self._config.seed, Stream.TRAIN_NOISE, _PHASES * step + phase).integers(2**62))
        return _PhaseDraws(seed, self._device)

    def _styles(self, draws: _PhaseDraws, count: int) -> torch.Tensor:
        """Return styles [N, layers, w_dim] of new latents, most of them mixed with a second from some layer on."""
        # Each image draws its own layer; the original code draws one for the whole batch.
        config, mapping, layers = self._config, self._generator.mapping, self._generator.synthesis.layers
        latents = draws.latents((2, count, self._generator.z_dim))
        first = mapping(latents[0])
        mapping.follow(first, config.w_avg_beta)
        ws = first[:, None].expand(-1, layers, -1)
        crossing = 1 + (draws.uniform(count) * (layers - 1)).floor()
        crossing = torch.where(draws.uniform(count) < config.style_mixing_prob, crossing, layers)
        mixed = torch.arange(layers, device=ws.device) >= crossing.to(ws.device)[:, None]
        return torch.where(mixed[..., None], mapping(latents[1])[:, None], ws)

    def _noise(self, draws: _PhaseDraws, count: int) -> list[torch.Tensor]:
        return [draws.normal((count, 1, *size)) for size in self._generator.synthesis.noise_sizes]

    def _made(self, step: int, phase: int, count: int) -> tuple[torch.Tensor, _PhaseDraws]:
        """Return images float32 [N, 3, H, W] of new latents, and the random numbers for the rest of the phase."""
        draws = self._draws(step, phase)
        with autocast(self._config.precision, self._device):
            ws = self._styles(draws, count)
            return self._generator.synthesis(ws, self._noise(draws, count)), draws

    def _augmented(self, images: torch.Tensor, draws: _PhaseDraws) -> torch.Tensor:
        config, p = self._config, self._ada.p
        if config.augpipe == "noaug" or p == 0:
            return images
        pipe = PIPES[config.augpipe]
        grain = draws.normal(images.shape) if pipe.noise else None
        return augmented(images, p, draw_uniforms(len(images), draws.on_cpu), pipe, grain)

    def _logits(self, images: torch.Tensor, draws: _PhaseDraws) -> torch.Tensor:
        """Return the discriminator's logits [N] for augmented images."""
        seen = self._augmented(images, draws)
        with autocast(self._config.precision, self._device):
            logits: torch.Tensor = self._discriminator(seen)
        return logits

    def sample(self, network: nn.Module, crops: list[Crops]) -> list[npt.NDArray[np.uint8]]:
        """Return real images, and images of fixed latents and noise with and without truncation."""
        assert isinstance(network, Generator)
        real = crops[0][:_SAMPLES]
        rngs = [generator(self._config.seed, Stream.SAMPLE, place) for place in range(len(real))]
        latents = network.inputs(rngs).to(self._device)
        noise = [drawn.to(self._device) for drawn in network.noise(rngs)]
        network.eval()
        with torch.inference_mode(), autocast(self._config.precision, self._device):
            made = [pixels_of(network(latents, noise, psi=psi)) for psi in (SAMPLE_PSI, 1.0)]
        return [real, *made]

    def card(self) -> dict[str, Any]:
        """Return the shape of the generator, and the last probability of augmentations."""
        return {**super().card(), "augment_p": self._ada.p}

    def extra_state(self) -> dict[str, torch.Tensor]:
        """Return the state of the augmentation, the mean of path lengths, and the last values of the regularisers."""
        parts = {"path_mean": self._path_mean, "path_penalty": self._path_penalty, "r1": self._r1}
        return {"ada": self._ada.state(), **parts}

    def load_extra_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Restore `extra_state`."""
        self._ada.restore(tensors["ada"])
        self._path_mean, self._path_penalty, self._r1 = (
            tensors[name].to(self._device) for name in ("path_mean", "path_penalty", "r1")
        )


class _PhaseDraws:
    """Random numbers of one phase of a step, from its seed: small arrays drawn on the CPU, noise on the device."""

    def __init__(self, seed: int, device: str) -> None:
        self._device = device
        self.on_cpu = torch.Generator().manual_seed(seed)
        self._on_device = torch.Generator(device).manual_seed(seed + 1)

    def latents(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Standard normal, the same on every device."""
        return torch.randn(shape, generator=self.on_cpu).to(self._device)

    def uniform(self, count: int) -> torch.Tensor:
        """[count] in 0..1, on the CPU."""
        return torch.rand(count, generator=self.on_cpu)

    def normal(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Standard normal, drawn on the device, because large sizes take millions of numbers per step."""
        return torch.randn(shape, generator=self._on_device, device=self._device)


def build(network: Mapping[str, Any]) -> Generator:
    """Return the generator that a card's ``network`` describes, with random weights."""
    shape = {name: value for name, value in network.items() if name != "size"}
    return Generator(StyleGan2Shape(**shape), (network["size"][0], network["size"][1]))


class StyleGan2:
    """Entry of StyleGAN2 in the table of trainable parts; `factory.joint.generators` draws with its weights."""

    kind = WEIGHTS_KIND
    Trainer = StyleGan2Trainer
    build = staticmethod(build)


def pixels_of(images: torch.Tensor) -> npt.NDArray[np.uint8]:
    """Convert images in -1..1 [N, 3, H, W] to uint8 [N, H, W, 3], RGB; values outside are clipped."""
    levels = images.float().add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
    pixels: npt.NDArray[np.uint8] = levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels
