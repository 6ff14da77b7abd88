"""The peer of a training step in `bench.stylegan2`: StyleGAN2-ADA in a bare loop."""

import copy
from typing import Any

import torch
import torch.nn.functional as F

from factory.core.precision import autocast
from factory.joint.stylegan2 import StyleGan2Config
from factory.nets.ada import PIPES, augmented, draw_uniforms
from factory.nets.stylegan2 import Discriminator, Generator


class FirstScript:
    """Training as a first script has it: the same networks, losses, regularisers, augmentation and number format.

    Args:
        config: of the trainer. images: uint8 [N, H, W, 3], the batch of every step, in memory.
    """

    def __init__(self, config: StyleGan2Config, images: Any) -> None:
        self.config, self.real = config, torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
        self.generator = Generator(config.network, config.size)
        self.discriminator = Discriminator(config.network, config.size, config.mbstd_group_size)
        self.average = copy.deepcopy(self.generator)
        self.path_mean = torch.zeros(())
        self.adams = [
            torch.optim.Adam(part.parameters(), config.learning_rate * c, (0.0, 0.99**c))
            for part, c in ((self.generator, 4 / 5), (self.discriminator, 16 / 17))
        ]

    def step(self, number: int) -> None:
        """A step of each network, with what is due of path length (every 4) and R1 (every 16)."""
        self.discriminator.requires_grad_(False)
        self.descend(0, F.softplus(-self.said(self.made(len(self.real)))).mean())
        if number % 4 == 0:
            ws = self.styles(len(self.real) // 2)
            images = self.generator.synthesis(ws, self.noise(len(ws)))
            y = torch.randn_like(images) / images[0, 0].numel() ** 0.5
            (slope,) = torch.autograd.grad((images * y).sum(), ws, create_graph=True)
            lengths = slope.square().sum(2).mean(1).sqrt()
            self.path_mean = self.path_mean.lerp(lengths.mean().detach(), 0.01)
            self.descend(0, (lengths - self.path_mean).square().mean() * 2 * 4)
        self.discriminator.requires_grad_(True)
        with torch.no_grad():
            fake = self.made(len(self.real))
        self.descend(1, (F.softplus(self.said(fake)) + F.softplus(-self.said(self.real))).mean())
        if number % 16 == 0:
            real = self.real.clone().requires_grad_(True)
            (slope,) = torch.autograd.grad(self.discriminator(self.augmented(real)).sum(), real, create_graph=True)
            self.descend(1, slope.square().sum((1, 2, 3)).mean() * (self.config.gamma / 2 * 16))
        with torch.no_grad():
            for kept, latest in zip(self.average.parameters(), self.generator.parameters(), strict=True):
                kept.lerp_(latest, 0.01)

    def descend(self, which: int, loss: torch.Tensor) -> None:
        """A step of Adam: of the generator (0) or the discriminator (1)."""
        self.adams[which].zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.adams[which].step()

    def styles(self, count: int) -> torch.Tensor:
        """Styles [N, layers, w_dim] of new latents, nine times of ten of two each."""
        mapping, layers = self.generator.mapping, self.generator.synthesis.layers
        w = mapping(torch.randn(count, self.generator.z_dim))
        mapping.follow(w, 0.995)
        ws = w[:, None].repeat(1, layers, 1)
        cut = int(torch.randint(1, layers, ())) if torch.rand(()) < 0.9 else layers
        other = mapping(torch.randn(count, self.generator.z_dim))
        return torch.cat([ws[:, :cut], other[:, None].repeat(1, layers - cut, 1)], 1)

    def noise(self, count: int) -> list[torch.Tensor]:
        """New noise of every convolution."""
        return [torch.randn(count, 1, *size) for size in self.generator.synthesis.noise_sizes]

    def made(self, count: int) -> torch.Tensor:
        """Images float32 [N, 3, H, W]."""
        with autocast(self.config.precision, "cpu"):
            images: torch.Tensor = self.generator.synthesis(self.styles(count), self.noise(count))
        return images

    def augmented(self, images: torch.Tensor) -> torch.Tensor:
        """Images as the discriminator sees them."""
        uniforms = draw_uniforms(len(images), torch.default_generator)
        return augmented(images, self.config.augment_p, uniforms, PIPES[self.config.augpipe])

    def said(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [N]."""
        seen = self.augmented(images)
        with autocast(self.config.precision, "cpu"):
            logits: torch.Tensor = self.discriminator(seen)
        return logits
