"""Bytes of the files that reports and runs consist of: JSON, Parquet and PNG."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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


def rgb_png(image: npt.NDArray[np.uint8]) -> bytes:
    """An image uint8 [H, W, 3] as PNG."""
    import cv2

    _, content = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return content.tobytes()
