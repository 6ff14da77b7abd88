"""Label maps of whole images: assembled from blocks, and written as PNG or TIFF."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image, PngImagePlugin

from manifests.errors import UserError
from manifests.files import write_atomic
from manifests.labels import LabelScheme
from manifests.tile import Tile
from segment.predict.scaling import Scaling, to_own_pixels
from segment.predict.stitching import Block

_MAX_PNG_ID = 2**16 - 1


def assemble(blocks: Iterable[Block], scaling: Scaling, scheme: LabelScheme) -> Tile:
    """Labels of a whole image in its own pixels; nuclei are numbered 1..n in reading order.

    Every nucleus has one class, and no pixel outside nuclei has a nucleus class.
    """
    background = np.zeros((scaling.height, scaling.width), np.uint8)
    instance = np.zeros(background.shape, np.int32)
    labels = [0]
    for block in blocks:
        background[block.box.top : block.box.bottom, block.box.left : block.box.right] = block.background
        for nucleus in block.nuclei:
            box = nucleus.box
            instance[box.top : box.bottom, box.left : box.right][nucleus.mask] = len(labels)
            labels.append(nucleus.label)
    instance, background = to_own_pixels(instance, scaling), to_own_pixels(background, scaling)
    semantic = np.where(instance > 0, np.array(labels, np.uint8)[instance], background)
    return Tile(semantic, _renumbered(instance, len(labels)), scaling.own_mpp, scheme)


def _renumbered(instance: npt.NDArray[np.int32], ids: int) -> npt.NDArray[np.int32]:
    """Ids 1..n without gaps, after nuclei were lost between the pixels of a coarser image."""
    present = np.bincount(instance.ravel(), minlength=ids) > 0
    present[0] = False
    numbers = np.where(present, np.cumsum(present), 0).astype(np.int32)
    return numbers[instance]


def write_png(path: Path, labels: npt.NDArray[np.unsignedinteger[Any]], mark: Mapping[str, Any]) -> None:
    """Write labels as a grey PNG of 8 or 16 bits, with `mark` as its text chunk ``segment``."""
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
    """Ids in 16 bits; refuses more nuclei than fit."""
    if instance.size and int(instance.max()) > _MAX_PNG_ID:
        raise UserError(
            f"{where}: expected at most {_MAX_PNG_ID} nuclei for a 16-bit PNG, got {int(instance.max())}. "
            "Use --format tiff or --format geojson."
        )
    return instance.astype(np.uint16)
