"""MATLAB files of HoVer-Net's data sets (Graham et al. 2019): ``inst_map``, and ``type_map`` or ``inst_type``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.core.images.files import UnreadableError
from factory.core.label_files.base import CellMap, LabelFormat, as_ids, check_size, classes_by_majority

_MAP, _TYPES, _TYPE_MAP = "inst_map", "inst_type", "type_map"


class HoverNet(LabelFormat):
    """Kumar and CPM (instances alone) and CoNSeP (with types, whose names here are their numbers: "1", "2", ...)."""

    suffixes = (".mat",)

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """By its instance map."""
        return _MAP in _contents(path)

    @classmethod
    def size(cls, path: Path) -> tuple[int, int]:
        """Of the instance map, from the header."""
        contents = _contents(path)
        if len(contents.get(_MAP, ())) != 2:
            raise UnreadableError(
                f"expected {_MAP}, got {', '.join(contents) or 'nothing'}. Is it of HoVer-Net's kind?"
            )
        height, width = contents[_MAP]
        return height, width

    @classmethod
    def read(cls, path: Path, stem: str, size: tuple[int, int], *, nuclei: bool) -> CellMap:
        """Ids as in the file. ``type_map`` is preferred: the class of an object is that of most of its pixels."""
        from scipy.io import loadmat

        check_size(cls.size(path), size)
        try:
            arrays = loadmat(str(path), variable_names=[_MAP, _TYPES, _TYPE_MAP])
        except Exception as error:  # scipy raises anything on a damaged file
            raise UnreadableError(f"expected a readable MATLAB file, got a damaged one ({str(error)[:80]})") from error
        instance = as_ids(arrays[_MAP])
        if _TYPE_MAP in arrays and arrays[_TYPE_MAP].shape == instance.shape:
            types = as_ids(arrays[_TYPE_MAP])
            names = {number: str(number) for number in np.unique(types).tolist()}
            classes, notes = classes_by_majority(instance, types, names)
            return CellMap(instance, classes, notes)
        return CellMap(instance, _listed(instance, arrays.get(_TYPES)))


def _listed(instance: npt.NDArray[np.int64], types: Any) -> dict[int, str | None]:
    """The classes of ``inst_type``: an entry for each id, in the order of the ids."""
    ids = [number for number in np.unique(instance).tolist() if number]
    if types is None:
        return dict.fromkeys(ids)
    flat = np.ravel(types)
    if len(flat) == max(ids, default=0):  # by id
        return {number: str(int(flat[number - 1])) for number in ids}
    if len(flat) == len(ids):
        return {number: str(int(kind)) for number, kind in zip(ids, flat, strict=True)}
    raise UnreadableError(f"expected {_TYPES} of {len(ids)} objects, got {len(flat)}. Export it with {_TYPE_MAP}")


def _contents(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the variables by name, from the headers."""
    from scipy.io import whosmat

    try:
        return {name: shape for name, shape, _ in whosmat(str(path))}
    except NotImplementedError as error:
        raise UnreadableError("expected a MATLAB file up to version 7, got 7.3. Save it with -v7") from error
    except Exception as error:  # scipy raises anything on a damaged file
        raise UnreadableError(f"expected a readable MATLAB file, got a damaged one ({str(error)[:80]})") from error
