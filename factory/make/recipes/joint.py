"""The joint recipe: one generator draws the image, and the labels are read off its features.

The labels of a tile cannot be changed without its image, so a request is met by choice: of many tiles that were drawn
and labelled, each row gets the one that meets it best (`factory.make.joint_candidates`). A row holds the seed of its
tile, which is all that it takes to draw it again. Where nothing is asked, tiles are taken as they come.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from factory.core.config import parse
from factory.core.devices import resolve_device
from factory.core.registry import resolve
from factory.core.runs import POOL
from factory.joint import DRAWING, FITTED, HDGAN, JOINT, SHARES
from factory.joint.generators import GENERATOR
from factory.joint.hdgan import Hdgan, HdganConfig
from factory.make.joint_candidates import choose
from factory.make.joint_plan import JointMakeConfig, plan_for, refuse_other_tiles, with_shares
from factory.make.pipeline import Prepared, prepare_run, synthetic_info
from factory.make.recipes.base import Provenance, Row, Sample, changed_values, maker_of
from factory.plan.rows import REQUESTS, Draft, complete, plan, requests_digest
from manifests.errors import UserError
from manifests.labels import LabelScheme

_CANDIDATES_FOR_EACH = 4


@dataclass(frozen=True)
class JointRecipe:
    """A generator of images and the labeller of its features; a `Recipe`.

    Attributes:
        config: of the labeller, resolved. device: where both networks run.
    """

    config: HdganConfig
    device: str
    makes_labels = True
    trained = True

    @classmethod
    def from_document(
        cls, config: Mapping[str, Any], device: str, *, where: Path | None = None, masks_of: Path | None = None
    ) -> JointRecipe:
        """Resolve the ``hdgan`` part of run.yaml; where, masks_of: not needed."""
        del where, masks_of
        values = dict(config[HDGAN])
        name = str(values.pop("name", HDGAN))
        part: type[Hdgan] = resolve({each: JOINT[each] for each in FITTED}, name, "--joint")
        return cls(part.resolve_weights(parse(part.Config, values, f"joint ({name})"), device), device)

    @property
    def part(self) -> Hdgan:
        """This process's generator and labeller."""
        return maker_of(self).part

    @property
    def scheme(self) -> LabelScheme:
        """The classes of the labeller."""
        return self.part.scheme

    @property
    def title(self) -> str:
        """The parts by name."""
        return f"{GENERATOR} + {HDGAN}"

    @property
    def changed(self) -> dict[str, Any]:
        """Configured values that are not the defaults."""
        return changed_values(joint=self.config)

    @property
    def document(self) -> dict[str, Any]:
        """The labeller and how images are drawn; starter weights by that name, wherever the package is installed."""
        drawing = self.part.drawing.model_dump(mode="json")
        return {
            "scheme": self.scheme.to_dict(),
            HDGAN: {"name": HDGAN, **self.config.model_dump(mode="json")},
            DRAWING: {**drawing, "weights": "starter"} if self.config.weights == "starter" else drawing,
        }

    @property
    def quality(self) -> str:
        """The measured quality of the labels, in a sentence."""
        held_out = self.part.card.fields.get("held_out")
        if held_out is None:
            return "labels are predicted, and were not measured on held-out images"
        dice, images = held_out["mean_dice"], held_out["images"]
        return f"labels are predicted: mean Dice {dice:.3f} on the labeller's {images} held-out images"

    def maker(self) -> JointMaker:
        """Build generator and labeller."""
        return JointMaker(self)


class JointMaker:
    """Draws images with their labels.

    Attributes:
        part: the generator and the labeller; their weights are loaded when the first tile is drawn.
    """

    def __init__(self, recipe: JointRecipe) -> None:
        self._recipe, self.part = recipe, Hdgan(recipe.config, recipe.device)

    def make(self, rows: Sequence[Row]) -> Iterator[Sample]:
        """Yield the sample of each row, in order, by its seed."""
        for row in rows:
            drawn = self.part.draw(row["seed"])
            completed = {
                **row,
                "source": "synthetic",
                "real_pixels": False,
                "recipe": f"{GENERATOR}+{HDGAN}",
                "mask_generator": HDGAN,
                "renderer": GENERATOR,
                "label_origin": "predicted",
                "device": self._recipe.device,
                "precision": self.part.precision_name,
                "mask_weights_sha256": self._recipe.config.weights_sha256,
                "image_weights_sha256": self.part.generator.digest,
                "latent": drawn.latent.tolist(),
            }
            yield drawn.image, drawn.tile, completed


def prepare(
    config: JointMakeConfig, out: Path, *, manifest: Draft | None = None, device: str = "cpu"
) -> Prepared[JointRecipe]:
    """Resolve a run and refuse what can be refused before a tile is drawn; writes nothing.

    Args:
        config: what is asked. out: the data set's folder. manifest: a plan to follow instead of drawing one.
        device: where networks run, as typed.

    Raises:
        UserError: for weights that cannot be used, and requests that make no sense for them.
    """
    device = resolve_device(device)
    recipe = JointRecipe.from_document({HDGAN: config.joint}, device)
    scheme, card = recipe.scheme, recipe.part.card.fields
    asked = plan_for(config.plan, scheme, size=tuple(card["trained_size"]), mpp=card["mpp"])
    rows = complete(manifest, asked, scheme) if manifest else plan(asked, scheme)
    refuse_other_tiles(rows, scheme, mpp=card["mpp"], size=tuple(card["trained_size"]))
    rows = with_shares(rows, config, scheme)
    recipe = _with_candidates(recipe, rows)
    planned = {"seed": asked.seed} if manifest else asked.model_dump(mode="json")
    document = {
        "plan": {**planned, "requests_sha256": requests_digest(rows)},
        SHARES: config.shares,
        **recipe.document,
        "shard": config.shard,
    }
    info = synthetic_info(recipe, Provenance(tuple(card["sources"]), tuple(card["licences"])))
    beside = frozenset({POOL})
    prepared = prepare_run(recipe, rows, out, document, info, notes=[recipe.quality], beside=beside)
    pool = recipe.config.pool
    return prepared if pool is None else replace(prepared, choose=choose, candidates=pool)


def _with_candidates(recipe: JointRecipe, rows: pa.Table) -> JointRecipe:
    """The recipe with the number of candidate tiles filled in; None where no request needs a choice."""
    n, pool = len(rows), recipe.config.pool
    is_choice = recipe.config.max_uncertainty is not None or any(rows[name].null_count < n for name in REQUESTS)
    if is_choice and pool is None:
        pool = n * _CANDIDATES_FOR_EACH
    elif pool is not None and not is_choice:
        raise UserError("--pool: expected --tps, --tissue, --cells, --share or --max-uncertainty beside it, got none.")
    elif pool is not None and pool < n:
        raise UserError(f"--pool: expected at least the {n} tiles that are asked for, got {pool}. Raise it.")
    return replace(recipe, config=recipe.config.model_copy(update={"pool": pool}))
