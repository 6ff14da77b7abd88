"""ImageJ's regions of interest: one ``.roi``, or a ``.zip`` of many."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from factory.core.images.files import UnreadableError
from factory.core.label_files.base import MAX_TEXT_BYTES, Faults, LabelFormat, Outlines
from factory.core.label_files.shapes import Shape, ring_of

_AREAS = ("POLYGON", "RECT", "OVAL", "FREEHAND", "TRACED")


class ImageJ(LabelFormat):
    """Areas in their order. The class is the number of the ROI's group ("1", "2", ...), none for group 0."""

    suffixes = ("_rois.zip", "_roi.zip", ".zip", ".roi")

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """By its magic bytes, or those of the first member."""
        return next(iter(_members(path, first=True)), (b"",))[0][:4] == b"Iout"

    @classmethod
    def read(cls, path: Path, stem: str, size: tuple[int, int], *, nuclei: bool) -> Outlines:
        """The regions; parts of a composite one are joined by the even-odd rule, so that holes are holes."""
        from roifile import ImagejRoi

        faults, shapes = Faults(), []
        for content, name in _members(path):
            with faults.of(name):
                try:
                    roi = ImagejRoi.frombytes(content)
                    rings = roi.coordinates(multi=True)
                except Exception as error:  # roifile raises anything on a damaged file
                    raise UnreadableError(f"expected an ROI, got a damaged one ({str(error)[:60]})") from error
                if roi.roitype.name not in _AREAS or not rings:
                    raise UnreadableError(f"expected an area, got {roi.roitype.name.lower()}. Delete it")
                label = str(roi.group) if getattr(roi, "group", 0) else None
                shapes.append(Shape(label, (tuple(ring_of(np.asarray(ring), size) for ring in rings),)))
        faults.check()
        return Outlines(tuple(shapes))


def _members(path: Path, *, first: bool = False) -> list[tuple[bytes, Any]]:
    """Content and name of the regions in a file, with `first` only of one; other members are refused."""
    if path.suffix.lower() == ".roi":
        return [(path.read_bytes(), path.name)]
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            if sum(entry.file_size for entry in entries) > MAX_TEXT_BYTES:
                raise UnreadableError(f"expected at most {MAX_TEXT_BYTES:,} bytes of ROIs, got more. Split it")
            other = [entry.filename for entry in entries if not entry.filename.lower().endswith(".roi")]
            if other:
                raise UnreadableError(f"expected .roi files, got {other[0]}. Leave it out")
            return [(archive.read(entry), entry.filename) for entry in (entries[:1] if first else entries)]
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
        raise UnreadableError(f"expected a ZIP file of ROIs, got {str(error)[:80]}") from error
