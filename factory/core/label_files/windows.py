"""Outlines on a whole slide, drawn window by window at the resolution of the tiles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely

from factory.core.label_files.drawing import Drawn, draw_shapes
from factory.core.label_files.shapes import Shape
from manifests.labels import LabelScheme


class Windows:
    """Shapes of a slide and an index of where they lie. The id of a nucleus is its number in the file, from 1.

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
        self._shapes, self._labels, self._scheme, self._fill, self._scale = shapes, labels, scheme, fill, scale
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
        labels, ids = [self._labels[number] for number in found], [number + 1 for number in found]
        return draw_shapes(shapes, labels, self._scheme, (height, width), self._fill, ids=ids)

    def _placed(self, shape: Shape, y: int, x: int) -> Shape:
        corner = np.array([x, y])
        polygons = tuple(tuple(ring / self._scale - corner for ring in rings) for rings in shape.polygons)
        return Shape(shape.label, polygons)


_NOWHERE = np.full((1, 2), -1.0)
