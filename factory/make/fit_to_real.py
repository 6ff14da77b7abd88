"""What `--like` fits: the looks of a renderer to real images, the layouts of a mask generator to real instances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from factory.core.registry import resolve
from factory.make.real_images import Reference
from factory.masks import MASKS
from factory.plan.request import Request
from factory.renderers import RENDERERS
from manifests.errors import UserError
from manifests.labels import LabelScheme


@dataclass(frozen=True)
class Fitted:
    """Configs of both parts, fitted where they can be.

    Attributes:
        mask_config, render_config: of the parts.
        sources, licences: of the real tiles that either was fitted to.
        notes: what was fitted and what was not, in lines.
    """

    mask_config: Any
    render_config: Any
    sources: tuple[str, ...]
    licences: tuple[str, ...]
    notes: tuple[str, ...]


def fit_parts(
    masks: tuple[str, Any], renderer: tuple[str, Any], like: Reference, request: Request, typed: frozenset[str]
) -> Fitted:
    """Fit whichever of the two parts fits itself.

    Args:
        masks, renderer: name and config. like: what to fit to. request: of the tiles, for their size and scheme.
        typed: fields of the mask generator's config that a person set, and that stay as they are.

    Raises:
        UserError: when neither part can be fitted to what is there.
    """
    mask_class, render_class = resolve(MASKS, masks[0], "--masks"), resolve(RENDERERS, renderer[0], "--renderer")
    fits_masks, fits_looks = hasattr(mask_class, "fit"), hasattr(render_class, "fit")
    if not fits_looks and not (fits_masks and like.layouts):
        missing = "; its masks could be fitted to a data set with instances" if fits_masks else ""
        got = f"{renderer[0]}{missing}"
        raise UserError(f"--like: expected a renderer that fits itself ({_fitting()}), got {got}. Name one.")
    mask_config, render_config = masks[1], renderer[1]
    sources, licences, notes = set[str](), set[str](), []
    if fits_looks:
        render_config = fit_renderer(renderer[0], render_config, request.scheme, like)
        sources, licences = {*like.sources}, {*like.licences}
    if fits_masks and like.layouts:
        mask_config = mask_class.fit(like.layouts.tiles, request, mask_config, typed)
        sources, licences = sources | {*like.layouts.sources}, licences | {*like.layouts.licences}
        cells = sum(len(set(tile.instance.ravel().tolist()) - {0}) for tile in like.layouts.tiles)
        notes.append(f"--like: layouts of masks are fitted to {cells} nuclei of {len(like.layouts.tiles)} tiles")
        if not fits_looks:
            notes.append(f"--like: {renderer[0]} is not fitted, it does not fit itself; the masks alone are")
    elif fits_masks:
        notes.append(
            "--like: no instances there, so the renderer alone is fitted; layouts of nuclei are the usual ones"
        )
    return Fitted(mask_config, render_config, tuple(sorted(sources)), tuple(sorted(licences)), tuple(notes))


def fit_renderer(name: str, config: Any, scheme: LabelScheme, like: Reference) -> Any:
    """The config of a renderer, fitted to real images.

    Raises:
        UserError: when that renderer learns otherwise, or the images show nothing.
    """
    render_class = resolve(RENDERERS, name, "--renderer")
    if not hasattr(render_class, "fit"):
        raise UserError(f"--like: expected a renderer that fits itself ({_fitting()}), got {name}. Name one.")
    return render_class.fit(like.images, scheme, config)


def _fitting() -> str:
    return ", ".join(name for name in RENDERERS if hasattr(resolve(RENDERERS, name, "--renderer"), "fit"))
