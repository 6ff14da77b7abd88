"""Coarse maps of PriorPath: made of masks, of a person's drawings, or drawn by the plan. No torch."""

from factory.masks.coarse.augment import AugmentSketchConfig, augment_sketch
from factory.masks.coarse.drawings import Sketch, read_sketches, sketches_sha256
from factory.masks.coarse.layouts import LayoutConfig, drawn_coarse, drawn_mask
from factory.masks.coarse.morphology import class_order, coarsen

__all__ = [
    "AugmentSketchConfig",
    "LayoutConfig",
    "Sketch",
    "augment_sketch",
    "class_order",
    "coarsen",
    "drawn_coarse",
    "drawn_mask",
    "read_sketches",
    "sketches_sha256",
]
