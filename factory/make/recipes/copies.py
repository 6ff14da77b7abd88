"""The recipe of `factory make --joint exemplar`: image and labels are copied together out of a bank of real tissue.

Patches and nuclei bring their labels with their pixels, so labels are as right as the annotations they are from, and
what a row asks is met by exchanging patches (`factory.joint.exemplar`), or by a marker that is painted on whole real
tiles (``joint.ground: real``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from factory.core.config import parse, read_yaml
from factory.core.seeds import Stream, generator
from factory.core.shipped import configs_dir
from factory.joint import EXEMPLAR, SHARES
from factory.joint.exemplar.exemplar import CopyConfig, Exemplar
from factory.make.joint_plan import JointMakeConfig, plan_for, refuse_other_tiles, with_shares
from factory.make.parts import Part, mask_part
from factory.make.pipeline import Prepared, prepare_run, refuse_impossible, synthetic_info
from factory.make.recipes.base import Provenance, Row, Sample, changed_values, columns_of, maker_of
from factory.make.recipes.masks_and_renderer import plain_generators
from factory.masks.base import FitsTiles, MaskGenerator
from factory.plan.request import Request
from factory.plan.rows import REQUESTS, Draft, complete, load_scheme, plan, request_of, requests_digest
from manifests.errors import FaultError, UserError
from manifests.labels import LabelScheme
from manifests.tile import Tile

_WINDOWS = 12
"""Windows of a bank that layouts of nuclei are fitted to."""
_CHECKED = 256
"""Rows of a plan that are checked against the bank, the extremes of each request among them."""


@dataclass(frozen=True)
class CopiesRecipe:
    """A bank, and the mask generator of layouts; a `Recipe`.

    Attributes:
        config: resolved. scheme: of the tiles; that of the bank, but for another marker on whole real tiles.
        masks: the mask generator of layouts, resolved; None for whole real tiles.
    """

    config: CopyConfig
    scheme: LabelScheme
    masks: Part[MaskGenerator] | None
    makes_labels = True
    trained = False

    @classmethod
    def from_document(
        cls, config: Mapping[str, Any], device: str = "cpu", *, where: Path | None = None, masks_of: Path | None = None
    ) -> CopiesRecipe:
        """Resolve the ``exemplar`` part of run.yaml, and its scheme if it has one; where, masks_of: not needed.

        Raises:
            UserError: for an unknown key, and a bank that is missing, damaged or another.
        """
        del device, where, masks_of
        values = {key: value for key, value in config[EXEMPLAR].items() if key != "name"}
        asked = parse(CopyConfig, values, f"joint ({EXEMPLAR})")
        bank = Exemplar(asked).bank
        scheme = LabelScheme.from_dict(config["scheme"]) if "scheme" in config else bank.scheme
        asked = asked.model_copy(update={"weights_sha256": bank.card.sha256})
        if asked.ground == "real":
            return cls(asked, scheme, None)
        masks = mask_part(_named_masks(asked, bank.scheme), "cpu")
        return cls(asked.model_copy(update={"masks": masks.document}), scheme, masks)

    @property
    def part(self) -> Exemplar:
        """This process's bank."""
        return maker_of(self).part

    @property
    def title(self) -> str:
        """The parts by name."""
        return f"{EXEMPLAR} ({'copied labels' if self.masks else 'painted marker'})"

    @property
    def changed(self) -> dict[str, Any]:
        """Configured values that are not the defaults."""
        return {key: value for key, value in changed_values(joint=self.config).items() if key != "joint.masks"}

    @property
    def document(self) -> dict[str, Any]:
        """The bank and how tiles are copied out of it."""
        return {
            "scheme": self.scheme.to_dict(),
            EXEMPLAR: {"name": EXEMPLAR, **self.config.model_dump(mode="json")},
        }

    def maker(self) -> CopiesMaker:
        """Map the bank."""
        return CopiesMaker(self)


class CopiesMaker:
    """Copies tiles.

    Attributes:
        part: the bank at work. masks: the mask generator of layouts; None for whole real tiles.
    """

    def __init__(self, recipe: CopiesRecipe) -> None:
        self._recipe, self.part = recipe, Exemplar(recipe.config)
        self.masks = recipe.masks.build() if recipe.masks else None

    def make(self, rows: Sequence[Row]) -> Iterator[Sample]:
        """Yield the sample of each row, in order, by its seed.

        Raises:
            FaultError: when a row cannot be met within the attempts.
        """
        config, masks = self._recipe.config, self._recipe.masks
        for row in rows:
            request = request_of(row, self._recipe.scheme)
            copied = self.part.draw(request, row["seed"], self.masks)
            if copied is None:
                raise FaultError(
                    f"{row['sample_id']}: expected a tile as asked within {config.attempts} attempts, got none "
                    f"({self.part.offer(request)}). Raise --set joint.attempts, or ask for less."
                )
            completed = {
                **row,
                "source": "synthetic",
                "recipe": EXEMPLAR,
                "mask_generator": masks.name if masks else EXEMPLAR,
                "renderer": EXEMPLAR,
                "attempts": copied.attempts,
                "label_origin": "copied",
                "device": "cpu",
                "precision": "float32",
                "mask_weights_sha256": masks.weights_sha256 if masks else None,
                "image_weights_sha256": config.weights_sha256,
                **columns_of(copied.sources),
            }
            yield copied.image, copied.tile, completed


def _named_masks(config: CopyConfig, scheme: LabelScheme) -> dict[str, Any]:
    """The mask generator of a configuration; without a name the first that draws the scheme.

    Raises:
        UserError: when none draws it.
    """
    able = plain_generators(scheme)
    if "name" not in config.masks and not able:
        raise UserError(f"--joint {EXEMPLAR}: expected a scheme that a mask generator draws, got {scheme.name}.")
    return {"name": able[0] if able else "", **config.masks}


def prepare(
    config: JointMakeConfig, out: Path, *, manifest: Draft | None = None, device: str = "cpu"
) -> Prepared[CopiesRecipe]:
    """Resolve a run and refuse what the bank can never give; writes nothing.

    Args:
        config: what is asked. out: the data set's folder. manifest: a plan to follow instead of drawing one.
        device: not needed, as no network takes part.

    Raises:
        UserError: for a bank that cannot be used, and requests that make no sense for it.
    """
    del device
    recipe = CopiesRecipe.from_document({EXEMPLAR: config.joint, **_scheme_of_tiles(config, manifest)})
    scheme, bank = recipe.scheme, recipe.part.bank
    asked = plan_for(config.plan, scheme, mpp=bank.mpp, size=_usual_size(scheme))
    rows = complete(manifest, asked, scheme) if manifest else plan(asked, scheme)
    refuse_other_tiles(rows, scheme, mpp=bank.mpp, size=None)
    rows = with_shares(rows, config, scheme)
    named = rows["request_fractions"].null_count < len(rows)
    first = request_of(rows.slice(0, 1).to_pylist()[0], scheme)
    recipe = _fitted(recipe, first, frozenset(config.joint.get("masks", {})))
    recipe = _with(recipe, classes=tuple(config.shares) or (scheme.names if named else ()))
    refuse_impossible(_telling(rows), scheme, [recipe.part, *([recipe.masks.build()] if recipe.masks else [])])
    planned = {"seed": asked.seed} if manifest else asked.model_dump(mode="json")
    document = {
        "plan": {**planned, "requests_sha256": requests_digest(rows)},
        SHARES: config.shares,
        **recipe.document,
        "shard": config.shard,
    }
    provenance = Provenance(bank.slides, tuple(bank.card.fields["licences"]))
    info = synthetic_info(recipe, provenance, real_pixels=True)
    licences = ", ".join(provenance.licences)
    notes = [
        f"tiles hold real pixels of {len(bank.slides)} slides under {licences}: what these allow is allowed for the "
        "tiles",
        "labels are copied along with the pixels: they are as right as the annotations of these slides",
        *([] if recipe.masks else ["tiles are whole windows of real images: all but the marker is as it is there"]),
    ]
    return prepare_run(recipe, rows, out, document, info, notes=notes)


def _with(recipe: CopiesRecipe, **values: Any) -> CopiesRecipe:
    return replace(recipe, config=recipe.config.model_copy(update=values))


def _scheme_of_tiles(config: JointMakeConfig, manifest: Draft | None) -> dict[str, Any]:
    """The scheme that is asked of whole real tiles, as in run.yaml; nothing where it is that of the bank.

    Raises:
        UserError: for what cannot be asked of them.
    """
    if config.joint.get("ground") != "real":
        return {}
    asked = {name: getattr(config.plan, name) for name in ("tissue", "cells", "tumour", "inflammation")}
    for name, value in {**asked, "share": config.shares or None}.items():
        if value is not None:
            raise UserError(f"--{name}: expected none with --ground real, whose layouts are those of real tiles.")
    if config.joint.get("masks"):
        raise UserError("joint.masks: expected none with --ground real, whose layouts are those of real tiles.")
    if manifest and manifest.scheme:
        return {"scheme": manifest.scheme.to_dict()}
    typed = "scheme" in config.plan.model_fields_set
    return {"scheme": load_scheme(config.plan.scheme).to_dict()} if typed else {}


def _usual_size(scheme: LabelScheme) -> tuple[int, int] | None:
    """The size that tiles of a shipped scheme have unless another is asked for."""
    path = configs_dir() / "plan" / f"{scheme.name}.yaml"
    if not path.is_file():
        return None
    height, width = read_yaml(path)["plan"]["size"]
    return height, width


def _fitted(recipe: CopiesRecipe, request: Request, typed: frozenset[str]) -> CopiesRecipe:
    """The recipe with layouts like those of the bank, where nuclei are laid out and enough of them lie whole in it."""
    if recipe.masks is None or not recipe.part.has_nuclei:
        return recipe
    masks, bank = recipe.masks.build(), recipe.part.bank
    if not isinstance(masks, FitsTiles) or "layouts" in typed:
        return recipe
    rng = generator(0, Stream.FIT, 2)
    windows = []
    for page in rng.permutation(len(bank.pages))[:_WINDOWS].tolist():
        pixels, shape = bank.page(page)
        height, width = min(request.height, shape[0]), min(request.width, shape[1])
        y, x = (int(rng.integers(side - inner + 1)) for side, inner in zip(shape, (height, width), strict=True))
        window = np.s_[y : y + height, x : x + width]
        semantic, nucleus = (array[pixels].reshape(shape)[window] for array in (bank.semantic, bank.nucleus))
        windows.append(Tile(np.array(semantic), nucleus.astype(np.int32), bank.mpp, bank.scheme))
    try:
        config = masks.fit_tiles(windows, request, typed - {"name"})
    except UserError:  # too few nuclei lie whole in them: layouts are the mask generator's own
        return recipe
    part = Part(recipe.masks.name, recipe.masks.kind, config)
    return replace(_with(recipe, masks=part.document), masks=part)


def _telling(rows: pa.Table) -> pa.Table:
    """The rows that tell whether a plan can be met: some at even steps, and the extremes of each request."""
    if len(rows) <= _CHECKED:
        return rows
    chosen = {*np.linspace(0, len(rows) - 1, _CHECKED).astype(int).tolist()}
    for name in REQUESTS[:3]:
        values = rows[name].to_numpy(zero_copy_only=False).astype(np.float64)
        if np.isfinite(values).any():
            chosen |= {int(np.nanargmin(values)), int(np.nanargmax(values))}
    return rows.take(pa.array(sorted(chosen)))
