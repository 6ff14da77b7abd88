"""Outlines on a whole slide, drawn window by window at the resolution of the tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import shapely

from factory.core.label_files.drawing import Drawn, draw_shapes, ids_of
from factory.core.label_files.shapes import Shape
from manifests.labels import LabelScheme


class Windows:
    """Shapes of a slide and an index of where they lie. Ids of nuclei: `ids_of`.

    Args:
        shapes: in pixels of level 0. labels: class id of each. scheme: of the labels. fill: class where no shape is.
        scale: pixels of level 0 per pixel of the windows. doubts: what was left out of the file, a line each.
    """

    def __init__(
        self,
        shapes: Sequence[Shape],
        labels: Sequence[int],
        scheme: LabelScheme,
        fill: int,
        scale: float,
        doubts: Sequence[str] = (),
    ) -> None:
        self.doubts = tuple(doubts)
        self._shapes, self._labels, self._fill, self._scale = shapes, labels, fill, scale
        self._ids = ids_of(shapes, labels, scheme)
        corners = [
            np.concatenate([ring for rings in shape.polygons for ring in rings] or [_NOWHERE]) for shape in shapes
        ]
        ends = np.array([[*ring.min(0), *ring.max(0)] for ring in corners]).reshape(-1, 4)
        self._index = shapely.STRtree(shapely.box(*ends.T))

    def draw(self, y: int, x: int, height: int, width: int) -> Drawn:
        """The labels of a window, whose corner and size are in its own pixels."""
        box = np.array([x, y, x + width, y + height]) * self._scale
        found = sorted(self._index.query(shapely.box(*box)).tolist())
        shapes = [self._placed(self._shapes[number], y, x) for number in found]
        labels, ids = [self._labels[number] for number in found], [self._ids[number] for number in found]
        return draw_shapes(shapes, labels, ids, (height, width), self._fill)

    def _placed(self, shape: Shape, y: int, x: int) -> Shape:
        corner = np.array([x, y])
        polygons = tuple(tuple(ring / self._scale - corner for ring in rings) for rings in shape.polygons)
        return replace(shape, polygons=polygons)


_NOWHERE = np.full((1, 2), -1.0)
