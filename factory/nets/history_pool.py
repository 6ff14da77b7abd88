"""What a discriminator remembers: made-up masks or images of earlier steps (Shrivastava et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def pooled(
    pool: list[npt.NDArray[np.float32]], made: Sequence[npt.NDArray[np.float32]], rng: np.random.Generator, most: int
) -> list[npt.NDArray[np.float32]]:
    """What the discriminators see instead of what was just made: half of it earlier ones.

    Args:
        pool: earlier ones, changed in place. made: new ones. rng: chooses. most: size of the pool (50 in the paper).
    """
    shown = []
    for mask in made:
        if len(pool) < most:
            pool.append(mask)
            shown.append(mask)
        elif rng.random() < 0.5:
            place = int(rng.integers(most))
            shown.append(pool[place])
            pool[place] = mask
        else:
            shown.append(mask)
    return shown
