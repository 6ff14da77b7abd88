"""Flags, YAML and scheme defaults -> one resolved configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.core.config import merge, parse, parse_assignments, read_yaml
from factory.core.devices import usable_cores
from factory.core.registry import resolve
from factory.core.shipped import configs_dir
from factory.make.on_given_masks import RenderConfig
from factory.make.pipeline import MakeConfig
from factory.masks import MASKS
from factory.plan.rows import Draft, load_scheme
from factory.renderers import RENDERERS
from manifests.errors import UserError
from manifests.labels import SCHEMES, LabelScheme

if TYPE_CHECKING:
    from factory.make.joint import JointMakeConfig

_NONE = "none"
_REGIONS = ("tumour", "inflammation")
_PARTS = {"masks": MASKS, "renderer": RENDERERS}


def resolve_config(
    plan_flags: Mapping[str, Any],
    parts: Mapping[str, str | None],
    config_file: Path | None,
    assignments: Sequence[str],
    draft: Draft | None = None,
) -> tuple[MakeConfig, LabelScheme]:
    """Lay flags over ``--set`` over ``--config`` over the scheme's defaults (``configs/plan/<scheme>.yaml``).

    Args:
        plan_flags: fields of `PlanConfig` as typed; None where nothing was.
        parts: ``masks`` and ``renderer`` by name; None where nothing was typed.
        config_file: a YAML file of `MakeConfig` keys.
        assignments: ``KEY=VALUE`` words.
        draft: a plan to follow; the scheme that it names goes before all others.

    Raises:
        UserError: for a malformed flag, an unknown key, a value of the wrong form, or a flag against the draft.
    """
    where = str(config_file) if config_file else "configuration"
    typed: dict[str, Any] = {"plan": {key: value for key, value in plan_flags.items() if value is not None}}
    for part, name in parts.items():
        if name is not None:
            typed[part] = {"name": name}
    layers = [read_yaml(config_file) if config_file else {}, parse_assignments(assignments), typed]
    _refuse_scalars(layers, where)
    for part in ("masks", "renderer"):
        if part in typed:  # values without a name are those of the part that was typed
            layers[:2] = [
                {**layer, part: typed[part] | layer[part]} if part in layer else layer for layer in layers[:2]
            ]
    schemes = [layer["plan"]["scheme"] for layer in layers if "scheme" in layer.get("plan", {})]
    scheme = load_scheme(str(schemes[-1])) if schemes else None
    if draft:
        _refuse_contradiction(plan_flags, scheme, draft)
        scheme = draft.scheme or scheme
    scheme = scheme or _scheme_of_weights(layers) or load_scheme("pdl1")
    defaults = configs_dir() / "plan" / f"{scheme.name}.yaml"
    values = read_yaml(defaults) if defaults.is_file() else {}
    if _attribute(_asked_of(layers), "masks", "from_weights"):
        # What a network draws it has learnt to divide; shares of regions that nobody typed would overrule it.
        values["plan"] = {key: value for key, value in values.get("plan", {}).items() if key not in _REGIONS}
    for layer in layers:
        values = _lay_over(values, layer)
    if bound := _attribute(values, "masks", "shift_bound"):
        values.setdefault("shift_bound", bound)
    if "plan" in values:
        values["plan"] = {key: None if value == _NONE else value for key, value in values["plan"].items()}
    return parse(MakeConfig, values, where), scheme


def resolve_joint(
    plan_flags: Mapping[str, Any],
    typed: Mapping[str, Any],
    shares: Sequence[str],
    config_file: Path | None,
    assignments: Sequence[str],
    draft: Draft | None = None,
) -> JointMakeConfig:
    """As `resolve_config`, for the joint route: nothing is asked but what is typed, as weights have no defaults.

    Args:
        plan_flags: fields of `PlanConfig` as typed. typed: ``name`` and fields of the part's Config; None where nothing
        was typed. shares: ``CLASS=DISTRIBUTION`` words. config_file, assignments: of `JointMakeConfig` keys.
        draft: a plan to follow.

    Raises:
        UserError: for an unknown key, a value of the wrong form, or a flag against the draft, whose seeds count for
            nothing here: tiles are chosen, and the seed that is typed is that of the pool.
    """
    from factory.make.joint import JointMakeConfig  # which imports torch

    where = str(config_file) if config_file else "configuration"
    if draft:
        named = load_scheme(str(plan_flags["scheme"])) if plan_flags.get("scheme") else None
        _refuse_contradiction({**plan_flags, "seed": None}, named, draft)
    asked: dict[str, str] = {}
    for word in shares:
        name, separator, text = word.partition("=")
        if not separator:
            raise UserError(
                f"--share: expected CLASS=DISTRIBUTION, got {word!r}. Write for example glomerulus=0.05-0.2."
            )
        if name in asked:
            raise UserError(f"--share: expected each class once, got {name} twice. Leave one out.")
        asked[name] = text
    values: dict[str, Any] = {"plan": {}, "joint": {}}
    layers = [read_yaml(config_file) if config_file else {}, parse_assignments(assignments)]
    flags = {key: value for key, value in plan_flags.items() if value is not None}
    given = {key: value for key, value in typed.items() if value is not None}
    _refuse_scalars(layers, where)
    for layer in (*layers, {"plan": flags, "joint": given, **({"shares": asked} if asked else {})}):
        values = merge(values, layer)
    values["plan"] = {key: None if value == _NONE else value for key, value in values["plan"].items()}
    return parse(JointMakeConfig, values, where)


def refuse_mixed(joint: str | None, of_joint: Mapping[str, Any], of_others: Mapping[str, Any]) -> None:
    """Refuse options of the joint route without it, and those of masks and renderers with it.

    Args:
        joint: as typed. of_joint, of_others: options by field name; None where nothing was typed.

    Raises:
        UserError: naming the first.
    """
    for name, value in (of_others if joint else of_joint).items():
        if value is not None and joint:
            raise UserError(f"--{name}: expected none beside --joint, which draws both. Leave one out.")
        if value is not None:
            raise UserError(f"--{name.replace('_', '-')}: expected --joint beside it, got none. Name it.")


def resolve_rendering(
    scheme: LabelScheme,
    typed: Mapping[str, Any],
    renderer: str | None,
    config_file: Path | None,
    assignments: Sequence[str],
) -> RenderConfig:
    """As `resolve_config`, for images on masks that are there: the scheme's defaults give the renderer alone.

    Args:
        scheme: of the masks. typed: fields of `RenderConfig` besides the renderer; None where nothing was typed.
        renderer: by name, or None. config_file, assignments: of `RenderConfig` keys.

    Raises:
        UserError: for an unknown key, or a value of the wrong form.
    """
    where = str(config_file) if config_file else "configuration"
    named = {"renderer": {"name": renderer}} if renderer else {}
    layers = [read_yaml(config_file) if config_file else {}, parse_assignments(assignments)]
    _refuse_scalars(layers, where)
    if named:  # values without a name are those of the part that was typed
        layers = [
            layer | ({"renderer": named["renderer"] | layer["renderer"]} if "renderer" in layer else {})
            for layer in layers
        ]
    defaults = configs_dir() / "plan" / f"{scheme.name}.yaml"
    values = {"renderer": read_yaml(defaults)["renderer"]} if defaults.is_file() else {}
    for layer in (*layers, named, {key: value for key, value in typed.items() if value is not None}):
        values = _lay_over(values, layer)
    return parse(RenderConfig, values, where)


def _scheme_of_weights(layers: Sequence[Mapping[str, Any]]) -> LabelScheme | None:
    """What the weights of mask generator or renderer draw, where one with weights is asked for and no scheme."""
    values = _asked_of(layers)
    for part in _PARTS:
        default = _attribute(values, part, "default_scheme")
        if default is None:
            continue
        found: LabelScheme = default(values[part])
        if found.name not in SCHEMES:
            raise UserError(
                f"--scheme: expected the YAML file of {found.name}, which the weights draw, got none. Name it."
            )
        return found
    return None


def _asked_of(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is asked of both parts: ``{"masks": {...}, "renderer": {...}}``."""
    values: dict[str, Any] = {}
    for layer in layers:
        values = _lay_over(values, {part: layer.get(part, {}) for part in _PARTS})
    return values


def _attribute(values: Mapping[str, Any], part: str, attribute: str) -> Any:
    """An attribute of the mask generator or renderer that is named, None where there is none."""
    name = str(values.get(part, {}).get("name", ""))
    return getattr(resolve(_PARTS[part], name, f"--{part}"), attribute, None) if name in _PARTS[part] else None


def _refuse_scalars(layers: Sequence[Mapping[str, Any]], where: str) -> None:
    """Refuse a value where a mapping belongs: laid over the defaults, it would drop them all in silence."""
    for part in ("plan", "masks", "renderer", "joint", "shares"):
        for layer in layers:
            if part in layer and not isinstance(layer[part], dict):
                raise UserError(
                    f"{where}: {part}: expected keys with values, got {layer[part]!r}. Write for example {part}.KEY."
                )


def _lay_over(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge, but a part of another name starts without the old part's values."""
    base = dict(base)
    for part in ("masks", "renderer"):
        new, old = over.get(part), base.get(part)
        if isinstance(new, dict) and isinstance(old, dict) and new.get("name", old.get("name")) != old.get("name"):
            del base[part]
    return merge(base, over)


def plan_flags(*, size: str | None, split: str | None, debias: bool, **typed: Any) -> dict[str, Any]:
    """What was typed of a plan, as fields of `PlanConfig`; None where nothing was.

    Raises:
        UserError: for a malformed size or split.
    """
    return {
        **typed,
        "size": parse_size(size) if size is not None else None,
        "split": parse_split(split) if split is not None else None,
        "debias": debias or None,
    }


def parse_size(text: str) -> tuple[int, int]:
    """``512x1024`` -> (512, 1024): height, width.

    Raises:
        UserError: for another form.
    """
    match = re.fullmatch(r"(\d{1,6})[xX](\d{1,6})", text)
    if not match:
        raise UserError(f"--size: expected HEIGHTxWIDTH, got {text!r}. Write for example 512x1024.")
    return int(match[1]), int(match[2])


def parse_split(text: str) -> tuple[float, ...]:
    """``0.8,0.1,0.1`` -> shares of train, val, test.

    Raises:
        UserError: for another form.
    """
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        shares = ()
    if len(shares) != 3:
        raise UserError(f"--split: expected three shares like 0.8,0.1,0.1, got {text!r}.")
    return shares


def parse_workers(workers: int | None) -> int:
    """Processes to use: one per core unless typed.

    Raises:
        UserError: for fewer than one.
    """
    if workers is None:
        return usable_cores()
    if workers < 1:
        raise UserError(f"--workers: expected 1 or more, got {workers}.")
    return workers


def _refuse_contradiction(flags: Mapping[str, Any], scheme: LabelScheme | None, draft: Draft) -> None:
    """A plan says what is asked: flags that ask otherwise would be dropped in silence."""
    typed = {name for name, value in flags.items() if value is not None}
    for name in ("tps", "tissue", "cells", "tumour", "inflammation", "debias", "n"):
        if name in typed:
            raise UserError(f"--{name}: expected none beside --manifest, which says what is asked. Leave one out.")
    for name in ("seed", "split"):
        if name in typed and draft.has(name):
            raise UserError(f"--{name}: expected none beside a --manifest with the column {name}. Leave one out.")
    height, width = flags.get("size") or (None, None)
    asked = {"height": height, "width": width, "mpp": flags.get("mpp"), "label_scheme": scheme.name if scheme else None}
    for name, value in asked.items():
        if value is not None and draft.has(name) and draft.table[name].unique().to_pylist() != [value]:
            got = draft.table[name].drop_null()[0].as_py()
            raise UserError(f"--manifest: {name}: expected {value} as typed, got {got} in {draft.path}. Leave one out.")
