"""Shapes of networks that several generators and renderers configure alike; the defaults are their papers'."""

from __future__ import annotations

from pydantic import Field, field_validator

from factory.core.config import Config
from factory.nets.pix2pixhd import Upsampling


def odd(kernel: int) -> int:
    """A pydantic validator of kernel sizes.

    Raises:
        ValueError: for an even one.
    """
    if kernel % 2 == 0:
        raise ValueError("expected an odd number")
    return kernel


class UNetShape(Config):
    """Shape of a `UNet`; the defaults are pix2pix'."""

    width: int = Field(default=64, ge=1)
    depth: int = Field(default=8, ge=2, le=10)
    norm: str = Field(default="instance", pattern="^(batch|instance)$")
    dropout: float = Field(default=0.5, ge=0, lt=1)

    def check_size(self, size: tuple[int, int]) -> None:
        """Refuse crops that cannot be halved so often; for the configs of trainers.

        Raises:
            ValueError: naming what sides must be multiples of.
        """
        step = 2**self.depth
        if any(side % step for side in size):
            raise ValueError(f"size: expected multiples of {step}, 2^depth, got {size[0]}x{size[1]}")


class GlobalShape(Config):
    """Shape of a `GlobalGenerator`; the defaults are pix2pixHD's."""

    width: int = Field(default=64, ge=1)
    downs: int = Field(default=4, ge=1, le=5)
    blocks: int = Field(default=9, ge=1)
    norm: str = Field(default="instance", pattern="^(batch|instance)$")
    kernel: int = Field(default=7, ge=3, le=15)
    widest: int = Field(default=1024, ge=1)
    upsampling: Upsampling = "transposed"
    modulated: bool = False

    _odd = field_validator("kernel")(odd)

    def check_size(self, size: tuple[int, int]) -> None:
        """Refuse crops that are too small for reflection padding; for the configs of trainers.

        Raises:
            ValueError: naming the least side.
        """
        least = 2 ** (self.downs + 1)
        if min(size) < least:
            raise ValueError(f"size: expected sides from {least}, which reflection padding needs, got {size}")


class ResnetShape(Config):
    """Shape of both `ResnetGenerator`s of CycleGAN; the defaults are the paper's for 256 x 256."""

    width: int = Field(default=64, ge=1)
    blocks: int = Field(default=9, ge=1)
    norm: str = Field(default="instance", pattern="^(batch|instance)$")
    kernel: int = Field(default=7, ge=3, le=15)

    _odd = field_validator("kernel")(odd)
