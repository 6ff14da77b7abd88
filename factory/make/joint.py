"""The joint route of `factory make`: image and labels come from one generator, and tiles are chosen to meet the plan.

Elsewhere a mask is made to the request and an image to the mask. Here the labels are read off the image, so nothing may
move them; a request is met by choosing, among many tiles that were drawn and labelled (`factory.make.candidates`), the
one
that meets it best (`factory.plan.assignment`). A row gets the seed of its tile, which is all that it takes to draw it
again. Where nothing is asked there is nothing to choose, and no pool is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from factory.core.config import Config, digest, parse
from factory.core.registry import resolve
from factory.core.resolutions import SAME_MPP
from factory.core.runs import POOL, RunSpec, open_folder
from factory.core.seeds import Stream, generator
from factory.joint import DRAWING, FITTED, HDGAN, JOINT, SHARES
from factory.joint.generators import GENERATOR
from factory.joint.hdgan import Hdgan, HdganConfig
from factory.make.candidates import MeasureChunk, fill_pool, joint_of
from factory.make.pipeline import Order, synthetic_info
from factory.make.recipe import Sample
from factory.plan.assignment import Picked, Target, column, pick, targets_of
from factory.plan.distributions import parse_distribution, stratified
from factory.plan.request import Request
from factory.plan.rows import REQUESTS, Draft, PlanConfig, complete, load_scheme, plan, requests_digest
from manifests.errors import UserError
from manifests.labels import LabelScheme
from manifests.store import Layout

_POOL_FOR_EACH = 4
_FIRST_CLASS_STREAM = 100
"""Class i is drawn by the attempt 100 + i of `Stream.DRAW`; the quantities of a plan have the first ones."""


class JointMakeConfig(Config):
    """Everything that `factory make --joint` can be told and that changes a byte of its output.

    Attributes:
        plan: what is asked; size, resolution and scheme are those of the weights.
        shares: class -> distribution of its share of all pixels, see `factory.plan.distributions`.
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

    @property
    def part(self) -> Hdgan:
        """This process's generator and labeller."""
        return joint_of(self.config, self.device)

    def realiser(self) -> JointRealiser:
        """What makes tiles by this recipe."""
        return JointRealiser(self)

    def notes(self, request: Request) -> tuple[str, ...]:
        """What a person should know of the labels."""
        del request
        held = self.part.card.fields.get("held_out")
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
        recipe, joint = self._recipe, self._recipe.part
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


def recipe_of_joint(document: Mapping[str, Any], device: str) -> JointRecipe:
    """Resolve the ``hdgan`` part of a configuration; the scheme is that of the labeller.

    Raises:
        UserError: for an unknown name or key, or weights that cannot be used.
    """
    values = dict(document)
    name = str(values.pop("name", HDGAN))
    part = resolve({each: JOINT[each] for each in FITTED}, name, "--joint")
    config = part.resolve_weights(parse(part.Config, values, f"joint ({name})"), device)
    return JointRecipe(config, part(config, device).scheme, device)


def prepare(config: JointMakeConfig, out: Path, *, manifest: Draft | None, device: str) -> Order:
    """Resolve an order and refuse what can be refused before a tile is drawn; writes nothing.

    Args:
        config: what is asked. out: the data set's folder. manifest: a plan to follow instead of drawing one.
        device: where networks run.

    Raises:
        UserError: for weights that cannot be used, and requests that make no sense for them.
    """
    for name in ("tumour", "inflammation"):
        if getattr(config.plan, name) is not None:
            raise UserError(f"--{name}: expected none with --joint, which takes shares by class. Write --share CLASS=.")
    recipe = recipe_of_joint(config.joint, device)
    scheme, card = recipe.scheme, recipe.part.card
    asked = _plan_for(config.plan, card.fields, scheme)
    rows = complete(manifest, asked, scheme) if manifest else plan(asked, scheme)
    _refuse_other_tiles(rows, card.fields, scheme)
    rows = _with_shares(rows, config, scheme)
    recipe = _with_pool(recipe, rows)
    document = {
        "plan": {
            **({"seed": asked.seed} if manifest else asked.model_dump(mode="json")),
            "requests_sha256": requests_digest(rows),
        },
        SHARES: config.shares,
        "scheme": scheme.to_dict(),
        HDGAN: {"name": HDGAN, **recipe.config.model_dump(mode="json")},
        DRAWING: _drawing(recipe),
        "shard": config.shard,
    }
    learnt = {"sources": card.fields["sources"], "licences": card.fields["licences"]}
    info = synthetic_info(recipe.title, (scheme,), trained=True, **learnt)
    layout = Layout(len(rows), rows["height"][0].as_py(), rows["width"][0].as_py(), config.shard)
    return Order(RunSpec(out, document, layout, info, frozenset({POOL})), recipe, rows)


def _drawing(recipe: JointRecipe) -> dict[str, Any]:
    """How images are drawn, JSON-ready; weights that come with the package by that name, wherever it is installed."""
    drawing: dict[str, Any] = recipe.part.drawing.model_dump(mode="json")
    return {**drawing, "weights": "starter"} if recipe.config.weights == "starter" else drawing


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

    Where nothing is asked, tiles are taken as they come: the order stays as it is, and no pool is drawn.

    Raises:
        UserError: where that is farther from what is asked than the tolerance, with what the pool offers; the pool
            stays, for another request.
    """
    spec, recipe = order.spec, order.recipe
    config, seed = recipe.config, spec.config["plan"]["seed"]
    if config.pool is None:
        return order
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
    targets = targets_of(order.rows, pool, recipe.scheme, spec.config[SHARES])
    picked = pick(targets, len(order.rows), members)
    _refuse_far(picked, targets, members, config.tolerance)
    notes.append(f"{len(order.rows)} tiles chosen from a pool of {len(pool)}")
    rows = _with_column(order.rows, "seed", pool["seed"].take(pa.array(picked.tiles)).combine_chunks())
    return replace(order, rows=rows, fits=(*order.fits, *notes))


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
        raise UserError("--share: expected none beside a --manifest that asks for shares. Leave one out.")
    shares = np.full((len(rows), len(scheme)), np.nan)
    for name, text in config.shares.items():
        if name not in scheme.names:
            raise UserError(f"--share: expected a class of {scheme.name} ({', '.join(scheme.names)}), got {name!r}.")
        label = scheme.names.index(name)
        rng = generator(config.plan.seed, Stream.DRAW, _FIRST_CLASS_STREAM + label)
        asked = parse_distribution(text, "tumour", where=f"--share {name}")
        shares[:, label] = stratified(asked, len(rows), rng)
    total = np.nansum(shares, 1)
    if (total > 1 + 1e-9).any():
        row = int(np.argmax(total > 1 + 1e-9))
        raise UserError(f"--share: expected shares of at most 1 in all, got {total[row]:.3g} in row {row}. Narrow one.")
    left = np.isnan(shares).sum(1, keepdims=True)
    shares = np.where(np.isnan(shares), (1 - total)[:, None] / np.maximum(left, 1), shares)
    return _with_column(rows, "request_fractions", np.clip(shares, 0, 1).tolist())


def _with_column(rows: pa.Table, name: str, values: Any) -> pa.Table:
    field = rows.schema.field(name)
    return rows.set_column(rows.schema.get_field_index(name), field, pa.array(values, field.type))


def _with_pool(recipe: JointRecipe, rows: pa.Table) -> JointRecipe:
    """The recipe with the size of its pool spelt out, None where nothing is asked that tiles could be chosen by."""
    n, pool = len(rows), recipe.config.pool
    is_choice = recipe.config.max_uncertainty is not None or any(rows[name].null_count < n for name in REQUESTS)
    if is_choice and pool is None:
        pool = n * _POOL_FOR_EACH
    elif pool is not None and not is_choice:
        raise UserError("--pool: expected --tps, --tissue, --cells, --share or --max-uncertainty beside it, got none.")
    elif pool is not None and pool < n:
        raise UserError(f"--pool: expected at least the {n} tiles that are asked for, got {pool}. Raise it.")
    return replace(recipe, config=recipe.config.model_copy(update={"pool": pool}))


def _refuse_far(picked: Picked, targets: Sequence[Target], members: npt.NDArray[np.int64], tolerance: float) -> None:
    """Refuse a choice in which a tile is farther from its request than the tolerance, with what the pool offers."""
    far = np.flatnonzero(picked.misfit > tolerance)
    if not far.size:
        return
    row = int(far[np.argmax(picked.misfit[far])])
    target = targets[picked.worst[row]]
    offered = target.offered[members]
    known = offered[np.isfinite(offered)]
    low, high = (f"{end:.3g}" for end in (np.nanmin(target.asked), np.nanmax(target.asked)))
    offers = "none of it" if not known.size else (
        f"{known.min():.3g} to {known.max():.3g}, nine tenths within {np.quantile(known, 0.05):.3g} to "
        f"{np.quantile(known, 0.95):.3g}" + (f", in {known.size} of them" if known.size < len(members) else "")
    )  # fmt: skip
    # A tile that has none of what is asked is too far whatever the tolerance.
    enough = "" if np.isinf(picked.misfit).any() else (
        f", or accept this with --set joint.tolerance={math.ceil(100 * picked.misfit.max()) / 100:g}"
    )  # fmt: skip
    raise UserError(
        f"{target.name}: expected tiles within {tolerance:g} of what is asked "
        f"({low if low == high else f'{low} to {high}'}), got {far.size} of {len(picked.misfit)} that are farther: a "
        f"pool of {len(members)} offers {offers}. Ask for less, raise --pool{enough}."
    )


def _fingerprint(config: Mapping[str, Any]) -> str:
    """Of what decides the tiles of a pool: not how many there are, which are taken, nor where the weights lie."""
    others = ("weights", "pool", "tolerance", "max_uncertainty")
    parts = [{key: value for key, value in config[part].items() if key not in others} for part in (HDGAN, DRAWING)]
    return digest([*parts, config["plan"]["seed"]])
