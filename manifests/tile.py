"""A labelled tile: semantic mask, instance map, resolution and scheme, checked when made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from manifests.labels import IGNORE, LabelScheme

MAX_INSTANCE = 2**31 - 1


@dataclass(frozen=True)
class Tile:
    """The labels of one tile.

    Attributes:
        semantic: uint8 [H, W], class ids of `scheme`, 255 = ignore.
        instance: int32 [H, W], 0 = background, every other value one object; ids may have gaps.
        mpp: micrometres per pixel.
        scheme: of the values of `semantic`.

    Raises:
        ValueError: for wrong shapes, dtypes, labels outside the scheme or negative ids.
    """

    semantic: npt.NDArray[np.uint8]
    instance: npt.NDArray[np.int32]
    mpp: float
    scheme: LabelScheme

    def __post_init__(self) -> None:
        if self.semantic.dtype != np.uint8 or self.semantic.ndim != 2:
            raise ValueError(f"semantic: expected uint8 [H, W], got {self.semantic.dtype} {self.semantic.shape}")
        if self.instance.dtype != np.int32 or self.instance.shape != self.semantic.shape:
            raise ValueError(
                f"instance: expected int32 {self.semantic.shape}, got {self.instance.dtype} {self.instance.shape}"
            )
        if not self.mpp > 0:
            raise ValueError(f"mpp: expected a positive number, got {self.mpp}")
        outside = self.semantic[(self.semantic >= len(self.scheme)) & (self.semantic != IGNORE)]
        if outside.size:
            raise ValueError(f"semantic: labels {np.unique(outside).tolist()} are outside scheme {self.scheme.name}")
        if self.instance.size and int(self.instance.min()) < 0:
            raise ValueError("instance: ids must not be negative")

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self.semantic.shape
        return height, width
