"""cellpose (Stringer et al. 2021): ``x_seg.npy``, a pickled dictionary, and ``x_cp_masks.png`` or ``.tif``."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from factory.core.images.files import UnreadableError, read_header, read_pixels
from factory.core.label_files.base import MAX_TEXT_BYTES, CellMap, LabelFormat, as_ids, check_size, once_per_file

_REMEDY = "Save the masks in cellpose as PNG or TIFF (_cp_masks) instead"


class Cellpose(LabelFormat):
    """Instances without classes, ids as in the file."""

    suffixes = ("_cp_masks.png", "_cp_masks.tiff", "_cp_masks.tif", "_seg.npy")

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """By the name, and by what an array file starts with."""
        with path.open("rb") as stream:
            return path.suffix.lower() != ".npy" or stream.read(6) == npy_format.MAGIC_PREFIX

    @classmethod
    def size(cls, path: Path) -> tuple[int, int]:
        """Of the masks."""
        if path.suffix.lower() != ".npy":
            header = read_header(path)
            return header.height, header.width
        height, width = as_ids(_masks(path)).shape
        return height, width

    @classmethod
    def read(cls, path: Path, stem: str, size: tuple[int, int], *, nuclei: bool) -> CellMap:
        """The masks, one layer of them."""
        check_size(cls.size(path), size)
        instance = as_ids(_masks(path) if path.suffix.lower() == ".npy" else read_pixels(path))
        return CellMap(instance, dict.fromkeys(np.unique(instance[instance > 0]).tolist()))


@once_per_file
def _masks(path: Path) -> npt.NDArray[Any]:
    """The array ``masks`` of cellpose's dictionary."""
    document = _restricted(path)
    masks = document.get("masks") if isinstance(document, dict) else None
    if not isinstance(masks, np.ndarray):
        raise UnreadableError(f"expected cellpose's masks, got none. {_REMEDY}")
    return masks


def _restricted(path: Path) -> Any:
    """The pickled object of an NPY file, from which nothing but arrays and plain values can come."""
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise UnreadableError(f"expected at most {MAX_TEXT_BYTES:,} bytes, got more. {_REMEDY}")
    try:
        with path.open("rb") as stream:
            version = npy_format.read_magic(stream)
            read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
            shape, _, dtype = read(stream)
            if shape != () or not dtype.hasobject:
                raise UnreadableError(f"expected cellpose's dictionary, got {dtype} of shape {shape}. {_REMEDY}")
            (found,) = np.ravel(_Unpickler(stream).load())
    except UnreadableError:
        raise
    except Exception as error:  # a damaged or hostile pickle raises anything
        raise UnreadableError(f"expected arrays and plain values, got {str(error)[:100]}. {_REMEDY}") from error
    return found


class _ArrayType:
    """Stands for `numpy.ndarray`, which a pickle could call with any size."""


def _empty_array(*arguments: object) -> Any:
    """An array that the pickle then fills: `numpy._core.multiarray._reconstruct` without its arguments."""
    return np.ndarray.__new__(np.ndarray, (0,), np.dtype("b"))


def _scalar(dtype: np.dtype[Any], content: bytes) -> Any:
    if dtype.hasobject or not isinstance(content, bytes):
        raise pickle.UnpicklingError("a scalar of objects")
    return np.frombuffer(content, dtype, 1)[0]


_ADMITTED: dict[tuple[str, str], Any] = {("numpy", "ndarray"): _ArrayType, ("numpy", "dtype"): np.dtype}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _ADMITTED |= {(_module, "_reconstruct"): _empty_array, (_module, "scalar"): _scalar}


class _Unpickler(pickle.Unpickler):
    """Admits the classes of arrays alone, each by what cannot do harm; builtins need none."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return _ADMITTED[module, name]
