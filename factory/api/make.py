"""`factory.make`: a distribution or a plan in, a finished data set out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from factory.api.arguments import (
    PathLike,
    Request,
    Size,
    assignment_words,
    log_notes,
    path_of,
    request_text,
    shares_text,
    size_text,
)
from factory.core.choices import Ground
from factory.core.paths import local_path

if TYPE_CHECKING:
    from manifests.dataset import Dataset


def make(
    out: PathLike = "data/synth",
    *,
    tps: Request | None = None,
    tissue: Request | None = None,
    cells: Request | None = None,
    tumour: Request | None = None,
    inflammation: Request | None = None,
    share: Mapping[str, Request] | None = None,
    cell_share: Mapping[str, Request] | None = None,
    debias: bool = False,
    n: int | None = None,
    size: Size | None = None,
    mpp: float | None = None,
    split: str | Sequence[float] | None = None,
    seed: int | None = None,
    scheme: PathLike | None = None,
    manifest: PathLike | None = None,
    masks: str | None = None,
    renderer: str | None = None,
    like: PathLike | None = None,
    joint: str | None = None,
    weights: PathLike | None = None,
    ground: Ground | None = None,
    pool: int | None = None,
    max_uncertainty: float | None = None,
    max_pixel_uncertainty: float | None = None,
    device: str = "auto",
    workers: int | None = 1,
    scheduler: str | None = None,
    config: PathLike | None = None,
    set: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    on_tiles: Callable[[int], None] = lambda made: None,
) -> Dataset:
    """Make labelled tiles whose composition is what was asked, exactly; the command ``factory make``.

    A run that was stopped goes on when the function is called again with the same arguments. An argument that is None
    has the default of the label scheme, as an option that is not typed.

    Args:
        out: the data set's folder.
        tps: tumour proportion score, 0 to 1: ``"0.01-0.5"`` or another form of the command, one value, or a pair.
        tissue, cells, tumour, inflammation: share of the tile that is tissue, number of cells, shares of the tissue
            that are tumour and inflammation, in the same forms.
        share: class -> share of all pixels. cell_share: type of cells -> share of the cells.
        debias: where a request is ``"like:DATASET"``, ask for what makes both data sets together flat.
        n: number of tiles. size: (height, width) in pixels, multiples of 32, or the side of a square.
        mpp: micrometres per pixel. split: shares of train, val and test. seed: root of every random draw.
        scheme: label scheme by name, or its YAML file.
        manifest: a plan to follow instead of requests.
        masks, renderer: mask generator and renderer by name.
        like: real tiles to fit renderer and nuclei to: a data set, a folder of images, or an image.
        joint: ``"hdgan"`` for image and labels of one generator, ``"exemplar"`` for both copied out of real tissue
            (``weights``, or ``like`` a data set).
        weights, ground, pool, max_uncertainty, max_pixel_uncertainty: of ``joint`` alone. ground: ``"real"`` paints the
            marker of ``tps`` on whole real tiles.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``; for parts with networks.
        workers: processes; more than one needs the ``if __name__ == "__main__"`` guard of a script. None takes one a
            core. scheduler: address of a dask.distributed scheduler to use instead.
        config: a YAML file over the defaults of the scheme. set: values over it by their dotted key, e.g.
            ``{"renderer.scanner.jpeg_quality": [80, 95]}``.
        overwrite: replace the data set of another configuration in `out`.
        on_tiles: called with the number of tiles made so far.

    Returns:
        The finished data set, opened.

    Raises:
        manifests.errors.UserError: for arguments that do not fit, before anything is written.
        manifests.errors.FaultError: when a tile cannot be made, or there is no room on the disk.
    """
    from factory.core.devices import parse_workers
    from factory.make.pipeline import make as make_tiles
    from factory.make.prepare import prepare_make
    from factory.make.request import MakeRequest
    from manifests.dataset import open_dataset

    request = MakeRequest(
        tps=request_text(tps),
        tissue=request_text(tissue),
        cells=request_text(cells),
        tumour=request_text(tumour),
        inflammation=request_text(inflammation),
        debias=debias,
        n=n,
        size=size_text(size),
        mpp=mpp,
        split=shares_text(split),
        seed=seed,
        scheme=None if scheme is None else str(scheme),
        out=local_path(out, "out"),
        manifest=path_of(manifest),
        masks=masks,
        renderer=renderer,
        like=path_of(like),
        joint=joint,
        weights=None if weights is None else str(weights),
        ground=ground,
        pool=pool,
        share=_words(share),
        cell_share=_words(cell_share),
        max_uncertainty=max_uncertainty,
        max_pixel_uncertainty=max_pixel_uncertainty,
        device=device,
        config=path_of(config),
        assignments=assignment_words(set),
    )
    prepared = prepare_make(request)
    log_notes(prepared.notes)
    how: dict[str, Any] = {"workers": parse_workers(workers), "scheduler": scheduler, "overwrite": overwrite}
    if prepared.choose:
        prepared = prepared.choose(prepared, **how)
        log_notes(prepared.notes)
    make_tiles(prepared, **how, on_tiles=on_tiles)
    return open_dataset(out)


def _words(shares: Mapping[str, Request] | None) -> list[str] | None:
    """Shares of classes as the command takes them."""
    return None if shares is None else [f"{name}={request_text(asked)}" for name, asked in shares.items()]
