"""Pictures of a tile: the image, its mask as a transparent layer with outlines, its instances as contours.

Layers are drawn at the size in which they are shown, so that every line is one pixel wide.
"""

from __future__ import annotations

import colorsys

import numpy as np
import numpy.typing as npt
from PIL import Image

from factory.core.cells import cells_of
from manifests.labels import IGNORE, LabelScheme
from manifests.tile import Tile

RGB = npt.NDArray[np.uint8]
FILL_OPACITY = 0.42
_PALE = 0.25
_LONE_CONTOUR = (0, 245, 212)
_PALE_CONTOUR = (255, 225, 25)
_HATCH_PX = 6


def shrink_image(image: RGB, shape: tuple[int, int]) -> RGB:
    """Resizes an image uint8 [H, W, 3], averaged over the area of each new pixel."""
    if image.shape[:2] == shape:
        return image
    height, width = shape
    resample = Image.Resampling.BOX if height < image.shape[0] else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(image).resize((width, height), resample))


def shrink_labels(labels: npt.NDArray[np.integer], shape: tuple[int, int]) -> npt.NDArray[np.integer]:
    """Resizes labels [H, W]: each new pixel has the label at its centre."""
    if labels.shape == shape:
        return labels
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.int64) for new, old in zip(shape, labels.shape, strict=True)
    )
    shrunk: npt.NDArray[np.integer] = labels[rows[:, None], columns]
    return shrunk


def filled_classes(scheme: LabelScheme) -> npt.NDArray[np.bool_]:
    """Returns the mask values that an overlay fills, bool [256]: not air, and not the background of nuclei."""
    filled = np.zeros(256, bool)
    for label in scheme.classes:
        between_nuclei = bool(scheme.ids("nucleus")) and not label.roles
        filled[label.id] = "air" not in label.roles and not between_nuclei
    return filled


def contour_palette(scheme: LabelScheme) -> RGB:
    """Returns the contour colour of every class: uint8 [256, 3], a vivid version of its colour that shows on a stain.

    If cells can be of one class only, a colour that no dye has is used instead.
    """
    colours = np.full((256, 3), _PALE_CONTOUR, np.uint8)
    for label in scheme.classes:
        hue, saturation, _ = colorsys.rgb_to_hsv(*(channel / 255 for channel in label.colour))
        if saturation >= _PALE:
            vivid = colorsys.hsv_to_rgb(hue, max(saturation, 0.8), 1.0)
            colours[label.id] = [round(channel * 255) for channel in vivid]
    if len(scheme.ids("nucleus")) == 1:
        colours[scheme.ids("nucleus")[0]] = _LONE_CONTOUR
    return colours


def outline_palette(scheme: LabelScheme) -> RGB:
    """Returns the outline colour of every class: uint8 [256, 3].

    Nuclei have the vivid colours of their contours, because dyes have the colours of their classes. Regions have a
    darker tone of their own colour, so that pale ones show.
    """
    return contour_palette(scheme) if scheme.ids("nucleus") else scheme.palette // 4 * 3


def mask_layer(semantic: npt.NDArray[np.uint8], scheme: LabelScheme) -> RGB:
    """Draws a mask uint8 [H, W], at the size in which it is shown, as a layer over the image.

    Returns:
        uint8 [H, W, 4]: class colours, half transparent, opaque along the outlines of regions; `IGNORE` is hatched.
    """
    layer = np.zeros((*semantic.shape, 4), np.uint8)
    layer[..., :3] = scheme.palette[semantic]
    filled = filled_classes(scheme)[semantic]
    layer[..., 3] = np.where(filled, round(255 * FILL_OPACITY), 0)
    rows, columns = np.indices(semantic.shape)
    hatched = (semantic == IGNORE) & ((rows + columns) % _HATCH_PX < 2)
    layer[hatched] = (90, 90, 90, 255)
    edges = _edges(semantic) & filled
    layer[edges, 3] = 255
    layer[edges, :3] = outline_palette(scheme)[semantic[edges]]
    return layer


def contour_layer(tile: Tile, shape: tuple[int, int]) -> RGB:
    """Draws the contours of a tile's instances as a layer: uint8 [*shape, 4], opaque on contours, else transparent."""
    instance = shrink_labels(tile.instance, shape)
    layer = np.zeros((*shape, 4), np.uint8)
    edges = _edges(instance) & (instance > 0)
    ids = instance[edges]
    layer[edges, :3] = contour_palette(tile.scheme)[_classes_of(tile, ids)]
    layer[edges, 3] = 255
    return layer


def compose(image: RGB, layer: RGB) -> RGB:
    """Draws a layer uint8 [H, W, 4] on an image uint8 [H, W, 3]."""
    opacity = layer[..., 3:].astype(np.float32) / 255
    return np.rint(image * (1 - opacity) + layer[..., :3] * opacity).astype(np.uint8)


def _classes_of(tile: Tile, ids: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    cells = cells_of(tile)
    return cells.classes[np.searchsorted(cells.ids, ids)]


def _edges(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """Returns the pixels with another label above, below, left or right of them; the tile's border is no edge."""
    edges = np.zeros(labels.shape, bool)
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edges[1:] |= down
    edges[:-1] |= down
    edges[:, 1:] |= right
    edges[:, :-1] |= right
    return edges
