"""Options of `factory ingest` as one object; the command shows every field in its help. Nothing heavy is imported."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from factory.core.label_files import FORMATS
from factory.core.options import OUTPUT, SCHEMES, TILES, Heading

KINDS = ("images", "instances", "semantic", "classes", "points", "roi")
"""Kinds of files; the options with their patterns have these names."""

_FILES, _LABELS, _SPLITS = Heading("Files"), Heading("Labels"), Heading("Groups and splits")
_PATTERN = "Pattern of the {} files, e.g. {}; {{stem}} is the part shared with the image. [default: by folder name]"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is brought in and how, as typed; None where an option was not given."""

    source: Annotated[
        Path | None,
        typer.Argument(
            help="Folder, image or slide. Its folders images, instances, masks, classes, cells and roi are known.",
            show_default=False,
        ),
    ] = None
    images: Annotated[
        str | None, _FILES("Pattern of the images: 'images/*.png'. [default: images/*, or all of the folder]")
    ] = None
    instances: Annotated[
        str | None, _FILES(_PATTERN.format("instance map (PNG, TIFF, NPY)", "'instances/{stem}.png'"))
    ] = None
    semantic: Annotated[str | None, _FILES(_PATTERN.format("semantic mask", "'masks/{stem}.png'"))] = None
    classes: Annotated[str | None, _FILES(_PATTERN.format("class map (with instances)", "'classes/{stem}.png'"))] = None
    points: Annotated[str | None, _FILES(_PATTERN.format("point list (CSV)", "'cells/{stem}.csv'"))] = None
    roi: Annotated[str | None, _FILES(_PATTERN.format("ROI mask (0 = not labelled)", "'roi/{stem}.png'"))] = None
    ignore_unpaired: Annotated[bool, _FILES("Leave out files without their partner instead of refusing.")] = False
    ignore_unread: Annotated[bool, _FILES("Leave out label files beside the images that no rule reads.")] = False
    licence: Annotated[str, _FILES("Licence of the images, kept in every row.")] = "not stated"
    scheme: Annotated[
        str | None,
        _LABELS(
            f"Label scheme: {SCHEMES}, or a YAML file. Semantic masks need it. "
            "[default: nuclei for instances, ihc with classes, tissue without labels]"
        ),
    ] = None
    class_map: Annotated[
        str | None,
        _LABELS(
            "VALUE:CLASS,... (or JSON, or a JSON or YAML file) for masks with other values; "
            "NAME=CLASS,... for label files, '*' for all other names. [default: names of the scheme]"
        ),
    ] = None
    labels: Annotated[
        str | None,
        _LABELS(
            "Format of label files, or FORMAT:PATTERN: " + ", ".join(FORMATS) + ". [default: found by looking]",
        ),
    ] = None
    fill: Annotated[
        str | None,
        _LABELS("Class of pixels in no object of label files. [default: class 0 with nuclei, else ignore (255)]"),
    ] = None
    point_columns: Annotated[str, _LABELS("Columns of x, y and class in point lists.")] = "x,y,class"
    point_classes: Annotated[
        str | None, _LABELS("Names for the classes of points: 1:positive,2:negative. [default: as written]")
    ] = None
    drop_outside_points: Annotated[bool, _LABELS("Leave out points outside their image instead of refusing.")] = False
    regions: Annotated[
        bool,
        _LABELS("Derive region labels from points and ROI: the ROI is tumour, positive where its positive cells are."),
    ] = False
    smooth_um: Annotated[
        float | None, _LABELS("Sigma in micrometres over which --regions blends cells. [default: 5]")
    ] = None
    size: Annotated[
        str | None,
        TILES("HEIGHTxWIDTH of a tile, or one side of a square. [default: whole images, which must have one size]"),
    ] = None
    overlap: Annotated[int, TILES("Pixels that neighbouring tiles share.")] = 0
    mpp: Annotated[
        float | None,
        TILES("Micrometres per pixel of flat files, and of slides that do not state it. [default: from slide or TIFF]"),
    ] = None
    resample_mpp: Annotated[
        float | None,
        TILES("Resample everything to this resolution; slides are read at the best level. [default: as it is]"),
    ] = None
    stain: Annotated[
        str, TILES("Pixels are air when grey is above 204 (he) or 235 (ihc); by name: '*_he*=he,*_pdl1*=ihc'.")
    ] = "he"
    air_threshold: Annotated[
        int | None, TILES("Grey level above which a pixel is air, instead of --stain. [default: by stain]")
    ] = None
    max_background: Annotated[
        float | None,
        TILES(
            "Drop tiles with a larger share of air or unlabelled pixels. "
            "[default: 0.85 without annotations, 1 (keep all) with them]"
        ),
    ] = None
    group_pattern: Annotated[
        str | None,
        _SPLITS(
            "Regular expression on the file's stem; its first group is the patient or slide. "
            "[default: every image is a group]"
        ),
    ] = None
    groups: Annotated[Path | None, _SPLITS("CSV name,group instead of --group-pattern. [default: none]")] = None
    split: Annotated[str | None, _SPLITS("Shares of train,val,test; groups stay whole. [default: 0.8,0.1,0.1]")] = None
    splits: Annotated[Path | None, _SPLITS("CSV name,split (or group,split) instead of --split. [default: none]")] = (
        None
    )
    seed: Annotated[int, _SPLITS("Seed of the split.")] = 0
    out: Annotated[Path, OUTPUT("Folder of the data set.")] = Path("data/real")

    @property
    def patterns(self) -> Mapping[str, str]:
        """The patterns that were given, by kind of file."""
        given = {kind: getattr(self, kind) for kind in KINDS}
        return {kind: pattern for kind, pattern in given.items() if pattern is not None}
