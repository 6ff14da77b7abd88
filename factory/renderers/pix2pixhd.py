"""pix2pixHD (Wang et al. 2018) with the noise label of "Noise in the correct frequency" (Daniel et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import model_validator

from factory.nets.pix2pixhd import GlobalGenerator, GlobalShape
from factory.renderers.learned.paired_training import PairedImageConfig, PairedImageTrainer
from factory.renderers.learned.renderer import TrainedRenderer
from manifests.labels import LabelScheme


class Pix2PixHdConfig(PairedImageConfig):
    """Training of pix2pixHD.

    Attributes:
        network: the generator.
    """

    network: GlobalShape = GlobalShape()

    @model_validator(mode="after")
    def _reflects(self) -> Pix2PixHdConfig:
        self.network.check_size(self.size)
        return self


class Pix2PixHdTrainer(PairedImageTrainer):
    """Trains G1 against discriminators at several scales, with least squares and feature matching."""

    Config = Pix2PixHdConfig

    def __init__(self, config: Pix2PixHdConfig, scheme: LabelScheme, device: str) -> None:
        super().__init__(config, scheme, device)
        self.shape = {**config.network.model_dump(mode="json"), "in_channels": self.in_channels}
        self.set_generator(Pix2PixHd.build(self.shape))


class Pix2PixHd(TrainedRenderer):
    """Renders condition maps of any size that is a multiple of 32."""

    name = "pix2pixhd"
    Trainer = Pix2PixHdTrainer

    @staticmethod
    def build(network: Mapping[str, Any]) -> GlobalGenerator:
        """Build the network of a card, without its weights: condition map in, RGB out."""
        return GlobalGenerator(**network)
