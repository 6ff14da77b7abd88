"""Options, as the commands and the Python functions take them -> prepared runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.core.config import option_names, parse
from factory.core.registry import resolve as find
from factory.joint import RECIPES
from factory.make import resolve
from factory.make.fit_to_real import joint_values, read_real_tiles, values_like
from factory.make.parts import device_for
from factory.make.pipeline import Prepared
from factory.make.recipes import given_masks, masks_and_renderer
from factory.make.recipes.base import Recipe
from factory.make.recipes.given_masks import GivenMasks
from factory.make.request import MakeRequest, RenderRequest
from factory.plan.rows import read_draft

if TYPE_CHECKING:
    from factory.make.recipes.samples import SampleRecipe


def prepare_make(request: MakeRequest) -> Prepared[Recipe]:
    """Resolve a run of `factory make`."""
    draft = read_draft(request.manifest) if request.manifest else None
    plan, assignments = resolve.plan_values(request), request.assignments or []
    parts = {"masks": request.masks, "renderer": request.renderer}
    of_joint = {name: getattr(request, name) for name in ("weights", "ground", "pool", *resolve.LIMITS)}
    resolve.refuse_mixed(request.joint, of_joint, parts)
    if request.joint:
        values = joint_values(request.joint, of_joint, request.like)
        asked = resolve.resolve_joint(plan, values, request.share or [], request.config, assignments, draft)
        prepare: Callable[..., Prepared[Recipe]] = find(RECIPES, request.joint, "--joint")
        return prepare(asked, request.out, manifest=draft, device=request.device)
    assignments = [*assignments, *values_like(request.renderer, request.like)]
    resolved, scheme = resolve.resolve_make(plan, parts, request.config, assignments, draft)
    return masks_and_renderer.prepare(
        resolved,
        scheme,
        request.out,
        manifest=draft,
        like=read_real_tiles(request.like) if request.like else None,
        device=device_for({"masks": resolved.masks, "renderer": resolved.renderer}, request.device),
    )


def prepare_render(masks: Path, request: RenderRequest) -> Prepared[GivenMasks]:
    """Resolve a run of `factory render` on the masks of a data set."""
    given = given_masks.open_masks(masks, "all")
    (scheme,), mpp = given.schemes, float(given.table["mpp"][0].as_py())
    assignments = [*(request.assignments or []), *values_like(request.renderer, request.like)]
    resolved = resolve.resolve_render(scheme, mpp, replace(request, assignments=assignments))
    real_tiles = read_real_tiles(request.like) if request.like else None
    device = device_for({"renderer": resolved.renderer}, request.device)
    return given_masks.prepare(resolved, masks, request.out, like=real_tiles, device=device)


def prepare_sample(out: Path, *, n: int, seed: int | None, device: str, **drawing: Any) -> Prepared[SampleRecipe]:
    """Resolve a run of `factory sample`.

    Args:
        out: the data set's folder. n: images. seed: root of every random draw. device: where the generator draws.
        drawing: fields of `DrawConfig`.
    """
    from factory.core.devices import resolve_device
    from factory.make.recipes import samples  # which imports torch

    options = {**option_names(drawing, "drawing."), "n": "--n", "seed": "--seed"}
    config = parse(samples.SampleConfig, {"drawing": drawing, "n": n, "seed": seed or 0}, "factory sample", options)
    return samples.prepare(config, out, device=resolve_device(device))
