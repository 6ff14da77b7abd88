"""The joint route of `factory make`: image and labels come from one generator, and tiles are chosen to meet the plan.

Elsewhere a mask is made to the request and an image to the mask. Here the labels are read off the image, so nothing may
move them; a request is met by choosing, among many tiles that were drawn and labelled (`factory.latent_pool`), the one
that meets it best (`factory.picking`). A row gets the seed of its tile, which is all that it takes to draw it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from factory.composition import Request
from factory.core.config import Config, digest, parse
from factory.core.registry import resolve
from factory.core.resolutions import SAME_MPP
from factory.core.runs import POOL, RunSpec, library_versions, open_folder
from factory.core.seeds import Stream, generator
from factory.distributions import parse_distribution, stratified
from factory.joint import DRAWING, FITTED, HDGAN, JOINT, SHARES
from factory.joint.generators import GENERATOR
from factory.joint.hdgan import HdganConfig
from factory.latent_pool import MeasureChunk, class_share, column, fill_pool, joint_of
from factory.picking import Picked, Target, pick
from factory.pipeline import BYTE_MAKERS, Order, Sample
from factory.plan import Draft, PlanConfig, complete, load_scheme, plan, requests_digest, sample_name
from manifests.errors import UserError
from manifests.labels import LabelScheme
from manifests.schema import DatasetInfo
from manifests.store import Layout

_POOL_FOR_EACH = 4
_FIRST_CLASS_STREAM = 100
"""Class i is drawn by the attempt 100 + i of `Stream.DRAW`; the quantities of a plan have the first ones."""


class JointMakeConfig(Config):
    """Everything that `factory make --joint` can be told and that changes a byte of its output.

    Attributes:
        plan: what is asked; size, resolution and scheme are those of the weights.
        shares: class -> distribution of its share of all pixels, see `factory.distributions`.
        joint: ``name`` and, optionally, values of its own Config. shard: tiles in a shard file.
    """

    plan: PlanConfig
    shares: dict[str, str] = Field(default_factory=dict)
    joint: dict[str, Any]
    shard: int = Field(default=64, ge=1, le=65_536)


@dataclass(frozen=True)
class JointRecipe:
    """How rows become tiles on the joint route. Small and picklable.

    Attributes:
        config: of the labeller, resolved. scheme: what it tells apart. device: where networks run.
    """

    config: HdganConfig
    scheme: LabelScheme
    device: str

    @property
    def title(self) -> str:
        """In a few words."""
        return f"{GENERATOR} + {HDGAN}"

    @property
    def changed(self) -> dict[str, Any]:
        """Values that are not the defaults."""
        return {f"joint.{key}": value for key, value in self.config.model_dump(exclude_defaults=True).items()}

    def realiser(self) -> JointRealiser:
        """What makes tiles by this recipe."""
        return JointRealiser(self)

    def notes(self, request: Request) -> tuple[str, ...]:
        """What a person should know of the labels."""
        del request
        held = joint_of(self.config, self.device).card.fields.get("held_out")
        if held is None:
            return ("labels are predicted, and no held-out image says how well",)
        dice, images = held["mean_dice"], held["images"]
        return (f"labels are predicted: mean Dice {dice:.3f} on the labeller's {images} held-out images",)


class JointRealiser:
    """Makes tiles of rows whose seeds were chosen; one for each process."""

    def __init__(self, recipe: JointRecipe) -> None:
        self._recipe = recipe

    def realise(self, rows: Sequence[dict[str, Any]]) -> Iterator[Sample]:
        """Image, labels and completed row of each row, in order; each depends on its own seed alone."""
        recipe, joint = self._recipe, joint_of(self._recipe.config, self._recipe.device)
        for row in rows:
            drawn = joint.draw(row["seed"])
            yield (
                drawn.image,
                drawn.tile,
                {
                    **row,
                    "source": "synthetic",
                    "recipe": f"{GENERATOR}+{HDGAN}",
                    "mask_generator": HDGAN,
                    "renderer": GENERATOR,
                    "label_origin": "predicted",
                    "device": recipe.device,
                    "precision": joint.precision_name,
                    "mask_weights_sha256": recipe.config.weights_sha256,
                    "image_weights_sha256": joint.generator.digest,
                    "latent": drawn.latent.tolist(),
                },
            )


def recipe_of_joint(document: Mapping[str, Any], scheme: LabelScheme, device: str) -> JointRecipe:
    """Resolve the ``hdgan`` part of a configuration.

    Raises:
        UserError: for an unknown name or key, or weights that cannot be used.
    """
    values = dict(document)
    name = str(values.pop("name", HDGAN))
    part = resolve({each: JOINT[each] for each in FITTED}, name, "--joint")
    return JointRecipe(part.settle(parse(part.Config, values, f"joint ({name})"), device), scheme, device)


def prepare(config: JointMakeConfig, out: Path, *, manifest: Draft | None, device: str) -> Order:
    """Resolve an order and refuse what can be refused before a tile is drawn; writes nothing.

    Args:
        config: what is asked. out: the data set's folder. manifest: a plan to follow instead of drawing one.
        device: where networks run.

    Raises:
        UserError: for weights that cannot be used, and requests that make no sense for them.
    """
    values = {"name": HDGAN, **config.joint}
    part = resolve({each: JOINT[each] for each in FITTED}, str(values["name"]), "--joint")
    typed = parse(part.Config, {key: value for key, value in values.items() if key != "name"}, "joint")
    card = part.card_of(typed)
    scheme = part(typed).scheme
    recipe = recipe_of_joint(values, scheme, device)
    asked = _plan_for(config.plan, card.fields, scheme)
    rows = complete(manifest, asked, scheme) if manifest else plan(asked, scheme)
    _refuse_other_tiles(rows, card.fields, scheme)
    rows = _with_shares(rows, config, scheme)
    n = len(rows)
    pool = recipe.config.pool or (n * _POOL_FOR_EACH if _is_choice(rows, recipe.config) else n)
    if pool < n:
        raise UserError(f"--pool: expected at least the {n} tiles that are asked for, got {pool}. Raise it.")
    recipe = replace(recipe, config=recipe.config.model_copy(update={"pool": pool}))
    joint = joint_of(recipe.config, device)
    document = {
        "plan": {
            **({"seed": asked.seed} if manifest else asked.model_dump(mode="json")),
            "requests_sha256": requests_digest(rows),
        },
        SHARES: config.shares,
        "scheme": scheme.to_dict(),
        HDGAN: {"name": HDGAN, **recipe.config.model_dump(mode="json")},
        DRAWING: joint.drawing.model_dump(mode="json"),
        "shard": config.shard,
    }
    versions = library_versions(*BYTE_MAKERS, "torch")
    info = DatasetInfo(
        is_synthetic=True,
        generator=f"pathology-tile-factory {versions['pathology-tile-factory']}: {recipe.title}",
        label_schemes=(scheme,),
        versions=versions,
        training_sources=tuple(card.fields["sources"]),
        licences=tuple(card.fields["licences"]),
    )
    layout = Layout(n, rows["height"][0].as_py(), rows["width"][0].as_py(), config.shard)
    return Order(RunSpec(out, document, layout, info, frozenset({POOL})), recipe, rows)


def choose(
    order: Order,
    *,
    workers: int,
    scheduler: str | None = None,
    overwrite: bool = False,
    on_start: Callable[[int, int], None] = lambda done, total: None,
    on_tiles: Callable[[int], None] = lambda made: None,
) -> Order:
    """Draw what is missing of the pool, and give every row of an order the seed of the tile that meets it best.

    Raises:
        UserError: where that is farther from what is asked than the tolerance, with what the pool offers; the pool
            stays, for another request.
    """
    spec, recipe = order.spec, order.recipe
    config, seed = recipe.config, spec.config["plan"]["seed"]
    task = MeasureChunk(config, recipe.device)
    with open_folder(spec, overwrite=overwrite):
        pool = fill_pool(
            spec.out / POOL, task, seed, config.pool, _fingerprint(spec.config), workers=workers, scheduler=scheduler,
            on_start=on_start, on_tiles=on_tiles,
        )  # fmt: skip
    members, notes = np.arange(len(pool)), []
    if config.max_uncertainty is not None:
        members = members[column(pool, "top_uncertainty") <= config.max_uncertainty]
        bound, dropped = f"{config.max_uncertainty:g}", len(pool) - len(members)
        notes.append(f"{dropped} of {len(pool)} tiles are more uncertain than {bound} and left out")
        if len(members) < len(order.rows):
            raise UserError(
                f"--max-uncertainty: expected {len(order.rows)} tiles within {bound}, got "
                f"{len(members)} of a pool of {len(pool)}. Raise it, or --pool."
            )
    targets = _targets(order.rows, pool, spec.config[SHARES], recipe.scheme)
    picked = pick(targets, len(order.rows), members)
    _refuse_far(picked, targets, members, config.tolerance)
    notes.append(f"{len(order.rows)} tiles chosen from a pool of {len(pool)}")
    return replace(order, rows=_seeded(order, pool, picked), fits=(*order.fits, *notes))


def _plan_for(asked: PlanConfig, card: Mapping[str, Any], scheme: LabelScheme) -> PlanConfig:
    """The plan with size, resolution and scheme of the weights, where nothing else was typed."""
    typed = asked.model_fields_set
    if "scheme" in typed and load_scheme(asked.scheme).name != scheme.name:
        raise UserError(f"--scheme: expected {scheme.name}, which the weights tell apart, got {asked.scheme}.")
    own = {"size": tuple(card["trained_size"]), "mpp": card["mpp"]}
    return asked.model_copy(
        update={"scheme": scheme.name, **{key: value for key, value in own.items() if key not in typed}}
    )


def _refuse_other_tiles(rows: pa.Table, card: Mapping[str, Any], scheme: LabelScheme) -> None:
    """Refuse rows of a plan that ask for other tiles than the weights draw."""
    height, width = card["trained_size"]
    first = rows.select(["height", "width", "mpp", "label_scheme"]).slice(0, 1).to_pylist()[0]
    if (first["height"], first["width"]) != (height, width):
        raise UserError(
            f"--size: expected {height}x{width}, which the weights draw, got {first['height']}x{first['width']}."
        )
    if abs(first["mpp"] - card["mpp"]) > SAME_MPP * card["mpp"]:
        raise UserError(f"--mpp: expected {card['mpp']:g}, which the weights draw, got {first['mpp']:g}. Leave it out.")
    if first["label_scheme"] != scheme.name:
        raise UserError(f"--scheme: expected {scheme.name}, which the weights tell apart, got {first['label_scheme']}.")


def _with_shares(rows: pa.Table, config: JointMakeConfig, scheme: LabelScheme) -> pa.Table:
    """Rows that ask for shares of classes; the classes that nobody asked for divide the rest equally on paper."""
    if not config.shares:
        return rows
    if rows["request_fractions"].null_count < len(rows):
        raise UserError("--share: expected none beside --tumour, --inflammation or shares in a plan. Leave one out.")
    shares = np.full((len(rows), len(scheme)), np.nan)
    for name, text in config.shares.items():
        if name not in scheme.names:
            raise UserError(f"--share: expected a class of {scheme.name} ({', '.join(scheme.names)}), got {name!r}.")
        label = scheme.names.index(name)
        rng = generator(config.plan.seed, Stream.DRAW, _FIRST_CLASS_STREAM + label)
        shares[:, label] = stratified(parse_distribution(text, "tumour"), len(rows), rng)
    total = np.nansum(shares, 1)
    if (total > 1 + 1e-9).any():
        row = int(np.argmax(total > 1 + 1e-9))
        raise UserError(f"--share: expected shares of at most 1 in all, got {total[row]:.3g} in row {row}. Narrow one.")
    left = np.isnan(shares).sum(1, keepdims=True)
    shares = np.where(np.isnan(shares), (1 - total)[:, None] / np.maximum(left, 1), shares)
    values = pa.array(np.clip(shares, 0, 1).tolist(), pa.list_(pa.float64()))
    return rows.set_column(
        rows.schema.get_field_index("request_fractions"), rows.schema.field("request_fractions"), values
    )


def _is_choice(rows: pa.Table, config: HdganConfig) -> bool:
    """Whether it matters which tiles are taken."""
    asked = ("request_tps", "request_tissue", "request_cells", "request_fractions")
    return config.max_uncertainty is not None or any(rows[name].null_count < len(rows) for name in asked)


def _targets(rows: pa.Table, pool: pa.Table, shares: Mapping[str, str], scheme: LabelScheme) -> list[Target]:
    """All that the rows ask, with what the pool offers."""
    tps = "tps_cells" if scheme.tps_basis == "cells" else "tps_area"
    offers = {"request_tps": tps, "request_tissue": "tissue_fraction", "request_cells": "cells"}
    targets = []
    for request, offered in offers.items():
        asked = column(rows, request)
        if np.isfinite(asked).any():
            scale = max(float(np.nanmax(asked)), 1.0) if request == "request_cells" else 1.0
            targets.append(Target(f"--{request.removeprefix('request_')}", asked, column(pool, offered), scale))
    if rows["request_fractions"].null_count == 0:
        asked = np.array(rows["request_fractions"].to_pylist())
        chosen = [label for label in scheme.classes if not shares or label.name in shares]
        targets += [
            Target(f"share of {label.name}", asked[:, label.id], class_share(pool, label.id)) for label in chosen
        ]
    return targets


def _refuse_far(picked: Picked, targets: Sequence[Target], members: Any, tolerance: float) -> None:
    far = np.flatnonzero(picked.misfit > tolerance)
    if not far.size:
        return
    row = int(far[np.argmax(picked.misfit[far])])
    target = targets[picked.worst[row]]
    offered = target.offered[members]
    known = offered[np.isfinite(offered)]
    asked = f"{np.nanmin(target.asked):.3g} to {np.nanmax(target.asked):.3g}"
    offers = "none of it" if not known.size else (
        f"{known.min():.3g} to {known.max():.3g}, nine tenths within {np.quantile(known, 0.05):.3g} to "
        f"{np.quantile(known, 0.95):.3g}" + (f", in {known.size} of them" if known.size < len(members) else "")
    )  # fmt: skip
    raise UserError(
        f"{target.name}: expected tiles within {tolerance:g} of what is asked ({asked}), got {far.size} of "
        f"{len(picked.misfit)} that are farther: a pool of {len(members)} offers {offers}. "
        "Ask for less, raise --pool, or accept more with --set joint.tolerance=1."
    )


def _seeded(order: Order, pool: pa.Table, picked: Picked) -> pa.Table:
    """The rows with the seeds of their tiles, and ids that follow from these."""
    identity = digest(order.spec.document)
    seeds = pool["seed"].take(pa.array(picked.tiles)).to_pylist()
    names = pa.array([sample_name(identity, index, seed) for index, seed in enumerate(seeds)])
    rows = order.rows
    for name, values in (("seed", pa.array(seeds, pa.uint64())), ("sample_id", names), ("group_id", names)):
        rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), values)
    return rows


def _fingerprint(config: Mapping[str, Any]) -> str:
    """Of what decides the tiles of a pool: not how many there are, nor which of them are taken."""
    ours = {key: value for key, value in config[HDGAN].items() if key not in ("pool", "tolerance", "max_uncertainty")}
    return digest([ours, config[DRAWING], config["plan"]["seed"]])
