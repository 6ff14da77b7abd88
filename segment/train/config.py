"""Configuration of a segmenter's training, and its learning rate."""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import Field, field_validator

from factory.core.config import Config
from factory.core.precision import Precision
from segment.data.augmentation import AugmentConfig
from segment.data.mixing import Mix, parse_mix
from segment.data.sampling import SamplingConfig
from segment.data.weighting import WeightConfig
from segment.network.inference import InferenceConfig
from segment.network.instances import InstanceConfig
from segment.network.networks import DIVISOR, NetworkConfig
from segment.train.losses import LossConfig


class PretrainingConfig(Config):
    """The second part of a training with the mix ``synth-then-real``.

    Attributes:
        rest: share of synthetic tiles in it. lr: its peak learning rate, relative to that of the first part.
    """

    rest: float = Field(default=0.0, ge=0, lt=1)
    lr: float = Field(default=1.0, gt=0, le=10)


class TrainConfig(Config):
    """Settings of one training run.

    Attributes:
        mix: see `segment.data.mixing.parse_mix`. pretraining: settings of ``synth-then-real``.
        scheme: label scheme; null takes the richest common one.
        network: architecture and encoder. encoder_weights: null, "imagenet" or a safetensors file.
        real_fraction: share of the real training groups (patients) that is used; smaller shares are subsets of larger.
        steps: of the optimiser. batch: crops per step. crop: height and width in pixels, multiples of 32; null takes
            the largest up to 256 that fits all tiles.
        lr: peak learning rate of AdamW; rises over `warmup_steps`, then falls to 0 as a half cosine. Both parts of
            ``synth-then-real`` rise and fall.
        clip_norm: largest L2 norm of the gradient; larger gradients are scaled down to it.
        ema: decay of the running mean of the weights, which is validated and kept; 0 keeps the last weights.
        precision: number format of the network; auto is bf16 where the machine computes it in hardware.
        validate_every: steps between validations, each with a checkpoint. validate_tiles: largest number of tiles.
        patience: validations without a better score after which training stops; null never stops early.
        seed: of weights, order and augmentation.
        threads: CPU threads of torch; null takes all cores that the process may use.
        cache_gb: disk space for decoded tiles during training.
        weighting: of synthetic tiles. inference: how the trained network is applied; `instances` are chosen that way.
    """

    added: ClassVar = frozenset({"pretraining", "inference", "weighting"})
    mix: str = "real+synth"
    pretraining: PretrainingConfig = PretrainingConfig()
    scheme: str | None = None
    network: NetworkConfig = NetworkConfig()
    encoder_weights: str | None = None
    real_fraction: float = Field(default=1.0, gt=0, le=1)
    steps: int = Field(default=1000, ge=1)
    batch: int = Field(default=8, ge=1)
    crop: tuple[int, int] | None = None
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-4, ge=0)
    warmup_steps: int = Field(default=50, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    ema: float = Field(default=0.99, ge=0, lt=1)
    precision: Precision = "auto"
    validate_every: int = Field(default=100, ge=1)
    validate_tiles: int = Field(default=32, ge=1)
    patience: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)
    threads: int | None = Field(default=None, ge=1)
    cache_gb: float = Field(default=8.0, ge=0)
    loss: LossConfig = LossConfig()
    sampling: SamplingConfig = SamplingConfig()
    weighting: WeightConfig = WeightConfig()
    augment: AugmentConfig = AugmentConfig()
    instances: InstanceConfig = InstanceConfig()
    inference: InferenceConfig = InferenceConfig()

    @property
    def parsed_mix(self) -> Mix:
        """What is drawn from which data set."""
        return parse_mix(self.mix, self.pretraining.rest)

    @field_validator("crop")
    @classmethod
    def _divides(cls, crop: tuple[int, int] | None) -> tuple[int, int] | None:
        if crop and any(side < DIVISOR or side % DIVISOR for side in crop):
            lower = [max(DIVISOR, side // DIVISOR * DIVISOR) for side in crop]
            upper = [-(-side // DIVISOR) * DIVISOR if side > DIVISOR else 2 * DIVISOR for side in crop]
            raise ValueError(f"expected multiples of {DIVISOR} such as {lower[0]}x{lower[1]} or {upper[0]}x{upper[1]}")
        return crop


UNHASHED = ("threads", "cache_gb")
"""Fields that do not change what is learnt and may differ when a run is resumed."""


def learning_rate(config: TrainConfig, step: int) -> float:
    """Learning rate of a step (0-based): a linear rise, then half a cosine to 0 (Loshchilov and Hutter 2017)."""
    first = config.parsed_mix.pretraining_steps(config.steps)
    if step < first:
        return config.lr * _rise_and_fall(step, first, config.warmup_steps)
    peak = config.lr * (config.pretraining.lr if first else 1)
    return peak * _rise_and_fall(step - first, config.steps - first, config.warmup_steps)


def _rise_and_fall(step: int, steps: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))
