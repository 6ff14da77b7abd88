"""Stacks: many images of one size in an NPY file [N, H, W, 3], mapped into memory and read one by one."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.core.images.files import Header, UnreadableError, read_header, read_rgb_pixels


def open_stack(path: Path) -> npt.NDArray[Any]:
    """An NPY file as a memory map; object arrays, which would be unpickled, are refused."""
    try:
        state = path.stat()
        return _open_stack(path, state.st_mtime_ns, state.st_size)
    except (OSError, ValueError, EOFError) as error:
        raise UnreadableError(f"expected an NPY file of numbers, got {str(error).splitlines()[0][:100]}") from error


@functools.lru_cache(maxsize=8)  # each image of a stack would open it again
def _open_stack(path: Path, mtime_ns: int, size: int) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def image_header(path: Path, part: int | None) -> Header:
    """The header of a flat image, or of an image of a stack by its number."""
    if part is None:
        return read_header(path)
    stack = open_stack(path)
    if stack.ndim != 4 or stack.shape[3] != 3 or stack.dtype.kind not in "uif" or part >= len(stack):
        raise UnreadableError(f"expected images [N, H, W, 3], got {stack.dtype} of shape {stack.shape}")
    return Header(stack.shape[1], stack.shape[2], "RGB", np.dtype(np.uint8))


def image_pixels(path: Path, part: int | None) -> npt.NDArray[Any]:
    """The pixels of a flat image, or of an image of a stack as uint8 [H, W, 3], whatever number type it is stored in.

    Raises:
        UnreadableError: for values that are not whole numbers from 0 to 255, or transparent pixels.
    """
    if part is None:
        return read_rgb_pixels(path)
    image_header(path, part)
    image = np.asarray(open_stack(path)[part])
    pixels = image.astype(np.uint8)
    if not np.array_equal(pixels, image):
        raise UnreadableError(
            f"image {part}: expected whole numbers from 0 to 255, got {image.dtype} from {image.min():g} to "
            f"{image.max():g}. Save it as uint8"
        )
    return pixels
