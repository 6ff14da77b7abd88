"""Real tiles that a synthetic data set is made like: a renderer fits its stain, a mask generator its nuclei to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.core.config import option_names, parse
from factory.core.images.files import IMAGE_SUFFIXES, read_rgb
from factory.core.registry import resolve
from factory.joint import JOINT, RECIPES
from factory.make.parts import Part
from factory.make.recipes.base import NOTHING, Provenance
from factory.masks.base import FitsTiles, MaskGenerator, TooFewNuclei
from factory.plan.request import Request
from factory.renderers import RENDERERS
from factory.renderers.base import FitsDataset, FitsImages, Renderer, resolve_renderer
from manifests.dataset import Dataset, open_dataset
from manifests.errors import UserError
from manifests.labels import LabelScheme
from manifests.store import STORE
from manifests.tile import Tile

MAX_IMAGES = 16
MAX_LABELLED = 64


@dataclass(frozen=True)
class RealTiles:
    """Stain reference and nuclear layouts, and the data that they are from.

    Attributes:
        images: the stain reference, uint8 [H, W, 3] each, at most `MAX_IMAGES`. behind_images: where these are from.
        labelled: tiles with instances, at most `MAX_LABELLED`; none in a folder of images. behind_labelled: likewise.
    """

    images: tuple[npt.NDArray[np.uint8], ...]
    behind_images: Provenance
    labelled: tuple[Tile, ...] = ()
    behind_labelled: Provenance = NOTHING


@dataclass(frozen=True)
class Fitted:
    """Both parts, fitted where they can be.

    Attributes:
        masks, renderer: the parts. behind: data that either was fitted to. notes: what was fitted and what was not.
    """

    masks: Part[MaskGenerator]
    renderer: Part[Renderer]
    behind: Provenance
    notes: tuple[str, ...]


def read_real_tiles(path: Path) -> RealTiles:
    """Read a data set (its training split, where it has one), a folder of images, or one image.

    Where there are more images than `MAX_IMAGES`, they are taken at even steps.

    Raises:
        UserError: when there is no image there, or one that cannot be read.
    """
    if (path / STORE).exists():
        return _from_dataset(open_dataset(path))
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise UserError(f"--like: expected a data set, a folder of images or an image, got {path}.")
    chosen = _even_steps(files, MAX_IMAGES)
    sources = tuple(f"{path.name}/{file.stem}" for file in chosen)
    return RealTiles(tuple(read_rgb(file) for file in chosen), Provenance(sources))


def _from_dataset(dataset: Dataset) -> RealTiles:
    columns = dataset.table.select(["split", "cells"]).to_pylist()
    training = [place for place, row in enumerate(columns) if row["split"] == "train"] or list(range(len(dataset)))
    shown = [dataset[place] for place in _even_steps(training, MAX_IMAGES)]
    labelled = [
        dataset[place] for place in _even_steps([place for place in training if columns[place]["cells"]], MAX_LABELLED)
    ]
    return RealTiles(
        images=tuple(sample.image for sample in shown),
        behind_images=_provenance(dataset, [sample.row for sample in shown]),
        labelled=tuple(sample.tile for sample in labelled),
        behind_labelled=_provenance(dataset, [sample.row for sample in labelled]),
    )


def _provenance(dataset: Dataset, rows: Sequence[dict[str, Any]]) -> Provenance:
    name, info = dataset.root.resolve().name, dataset.info
    sources = [f"{name}/{row['group_id'] or row['sample_id']}" for row in rows]
    behind = info.training_sources if info.is_synthetic else ()
    return NOTHING | Provenance((*sources, *behind), tuple(row["licence"] for row in rows if row["licence"]))


def _even_steps(items: Sequence[Any], most: int) -> list[Any]:
    places = np.linspace(0, len(items) - 1, min(len(items), most)).astype(int)
    return [items[place] for place in np.unique(places)]


def values_like(name: str | None, like: Path | None) -> list[str]:
    """Fit a renderer that takes a whole data set: ``--set`` words for its config, none for other renderers.

    Args:
        name: of the renderer, as typed. like: as typed.

    Raises:
        UserError: when `like` is no data set, or holds nothing to fit to.
    """
    kind = RENDERERS.get(name or "") and resolve_renderer(str(name))
    if like is None or not kind or not issubclass(kind, FitsDataset):
        return []
    return [f"renderer.{key}={value}" for key, value in kind.fit_dataset(_labelled(like, name)).items()]


def _labelled(like: Path, name: str | None) -> Path:
    """The folder of a data set; refuses images without labels."""
    if not (like / STORE).exists():
        raise UserError(f"--like {like}: expected a data set with labels for {name}, got images. Ingest them first.")
    return like


def joint_values(name: str, typed: Mapping[str, Any], like: Path | None) -> dict[str, Any]:
    """Values of a joint part: its name, what was typed for it, and what is fitted to a data set.

    Args:
        name: of the part. typed: options by field of its Config, None where nothing was typed. like: as typed.

    Raises:
        UserError: for an unknown name, options that the part does not have, or a data set that it cannot use.
    """
    resolve(RECIPES, name, "--joint")
    kind = resolve(JOINT, name, "--joint")
    values = {key: value for key, value in typed.items() if value is not None}
    for key in values.keys() - kind.Config.model_fields.keys():
        raise UserError(f"--{key.replace('_', '-')}: expected none with --joint {name}, which has none. Leave it out.")
    parse(kind.Config, values, "--joint", option_names(values))
    if like is not None:
        if not issubclass(kind, FitsDataset):
            raise UserError(f"--like: expected none with --joint {name}, which is trained. Leave it out.")
        if "weights" in values:
            raise UserError("--like, --weights: expected one of them, as both name the real tissue, got both.")
        values |= kind.fit_dataset(_labelled(like, name))
    return {**values, "name": name}


def fit_parts(
    masks: Part[MaskGenerator], renderer: Part[Renderer], like: RealTiles, request: Request, typed: frozenset[str]
) -> Fitted:
    """Fit whichever of the two parts can be fitted.

    Args:
        masks, renderer: to be fitted. like: what to fit to. request: of the tiles, for their size and scheme.
        typed: fields of the mask generator's config that were set by the user and stay as they are.

    Raises:
        UserError: when neither part can be fitted to these tiles.
    """
    generator, renderer_fits = masks.build(), issubclass(renderer.kind, (FitsImages, FitsDataset))
    if not renderer_fits and not (isinstance(generator, FitsTiles) and like.labelled):
        advice = "; its masks could be fitted to a data set with instances" if isinstance(generator, FitsTiles) else ""
        raise UserError(
            f"--like: expected a renderer that fits itself ({_fitting()}), got {renderer.name}{advice}. Name one."
        )
    behind, notes = NOTHING, []
    if renderer_fits:
        renderer = fit_renderer(renderer, request.scheme, like)
        behind = like.behind_images if issubclass(renderer.kind, FitsImages) else NOTHING
    if isinstance(generator, FitsTiles) and like.labelled:
        try:
            masks = replace(masks, config=generator.fit_tiles(like.labelled, request, typed))
        except TooFewNuclei as error:
            if not renderer_fits:
                raise
            notes.append(f"--like: {error.whole} whole nuclei are too few to fit layouts; they are laid out as usual")
        else:
            behind |= like.behind_labelled
            cells = sum(len(np.setdiff1d(tile.instance, [0])) for tile in like.labelled)
            notes.append(f"--like: layouts of masks are fitted to {cells} nuclei of {len(like.labelled)} tiles")
        if not renderer_fits:
            notes.append(f"--like: {renderer.name} cannot be fitted; the masks alone are")
    elif isinstance(generator, FitsTiles):
        notes.append("--like: no instances there, so the renderer alone is fitted; nuclei are laid out as usual")
    return Fitted(masks, renderer, NOTHING | behind, tuple(notes))


def fit_renderer(renderer: Part[Renderer], scheme: LabelScheme, like: RealTiles) -> Part[Renderer]:
    """The renderer, fitted to the stain reference."""
    part = renderer.build()
    if isinstance(part, FitsDataset):
        return renderer  # by `values_like`, before it was resolved
    if not isinstance(part, FitsImages):
        raise UserError(f"--like: expected a renderer that fits itself ({_fitting()}), got {renderer.name}. Name one.")
    return replace(renderer, config=part.fit_images(like.images, scheme))


def _fitting() -> str:
    return ", ".join(name for name in RENDERERS if issubclass(resolve_renderer(name), (FitsImages, FitsDataset)))
