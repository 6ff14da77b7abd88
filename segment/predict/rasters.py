"""Label maps of whole images: blocks put together, and written as PNG or TIFF."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image, PngImagePlugin

from manifests.errors import UserError
from manifests.files import write_atomic
from manifests.labels import LabelScheme
from manifests.tile import Tile
from segment.predict.frames import Frame, to_own_pixels
from segment.predict.stitching import Block

_MAX_PNG_ID = 2**16 - 1
_OUTLINES = ((0, 200, 80), (230, 40, 40), (0, 120, 255), (255, 190, 0))
"""Colours of outlines, one per nucleus class in turn: those of a scheme are too near to the stains to be seen."""


def assemble(blocks: Iterable[Block], frame: Frame, scheme: LabelScheme) -> Tile:
    """The labels of a whole image in its own pixels; nuclei are numbered 1..n in the order in which they were read.

    Every nucleus is of one class, and no pixel outside of them is of a nucleus class.
    """
    ground = np.zeros((frame.height, frame.width), np.uint8)
    instance = np.zeros(ground.shape, np.int32)
    labels = [0]
    for block in blocks:
        ground[block.box.top : block.box.bottom, block.box.left : block.box.right] = block.ground
        for nucleus in block.nuclei:
            box = nucleus.box
            instance[box.top : box.bottom, box.left : box.right][nucleus.mask] = len(labels)
            labels.append(nucleus.label)
    instance, ground = to_own_pixels(instance, frame), to_own_pixels(ground, frame)
    semantic = np.where(instance > 0, np.array(labels, np.uint8)[instance], ground)
    return Tile(semantic, _renumbered(instance, len(labels)), frame.own_mpp, scheme)


def _renumbered(instance: npt.NDArray[np.int32], ids: int) -> npt.NDArray[np.int32]:
    """Ids 1..n again where a nucleus fell between the pixels of a coarser image."""
    present = np.bincount(instance.ravel(), minlength=ids) > 0
    present[0] = False
    numbers = np.where(present, np.cumsum(present), 0).astype(np.int32)
    return numbers[instance]


def write_png(path: Path, labels: npt.NDArray[np.unsignedinteger[Any]], mark: Mapping[str, Any]) -> None:
    """Write labels as a grey PNG of their 8 or 16 bits, with `mark` as its text chunk ``segment``."""
    text = PngImagePlugin.PngInfo()
    text.add_text("segment", json.dumps(dict(mark), sort_keys=True))
    content = io.BytesIO()
    Image.fromarray(labels).save(content, "PNG", pnginfo=text, compress_level=3)
    write_atomic(path, content.getvalue())


def write_tiff(path: Path, labels: npt.NDArray[np.unsignedinteger[Any]], mark: Mapping[str, Any]) -> None:
    """Write labels as a grey TIFF (deflate), with `mark` as its description."""
    content = io.BytesIO()
    description = json.dumps(dict(mark), sort_keys=True)
    tifffile.imwrite(
        content, labels, photometric="minisblack", compression="zlib", description=description, metadata=None
    )
    write_atomic(path, content.getvalue())


def ids_for_png(instance: npt.NDArray[np.int32], where: str) -> npt.NDArray[np.uint16]:
    """Ids in 16 bits.

    Raises:
        UserError: for more nuclei than 16 bits can number.
    """
    if instance.size and int(instance.max()) > _MAX_PNG_ID:
        raise UserError(
            f"{where}: expected at most {_MAX_PNG_ID} nuclei for a 16-bit PNG, got {int(instance.max())}. "
            "Use --format tiff or --format geojson."
        )
    return instance.astype(np.uint16)


def draw_overlay(image: npt.NDArray[np.uint8], tile: Tile) -> npt.NDArray[np.uint8]:
    """Outlines of nuclei over their image, a colour per class; without nuclei the classes in their colours.

    Args:
        image: uint8 [H, W, 3]. tile: labels of the same size.
    """
    nuclei = tile.scheme.ids("nucleus")
    if not nuclei:
        return (image // 2 + tile.scheme.palette[tile.semantic] // 2).astype(np.uint8)
    from skimage.segmentation import find_boundaries

    colours = np.zeros((256, 3), np.uint8)
    for position, label in enumerate(nuclei):
        colours[label] = _OUTLINES[position % len(_OUTLINES)]
    edge = find_boundaries(tile.instance, mode="inner")
    drawn = image.copy()
    drawn[edge] = colours[tile.semantic[edge]]
    return drawn


def write_picture(path: Path, image: npt.NDArray[np.uint8]) -> None:
    """Write uint8 [H, W, 3] as PNG."""
    _, content = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    write_atomic(path, content.tobytes())
