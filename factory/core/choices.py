"""Choices that several commands offer, free of heavy imports: the command lines list them in their help."""

from typing import Literal

Precision = Literal["fp32", "bf16", "auto"]
"""Number format of a network's arithmetic; ``auto`` is bf16 where the machine computes it in hardware."""

Ground = Literal["quilted", "real"]
"""Ground of tiles that are copied out of real tissue: quilted of pieces, or whole windows of real images."""

Split = Literal["train", "val", "test", "all"]
"""Tiles of a data set."""
