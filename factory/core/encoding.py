"""Bytes of the files that reports and runs consist of: JSON, Parquet and PNG."""

from __future__ import annotations

import io
import json
import math
import struct
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_AFTER_IHDR = 33
"""Bytes of a PNG's signature and first chunk (PNG specification, 5.2 and 11.2.2)."""


def finite(value: Any) -> Any:
    """A JSON-ready copy of a document, with null for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_bytes(document: Mapping[str, Any], indent: int = 2) -> bytes:
    """A document as JSON, ended by a newline; null for numbers that are not finite."""
    return (json.dumps(finite(document), indent=indent, allow_nan=False) + "\n").encode()


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as Parquet with compressed pages and their checksums."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def png_bytes(figure: Figure) -> bytes:
    """A matplotlib figure as PNG, drawn without a window system."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def png(image: npt.NDArray[Any], comment: str = "") -> bytes:
    """Pixels as PNG: uint8 [H, W, 3] in RGB, or uint8 or uint16 [H, W]; `comment` is ASCII, in a text chunk."""
    import cv2

    _, content = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image)
    encoded = content.tobytes()
    if not comment:
        return encoded
    chunk = _chunk(b"tEXt", b"Comment\0" + comment.encode("ascii"))
    return encoded[:_AFTER_IHDR] + chunk + encoded[_AFTER_IHDR:]


def bilevel_png(mask: npt.NDArray[np.bool_]) -> bytes:
    """A mask bool [H, W] as PNG of one bit; rows without filters (PNG specification, 7.2 and 9), compressed quickly."""
    rows = np.zeros((mask.shape[0], 1 + -(-mask.shape[1] // 8)), np.uint8)
    rows[:, 1:] = np.packbits(mask, axis=1)
    header = struct.pack(">IIBBBBB", mask.shape[1], mask.shape[0], 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG: length, kind, content and checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
