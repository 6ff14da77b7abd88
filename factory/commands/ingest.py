"""`factory ingest`: real images and their labels into a data set."""

from pathlib import Path
from typing import Annotated

import typer

_FILES = "Pattern of the {} files, e.g. {}; {{stem}} is the part shared with the image. Default: by folder name."


def ingest(
    source: Annotated[
        Path | None,
        typer.Argument(
            help="Folder, image or slide. Folders images, instances, masks, classes, cells and roi in it are known.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the data set.")] = Path("data/real"),
    images: Annotated[
        str | None, typer.Option(help="Pattern of the images: 'images/*.png'. Default: images/*, or all of the folder.")
    ] = None,
    instances: Annotated[
        str | None, typer.Option(help=_FILES.format("instance map (PNG, TIFF, NPY)", "'instances/{stem}.png'"))
    ] = None,
    semantic: Annotated[str | None, typer.Option(help=_FILES.format("semantic mask", "'masks/{stem}.png'"))] = None,
    classes: Annotated[
        str | None, typer.Option(help=_FILES.format("class map (with instances)", "'classes/{stem}.png'"))
    ] = None,
    points: Annotated[str | None, typer.Option(help=_FILES.format("point list (CSV)", "'cells/{stem}.csv'"))] = None,
    roi: Annotated[
        str | None, typer.Option(help=_FILES.format("ROI mask (0 = not labelled)", "'roi/{stem}.png'"))
    ] = None,
    scheme: Annotated[
        str | None,
        typer.Option(
            help="Label scheme or its YAML. Default: nuclei for instances, ihc with classes, tissue without labels; "
            "semantic masks need it."
        ),
    ] = None,
    class_map: Annotated[
        str | None,
        typer.Option(
            help="VALUE:CLASS,... (or JSON, or a JSON or YAML file) for masks with other values. Default: none."
        ),
    ] = None,
    point_columns: Annotated[str, typer.Option(help="Columns of x, y and class in point lists.")] = "x,y,class",
    point_classes: Annotated[
        str | None, typer.Option(help="Names for the classes of points: 1:positive,2:negative. Default: as written.")
    ] = None,
    drop_outside_points: Annotated[
        bool, typer.Option("--drop-outside-points", help="Leave out points outside their image instead of refusing.")
    ] = False,
    size: Annotated[
        str | None, typer.Option(help="HEIGHTxWIDTH of a tile. Default: whole images, which must have one size.")
    ] = None,
    overlap: Annotated[int, typer.Option(help="Pixels that neighbouring tiles share.")] = 0,
    mpp: Annotated[
        float | None,
        typer.Option(
            help="Micrometres per pixel of flat files, and of slides that do not say. Default: from slide or TIFF."
        ),
    ] = None,
    resample_mpp: Annotated[
        float | None,
        typer.Option(help="Bring all to this resolution; of a slide the fitting level. Default: as it is."),
    ] = None,
    stain: Annotated[
        str, typer.Option(help="Air is grey above 204 (he) or 235 (ihc); by name: '*_he*=he,*_pdl1*=ihc'.")
    ] = "he",
    air_threshold: Annotated[
        int | None, typer.Option(help="Grey level above which a pixel is air, instead of --stain. Default: by stain.")
    ] = None,
    regions: Annotated[
        bool,
        typer.Option(
            "--regions", help="Region labels from points and ROI: the ROI is tumour, positive where its cells are."
        ),
    ] = False,
    smooth_um: Annotated[
        float | None,
        typer.Option(help="Micrometres (sigma) over which --regions blends cells. [default: 5]"),
    ] = None,
    max_background: Annotated[
        float | None,
        typer.Option(
            help="Drop tiles with a larger share of air or unlabelled pixels. "
            "Default: 0.85 without annotations, 1 (keep) with them."
        ),
    ] = None,
    group_pattern: Annotated[
        str | None,
        typer.Option(help="Regular expression on the stem; its first group is patient or slide. Default: every image."),
    ] = None,
    groups: Annotated[
        Path | None, typer.Option(help="CSV name,group instead of --group-pattern. Default: none.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Shares of train,val,test; whole groups. [default: 0.8,0.1,0.1]")
    ] = None,
    splits: Annotated[
        Path | None, typer.Option(help="CSV name,split (or group,split) instead of --split. Default: none.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the split.")] = 0,
    ignore_unpaired: Annotated[
        bool, typer.Option("--ignore-unpaired", help="Leave out files without their partner instead of refusing.")
    ] = False,
    licence: Annotated[str, typer.Option(help="Licence of the images, kept in every row.")] = "not stated",
    workers: Annotated[int | None, typer.Option(help="Threads; never changes a byte. [default: one per core]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another data set in --out.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be written.")] = False,
) -> None:
    """Ingest real images: check them and their labels, cut tiles, write a data set with groups and splits."""
    import os
    import time

    from factory.core.console import console
    from factory.ingest.report import agreement_table, bytes_on_disk, class_table, plan_lines, plan_table
    from factory.ingest.request import Request
    from factory.ingest.writing import InputError
    from factory.ingest.writing import ingest as run_ingest
    from manifests.errors import UserError

    if workers is not None and workers < 1:
        raise UserError(f"--workers: expected at least 1, got {workers}.")
    given = {
        "images": images,
        "instances": instances,
        "semantic": semantic,
        "classes": classes,
        "points": points,
        "roi": roi,
    }
    request = Request(
        source=source,
        out=out,
        patterns={kind: pattern for kind, pattern in given.items() if pattern is not None},
        scheme=scheme,
        class_map=class_map,
        point_columns=point_columns,
        point_classes=point_classes,
        drop_outside_points=drop_outside_points,
        size=size,
        overlap=overlap,
        mpp=mpp,
        resample_mpp=resample_mpp,
        stain=stain,
        air_threshold=air_threshold,
        regions=regions,
        smooth_um=smooth_um,
        max_background=max_background,
        group_pattern=group_pattern,
        groups=groups,
        split=split,
        splits=splits,
        seed=seed,
        ignore_unpaired=ignore_unpaired,
        licence=licence,
    )
    screen = console()
    started = time.monotonic()
    try:
        ended = run_ingest(request, workers=workers or os.cpu_count() or 1, overwrite=overwrite, dry_run=dry_run)
    except InputError as error:
        if len(error.problems) > 1:
            for problem in error.problems:
                screen.print(problem, markup=False, highlight=False, soft_wrap=True)
        raise
    if ended.plan is not None:
        screen.print(plan_table(ended.plan))
        for line in plan_lines(ended.plan):
            screen.print(line, markup=False, highlight=False, soft_wrap=True)
        if (agreement := ended.plan.agreement) is not None:
            screen.print(agreement_table(agreement))
    if ended.table is None:
        screen.print("Dry run: nothing was written.")
        return
    if ended.plan is None:
        screen.print(f"{out}: {ended.table.num_rows} tiles, all there already: nothing to do.", highlight=False)
        return
    screen.print(class_table(ended.table, ended.plan.job.config.label_scheme))
    seconds = time.monotonic() - started
    tiles = ended.table.num_rows
    screen.print(
        f"{out}: {tiles} tiles, {bytes_on_disk(out) / 1e6:.1f} MB, {seconds:.1f} s ({tiles / seconds:.0f} tiles/s)",
        highlight=False,
    )
