"""Counts brown tumour cells in PD-L1 tiles, and compares the share with the TPS of their labels.

python -m experiments.membrane_count data/pdl1-exemplar data/pdl1-stain

A cell is its nucleus and 2 um around it; it is brown where its mean DAB exceeds a threshold, which is chosen on every
second tile and judged on the others. `segment audit` counts nuclei and has no such count.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from factory.bank.stain_separation import estimate_stains, separate
from manifests.dataset import Sample, open_dataset

_AROUND_UM = 2.0
_THRESHOLDS = np.linspace(0.02, 0.4, 77)


def count_cells(sample: Sample) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Mean DAB of each tumour cell of a tile, and whether its label is positive."""
    tile = sample.tile
    dab = np.maximum(separate(sample.image, estimate_stains([sample.image]))[1], 0)
    dab = cv2.GaussianBlur(dab, (0, 0), 0.7)
    side = 2 * round(_AROUND_UM / tile.mpp) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    cell = cv2.dilate(tile.instance.astype(np.float32), kernel).astype(np.int32)
    count = int(cell.max()) + 1
    mean = np.bincount(cell.ravel(), dab.ravel(), count) / np.maximum(np.bincount(cell.ravel(), minlength=count), 1)
    negative, positive = (
        np.bincount(tile.instance[np.isin(tile.semantic, tile.scheme.ids(role))], minlength=count)
        for role in ("tumour_negative", "tumour_positive")
    )
    tumour = negative + positive > 0
    tumour[0] = False
    return mean[tumour], (positive > negative)[tumour]


def describe(root: Path) -> str:
    """One line about a data set."""
    dataset = open_dataset(root)
    cells = [count_cells(dataset[place]) for place in range(len(dataset))]
    asked = np.array([positive.mean() for _, positive in cells])
    counted = np.array([[(mean > threshold).mean() for mean, _ in cells] for threshold in _THRESHOLDS])
    choosing = np.arange(len(cells)) % 2 == 0
    best = int(np.abs(counted - asked)[:, choosing].mean(1).argmin())
    found, wanted = counted[best, ~choosing], asked[~choosing]
    mean, positive = (np.concatenate(parts) for parts in zip(*cells, strict=True))
    brown = mean > _THRESHOLDS[best]
    error = np.abs(found - wanted).mean()
    return (
        f"{root.name}: r {np.corrcoef(found, wanted)[0, 1]:.3f}, mean error of TPS {error:.3f}, "
        f"brown of positive {brown[positive].mean():.2f}, of negative {brown[~positive].mean():.3f}"
    )


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(describe(Path(argument)))
