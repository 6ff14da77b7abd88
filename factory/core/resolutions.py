"""How far two resolutions may lie apart and still count as one, as a share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from manifests.errors import UserError

SAME_MPP = 0.02
"""Of tiles that belong together, and of a level of a slide that is taken as it is."""

LEARNT_MPP = 0.05
"""Of what is asked from what the weights of a network were trained at."""

Floats = npt.NDArray[np.float64]


def common_mpp(tiles: Mapping[str, Floats], reals: Sequence[str], why: str = "") -> float:
    """The resolution of real tiles, which all others share.

    Args:
        tiles: what an error calls a data set -> micrometres per pixel of its tiles. reals: those of real tiles.
        why: it matters, for the error.

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
