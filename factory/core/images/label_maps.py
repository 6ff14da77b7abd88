"""Files of label maps: found by name, checked from their headers, then read and checked value by value.

Maps that would be scored wrongly in silence are refused: colours, fractions, lossy compression, ids cut off by a small
type.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.core.images.files import LOSSY, UnreadableError
from factory.core.images.label_pixels import read_label_header, read_label_pixels
from factory.core.label_files.base import CellMap, LabelFormat, resolve_format, stem_of
from manifests.errors import UserError
from manifests.labels import IGNORE

MAX_ID = 2**31 - 1
"""Largest id of an instance."""

SUFFIXES = (".png", ".tif", ".tiff", ".npy", ".bmp")
"""Lossless formats."""


@contextlib.contextmanager
def refused_where_unreadable() -> Iterator[None]:
    """Turn a lack of permission to read into a message of its own."""
    try:
        yield
    except PermissionError as error:
        raise _not_permitted(error.filename or "--truth or --pred", error) from error


def find_label_files(folder: Path) -> dict[str, Path]:
    """Label maps directly in a folder, stem -> path, sorted by stem; hidden files and other formats are skipped.

    Raises:
        UserError: for no label map at all, two of one stem, or a JPEG in place of a label map.
        PermissionError: for a folder that may not be read.
    """
    try:
        shown = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except NotADirectoryError:
        raise UserError(f"{folder}: expected a folder of label maps, got a file. Name its folder.") from None
    except FileNotFoundError:
        raise UserError(f"{folder}: expected a folder of label maps, got none. Check the path.") from None
    entries = [path for path in shown if path.is_file()]
    found: dict[str, Path] = {}
    for path in entries:
        if not _is_label_file(path):
            continue
        kind = _format_of(path)
        stem = path.stem if kind is None else stem_of(path, kind.suffixes)
        if stem in found:
            raise UserError(
                f"{folder}: expected one label map for {stem}, got {found[stem].name} and {path.name}. Remove one."
            )
        found[stem] = path
    lossy = [path for path in entries if path.suffix.lower() in LOSSY and path.stem not in found]
    if lossy:
        raise UserError(
            f"{lossy[0]}: expected a label map in {_FORMATS}, got JPEG, which changes labels ({len(lossy)} such in the "
            "folder). Save the maps without loss."
        )
    if not found:
        raise UserError(f"{folder}: expected label maps in {_FORMATS}, got {_what_is_there(shown)}.")
    return dict(sorted(found.items()))


def has_label_files(folder: Path) -> bool:
    """Whether the folder itself contains a file in a format of label maps."""
    return any(_is_label_file(path) and path.is_file() and not path.name.startswith(".") for path in folder.iterdir())


def _is_label_file(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES or _format_of(path) is not None


def _format_of(path: Path) -> type[LabelFormat] | None:
    """The format of another program that holds a map of instances, by the end of a name; None for a plain map."""
    kinds = (resolve_format(name) for name in _MAPS)
    return next((kind for kind in kinds if path.name.lower().endswith(kind.suffixes)), None)


_FORMATS = "PNG, TIFF, BMP, NPY, HoVer-Net's MAT or cellpose's files"
_MAPS = ("hovernet", "cellpose")


def _what_is_there(shown: Collection[Path]) -> str:
    """Content of a folder without label maps, and advice, for a message."""
    folders = [path.name for path in shown if path.is_dir()]
    dead_links = [path.name for path in shown if path.is_symlink() and not path.exists()]
    others = [path.name for path in shown if path.is_file()]
    kinds = (("folder", folders), ("dead link", dead_links), ("other file", others))
    content = [_counted(kind, names) for kind, names in kinds if names] or ["an empty folder"]
    advice = "Mend the links" if dead_links else "Check the path"
    advice = "Name the folder that holds the maps" if folders else advice
    return f"{' and '.join(content)}. {advice}"


def _counted(kind: str, names: list[str]) -> str:
    plural, more = ("s" if len(names) > 1 else ""), (", ..." if len(names) > 3 else "")
    return f"{len(names)} {kind}{plural} ({', '.join(names[:3])}{more})"


def label_size(path: Path) -> tuple[int, int]:
    """Height and width of a label map, from its header; nothing is decoded.

    Raises:
        UserError: for a file that is damaged, too large, compressed with loss, or has more than one channel.
    """
    kind = _format_of(path)
    try:
        if kind is not None and (size := kind.size(path)) is not None:
            return size
        header = read_label_header(path)
    except UnreadableError as error:
        raise _refusal(path, error) from error
    return header.height, header.width


def read_instances(path: Path) -> npt.NDArray[Any]:
    """An instance map [H, W] of an integer type: ids 0..2^31-1, 0 = background, gaps allowed.

    Raises:
        UserError: for ids out of range, for a binary mask (only 0 and 255, or 0 and the type's largest value), and for
            8 or 16 bits with their largest value, where more ids may have been lost.
    """
    kind = _format_of(path)
    if kind is not None:
        try:
            found = kind.read(path, stem_of(path, kind.suffixes), label_size(path), nuclei=True)
        except UnreadableError as error:
            raise _refusal(path, error) from error
        assert isinstance(found, CellMap)  # what the formats of `_MAPS` hold
        return found.instance
    array = _read(path)
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > MAX_ID:
        raise UserError(f"{path}: expected instance ids from 0 to {MAX_ID}, got {low}..{high}. Number them anew.")
    if array.dtype != np.bool_:
        _refuse_limits(path, array, high)
    return array


def read_classes(path: Path) -> npt.NDArray[np.uint8]:
    """A class map uint8 [H, W]: labels 0..254, 255 = ignore. Raises a UserError for labels out of range."""
    array = _read(path)
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > IGNORE:
        raise UserError(
            f"{path}: expected class labels from 0 to {IGNORE - 1} and {IGNORE} (ignore), got {low}..{high}. "
            "Instance maps are scored without --semantic."
        )
    return array.astype(np.uint8)


def _read(path: Path) -> npt.NDArray[Any]:
    try:
        return read_label_pixels(path)
    except UnreadableError as error:
        raise _refusal(path, error) from error


def _refusal(path: Path, error: UnreadableError) -> UserError:
    if isinstance(error.__cause__, PermissionError):
        return _not_permitted(path, error.__cause__)
    return UserError(f"{path}: {str(error).removesuffix('.')}.")


def _not_permitted(where: Path | str, error: PermissionError) -> UserError:
    return UserError(f"{where}: cannot be read ({error.strerror}). Change its permissions, or copy it.")


def _refuse_limits(path: Path, array: npt.NDArray[Any], high: int) -> None:
    """Refuse ids whose largest is a common value for "foreground", or the largest of a small type."""
    largest, bits = int(np.iinfo(array.dtype).max), 8 * array.dtype.itemsize
    if high not in (255, largest):
        return
    if not np.any((array > 0) & (array < high)):
        raise UserError(
            f"{path}: expected instance ids, got only 0 and {high}. It is a binary mask, in which nuclei that touch "
            "are one: number its objects, or score it as classes 0 and 1 with --semantic."
        )
    if high == largest and bits <= 16:
        raise UserError(
            f"{path}: expected instance ids, got {bits} bits that reach {high}. Ids above {high} do not fit and were "
            f"probably lost: export it in {2 * bits} bits."
        )
