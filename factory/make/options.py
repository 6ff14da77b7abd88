"""Options, as the commands and the Python API take them -> prepared runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.core.config import parse
from factory.make import resolve
from factory.make.fit_to_real import read_real_tiles, values_like
from factory.make.parts import device_for
from factory.make.pipeline import Prepared
from factory.make.recipes import given_masks, masks_and_renderer
from factory.make.recipes.base import Recipe
from factory.make.recipes.given_masks import GivenMasks
from factory.plan.rows import read_draft

if TYPE_CHECKING:
    from factory.make.recipes.samples import SampleRecipe


def prepare_make(
    out: Path,
    *,
    plan: dict[str, Any],
    manifest: Path | None = None,
    masks: str | None = None,
    renderer: str | None = None,
    like: Path | None = None,
    joint: str | None = None,
    weights: str | None = None,
    pool: int | None = None,
    share: Sequence[str] | None = None,
    max_uncertainty: float | None = None,
    max_pixel_uncertainty: float | None = None,
    device: str = "auto",
    config: Path | None = None,
    assignments: Sequence[str] | None = None,
) -> Prepared[Recipe]:
    """Resolve a run of `factory make`; None stands for an option that was not typed.

    Args:
        out: the data set's folder. plan: fields of `PlanConfig`, from `resolve.plan_flags`.
        manifest and all others: the options of `factory make`; assignments: the words of ``--set``.

    Raises:
        UserError: for options that do not fit each other, and requests that cannot be met.
    """
    draft = read_draft(manifest) if manifest else None
    parts = {"masks": masks, "renderer": renderer}
    typed = {
        "weights": weights,
        "pool": pool,
        "max_uncertainty": max_uncertainty,
        "max_pixel_uncertainty": max_pixel_uncertainty,
    }
    resolve.refuse_mixed(joint, {**typed, "share": share}, {**parts, "like": like})
    if joint:
        from factory.core.devices import resolve_device
        from factory.make.recipes import joint as joint_recipe  # which imports torch

        values = {**typed, "name": joint}
        asked = resolve.resolve_joint(plan, values, share or [], config, assignments or [], draft)
        return joint_recipe.prepare(asked, out, manifest=draft, device=resolve_device(device))
    assignments = [*(assignments or []), *values_like(parts["renderer"], like)]
    resolved, scheme = resolve.resolve_make(plan, parts, config, assignments, draft)
    return masks_and_renderer.prepare(
        resolved,
        scheme,
        out,
        manifest=draft,
        like=read_real_tiles(like) if like else None,
        device=device_for({"masks": resolved.masks, "renderer": resolved.renderer}, device),
    )


def prepare_render(
    masks: Path,
    out: Path,
    *,
    split: str | None = None,
    renderer: str | None = None,
    like: Path | None = None,
    seed: int | None = None,
    device: str = "auto",
    config: Path | None = None,
    assignments: Sequence[str] | None = None,
) -> Prepared[GivenMasks]:
    """Resolve a run of `factory render`; None stands for an option that was not typed.

    Args:
        masks: the data set whose masks are drawn on. out: the new data set's folder.
        split and all others: the options of `factory render`; assignments: the words of ``--set``.

    Raises:
        UserError: for options and masks that do not fit each other.
    """
    (scheme,) = given_masks.open_masks(masks, "all").schemes
    typed = {"split": split, "seed": seed}
    assignments = [*(assignments or []), *values_like(renderer, like)]
    resolved = resolve.resolve_render(scheme, typed, renderer, config, assignments)
    real_tiles = read_real_tiles(like) if like else None
    return given_masks.prepare(
        resolved, masks, out, like=real_tiles, device=device_for({"renderer": resolved.renderer}, device)
    )


def prepare_sample(out: Path, *, n: int, seed: int | None, device: str, **drawing: Any) -> Prepared[SampleRecipe]:
    """Resolve a run of `factory sample`.

    Args:
        out: the data set's folder. n: images. seed: root of every random draw. device: where the generator draws.
        drawing: fields of `DrawConfig`.

    Raises:
        UserError: for values of the wrong form, and weights that cannot be used.
    """
    from factory.core.devices import resolve_device
    from factory.make.recipes import samples  # which imports torch

    config = parse(samples.SampleConfig, {"drawing": drawing, "n": n, "seed": seed or 0}, "factory sample")
    return samples.prepare(config, out, device=resolve_device(device))
