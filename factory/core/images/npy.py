"""NPY arrays; object arrays, which would be unpickled, are refused from the header."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from factory.core.images.header import Header, UnreadableError


def header(path: Path) -> Header:
    """Size and kind of the array; its data is not read."""
    with path.open("rb") as stream:
        version = npy_format.read_magic(stream)
        if version == (1, 0):
            shape, _, dtype = npy_format.read_array_header_1_0(stream)
        else:
            shape, _, dtype = npy_format.read_array_header_2_0(stream)
        start = stream.tell()
    if dtype.hasobject or dtype.names or dtype.kind not in "biuf":
        raise UnreadableError(f"expected an array of numbers, got dtype {dtype}")
    if len(shape) not in (2, 3):
        raise UnreadableError(f"expected an array [H, W] or [H, W, 3], got shape {shape}")
    found = Header(shape[0], shape[1], _channels(shape), dtype)
    expected = start + math.prod(shape) * dtype.itemsize
    if path.stat().st_size != expected:
        raise UnreadableError(f"expected {expected:,} bytes, got {path.stat().st_size:,}: the file is damaged")
    return found


def pixels(path: Path) -> npt.NDArray[Any]:
    """The array as stored."""
    header(path)
    array: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    return array


def _channels(shape: tuple[int, ...]) -> str:
    if len(shape) == 2:
        return "grey"
    return {3: "RGB", 4: "RGBA"}.get(shape[2], f"{shape[2]} channels")
