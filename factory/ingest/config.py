"""The configuration of an ingest: exactly the values that can change a byte of the data set."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from factory.core.config import Config, digest
from factory.ingest.options import CellRule
from factory.learn.cells_by_colour import AIR_GREY
from manifests.labels import LabelScheme

AIR_THRESHOLDS = {"he": 204, "ihc": AIR_GREY}
"""Grey level above which a pixel is air, by stain (DEPAS, Larey et al. 2023, section on data)."""

MAX_BACKGROUND = 0.85
"""Share of background above which a tile without annotations is dropped (same source)."""


class LabelSettings(Config):
    """How label files of another program are read.

    Attributes:
        format: its name. pattern: of the files as the user gave it; None where they were found by looking.
        classes: name of a class in the files -> class id or 255. fill: class of pixels that no object covers.
    """

    format: str
    pattern: str | None = None
    classes: dict[str, int] = Field(default_factory=dict)
    fill: int = 0


class IngestConfig(Config):
    """Files to ingest, and how they are read, tiled and split.

    Attributes:
        name: name of the source folder.
        patterns: kind of file -> pattern relative to that folder.
        files_sha256: digest over relative paths and contents of all files.
        scheme: the label scheme, as `LabelScheme.to_dict`.
        label_origin: "annotated", or "weak" for labels by threshold or of points.
        labels: label files of another program; None without them.
        class_map: value in the file -> class id or 255; None takes values as they are.
        point_columns: names of x, y and class in point lists. point_classes: class as written -> class as stored.
        drop_outside_points: leave out points outside their image instead of refusing.
        size: height and width of a tile; None takes images whole. overlap_px: pixels that neighbouring tiles share.
        mpp: of images whose files do not state it. resample_mpp: resolution that images are brought to.
        air: (file name pattern, grey level); the first that matches an image applies.
        smooth_um: width of region labels made of points and ROI; None makes none.
        cells_by_colour: rule by which the last class of the scheme, `cell`, is painted into the labels; None for none.
        max_background: tiles with a larger share of air and unlabelled pixels are dropped.
        group_pattern: regular expression whose first group is the group id; groups_sha256: of the file instead.
        split: shares of train, val and test by groups; splits_sha256: of the file instead. seed: of the split.
        ignore_unpaired: whether files without partners are left out.
        licence: of the images. shard: tiles in a shard.
        generator: of synthetic images that another program made; None for real ones. trained_on: data sets and patients
            that it learnt from.
    """

    added: ClassVar = frozenset({"generator", "trained_on", "cells_by_colour"})
    name: str
    patterns: dict[str, str]
    files_sha256: str
    scheme: dict[str, Any]
    label_origin: Literal["annotated", "weak", "conditioned"]
    labels: LabelSettings | None = None
    class_map: dict[int, int] | None = None
    point_columns: tuple[str, str, str] = ("x", "y", "class")
    point_classes: dict[str, str] = Field(default_factory=dict)
    drop_outside_points: bool = False
    size: tuple[int, int] | None = None
    overlap_px: int = 0
    mpp: float | None = None
    resample_mpp: float | None = None
    air: tuple[tuple[str, int], ...] = (("*", AIR_THRESHOLDS["he"]),)
    smooth_um: float | None = None
    cells_by_colour: CellRule | None = None
    max_background: float = MAX_BACKGROUND
    group_pattern: str | None = None
    groups_sha256: str | None = None
    split: tuple[float, float, float] | None = None
    splits_sha256: str | None = None
    seed: int = 0
    ignore_unpaired: bool = False
    licence: str = "not stated"
    shard: int = 64
    generator: str | None = None
    trained_on: tuple[str, ...] = ()

    @property
    def label_scheme(self) -> LabelScheme:
        """The scheme as an object."""
        return LabelScheme.from_dict(self.scheme)

    @property
    def region_scheme(self) -> LabelScheme:
        """The scheme of the labels before cells are painted into them."""
        return self.label_scheme if self.cells_by_colour is None else without_cells(self.label_scheme)

    @property
    def identity(self) -> str:
        """Digest of the configuration without the files' content: correcting a mask keeps the sample ids."""
        document = self.model_dump(mode="json") | {"files_sha256": ""}
        for key in ("smooth_um", "labels"):
            if document[key] is None:
                del document[key]  # keeps the ids of data sets from before these existed
        return digest(document)


def without_cells(scheme: LabelScheme) -> LabelScheme:
    """A scheme without its last class."""
    projections = {target: ids[:-1] for target, ids in scheme.projections.items()}
    return LabelScheme(scheme.name, scheme.classes[:-1], projections, scheme.tps_basis)
