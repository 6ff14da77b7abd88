"""An HTML page that shows a data set: distributions that follow filters, tiles with their masks, a table of rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from factory.core.datasets import random_rows, real_pixel_lines, shape_of
from factory.core.page import data_uri, fill_page
from factory.inspect.blocks import warning_of
from factory.inspect.selection import Sort, achieved_tps_of, choose
from factory.inspect.sheet import uncounted
from factory.inspect.views import FILL_OPACITY, contour_layer, contour_palette, mask_layer, shrink_image, shrink_labels
from manifests.dataset import Dataset, Sample

MAX_ROWS = 20_000
MAX_PICTURES = 200
PICTURES_BYTES = 9_000_000
"""Limit for all pictures together, in base64; with 20,000 rows and the script the page stays below 15 MB."""
_THREADS = 4
_TRIED = 8
_WEBP_METHOD = 2
"""Takes half the time of Pillow's default (4) for 3 % more bytes."""
_TEXT_CHARACTERS = 120
_SIDES_QUALITIES = ((640, 80), (512, 75), (512, 55), (384, 55), (256, 50), (160, 40))
_COPIED = (
    "sample_id", "split", "source", "group_id", "label_scheme", "mpp",
    "request_tps", "tps_area", "tps_cells", "has_tumour", "request_tissue", "tissue_fraction",
    "request_cells", "cells", "cells_positive", "cells_negative", "class_fractions",
    "label_origin", "attempts", "allocation_shift",
)  # fmt: skip


def render_page(dataset: Dataset, sort: Sort, seed: int, on_tile: Callable[[], None] = lambda: None) -> str:
    """Renders the page of a data set, below 15 MB: at most 20,000 random rows and 200 pictures, spread over `sort`."""
    shown = random_rows(dataset, MAX_ROWS, np.random.default_rng(seed))
    pictured = choose(shown, min(MAX_PICTURES, len(shown)), sort, seed)
    pictures = [
        {"row": row, **picture} for row, picture in zip(pictured, _pictures(shown, pictured, on_tile), strict=True)
    ]
    document = {**_description(dataset, shown), "columns": _columns(shown), "pictures": pictures}
    title = f"{document['name']} · tiles"
    return fill_page("factory.inspect", title, document, warning=document["warning"])


def _description(dataset: Dataset, shown: Dataset) -> dict[str, Any]:
    info, (height, width) = dataset.info, shape_of(dataset)
    return {
        "name": dataset.root.resolve().name,
        "warning": warning_of(dataset),
        "generator": info.generator,
        "sources": list(info.training_sources),
        "licences": list(info.licences),
        "real_pixels": "".join(real_pixel_lines(dataset.table, info)),
        "total": len(dataset),
        "height": height,
        "width": width,
        "fill": FILL_OPACITY,
        "schemes": [
            {
                "name": _short(scheme.name),
                "classes": [
                    {"name": label.name, "colour": list(label.colour), "contour": contour}
                    for label, contour in zip(scheme.classes, contour_palette(scheme).tolist(), strict=False)
                ],
            }
            for scheme in shown.schemes
        ],
    }


def _columns(shown: Dataset) -> dict[str, list[Any]]:
    """Returns shortened columns of the rows, and `tps`, the achieved TPS by the scheme's basis."""
    columns = {name: [_short(value) for value in shown.table[name].to_pylist()] for name in _COPIED}
    columns["tps"] = [_short(value) for value in achieved_tps_of(shown)]
    return columns


def _short(value: Any) -> Any:
    """Rounds numbers to the precision of a plot, and cuts text to the width of a table."""
    if isinstance(value, list):
        return [_short(one) for one in value]
    if isinstance(value, str):
        return value if len(value) <= _TEXT_CHARACTERS else value[: _TEXT_CHARACTERS - 1] + "…"
    return round(value, 5) if isinstance(value, float) else value


def _pictures(shown: Dataset, rows: list[int], on_tile: Callable[[], None]) -> list[dict[str, str]]:
    """Encodes some rows with one size and quality, the best within `PICTURES_BYTES` in all.

    A few pictures are tried first, because encoding takes most of the time. The smallest size has no limit.
    """
    few = [rows[place] for place in np.unique(np.linspace(0, len(rows) - 1, _TRIED).astype(int))]
    pictures: list[dict[str, str]] = []
    with ThreadPoolExecutor(_THREADS) as pool:  # Pillow's encoders run side by side

        def encode(some: list[int], size: tuple[int, int]) -> Iterator[dict[str, str]]:
            return pool.map(lambda row: _picture(shown[row], *size), some)

        share = PICTURES_BYTES * len(few) / len(rows)
        fits = (_size_bytes(encode(few, size)) <= share for size in _SIDES_QUALITIES[:-1])
        start = next((place for place, right in enumerate(fits) if right), len(_SIDES_QUALITIES) - 1)
        for size in _SIDES_QUALITIES[start:]:
            pictures.clear()
            for picture in encode(rows, size):
                pictures.append(picture)
                on_tile()
            if _size_bytes(pictures) <= PICTURES_BYTES:
                break
            on_tile = uncounted
    return pictures


def _size_bytes(pictures: Iterable[dict[str, str]]) -> int:
    return sum(len(uri) for picture in pictures for uri in picture.values())


def _picture(sample: Sample, longest: int, quality: int) -> dict[str, str]:
    """Returns image, mask and contours of a tile as data URIs, with no side above `longest` pixels."""
    scale = min(1.0, longest / max(sample.tile.shape))
    shape = max(1, round(sample.tile.shape[0] * scale)), max(1, round(sample.tile.shape[1] * scale))
    semantic = shrink_labels(sample.tile.semantic, shape).astype(np.uint8)
    picture = {
        "image": data_uri(shrink_image(sample.image, shape), "webp", quality=quality, method=_WEBP_METHOD),
        "mask": _layer_uri(mask_layer(semantic, sample.tile.scheme)),
    }
    if sample.tile.instance.any():
        picture["cells"] = _layer_uri(contour_layer(sample.tile, shape))
    return picture


def _layer_uri(layer: npt.NDArray[np.uint8]) -> str:
    """Encodes a layer uint8 [H, W, 4] of few colours as a PNG with a palette, a tenth of its size as RGBA."""
    packed = np.ascontiguousarray(layer).view("<u4")[..., 0]
    colours, places = np.unique(packed, return_inverse=True)
    if colours.size > 256:
        return data_uri(layer, "png")
    table = colours.astype("<u4").view(np.uint8).reshape(-1, 4)
    image = Image.fromarray(places.reshape(packed.shape).astype(np.uint8)).convert("P")
    image.putpalette(table[:, :3].tobytes(), "RGB")
    return data_uri(image, "png", transparency=table[:, 3].tobytes())
