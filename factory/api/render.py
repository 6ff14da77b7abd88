"""`factory.render`: new images on the masks of a data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.api.arguments import PathLike, assignment_words, log_notes, path_of
from factory.core.choices import Split
from factory.core.paths import local_path

if TYPE_CHECKING:
    from manifests.dataset import Dataset


def render(
    data: PathLike,
    out: PathLike = "data/rendered",
    *,
    split: Split | None = None,
    renderer: str | None = None,
    like: PathLike | None = None,
    seed: int | None = None,
    device: str = "auto",
    workers: int | None = 1,
    config: PathLike | None = None,
    set: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    on_tiles: Callable[[int], None] = lambda made: None,
) -> Dataset:
    """Draw new images on the masks of a data set; the command ``factory render``.

    Args:
        data: the data set whose masks are drawn on, real or synthetic. out: the new data set's folder.
        split: ``"train"``, ``"val"``, ``"test"`` (the default) or ``"all"``.
        renderer: by name. like: real tiles to fit it to: a data set, a folder of images, or an image.
        seed: root of every random draw. device, workers, config, set, overwrite, on_tiles: as for `factory.make`.

    Returns:
        The finished data set, opened.

    Raises:
        manifests.errors.UserError: for arguments and masks that do not fit, before anything is written.
    """
    from factory.core.devices import parse_workers
    from factory.make.pipeline import make
    from factory.make.prepare import prepare_render
    from factory.make.request import RenderRequest
    from manifests.dataset import open_dataset

    request = RenderRequest(
        out=local_path(out, "out"),
        split=split,
        renderer=renderer,
        like=path_of(like),
        seed=seed,
        device=device,
        config=path_of(config),
        assignments=assignment_words(set),
    )
    prepared = prepare_render(Path(data), request)
    log_notes(prepared.notes)
    make(prepared, workers=parse_workers(workers), overwrite=overwrite, on_tiles=on_tiles)
    return open_dataset(out)
