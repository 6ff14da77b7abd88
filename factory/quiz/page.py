"""The page of a quiz: one HTML file that loads nothing, asks "real or synthetic?", and keeps the truth until the end.

Text of data sets reaches the document through JSON and `textContent`, never as markup.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Literal

from PIL import Image as Pillow

from factory.inspect.page import embed_json
from factory.quiz.choice import Crop, Image
from factory.quiz.key import VERSION, Key
from factory.quiz.scoring import ANSWERS_KIND
from manifests.schema import DISCLAIMER

MOST_PNG_BYTES = 24 * 2**20
"""Of all pictures together; above it they become JPEG."""
_JPEG_QUALITY = 95

Encoding = Literal["png", "jpeg"]


@dataclass(frozen=True)
class Pictures:
    """Files of all tiles, encoded the same way."""

    encoding: Encoding
    files: tuple[bytes, ...]


def encode(crops: Sequence[Crop], on_tile: Callable[[], None] = lambda: None) -> Pictures:
    """Encode real and synthetic tiles alike, from their bare pixels: no profile, text or time goes along.

    PNG while all of them take at most 24 MiB, else JPEG of quality 95 with chroma of full size, for every one.
    """
    files, size = [], 0
    for crop in crops:
        files.append(_png(crop.image))
        size += len(files[-1])
        on_tile()
        if size > MOST_PNG_BYTES:
            return Pictures("jpeg", tuple(_jpeg(one.image) for one in crops))
    return Pictures("png", tuple(files))


def _png(image: Image) -> bytes:
    stream = io.BytesIO()
    Pillow.fromarray(image).save(stream, "png", compress_level=6)
    return stream.getvalue()


def _jpeg(image: Image) -> bytes:
    stream = io.BytesIO()
    Pillow.fromarray(image).save(stream, "jpeg", quality=_JPEG_QUALITY, subsampling=0)
    return stream.getvalue()


def render_page(key: Key, pictures: Pictures, shape: tuple[int, int], mpp: float, licences: Sequence[str]) -> str:
    """The page.

    Args:
        key: its tiles, in order. pictures: theirs. shape: height and width. mpp: micrometres per pixel.
        licences: of the real tiles.
    """
    document = {
        "quiz": key.quiz,
        "kind": ANSWERS_KIND,
        "version": VERSION,
        "height": shape[0],
        "width": shape[1],
        "mpp": mpp,
        "licences": list(licences),
        "encoding": pictures.encoding,
        "tiles": [
            {"picture": base64.b64encode(file).decode(), "salt": tile.salt, "seal": tile.seal}
            for tile, file in zip(key.tiles, pictures.files, strict=True)
        ],
    }
    style, seal, script, page = (_asset(name) for name in ("page.css", "seal.js", "page.js", "page.html"))
    script = seal + script
    parts = {
        "STYLE_HASH": _csp_hash(style),
        "SCRIPT_HASH": _csp_hash(script),
        "WARNING": f"Contains synthetic images, {DISCLAIMER}.",
        "STYLE": style,
        "SCRIPT": script,
        "DATA": embed_json(document),
    }
    pieces = page.split("@@")  # text, name, text, name, ..., text
    return "".join(parts[piece] if place % 2 else piece for place, piece in enumerate(pieces))


def _asset(name: str) -> str:
    return resources.files("factory.quiz").joinpath(name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
