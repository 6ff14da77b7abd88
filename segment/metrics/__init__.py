"""Segmentation metrics. Instance metrics read one overlap table, semantic metrics one confusion matrix.

Nothing here imports torch or reads files. Every metric has a value for one image, and sums that `pool` adds over
images. Where nothing can be scored (no truth and no prediction, 0/0) the value is NaN: leave it out of means, and
count it.

Import the metrics from here; `names` has their labels.
"""

from segment.metrics.boundaries import BoundaryScore, SurfaceDistances, boundary, boundary_f1, surface_distances
from segment.metrics.cuts import Cuts, cuts
from segment.metrics.instances import (
    AggregatedJaccard,
    ForegroundDice,
    InstanceScores,
    ObjectDice,
    aji,
    aji_plus,
    foreground_dice,
    instance_scores,
    object_dice,
)
from segment.metrics.nuclei import NucleiScores, nuclei_scores
from segment.metrics.overlap import MAX_ID, Floats, Ints, Overlap, overlap, without_ignored
from segment.metrics.panoptic import (
    Detection,
    MulticlassPanoptic,
    Panoptic,
    detection,
    majority_classes,
    multiclass_panoptic_quality,
    panoptic_quality,
)
from segment.metrics.pooling import pool
from segment.metrics.semantic import (
    IGNORE,
    SEMANTIC,
    class_dice,
    class_iou,
    confusion,
    dice,
    mean_iou,
    t_objective,
    wiou,
    wprecision,
    wrecall,
)

__all__ = [
    "IGNORE", "MAX_ID", "SEMANTIC", "AggregatedJaccard", "BoundaryScore", "Cuts", "Detection", "Floats",
    "ForegroundDice", "InstanceScores", "Ints", "MulticlassPanoptic", "NucleiScores", "ObjectDice", "Overlap",
    "Panoptic",
    "SurfaceDistances", "aji", "aji_plus", "boundary", "boundary_f1", "class_dice", "class_iou", "confusion", "cuts",
    "detection", "dice", "foreground_dice", "instance_scores", "majority_classes", "mean_iou",
    "multiclass_panoptic_quality", "nuclei_scores", "object_dice", "overlap", "panoptic_quality", "pool",
    "surface_distances", "t_objective", "wiou", "without_ignored", "wprecision", "wrecall",
]  # fmt: skip
