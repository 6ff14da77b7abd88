"""Sheets of sample masks and images, written by `factory train` at each checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from manifests.files import write_atomic
from manifests.labels import LabelScheme

_GAP_PX = 4
_GAP_GREY = 96


def write_sample_sheet(path: Path, columns: Sequence[npt.NDArray[np.uint8]], scheme: LabelScheme) -> None:
    """Write a PNG with one row per sample and one column per kind, on grey.

    Args:
        path: of the PNG; its folder is made. columns: masks uint8 [n, H, W] or RGB uint8 [n, H, W, 3], of one size.
        scheme: whose colours masks are shown in.
    """
    shown = [column if column.ndim == 4 else scheme.palette[column] for column in columns]
    before = ((0, 0), (_GAP_PX, 0), (_GAP_PX, 0), (0, 0))
    framed = [np.pad(column, before, constant_values=_GAP_GREY) for column in shown]
    sheet = np.concatenate(np.concatenate(framed, axis=2), axis=0)
    sheet = np.pad(sheet, ((0, _GAP_PX), (0, _GAP_PX), (0, 0)), constant_values=_GAP_GREY)
    encoded, content = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    assert encoded
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content.tobytes())
