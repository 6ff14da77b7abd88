"""The main recipe: a mask generator meets the request of a row, and a renderer draws the image on its mask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from factory.core.config import Config
from factory.core.runs import check_room
from factory.core.seeds import Stream, generator
from factory.learn.base import UsesWeights
from factory.make.fit_to_real import RealTiles, fit_parts
from factory.make.parts import Part, dressed, input_notes, mask_part, provenance_of, renderer_part
from factory.make.pipeline import Prepared, prepare_run, refuse_impossible, synthetic_info
from factory.make.recipes.base import NOTHING, Row, Sample, changed_values, columns_of, maker_of, precision_name
from factory.masks import MASKS, TRAINABLE
from factory.masks.allocate import Allocation, Unmet, allocate
from factory.masks.base import Cautions, MaskGenerator, resolve_mask_generator
from factory.plan.request import Request
from factory.plan.rows import Draft, PlanConfig, complete, plan, request_of, requests_digest
from factory.renderers.base import CopiesPixels, RealPixels, Renderer, render_traced
from factory.renderers.conditions import draw_condition
from manifests.errors import FaultError, UserError
from manifests.labels import SCHEMES, LabelScheme


class MakeConfig(Config):
    """Every setting of `factory make` that changes a byte of its output.

    Attributes:
        plan: what is asked.
        masks, renderer: ``name`` and, optionally, values of that part's own Config.
        shard: tiles in a shard file. attempts: draws of a mask before its row is given up.
        shift_bound: draw again when the threshold of a trained generator had to be shifted further (in its own units).
        batch: tiles drawn and rendered together. Part of the result for networks, so it is never taken from workers.
    """

    plan: PlanConfig = PlanConfig()
    masks: dict[str, Any] = Field(default_factory=lambda: {"name": "ihc"})
    renderer: dict[str, Any] = Field(default_factory=lambda: {"name": "stain"})
    shard: int = Field(default=64, ge=1, le=65_536)
    attempts: int = Field(default=8, ge=1, le=1000)
    shift_bound: float | None = Field(default=None, gt=0)
    batch: int = Field(default=1, ge=1, le=1024)


@dataclass(frozen=True)
class MasksAndRenderer:
    """A mask generator and a renderer; a `Recipe`.

    Attributes:
        masks, renderer: the parts, resolved. scheme: of the masks. attempts, shift_bound, batch: as in `MakeConfig`.
        device: where networks run.
    """

    masks: Part[MaskGenerator]
    renderer: Part[Renderer]
    scheme: LabelScheme
    attempts: int
    shift_bound: float | None
    batch: int
    device: str
    makes_labels = True

    @classmethod
    def from_document(
        cls,
        config: Mapping[str, Any],
        device: str = "cpu",
        *,
        scheme: LabelScheme | None = None,
        where: Path | None = None,
        masks_of: Path | None = None,
    ) -> MasksAndRenderer:
        """Resolve the parts of a configuration or of run.yaml.

        Args:
            config: ``masks``, ``renderer``, ``attempts``, ``shift_bound``, ``batch``, and ``scheme`` where that is not
                given. device: where networks run. scheme: of the masks. where, masks_of: not needed.
        """
        del where, masks_of
        scheme = scheme or LabelScheme.from_dict(config["scheme"])
        _refuse_other_scheme(str(config["masks"].get("name", "")), scheme)
        masks, renderer = mask_part(config["masks"], device), renderer_part(config["renderer"], device)
        return cls(masks, renderer, scheme, config["attempts"], config["shift_bound"], config["batch"], device)

    @property
    def title(self) -> str:
        """The parts by name."""
        return f"{self.masks.name} + {self.renderer.name}"

    @property
    def changed(self) -> dict[str, Any]:
        """Configured values that are not the defaults."""
        return changed_values(masks=self.masks.config, renderer=self.renderer.config)

    @property
    def document(self) -> dict[str, Any]:
        """The part of run.yaml that `from_document` reads."""
        return {
            "scheme": self.scheme.to_dict(),
            "masks": self.masks.document,
            "renderer": self.renderer.document,
            "attempts": self.attempts,
            "shift_bound": self.shift_bound,
            "batch": self.batch,
        }

    @property
    def trained(self) -> bool:
        """Whether a network takes part."""
        return self.masks.trained or self.renderer.trained

    def maker(self) -> MasksAndRendererMaker:
        """Build mask generator and renderer."""
        return MasksAndRendererMaker(self)


def _refuse_other_scheme(name: str, scheme: LabelScheme) -> None:
    """Refuse a mask generator that does not draw a scheme."""
    if _draws(resolve_mask_generator(name), scheme):
        return
    able = plain_generators(scheme)
    hint = f"Use --masks {able[0]}." if able else "No mask generator draws it."
    raise UserError(f"--masks: expected a generator that draws scheme {scheme.name}, got {name}. {hint}")


def plain_generators(scheme: LabelScheme) -> list[str]:
    """Names of the mask generators without weights that draw a scheme; what the others draw depends on these."""
    kinds = {name: resolve_mask_generator(name) for name in MASKS if name not in TRAINABLE}
    asked = Request(256, 256, 0.25, scheme)
    return [name for name, kind in kinds.items() if _draws(kind, scheme) and not kind(kind.Config()).refusal(asked)]


def _draws(kind: type[MaskGenerator], scheme: LabelScheme) -> bool:
    """Whether a mask generator draws a scheme; ``*`` stands for the schemes that are not shipped.

    The scheme of a generator with weights depends on these, so its `refusal` refuses others.
    """
    if issubclass(kind, UsesWeights):
        return True
    return scheme.name in kind.schemes or ("*" in kind.schemes and scheme.name not in SCHEMES)


class MasksAndRendererMaker:
    """Draws with `masks`, then with `renderer` on these."""

    def __init__(self, recipe: MasksAndRenderer) -> None:
        self._recipe = recipe
        self.masks, self.renderer = recipe.masks.build(recipe.device), recipe.renderer.build(recipe.device)

    def make(self, rows: Sequence[Row]) -> Iterator[Sample]:
        """Yield the sample of each row, in order. Raises a FaultError when a row cannot be met within the attempts."""
        for start in range(0, len(rows), self._recipe.batch):
            yield from self._make_batch(rows[start : start + self._recipe.batch])

    def _make_batch(self, rows: Sequence[Row]) -> Iterator[Sample]:
        drawn = [self._draw(row) for row in rows]
        conditions = [
            draw_condition(self.renderer.condition, allocation.tile, generator(row["seed"], Stream.CONDITION))
            for row, (allocation, _) in zip(rows, drawn, strict=True)
        ]
        rngs = [generator(row["seed"], Stream.RENDER) for row in rows]
        images = render_traced(self.renderer, conditions, rngs)
        for row, (allocation, attempts), (image, real) in zip(rows, drawn, images, strict=True):
            yield image, allocation.tile, self._complete(row, allocation, attempts, real)

    def _draw(self, row: Row) -> tuple[Allocation, int]:
        """Draw a mask that meets the row, within the attempts; the best shift wins where none is within the bound."""
        request, bound = request_of(row, self._recipe.scheme), self._recipe.shift_bound
        best: tuple[Allocation, int] | None = None
        reason = "no attempt"
        for attempt in range(self._recipe.attempts):
            (scores,) = self.masks.draw([request], [generator(row["seed"], Stream.MASK, attempt)])
            try:
                allocation = allocate(scores, request, generator(row["seed"], Stream.TIES, attempt))
            except Unmet as unmet:
                reason = str(unmet)
                continue
            if bound is None or allocation.shift is None or allocation.shift <= bound:
                return allocation, attempt + 1
            if best is None or allocation.shift < (best[0].shift or 0.0):
                best = allocation, attempt + 1
        if best is None:
            raise FaultError(
                f"{row['sample_id']}: expected a mask within {self._recipe.attempts} attempts, got none ({reason}). "
                "Raise --set attempts, or ask for less."
            )
        return best[0], self._recipe.attempts

    def _complete(self, row: Row, allocation: Allocation, attempts: int, real: RealPixels | None) -> Row:
        """The row with what is known once its tile is drawn."""
        masks, renderer = self._recipe.masks, self._recipe.renderer
        return {
            **row,
            "source": "synthetic",
            "recipe": f"{masks.name}+{renderer.name}",
            "mask_generator": masks.name,
            "renderer": renderer.name,
            "allocation_shift": allocation.shift,
            "attempts": attempts,
            "label_origin": self.renderer.label_origin,
            "device": self._recipe.device,
            "precision": precision_name(masks.precision, renderer.precision),
            "mask_weights_sha256": masks.weights_sha256,
            "image_weights_sha256": renderer.weights_sha256,
            **columns_of(real),
        }


def prepare(
    config: MakeConfig,
    scheme: LabelScheme,
    out: Path,
    *,
    manifest: Draft | None = None,
    like: RealTiles | None = None,
    device: str = "cpu",
) -> Prepared[MasksAndRenderer]:
    """Resolve a run and refuse what cannot be met, before anything is written.

    Args:
        config: what is asked, and scheme: of the labels, as `factory.make.resolve.resolve_make` found them.
        out: the data set's folder. manifest: a plan to follow instead of drawing one.
        like: real tiles to fit the renderer and the masks to, where these can be fitted. device: where networks run.

    Raises:
        UserError: when a part, a key or a request does not fit.
        FaultError: when the disk is too small.
    """
    if manifest is None and not out.exists():  # before a long plan is drawn
        check_room(out, config.plan.n, config.plan.size)
    recipe = MasksAndRenderer.from_document(config.model_dump(mode="json"), device, scheme=scheme)
    rows = complete(manifest, config.plan, scheme) if manifest else plan(config.plan)
    first = request_of(rows.slice(0, 1).to_pylist()[0], scheme)
    behind, notes = NOTHING, list[str]()
    if like is not None:
        fitted = fit_parts(recipe.masks, recipe.renderer, like, first, frozenset(config.masks) - {"name"})
        recipe = replace(recipe, masks=fitted.masks, renderer=fitted.renderer)
        behind, notes = fitted.behind, [*fitted.notes]
    recipe = replace(recipe, renderer=dressed(recipe.renderer, scheme, out))
    maker = maker_of(recipe)
    parts = maker.masks, maker.renderer
    refuse_impossible(rows, scheme, parts)
    notes += input_notes((first.height, first.width), *parts)
    if isinstance(maker.masks, Cautions) and (caution := maker.masks.caution(first)):
        notes.append(caution)
    # The digest tells when a file that the plan was read from (a histogram, another data set) has changed since.
    asked = {} if manifest else config.plan.model_dump(mode="json")
    asked["requests_sha256"] = requests_digest(rows)
    real = isinstance(maker.renderer, CopiesPixels)
    info = synthetic_info(recipe, provenance_of(*parts) | behind, real_pixels=real)
    document = {"plan": asked, **recipe.document, "shard": config.shard}
    return prepare_run(recipe, rows, out, document, info, notes=notes)
