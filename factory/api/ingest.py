"""`factory.ingest`: real images and their labels into a data set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from factory.api.arguments import PathLike, Size, path_of, shares_text, size_text
from factory.core.paths import local_path

if TYPE_CHECKING:
    from manifests.dataset import Dataset


def ingest(
    source: PathLike | None = None,
    out: PathLike = "data/real",
    *,
    images: str | None = None,
    instances: str | None = None,
    semantic: str | None = None,
    classes: str | None = None,
    points: str | None = None,
    roi: str | None = None,
    labels: str | None = None,
    fill: str | None = None,
    scheme: PathLike | None = None,
    class_map: str | Mapping[int | str, str] | None = None,
    point_columns: str = "x,y,class",
    point_classes: str | None = None,
    drop_outside_points: bool = False,
    size: Size | None = None,
    overlap: int = 0,
    mpp: float | None = None,
    resample_mpp: float | None = None,
    stain: str = "he",
    air_threshold: int | None = None,
    regions: bool = False,
    smooth_um: float | None = None,
    max_background: float | None = None,
    group_pattern: str | None = None,
    groups: PathLike | None = None,
    split: str | Sequence[float] | None = None,
    splits: PathLike | None = None,
    seed: int = 0,
    ignore_unpaired: bool = False,
    ignore_unread: bool = False,
    licence: str = "not stated",
    workers: int | None = None,
    overwrite: bool = False,
) -> Dataset:
    """Check real images and their labels, cut tiles, and write a data set; the command ``factory ingest``.

    Args:
        source: a folder, an image or a slide. Folders ``images``, ``instances``, ``masks``, ``classes``, ``cells`` and
            ``roi`` in it are known. out: the data set's folder.
        images, instances, semantic, classes, points, roi: patterns of files, e.g. ``"instances/{stem}.png"``.
        labels: format of label files, or ``"FORMAT:PATTERN"``; None finds them by looking. fill: class of pixels that
            no object of theirs covers.
        scheme: label scheme by name, or its YAML file. class_map: value in the masks -> class.
        point_columns: columns of x, y and class in point lists. point_classes: their names, ``"1:positive"``.
        drop_outside_points: leave out points outside of their image instead of refusing them.
        size: (height, width) of a tile or the side of a square; None takes whole images of one size.
        overlap: pixels that neighbouring tiles share.
        mpp: micrometres per pixel of flat files. resample_mpp: bring all images to this resolution.
        stain: ``"he"`` or ``"ihc"``, for the grey level of air, or patterns: ``"*_he*=he,*_pdl1*=ihc"``.
        air_threshold: that grey level itself. regions: make region labels of points and ROI.
        smooth_um: sigma over which ``regions`` blends cells. max_background: drop tiles with more air.
        group_pattern: regular expression on the stem, whose first group is patient or slide.
        groups: CSV ``name,group`` instead. split: shares of train, val and test. splits: CSV ``name,split`` instead.
        seed: of the split. ignore_unpaired: leave out files without their partner instead of refusing them.
        ignore_unread: leave out label files beside the images that no rule reads.
        licence: of the images, kept in every row.
        workers: threads; None takes one a core. overwrite: replace another data set in `out`.

    Returns:
        The finished data set, opened.

    Raises:
        manifests.errors.UserError: for everything that is wrong with the input, before anything is written.
    """
    from factory.core.devices import parse_workers
    from factory.ingest.options import Request
    from factory.ingest.writing import ingest as write
    from manifests.dataset import open_dataset

    if isinstance(class_map, Mapping):
        class_map = json.dumps({str(value): name for value, name in class_map.items()})
    request = Request(
        source=path_of(source),
        out=local_path(out, "out"),
        images=images,
        instances=instances,
        semantic=semantic,
        classes=classes,
        points=points,
        roi=roi,
        labels=labels,
        fill=fill,
        scheme=None if scheme is None else str(scheme),
        class_map=class_map,
        point_columns=point_columns,
        point_classes=point_classes,
        drop_outside_points=drop_outside_points,
        size=size_text(size),
        overlap=overlap,
        mpp=mpp,
        resample_mpp=resample_mpp,
        stain=stain,
        air_threshold=air_threshold,
        regions=regions,
        smooth_um=smooth_um,
        max_background=max_background,
        group_pattern=group_pattern,
        groups=path_of(groups),
        split=shares_text(split),
        splits=path_of(splits),
        seed=seed,
        ignore_unpaired=ignore_unpaired,
        ignore_unread=ignore_unread,
        licence=licence,
    )
    write(request, workers=parse_workers(workers), overwrite=overwrite)
    return open_dataset(out)
