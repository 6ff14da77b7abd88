"""Fits the types of nuclei to real tiles: how common each is, and how large."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from factory.masks.cells.nuclei_config import NucleiConfig
from manifests.labels import LabelScheme
from manifests.measure import cut_cells
from manifests.tile import Tile

_ENOUGH = 5
"""Whole nuclei of a type from which its size is fitted."""


def fit_types(tiles: Sequence[Tile], scheme: LabelScheme, config: NucleiConfig) -> NucleiConfig:
    """Return the config with the weights of types as in tiles of the same scheme, and their mean areas.

    Where no tile is of that scheme the types stay as they are. A nucleus has the class of its first pixel.

    Args:
        tiles: real ones. scheme: of the types. config: with layouts that are fitted already.
    """
    own = [tile for tile in tiles if tile.scheme.name == scheme.name]
    labels, areas = np.zeros(0, np.int64), np.zeros(0)
    for tile in own:
        ids, first, pixels = np.unique(tile.instance, return_index=True, return_counts=True)
        area = np.where(np.isin(ids, cut_cells(tile.instance)), np.nan, pixels * tile.mpp**2)
        labels = np.concatenate([labels, tile.semantic.ravel()[first[ids > 0]]])
        areas = np.concatenate([areas, area[ids > 0]])
    if not len(labels):
        return config
    bias = float(np.mean([layout.bias or config.bias for layout in config.layouts] or [config.bias]))
    types = config.types
    for look in dict.fromkeys(scheme.classes[label].appearance for label in scheme.ids("nucleus")):
        ids_of = [label.id for label in scheme.classes if label.appearance == look]
        among = np.isin(labels, ids_of)
        kind = getattr(types, look)
        outline, whole = kind.outline, areas[among & np.isfinite(areas)]
        if len(whole) >= _ENOUGH:
            factor = math.sqrt(float(whole.mean()) / outline.mean_area_at_um2(bias))
            low, high = (round(radius * factor, 3) for radius in outline.radius_um)
            outline = outline.model_copy(update={"radius_um": (low, high)})
        weight = float(among.sum() / len(ids_of))
        types = types.model_copy(update={look: kind.model_copy(update={"outline": outline, "weight": weight})})
    return config.model_copy(update={"types": types})
