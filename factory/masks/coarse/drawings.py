"""Drawings by a person, read as coarse maps: PNG files from any painting app, and outlines drawn in labelme.

In a drawing of two classes white and transparent pixels are air, dark and coloured ones tissue;
`white="tissue"` is for masks drawn in white on black. A drawing of more classes is read by the colours of the scheme.
Outlines (PriorPath's first masks, section 2.4) are read by the names of their classes. The notes of a sketch list every
other change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from factory.core.images.files import RASTERS, UnreadableError, read_header, read_pixels
from factory.core.label_files.base import read_json
from factory.core.label_files.labelme import Labelme
from factory.core.label_files.shapes import rasterise
from factory.masks.coarse.morphology import LabelMap
from manifests.errors import UserError
from manifests.labels import IGNORE, LabelScheme

White = Literal["air", "tissue"]

MAX_SKETCH_PX = 2**21
"""Most pixels of a sketch: four tiles of 512 x 1024. Larger drawings are reduced, so that a pool fits in memory."""

_OUTLINES = ".json"
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LEAST_CONTRAST = 32
_LEAST_SHARE = 1e-3
_SURE_DISTANCE = 24.0
_MOST_UNSURE = 0.2
_SAME_ASPECT = 1.02


@dataclass(frozen=True)
class Sketch:
    """A drawing as labels.

    Attributes:
        name: of its file. labels: uint8 [H, W], ids of `scheme`, at least two of them. notes: changes made in reading.
    """

    name: str
    labels: LabelMap
    scheme: LabelScheme
    notes: tuple[str, ...] = ()


def read_sketches(
    path: Path, scheme: LabelScheme, *, white: White = "air", size: tuple[int, int] | None = None
) -> list[Sketch]:
    """Read a folder of drawings, or one.

    Args:
        path: a folder, in which other kinds of pictures are refused, or a file. scheme: of the labels.
        white: class of white in a drawing of two classes.
        size: (height, width) to fit them to, covering it and cut in the middle; default as drawn.

    Raises:
        UserError: for a folder without drawings, and for a file that is neither PNG nor labelme's JSON, is damaged or
            too large, shows one class only, or has colours or class names that the scheme does not know.
    """
    return [read_sketch(file, scheme, white=white, size=size) for file in sketch_files(path)]


def sketch_files(path: Path) -> list[Path]:
    """List the drawings of a folder, sorted by name, or the one that `path` is; refuse other pictures.

    A picture that labelme's JSON of the same name lies beside is the one that was drawn on, and no drawing.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: expected a folder of PNG drawings or labelme's JSON, got none.")
    files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    outlined = {file.stem for file in files if file.suffix.lower() == _OUTLINES}
    pictures = [file for file in files if file.suffix.lower() in RASTERS and file.stem not in outlined]
    others = [file for file in pictures if file.suffix.lower() != ".png"]
    if others:
        raise UserError(f"{others[0]}: expected only PNG drawings in {path}, got {others[0].suffix}. Export it as PNG.")
    drawings = [file for file in files if file.suffix.lower() == _OUTLINES or file in pictures]
    if not drawings:
        raise UserError(
            f"{path}: expected PNG drawings or labelme's JSON, got none. Draw some: factory sketches shows what kinds."
        )
    return drawings


def read_sketch(
    path: Path, scheme: LabelScheme, *, white: White = "air", size: tuple[int, int] | None = None
) -> Sketch:
    """Read one drawing; see `read_sketches`."""
    if path.suffix.lower() == _OUTLINES:
        labels, notes = _by_outline(path, scheme, size)
    else:
        labels, notes = _by_pixels(path, scheme, white, size)
    _check_not_empty(path, labels, scheme)
    return Sketch(path.name, labels, scheme, notes)


def sketches_sha256(sketches: Sequence[Sketch]) -> str:
    """Digest names, sizes and labels of sketches: sha256 in hex, kept in the rows made from them."""
    whole = hashlib.sha256()
    for sketch in sketches:
        height, width = sketch.labels.shape
        whole.update(f"{sketch.name}\0{sketch.scheme.name}\0{height}x{width}\0".encode())
        whole.update(np.ascontiguousarray(sketch.labels).data)
    return whole.hexdigest()


def _by_outline(path: Path, scheme: LabelScheme, size: tuple[int, int] | None) -> tuple[LabelMap, tuple[str, ...]]:
    """Paint the shapes of labelme's JSON at the size they are wanted in; later ones count, and the rest is air."""
    try:
        document = read_json(path)
        document = document if isinstance(document, dict) else {}
        height, width = document.get("imageHeight"), document.get("imageWidth")
        if not (isinstance(height, int) and isinstance(width, int) and min(height, width) > 0):
            raise UnreadableError("expected labelme's JSON with the size of its image, got none. Save it in labelme")
        drawn_on = height, width
        shapes = Labelme.read(path, path.stem, drawn_on, nuclei=False).shapes
    except UnreadableError as error:
        raise UserError(f"{path}: {error}.") from error
    covering, fitted, notes = _placed(drawn_on, size)
    scale = np.array(covering[::-1]) / np.array(drawn_on[::-1])
    corner = (np.array(covering[::-1]) - np.array(fitted[::-1])) // 2
    labels = np.full(fitted, IGNORE, np.uint8)
    for number, shape in enumerate(shapes, 1):
        if shape.label not in scheme.names:
            known = ", ".join(scheme.names)
            raise UserError(
                f"{path}: shape {number}: expected a class of {scheme.name} ({known}), got {shape.label!r}. Rename it."
            )
        for rings in shape.polygons:
            part, inside = rasterise([ring * scale - corner for ring in rings], fitted)
            labels[part][inside] = scheme.names.index(shape.label)
    rest = (*scheme.ids("air"), 0)[0]
    outside = labels == IGNORE
    labels[outside] = rest
    return labels, (
        *notes,
        *([f"{100 * outside.mean():.1f} % of it is in no shape, read as {scheme.names[rest]}"] * bool(outside.any())),
    )


def _by_pixels(
    path: Path, scheme: LabelScheme, white: White, size: tuple[int, int] | None
) -> tuple[LabelMap, tuple[str, ...]]:
    """Read a PNG by its ink, or by the colours of a scheme of more than two classes."""
    pixels, notes = _fit(_read_rgba(path), size)
    paper = 255 if white == "air" else 0
    opacity = pixels[..., 3:].astype(np.uint16)
    if opacity.min() < 255:
        notes += ("what is transparent is read as air",)
    rgb = ((pixels[..., :3] * opacity + paper * (255 - opacity) + 127) // 255).astype(np.uint8)
    labels, said = _by_ink(path, rgb, scheme, white) if len(scheme) == 2 else _by_colour(path, rgb, scheme)
    return labels, notes + said


def _read_rgba(path: Path) -> npt.NDArray[np.uint8]:
    """Read a PNG of any kind: uint8 [H, W, 4]; 16 bits become 8."""
    try:
        if path.suffix.lower() != ".png":
            raise UnreadableError(f"expected a PNG drawing, got {path.suffix or 'no suffix'}. Export it as PNG")
        header = read_header(path)
        stored = read_pixels(path)  # checks sums and size
        with path.open("rb") as stream:
            if stream.read(8) != _PNG_SIGNATURE:
                raise UnreadableError("expected a PNG drawing, got another kind by that name. Export it as PNG")
    except UnreadableError as error:
        raise UserError(f"{path}: {error}.") from error
    except OSError as error:
        raise UserError(f"{path}: expected a PNG drawing, got {error.strerror}.") from error
    if header.channels == "grey" and header.dtype.itemsize == 2:
        grey = (stored // 257).astype(np.uint8)
        return np.dstack([grey, grey, grey, np.full_like(grey, 255)])
    with Image.open(path, formats=("PNG",)) as image:
        return np.array(ImageOps.exif_transpose(image).convert("RGBA"))


def _placed(
    drawn: tuple[int, int], size: tuple[int, int] | None
) -> tuple[tuple[int, int], tuple[int, int], tuple[str, ...]]:
    """How a drawing covers `size`: its (height, width) after scaling, after its middle is cut out, and notes.

    Without `size` only a large one is reduced.
    """
    height, width = drawn
    if size is None:
        over = (height * width / MAX_SKETCH_PX) ** 0.5
        if over <= 1.0:
            return drawn, drawn, ()
        small = max(1, int(height / over)), max(1, int(width / over))
        return small, small, (f"{height}x{width} made smaller, {small[0]}x{small[1]}",)
    if drawn == size:
        return size, size, ()
    scale = max(size[0] / height, size[1] / width)
    covering = max(size[0], round(height * scale)), max(size[1], round(width * scale))
    aspect = (height / width) / (size[0] / size[1])
    cut = "" if 1 / _SAME_ASPECT < aspect < _SAME_ASPECT else ", its middle kept"
    return covering, size, (f"{height}x{width} resized to {size[0]}x{size[1]}{cut}",)


def _fit(pixels: npt.NDArray[np.uint8], size: tuple[int, int] | None) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    """Scale a drawing and cut out its middle; see `_placed`."""
    drawn = pixels.shape[0], pixels.shape[1]
    covering, fitted, notes = _placed(drawn, size)
    if covering != drawn:
        pixels = _resize(pixels, covering)
    top, left = (covering[0] - fitted[0]) // 2, (covering[1] - fitted[1]) // 2
    return pixels[top : top + fitted[0], left : left + fitted[1]], notes


def _resize(pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Resize by averaging or interpolation; colours are weighted by opacity (Porter-Duff)."""
    opacity = pixels[..., 3:].astype(np.float32) / 255
    weighed = np.dstack([pixels[..., :3] * opacity, opacity * 255])
    how = cv2.INTER_AREA if size[0] * size[1] < pixels.shape[0] * pixels.shape[1] else cv2.INTER_LINEAR
    resized = cv2.resize(weighed, size[::-1], interpolation=how)
    colours = resized[..., :3] / np.maximum(resized[..., 3:] / 255, 1e-6)
    levels: npt.NDArray[np.uint8] = np.clip(np.rint(np.dstack([colours, resized[..., 3:]])), 0, 255).astype(np.uint8)
    return levels


def _by_ink(
    path: Path, rgb: npt.NDArray[np.uint8], scheme: LabelScheme, white: White
) -> tuple[LabelMap, tuple[str, ...]]:
    """Read two classes by the distance of a pixel from the paper in its strongest channel, split half-way."""
    paper = scheme.ids("air")[0] if scheme.ids("air") else 0
    ink = 255 - rgb.min(axis=-1) if white == "air" else rgb.max(axis=-1)
    low, high = int(ink.min()), int(ink.max())
    if high - low < _LEAST_CONTRAST:
        known = " and ".join(scheme.names)
        raise UserError(f"{path}: expected a drawing of {known}, got one shade only. Draw on it or leave it out.")
    level = (low + high + 1) // 2
    labels = np.where(ink >= level, 1 - paper, paper).astype(np.uint8)
    tenth = (high - low) // 10
    grey = float(np.mean((ink > low + tenth) & (ink < high - tenth)))
    if grey == 0.0:
        return labels, ()
    shade = 255 - level if white == "air" else level
    return labels, (f"{100 * grey:.1f} % of it is grey, cut half-way at {shade} of 255",)


def _by_colour(path: Path, rgb: npt.NDArray[np.uint8], scheme: LabelScheme) -> tuple[LabelMap, tuple[str, ...]]:
    """Read classes by the scheme's colours; a pixel between two of them takes the class of the nearest certain one."""
    distance = np.stack(
        [
            np.linalg.norm(rgb.astype(np.float32) - np.array(label.colour, np.float32), axis=-1)
            for label in scheme.classes
        ]
    )
    labels = np.argmin(distance, axis=0).astype(np.uint8)
    unsure = distance.min(axis=0) > _SURE_DISTANCE
    share = float(unsure.mean())
    if share > _MOST_UNSURE:
        known = ", ".join(f"#{bytes(label.colour).hex()} {label.name}" for label in scheme.classes)
        raise UserError(
            f"{path}: expected the colours of {scheme.name} ({known}), got others on {100 * share:.0f} % of it. "
            "Draw with these."
        )
    if share == 0.0:
        return labels, ()
    _, places = cv2.distanceTransformWithLabels(
        unsure.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    nearest = np.zeros(int(places.max()) + 1, np.uint8)
    nearest[places[~unsure]] = labels[~unsure]
    return nearest[places], (f"{100 * share:.1f} % of it has other colours, read as what lies nearest",)


def _check_not_empty(path: Path, labels: LabelMap, scheme: LabelScheme) -> None:
    shares = np.bincount(labels.ravel(), minlength=len(scheme)) / labels.size
    if shares.max() > 1 - _LEAST_SHARE:
        only = scheme.names[int(shares.argmax())]
        raise UserError(
            f"{path}: expected a drawing with more than one class, got {only} nearly everywhere. "
            "Draw on it or leave it out."
        )
