"""HTML pages in one file: a skeleton that the pages of several commands share.

A page loads nothing: style, script, data and pictures are in it, and its content security policy forbids all else. Text
of data sets reaches the document through JSON and `textContent`, never as markup.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image


def fill_page(package: str, title: str, document: Any, *, warning: str, scripts: tuple[str, ...] = ("page.js",)) -> str:
    """Builds a page from the files of a package and of this one.

    Args:
        package: has page.html (the body), page.css and the scripts. title: of the page, plain text.
        document: JSON-ready data; the script reads it as `data`. warning: plain text, for @@WARNING@@ in the body and
            for the description of the page. scripts: files of the package, in order.
    """
    style = _asset(__name__, "page.css") + _asset(package, "page.css")
    script = _asset(__name__, "page.js") + "".join(_asset(package, name) for name in scripts)
    parts = {"TITLE": html.escape(title), "WARNING": html.escape(warning), "STYLE": style, "SCRIPT": script}
    parts |= {"STYLE_HASH": _csp_hash(style), "SCRIPT_HASH": _csp_hash(script), "DATA": embed_json(document)}
    parts["BODY"] = _filled(_asset(package, "page.html"), parts)
    return _filled(_asset(__name__, "page.html"), parts)


def embed_json(document: Any) -> str:
    """Returns JSON that is safe in a script element: no character in it can end the element."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)  # ASCII: U+2028 and the like are escaped too
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def encode_image(image: npt.NDArray[np.uint8] | Image.Image, kind: str, **options: Any) -> bytes:
    """Encodes an image: uint8 [H, W, C], or one of Pillow.

    Args:
        image: the pixels; no profile, text or time is added. kind: png, jpeg or webp. options: of Pillow's encoder.
    """
    stream = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(stream, kind, **options)
    return stream.getvalue()


def data_uri(image: npt.NDArray[np.uint8] | Image.Image, kind: str, **options: Any) -> str:
    """Returns an image as a data URI; arguments as in `encode_image`."""
    return f"data:image/{kind};base64,{base64.b64encode(encode_image(image, kind, **options)).decode()}"


def _asset(package: str, name: str) -> str:
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def _filled(template: str, parts: dict[str, str]) -> str:
    pieces = template.split("@@")  # text, name, text, name, ..., text
    return "".join(parts[piece] if place % 2 else piece for place, piece in enumerate(pieces))


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
