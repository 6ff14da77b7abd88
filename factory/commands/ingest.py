"""`factory ingest`: real images and their labels into a data set."""

from pathlib import Path
from typing import Annotated

import typer

from factory.commands import options
from factory.core.options import OUTPUT, RUNNING

_FILES, _LABELS, _SPLITS = "Files", "Labels", "Groups and splits"
_PATTERN = "Pattern of the {} files, e.g. {}; {{stem}} is the part shared with the image. [default: by folder name]"


def ingest(
    source: Annotated[
        Path | None,
        typer.Argument(
            help="Folder, image or slide. Its folders images, instances, masks, classes, cells and roi are known.",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        str | None,
        typer.Option(
            help="Pattern of the images: 'images/*.png'. [default: images/*, or all of the folder]",
            rich_help_panel=_FILES,
        ),
    ] = None,
    instances: Annotated[
        str | None,
        typer.Option(
            help=_PATTERN.format("instance map (PNG, TIFF, NPY)", "'instances/{stem}.png'"), rich_help_panel=_FILES
        ),
    ] = None,
    semantic: Annotated[
        str | None, typer.Option(help=_PATTERN.format("semantic mask", "'masks/{stem}.png'"), rich_help_panel=_FILES)
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help=_PATTERN.format("class map (with instances)", "'classes/{stem}.png'"), rich_help_panel=_FILES
        ),
    ] = None,
    points: Annotated[
        str | None, typer.Option(help=_PATTERN.format("point list (CSV)", "'cells/{stem}.csv'"), rich_help_panel=_FILES)
    ] = None,
    roi: Annotated[
        str | None,
        typer.Option(help=_PATTERN.format("ROI mask (0 = not labelled)", "'roi/{stem}.png'"), rich_help_panel=_FILES),
    ] = None,
    ignore_unpaired: Annotated[
        bool,
        typer.Option(
            "--ignore-unpaired",
            help="Leave out files without their partner instead of refusing.",
            rich_help_panel=_FILES,
        ),
    ] = False,
    licence: Annotated[
        str, typer.Option(help="Licence of the images, kept in every row.", rich_help_panel=_FILES)
    ] = "not stated",
    scheme: Annotated[
        str | None,
        typer.Option(
            help=f"Label scheme: {options.SCHEMES}, or a YAML file. Semantic masks need it. "
            "[default: nuclei for instances, ihc with classes, tissue without labels]",
            rich_help_panel=_LABELS,
        ),
    ] = None,
    class_map: Annotated[
        str | None,
        typer.Option(
            help="VALUE:CLASS,... (or JSON, or a JSON or YAML file) for masks with other values. [default: none]",
            rich_help_panel=_LABELS,
        ),
    ] = None,
    point_columns: Annotated[
        str, typer.Option(help="Columns of x, y and class in point lists.", rich_help_panel=_LABELS)
    ] = "x,y,class",
    point_classes: Annotated[
        str | None,
        typer.Option(
            help="Names for the classes of points: 1:positive,2:negative. [default: as written]",
            rich_help_panel=_LABELS,
        ),
    ] = None,
    drop_outside_points: Annotated[
        bool,
        typer.Option(
            "--drop-outside-points",
            help="Leave out points outside their image instead of refusing.",
            rich_help_panel=_LABELS,
        ),
    ] = False,
    regions: Annotated[
        bool,
        typer.Option(
            "--regions",
            help="Derive region labels from points and ROI: the ROI is tumour, positive where its positive cells are.",
            rich_help_panel=_LABELS,
        ),
    ] = False,
    smooth_um: Annotated[
        float | None,
        typer.Option(
            help="Sigma in micrometres over which --regions blends cells. [default: 5]", rich_help_panel=_LABELS
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="HEIGHTxWIDTH of a tile, or one side of a square. [default: whole images, which must have one size]",
            rich_help_panel=options.TILES,
        ),
    ] = None,
    overlap: Annotated[
        int, typer.Option(help="Pixels that neighbouring tiles share.", rich_help_panel=options.TILES)
    ] = 0,
    mpp: Annotated[
        float | None,
        typer.Option(
            help="Micrometres per pixel of flat files, and of slides that do not state it. "
            "[default: from slide or TIFF]",
            rich_help_panel=options.TILES,
        ),
    ] = None,
    resample_mpp: Annotated[
        float | None,
        typer.Option(
            help="Resample everything to this resolution; slides are read at the best level. [default: as it is]",
            rich_help_panel=options.TILES,
        ),
    ] = None,
    stain: Annotated[
        str,
        typer.Option(
            help="Pixels are air when grey is above 204 (he) or 235 (ihc); by name: '*_he*=he,*_pdl1*=ihc'.",
            rich_help_panel=options.TILES,
        ),
    ] = "he",
    air_threshold: Annotated[
        int | None,
        typer.Option(
            help="Grey level above which a pixel is air, instead of --stain. [default: by stain]",
            rich_help_panel=options.TILES,
        ),
    ] = None,
    max_background: Annotated[
        float | None,
        typer.Option(
            help="Drop tiles with a larger share of air or unlabelled pixels. "
            "[default: 0.85 without annotations, 1 (keep all) with them]",
            rich_help_panel=options.TILES,
        ),
    ] = None,
    group_pattern: Annotated[
        str | None,
        typer.Option(
            help="Regular expression on the file's stem; its first group is the patient or slide. "
            "[default: every image is a group]",
            rich_help_panel=_SPLITS,
        ),
    ] = None,
    groups: Annotated[
        Path | None,
        typer.Option(help="CSV name,group instead of --group-pattern. [default: none]", rich_help_panel=_SPLITS),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Shares of train,val,test; groups stay whole. [default: 0.8,0.1,0.1]", rich_help_panel=_SPLITS
        ),
    ] = None,
    splits: Annotated[
        Path | None,
        typer.Option(
            help="CSV name,split (or group,split) instead of --split. [default: none]", rich_help_panel=_SPLITS
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the split.", rich_help_panel=_SPLITS)] = 0,
    out: Annotated[Path, typer.Option(help="Folder of the data set.", rich_help_panel=OUTPUT)] = Path("data/real"),
    overwrite: options.Overwrite = False,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Threads; their number never changes a byte. [default: one per core]", rich_help_panel=RUNNING
        ),
    ] = None,
    dry_run: options.DryRun = False,
) -> None:
    """Ingest real images: check them and their labels, cut tiles, and write a data set with groups and splits.

    The same command continues an interrupted run.

    Examples:
      factory ingest slides/ --mpp 0.5 --size 512 --group-pattern '(p[0-9]+)'
      factory ingest annotated/ --mpp 0.25 --instances 'labels/{stem}.tif' --out data/nuclei --dry-run
    """
    import time

    from factory.core.console import console
    from factory.core.devices import parse_workers
    from factory.core.runs import check_run
    from factory.core.wording import dry_run as dry_run_text
    from factory.core.wording import file_size, plural
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
        ended = run_ingest(request, workers=parse_workers(workers), overwrite=overwrite, dry_run=dry_run)
    except InputError as error:
        if len(error.problems) > 1:
            for problem in error.kinds:
                screen.print(problem, markup=False, highlight=False, soft_wrap=True)
        raise
    if ended.plan is not None:
        screen.print(plan_table(ended.plan))
        for line in plan_lines(ended.plan):
            screen.print(line, markup=False, highlight=False, soft_wrap=True)
        if (agreement := ended.plan.agreement) is not None:
            screen.print(agreement_table(agreement))
    if ended.table is None:
        need = check_run(ended.plan.spec, overwrite=overwrite) if ended.plan is not None else None
        screen.print(dry_run_text(need, out), markup=False, soft_wrap=True)
        return
    if ended.plan is None:
        screen.print(
            f"{out}: {plural(ended.table.num_rows, 'tile')}, all there already: nothing to do.", highlight=False
        )
        return
    screen.print(class_table(ended.table, ended.plan.job.config.label_scheme))
    seconds = time.monotonic() - started
    tiles = ended.table.num_rows
    screen.print(
        f"{out}: {plural(tiles, 'tile')}, {file_size(bytes_on_disk(out))}, {seconds:.1f} s "
        f"({tiles / seconds:.0f} tiles/s)",
        highlight=False,
    )
    screen.print(
        f"Make more like it: factory make --like {out}. Train on it: segment train --mix real --real {out}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
