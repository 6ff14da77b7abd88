"""Tolerances of resolutions (um per pixel), as shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from manifests.errors import UserError

SAME_MPP = 0.02
"""Between tiles of one data set, and between a slide's level and the requested resolution."""

LEARNT_MPP = 0.05
"""Between a requested resolution and that of a network's training."""

Floats = npt.NDArray[np.float64]


def common_mpp(tiles: Mapping[str, Floats], reals: Sequence[str], why: str = "") -> float:
    """The resolution of real tiles, which all others share.

    Args:
        tiles: name of a data set -> micrometres per pixel of its tiles. reals: names of those of real tiles.
        why: reason, appended to the error.

    Raises:
        UserError: naming the data set that differs.
    """
    mpp = float(np.median(np.concatenate([tiles[name] for name in reals])))
    for name, values in tiles.items():
        worst = float(values[np.abs(values / mpp - 1).argmax()])
        if abs(worst / mpp - 1) > SAME_MPP:
            raise UserError(
                f"{name}: expected {mpp:g} um per pixel as the real tiles have, got {worst:g}{why}. "
                "Ingest or make it again at that resolution (--resample-mpp, --mpp)."
            )
    return mpp
