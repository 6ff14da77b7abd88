"""Options, YAML and the defaults of a scheme -> one resolved configuration.

Values are laid over each other, the later ones above: the scheme's defaults (``configs/plan/<scheme>.yaml``),
``--config``, ``--set``, and the options that were typed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from factory.core.config import merge, option_names, parse, parse_assignments, parse_size, read_yaml
from factory.core.shipped import configs_dir
from factory.core.starters import ANY, fitting_starter
from factory.learn.base import UsesWeights
from factory.learn.weights import WeightedPart
from factory.make.joint_plan import JointMakeConfig
from factory.make.parts import RESOLVERS
from factory.make.recipes.given_masks import RenderConfig
from factory.make.recipes.masks_and_renderer import MakeConfig, plain_generators
from factory.make.request import PlanRequest, RenderRequest
from factory.masks import MASKS
from factory.masks.base import resolve_mask_generator
from factory.plan.class_shares import decided_by_shares
from factory.plan.rows import Draft, PlanConfig, load_scheme
from factory.renderers import RENDERERS
from manifests.errors import UserError
from manifests.labels import SCHEMES, LabelScheme

Values = dict[str, Any]
LIMITS = ("max_uncertainty", "max_pixel_uncertainty")
"""Options of `factory make --joint` that leave out what its labeller is not sure of."""

_NONE = "none"
_REGIONS = ("tumour", "inflammation")


def resolve_make(
    plan_flags: Mapping[str, Any],
    parts: Mapping[str, str | None],
    config_file: Path | None,
    assignments: Sequence[str],
    draft: Draft | None = None,
) -> tuple[MakeConfig, LabelScheme]:
    """The configuration of masks and renderer, and the label scheme.

    Args:
        plan_flags: fields of `PlanConfig` as typed; None where nothing was.
        parts: ``masks`` and ``renderer`` by name; None where nothing was typed.
        config_file: a YAML file of `MakeConfig` keys.
        assignments: ``KEY=VALUE`` words.
        draft: a plan to follow; the scheme that it names goes before all others.

    Raises:
        UserError: for a malformed option, an unknown key, a value of the wrong form, or an option against the draft.
    """
    layers = _layers({"plan": plan_flags, **_named(parts)}, config_file, assignments)
    schemes = [layer["plan"]["scheme"] for layer in layers if "scheme" in layer.get("plan", {})]
    scheme = load_scheme(str(schemes[-1])) if schemes else None
    if draft:
        _refuse_contradiction(plan_flags, scheme, draft)
        scheme = draft.scheme or scheme
    asked = _lay_over({}, layers)
    scheme = scheme or _scheme_of_weights(asked) or load_scheme("pdl1")
    defaults = _defaults_of(scheme)
    # A generator trained on the scheme has learnt how much of each region there is, and shares of classes say it:
    # default shares would overrule them.
    named = asked.get("plan", {}).get("shares")
    decided = decided_by_shares(named if isinstance(named, dict) else (), scheme)
    trained = _weighted(asked, "masks")
    if trained and scheme.name in [own.name for own in trained.known_schemes(asked["masks"])]:
        decided |= set(_REGIONS)
    if asked.get("plan", {}).get("tissue") == _NONE:  # their default shares are of the tissue
        decided |= set(_REGIONS)
    if decided and "plan" in defaults:
        defaults["plan"] = {key: value for key, value in defaults["plan"].items() if key not in decided}
    values = _lay_over(defaults, layers)
    name = str(values.get("masks", {}).get("name"))
    if name in MASKS and (bound := resolve_mask_generator(name).shift_bound):
        values.setdefault("shift_bound", bound)
    _choose_starters(values, scheme, _resolution(values, draft))
    options = option_names(plan_flags, "plan.")
    return parse(MakeConfig, _without_none(values), _where(config_file), options), scheme


def resolve_joint(
    plan_flags: Mapping[str, Any],
    typed: Mapping[str, Any],
    shares: Sequence[str],
    config_file: Path | None,
    assignments: Sequence[str],
    draft: Draft | None = None,
) -> JointMakeConfig:
    """The configuration of the joint recipe. It has no defaults by scheme: what is not typed is not asked.

    Args:
        plan_flags: fields of `PlanConfig` as typed; None where nothing was.
        typed: ``name`` and fields of the part's Config; None where nothing was typed.
        shares: ``CLASS=DISTRIBUTION`` words. config_file, assignments: of `JointMakeConfig` keys.
        draft: a plan to follow. Its seeds do not count, as tiles are chosen; a typed seed is that of the candidates.

    Raises:
        UserError: for an unknown key, a value of the wrong form, or an option against the draft.
    """
    if draft:
        named = load_scheme(str(plan_flags["scheme"])) if plan_flags.get("scheme") else None
        _refuse_contradiction({**plan_flags, "seed": None}, named, draft)
    if plan_flags.get("cell_shares"):
        raise UserError("--cell-share: expected none beside --joint, which copies or draws cells as they are.")
    plan_flags = {name: value for name, value in plan_flags.items() if name != "shares"}
    options = {"plan": plan_flags, "joint": typed, "shares": parse_shares(shares)}
    values = _lay_over({"plan": {}, "joint": {}}, _layers(options, config_file, assignments))
    return parse(JointMakeConfig, _without_none(values), _where(config_file), option_names(plan_flags, "plan."))


def resolve_render(scheme: LabelScheme, mpp: float, request: RenderRequest) -> RenderConfig:
    """The configuration of images on given masks of a scheme and resolution (um per pixel).

    Of the scheme's defaults only the renderer counts.
    """
    typed = {"split": request.split, "seed": request.seed}
    layers = _layers({**typed, **_named({"renderer": request.renderer})}, request.config, request.assignments or [])
    defaults = {key: value for key, value in _defaults_of(scheme).items() if key == "renderer"}
    values = _lay_over(defaults, layers)
    _choose_starters(values, scheme, mpp)
    return parse(RenderConfig, values, _where(request.config), option_names(typed))


def refuse_mixed(joint: str | None, of_joint: Mapping[str, Any], of_others: Mapping[str, Any]) -> None:
    """Refuse options of the joint recipe without ``--joint``, and those of masks and renderers with it.

    Args:
        joint: as typed. of_joint, of_others: options by field name; None where nothing was typed.
    """
    for name, value in (of_others if joint else of_joint).items():
        if value is not None and joint:
            raise UserError(f"--{name}: expected none beside --joint, which draws both. Leave one out.")
        if value is not None:
            raise UserError(f"--{name.replace('_', '-')}: expected --joint beside it, got none. Name it.")


def _where(config_file: Path | None) -> str:
    return str(config_file) if config_file else "configuration"


def _named(parts: Mapping[str, str | None]) -> Values:
    return {part: {"name": name} for part, name in parts.items() if name is not None}


def _layers(typed: Mapping[str, Any], config_file: Path | None, assignments: Sequence[str]) -> list[Values]:
    """The values of ``--config``, of ``--set`` and of the options, None left out."""
    layers = [read_yaml(config_file) if config_file else {}, parse_assignments(assignments), _without_nulls(typed)]
    for part in ("plan", "masks", "renderer", "joint", "shares"):
        for layer in layers:
            if part in layer and not isinstance(layer[part], dict):
                raise UserError(
                    f"{_where(config_file)}: {part}: expected keys with values, got {layer[part]!r}. "
                    f"Write for example {part}.KEY."
                )
    for part in RESOLVERS.keys() & layers[-1].keys():  # values without a name are those of the part that was typed
        for layer in layers[:-1]:
            if part in layer:
                layer[part] = layers[-1][part] | layer[part]
    return layers


def _without_nulls(values: Mapping[str, Any]) -> Values:
    nested = {key: _without_nulls(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    return {key: value for key, value in nested.items() if value is not None and value != {}}


def _without_none(values: Values) -> Values:
    """The values with null for each quantity of the plan that was typed as ``none``."""
    if "plan" not in values:
        return values
    return {**values, "plan": {key: None if value == _NONE else value for key, value in values["plan"].items()}}


def _lay_over(base: Mapping[str, Any], layers: Iterable[Mapping[str, Any]]) -> Values:
    """Merge layers, the last one above; a part of another name starts without the values of the part before."""
    laid = dict(base)
    for layer in layers:
        for part in RESOLVERS:
            new, old = layer.get(part), laid.get(part)
            if isinstance(new, dict) and isinstance(old, dict) and new.get("name", old.get("name")) != old.get("name"):
                del laid[part]
        laid = merge(laid, layer)
    return laid


def _defaults_of(scheme: LabelScheme) -> Values:
    path = configs_dir() / "plan" / f"{scheme.name}.yaml"
    if path.is_file():
        return read_yaml(path)
    able = plain_generators(scheme)
    return {"masks": {"name": able[0]}} if able else {}


def _scheme_of_weights(asked: Mapping[str, Any]) -> LabelScheme | None:
    """The scheme that the weights of all parts serve, or else of the first, where weights and no scheme are asked for.

    With a requested TPS it has positive tumour.
    """
    parts = {key: part for key in RESOLVERS if (part := _weighted(asked, key))}
    known = {key: part.known_schemes(asked[key]) for key, part in parts.items()}
    tumour = "tps" in asked.get("plan", {})
    able = [each for schemes in known.values() for each in schemes if each.ids("tumour_positive") or not tumour]
    serving = (
        each for each in able if all(any(part.takes(each, own) for own in known[key]) for key, part in parts.items())
    )
    found = next(serving, next(iter(able), None))
    if found and found.name not in SCHEMES:
        raise UserError(f"--scheme: expected the YAML file of {found.name}, which the weights draw, got none. Name it.")
    return found


def _resolution(values: Values, draft: Draft | None) -> float:
    """The resolution of the tiles, in micrometres per pixel, as far as it is said; else the default."""
    if draft and draft.has("mpp"):
        return float(draft.table["mpp"].drop_null()[0].as_py())
    asked = values.get("plan", {}).get("mpp")
    return asked if isinstance(asked, float | int) else PlanConfig().mpp


def _choose_starters(values: Values, scheme: LabelScheme, mpp: float) -> None:
    """Fill in which starter weights the parts draw with, by scheme and resolution, where none are named."""
    for key in RESOLVERS:
        part, chosen = _weighted(values, key), values.get(key, {})
        if part is None or not issubclass(part, WeightedPart) or "weights_sha256" in chosen:
            continue
        if chosen.get("weights", ANY) == ANY and (found := fitting_starter(part.name, scheme, mpp)):
            values[key] = {**chosen, "weights_sha256": found[1].sha256}


def _weighted(asked: Mapping[str, Any], key: str) -> type[UsesWeights] | None:
    """The class of the named mask generator or renderer, where it uses weights."""
    name = str(asked.get(key, {}).get("name"))
    if name not in {"masks": MASKS, "renderer": RENDERERS}[key]:
        return None  # an unknown name is refused when the part is resolved
    kind = RESOLVERS[key](name)
    return kind if issubclass(kind, UsesWeights) else None


def _refuse_contradiction(flags: Mapping[str, Any], scheme: LabelScheme | None, draft: Draft) -> None:
    """Refuse options that a plan answers already: they would have no effect."""
    typed = {name for name, value in flags.items() if value is not None}
    for name in ("tps", "tissue", "cells", "tumour", "inflammation", "shares", "cell_shares", "debias", "n"):
        if name in typed:
            name = {"shares": "share", "cell_shares": "cell-share"}.get(name, name)
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


def parse_shares(words: Sequence[str], option: str = "--share") -> dict[str, str]:
    """``["air=0.1-0.3"]`` -> ``{"air": "0.1-0.3"}``."""
    shares: dict[str, str] = {}
    for word in words:
        name, separator, text = word.partition("=")
        if not separator:
            raise UserError(
                f"{option}: expected CLASS=DISTRIBUTION, got {word!r}. Write for example glomerulus=0.05-0.2."
            )
        if name in shares:
            raise UserError(f"{option}: expected each class once, got {name} twice. Leave one out.")
        shares[name] = text
    return shares


def plan_values(request: PlanRequest) -> Values:
    """Options of a plan as fields of `PlanConfig`; None where nothing was typed."""
    return {
        **{field.name: getattr(request, field.name) for field in fields(PlanRequest) if "share" not in field.name},
        "shares": parse_shares(request.share or []) or None,
        "cell_shares": parse_shares(request.cell_share or [], "--cell-share") or None,
        "size": parse_size(request.size) if request.size is not None else None,
        "split": parse_split(request.split) if request.split is not None else None,
        "debias": request.debias or None,
    }


def parse_split(text: str) -> tuple[float, ...]:
    """``0.8,0.1,0.1`` -> shares of train, val, test. Raises a UserError for another form."""
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        shares = ()
    if len(shares) != 3:
        raise UserError(f"--split: expected three shares like 0.8,0.1,0.1, got {text!r}.")
    return shares
