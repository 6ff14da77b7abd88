"""Channels of a network's output: class logits and, to separate nuclei, a distance."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from manifests.labels import LabelScheme


@dataclass(frozen=True)
class Head:
    """The channels of an output [N, channels, H, W].

    Attributes:
        classes: number of class logits, which come first.
        distance: whether another logit follows, whose sigmoid is the normalised distance to the edge of the nucleus
            (`segment.data.targets`).
    """

    classes: int
    distance: bool = False

    @property
    def channels(self) -> int:
        """Output channels of the network."""
        return self.classes + self.distance

    def split(self, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Class logits float32 [N, C, H, W] and distance logits float32 [N, H, W] or None.

        Raises:
            ValueError: when the output has other channels.
        """
        if output.shape[1] != self.channels:
            raise ValueError(f"expected an output of {self.channels} channels, got {output.shape[1]}")
        output = output.float()
        return output[:, : self.classes], output[:, self.classes] if self.distance else None


def has_instances(scheme: LabelScheme) -> bool:
    """Whether masks of this scheme have single nuclei."""
    return bool(scheme.ids("nucleus"))


def head_for(scheme: LabelScheme) -> Head:
    """The head of a scheme, with a distance where it has nuclei."""
    return Head(len(scheme), distance=has_instances(scheme))
