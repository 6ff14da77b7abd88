"""Pictures of validation tiles with the outlines of truth and prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from factory.core.encoding import png
from manifests.files import write_atomic
from manifests.labels import IGNORE, LabelScheme
from segment.data.overlay import draw_labels
from segment.train.validation import Shown

PANELS = "panels"
"""Folder of the panels in a run's folder, one PNG per validation."""

_SIDE = 384
_GAP = 6
_TRUTH, _PRED = (0, 150, 60), (230, 30, 30)


def draw_panel(shown: Sequence[Shown], scheme: LabelScheme) -> npt.NDArray[np.uint8]:
    """Draw one row per tile: image, truth and prediction, the middle of the tile, at most 384 pixels a side.

    Nuclei are outlined, green for the truth and red for the prediction; where a scheme has none, classes are laid over
    the image in the scheme's colours. Unlabelled pixels of the truth are grey.
    """
    rows = []
    for tile in shown:
        window = tuple(
            slice(max((side - _SIDE) // 2, 0), max((side - _SIDE) // 2, 0) + _SIDE) for side in tile.truth.shape
        )
        image = tile.image[window]
        truth = draw_labels(image, tile.truth[window], tile.truth_instance[window], scheme, [_TRUTH])
        truth[tile.truth[window] == IGNORE] = 128
        pred = draw_labels(image, tile.pred[window], tile.pred_instance[window], scheme, [_PRED])
        gap = np.full((image.shape[0], _GAP, 3), 255, np.uint8)
        rows.append(np.concatenate([image, gap, truth, gap, pred], axis=1))
    between = np.full((_GAP, rows[0].shape[1], 3), 255, np.uint8)
    stacked = [part for row in rows for part in (row, between)][:-1]
    return np.concatenate(stacked)


def write_panel(out: Path, step: int, shown: Sequence[Shown], scheme: LabelScheme) -> Path:
    """Write ``panels/step-000100.png`` below a run's folder."""
    folder = out / PANELS
    folder.mkdir(exist_ok=True)
    path = folder / f"step-{step:06d}.png"
    write_atomic(path, png(draw_panel(shown, scheme)))
    return path
