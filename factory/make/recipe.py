"""How rows become tiles: a mask generator and a renderer by name, what they are set to, and the work itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.core.config import Config, parse
from factory.core.registry import resolve
from factory.core.seeds import Stream, generator
from factory.masks import MASKS, TRAINABLE
from factory.masks.allocate import Allocation, Unmet, allocate
from factory.plan.request import Request
from factory.plan.rows import request_of
from factory.renderers import RENDERERS
from factory.renderers.conditions import draw_condition
from manifests.errors import FaultError, UserError
from manifests.labels import SCHEMES, LabelScheme
from manifests.tile import Tile

Sample = tuple[npt.NDArray[np.uint8], Tile, dict[str, Any]]


@dataclass(frozen=True)
class Recipe:
    """How rows become tiles: parts by name with their resolved configs. Small and picklable.

    Attributes:
        masks, renderer: names in their tables. mask_config, render_config: of those parts, resolved.
        scheme: of the masks. attempts, shift_bound, batch: as in `MakeConfig`. device: where networks run.
    """

    masks: str
    mask_config: Config
    renderer: str
    render_config: Config
    scheme: LabelScheme
    attempts: int
    shift_bound: float | None
    batch: int
    device: str

    @property
    def trained(self) -> tuple[tuple[Any, Any], ...]:
        """Class and config of the parts whose work is a network's."""
        parts = (
            (resolve(MASKS, self.masks, "--masks"), self.mask_config),
            (resolve(RENDERERS, self.renderer, "--renderer"), self.render_config),
        )
        return tuple((part, config) for part, config in parts if has_weights(part))

    @property
    def precision(self) -> str:
        """The coarsest number format that a part computes in."""
        used = {getattr(config, "precision", "fp32") for config in (self.mask_config, self.render_config)}
        return "bfloat16" if "bf16" in used else "float32"

    @property
    def title(self) -> str:
        """In a few words."""
        return f"masks {self.masks}, renderer {self.renderer}"

    @property
    def changed(self) -> dict[str, Any]:
        """Values that are not the defaults."""
        parts = {"masks": self.mask_config, "renderer": self.render_config}
        return {
            f"{p}.{k}": v for p, config in parts.items() for k, v in config.model_dump(exclude_defaults=True).items()
        }

    def realiser(self) -> Realiser:
        """What makes tiles by this recipe."""
        return Realiser(self)

    def notes(self, request: Request) -> tuple[str, ...]:
        """How the inputs of networks were read, and densities that do not fit, for such a request; one line each."""
        size = (request.height, request.width)
        notes = [note for part, config in self.trained for note in part.notes(config, size)]
        masks = resolve(MASKS, self.masks, "--masks")
        caution = masks(self.mask_config).caution(request) if hasattr(masks, "caution") else None
        return tuple(notes if caution is None else [*notes, caution])

    @property
    def document(self) -> dict[str, Any]:
        """The part of run.yaml that `recipe_of` reads back."""
        return {
            "masks": {"name": self.masks, **self.mask_config.model_dump(mode="json")},
            "renderer": {"name": self.renderer, **self.render_config.model_dump(mode="json")},
            "attempts": self.attempts,
            "shift_bound": self.shift_bound,
            "batch": self.batch,
        }


def recipe_of(document: dict[str, Any], scheme: LabelScheme, device: str = "cpu") -> Recipe:
    """Resolve the parts of a configuration.

    Raises:
        UserError: for an unknown part or key, or a mask generator that does not draw the scheme.
    """
    mask_values, render_values = (dict(document[part]) for part in ("masks", "renderer"))
    masks, renderer = (str(values.pop("name", "")) for values in (mask_values, render_values))
    mask_class, render_class = resolve(MASKS, masks, "--masks"), resolve(RENDERERS, renderer, "--renderer")
    if not _draws(mask_class, scheme):
        plain = (name for name in MASKS if name not in TRAINABLE)  # what the others draw depends on their weights
        able = [name for name in plain if _draws(resolve(MASKS, name, "--masks"), scheme)]
        hint = f"Use --masks {able[0]}." if able else "No mask generator draws it."
        raise UserError(f"--masks: expected a generator that draws scheme {scheme.name}, got {masks}. {hint}")
    mask_config = parse(mask_class.Config, mask_values, f"masks ({masks})")
    render_config = parse(render_class.Config, render_values, f"renderer ({renderer})")
    return Recipe(
        masks=masks,
        mask_config=mask_class.resolve_weights(mask_config, device) if has_weights(mask_class) else mask_config,
        renderer=renderer,
        render_config=render_class.resolve_weights(render_config, device)
        if has_weights(render_class)
        else render_config,
        scheme=scheme,
        attempts=document["attempts"],
        shift_bound=document["shift_bound"],
        batch=document["batch"],
        device=device,
    )


def _draws(mask_class: Any, scheme: LabelScheme) -> bool:
    """Whether a mask generator draws a scheme; ``*`` stands for the schemes that are not shipped.

    What one with weights draws depends on these, so its `refusal` says it.
    """
    if has_weights(mask_class):
        return True
    return scheme.name in mask_class.schemes or ("*" in mask_class.schemes and scheme.name not in SCHEMES)


def has_weights(part: Any) -> bool:
    """Whether what a mask generator or renderer draws with is trained."""
    return bool(getattr(part, "from_weights", False))


class Realiser:
    """Makes tiles of rows; one for each process."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.masks = resolve(MASKS, recipe.masks, "--masks")(recipe.mask_config, recipe.device)
        self.renderer = resolve(RENDERERS, recipe.renderer, "--renderer")(recipe.render_config, recipe.device)

    def realise(self, rows: Sequence[dict[str, Any]]) -> Iterator[Sample]:
        """Image, labels and completed row of each row, in order; each depends on its own row alone.

        Raises:
            FaultError: when a row cannot be met within the attempts.
        """
        for start in range(0, len(rows), self.recipe.batch):
            yield from self._realise_batch(rows[start : start + self.recipe.batch])

    def _realise_batch(self, rows: Sequence[dict[str, Any]]) -> Iterator[Sample]:
        drawn = [self._draw(row) for row in rows]
        conditions = [
            draw_condition(self.renderer.condition, allocation.tile, generator(row["seed"], Stream.CONDITION))
            for row, (allocation, _) in zip(rows, drawn, strict=True)
        ]
        images = self.renderer.render(conditions, [generator(row["seed"], Stream.RENDER) for row in rows])
        for row, (allocation, attempts), image in zip(rows, drawn, images, strict=True):
            yield image, allocation.tile, self._complete(row, allocation, attempts)

    def _draw(self, row: dict[str, Any]) -> tuple[Allocation, int]:
        """Draw a mask that meets the row, within the attempts; the best shift wins where none is within the bound."""
        request, bound = request_of(row, self.recipe.scheme), self.recipe.shift_bound
        best: tuple[Allocation, int] | None = None
        reason = "no attempt"
        for attempt in range(self.recipe.attempts):
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
                f"{row['sample_id']}: expected a mask within {self.recipe.attempts} attempts, got none ({reason}). "
                "Raise --set attempts, or ask for less."
            )
        return best[0], self.recipe.attempts

    def _complete(self, row: dict[str, Any], allocation: Allocation, attempts: int) -> dict[str, Any]:
        """The row with what is known once its tile is drawn."""
        recipe = self.recipe
        return {
            **row,
            "source": "synthetic",
            "recipe": f"{recipe.masks}+{recipe.renderer}",
            "mask_generator": recipe.masks,
            "renderer": recipe.renderer,
            "allocation_shift": allocation.shift,
            "attempts": attempts,
            "label_origin": self.renderer.label_origin,
            "device": recipe.device,
            "precision": recipe.precision,
            "mask_weights_sha256": getattr(recipe.mask_config, "weights_sha256", None),
            "image_weights_sha256": getattr(recipe.render_config, "weights_sha256", None),
        }
