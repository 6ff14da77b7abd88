"""The recipe of `factory render`: new images on the masks of a data set that is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from factory.core.config import Config, digest
from factory.core.leaks import MASKS_OF, seen_in_images
from factory.core.seeds import Stream, generator, row_seed
from factory.make.fit_to_real import RealTiles, fit_renderer
from factory.make.parts import Part, dressed, input_notes, provenance_of, renderer_part
from factory.make.pipeline import Prepared, prepare_run, synthetic_info
from factory.make.recipes.base import NOTHING, Provenance, Row, Sample, changed_values, columns_of, precision_name
from factory.plan.request import Request
from factory.plan.rows import sample_name, with_column
from factory.renderers.base import CopiesPixels, RealPixels, Renderer, render_traced
from factory.renderers.conditions import draw_condition
from manifests.checksums import SUMS
from manifests.dataset import Dataset, open_dataset
from manifests.errors import UserError
from manifests.files import sha256_file
from manifests.labels import LabelScheme

MASKS = "masks_of"
"""Key of run.yaml with the data set whose masks these are."""

_MOST_NAMED = 5


class RenderConfig(Config):
    """Every setting of `factory render` that changes a byte of its output.

    Attributes:
        renderer: ``name`` and, optionally, values of its own Config.
        split: of the masks. seed: root of every random draw. shard: tiles in a shard file.
    """

    renderer: dict[str, Any] = Field(default_factory=lambda: {"name": "stain"})
    split: Literal["train", "val", "test", "all"] = "test"
    seed: int = Field(default=0, ge=0, lt=2**63)
    shard: int = Field(default=64, ge=1, le=65_536)


@dataclass(frozen=True)
class GivenMasks:
    """A renderer and the data set whose masks it draws on; a `Recipe`.

    Attributes:
        masks: folder of that data set. split: of its tiles. sums_sha256: digest of its SHA256SUMS.
        renderer: resolved. scheme: of the masks. device: where the renderer's network runs.
    """

    masks: Path
    split: str
    sums_sha256: str
    renderer: Part[Renderer]
    scheme: LabelScheme
    device: str
    makes_labels = True

    @classmethod
    def from_document(cls, config: Mapping[str, Any], device: str, *, where: Path, masks_of: Path | None) -> GivenMasks:
        """Resolve the recipe of a run.yaml.

        Args:
            config: of run.yaml. device: where a network runs. where: the data set's folder, for messages.
            masks_of: the data set whose masks were drawn on.

        Raises:
            UserError: when that data set is not named, is another, or has changed since.
        """
        given = config[MASKS]
        if masks_of is None:
            raise UserError(
                f"{where}: expected --masks-of with the data set whose masks these are, {given['name']}, got none."
            )
        open_masks(masks_of, given["split"])
        if sha256_file(masks_of / SUMS) != given["sums_sha256"]:
            raise UserError(
                f"--masks-of {masks_of}: expected {given['name']} as it was drawn on, got another data set, or one "
                "that has changed since. Name that one."
            )
        renderer = renderer_part(config["renderer"], device)
        scheme = LabelScheme.from_dict(config["scheme"])
        return cls(masks_of, given["split"], given["sums_sha256"], renderer, scheme, device)

    @property
    def name(self) -> str:
        """Name of the data set whose masks these are."""
        return self.masks.resolve().name

    @property
    def title(self) -> str:
        """The parts by name."""
        return f"masks of {self.name} + {self.renderer.name}"

    @property
    def changed(self) -> dict[str, Any]:
        """Configured values that are not the defaults."""
        return changed_values(renderer=self.renderer.config)

    @property
    def document(self) -> dict[str, Any]:
        """The part of run.yaml that `from_document` reads."""
        return {
            MASKS: {"name": self.name, "split": self.split, "sums_sha256": self.sums_sha256},
            "scheme": self.scheme.to_dict(),
            "renderer": self.renderer.document,
        }

    @property
    def trained(self) -> bool:
        """Whether a network takes part."""
        return self.renderer.trained

    def maker(self) -> GivenMasksMaker:
        """Open the masks and build the renderer."""
        return GivenMasksMaker(self)


class GivenMasksMaker:
    """Reads masks and draws images on them."""

    def __init__(self, recipe: GivenMasks) -> None:
        self._recipe, self._masks = recipe, open_masks(recipe.masks, recipe.split)
        self._renderer = recipe.renderer.build(recipe.device)

    def make(self, rows: Sequence[Row]) -> Iterator[Sample]:
        """Yield the sample of each row, in order: the mask by the row's index, the image by its seed."""
        for row in rows:
            tile, seed = self._masks.tile(self._masks.row(row["index"])), row["seed"]
            condition = draw_condition(self._renderer.condition, tile, generator(seed, Stream.CONDITION))
            ((image, real),) = render_traced(self._renderer, [condition], [generator(seed, Stream.RENDER)])
            yield image, tile, self._complete(row, real)

    def _complete(self, row: Row, real: RealPixels | None) -> Row:
        """The row with the facts of the new image; those of mask and place stay.

        An annotation may be drawn exactly and still be wrong, so labels stay exact only where those of the masks are.
        """
        renderer = self._recipe.renderer
        exact = row["source"] == "synthetic" and row["label_origin"] == "exact"
        return {
            **row,
            "source": "synthetic",
            "recipe": f"{row['mask_generator'] or 'masks'}+{renderer.name}",
            "renderer": renderer.name,
            "label_origin": self._renderer.label_origin if exact else "conditioned",
            "device": self._recipe.device,
            "precision": precision_name(renderer.precision),
            "image_weights_sha256": renderer.weights_sha256,
            "latent": None,
            **columns_of(real),
        }


def open_masks(root: Path, split: str) -> Dataset:
    """The rows of a data set whose masks are drawn on, in the order of its arrays.

    Raises:
        UserError: when it is not finished, has no tile of that split, or several label schemes.
    """
    dataset = open_dataset(root)
    if not (root / SUMS).is_file():
        raise UserError(f"{root}: expected a finished data set with {SUMS}, got none. Run its command again.")
    table = dataset.table.sort_by("index")
    kept = table if split == "all" else table.filter(pc.equal(pc.fill_null(table["split"], "train"), split))
    if not len(kept):
        known = ", ".join(str(name) for name in table["split"].unique().to_pylist())
        raise UserError(f"{root}: expected tiles of split {split}, got none (there are: {known}). Use --split all.")
    names = kept["label_scheme"].unique().to_pylist()
    if len(names) > 1:
        raise UserError(f"{root}: expected masks of one label scheme, got {', '.join(names)}. Render each by itself.")
    return Dataset(root, kept, dataset.info, dataset.store)


def prepare(
    config: RenderConfig, masks: Path, out: Path, *, like: RealTiles | None = None, device: str = "cpu"
) -> Prepared[GivenMasks]:
    """Resolve a run and refuse what cannot be drawn, before anything is written.

    Args:
        config: what is asked. masks: the data set whose masks are drawn on. out: the new data set's folder.
        like: real tiles to fit the renderer to. device: where networks run.

    Raises:
        UserError: when the renderer cannot draw on these masks, or `out` and the masks lie in each other.
    """
    dataset = open_masks(masks, config.split)
    here, there = out.resolve(), masks.resolve()
    if here == there or there in here.parents or here in there.parents:
        raise UserError(f"--out {out}: expected a folder apart from {masks}, got one with it. Choose another --out.")
    renderer = renderer_part(config.renderer, device)
    (scheme,) = dataset.schemes
    if like is not None:
        renderer = fit_renderer(renderer, scheme, like)
    renderer = dressed(renderer, scheme, out)
    recipe = GivenMasks(masks, config.split, sha256_file(masks / SUMS), renderer, scheme, device)
    built = renderer.build(device)
    _refuse_unfit(dataset, scheme, built)
    provenance = provenance_of(built) | (like.behind_images if like else NOTHING)
    groups = {
        row["group_id"] or row["sample_id"] for row in dataset.table.select(["group_id", "sample_id"]).to_pylist()
    }
    seen = tuple(seen_in_images(provenance.sources, groups))
    document = {**recipe.document, "seed": config.seed, "shard": config.shard, "groups_seen": list(seen)}
    behind = provenance | _behind_masks(dataset, groups)
    info = synthetic_info(recipe, behind, real_pixels=isinstance(built, CopiesPixels))
    size = (dataset.store.layout.height, dataset.store.layout.width)
    notes = [*_note_on_seen(renderer, seen), *input_notes(size, built)]
    return prepare_run(recipe, _rows(dataset, document), out, document, info, notes=notes)


def _rows(masks: Dataset, document: Mapping[str, Any]) -> pa.Table:
    """The rows of the masks with new names, places and seeds.

    A tile's seed follows from its index in the masks' data set, so it is the same whatever split is asked for.
    """
    seeds = [row_seed(document["seed"], index) for index in masks.table["index"].to_pylist()]
    identity = digest(document)
    names = [sample_name(identity, place, seed) for place, seed in enumerate(seeds)]
    rows = masks.table
    for name, values in (("seed", seeds), ("sample_id", names), ("index", range(len(seeds)))):
        rows = with_column(rows, name, values)
    return rows


def _refuse_unfit(masks: Dataset, scheme: LabelScheme, renderer: Renderer) -> None:
    """Ask the renderer about every mask."""
    for row in masks.table.select(["sample_id", "height", "width", "mpp", "class_fractions"]).to_pylist():
        fractions = tuple(row["class_fractions"])
        request = Request(row["height"], row["width"], row["mpp"], scheme, fractions=fractions)
        if reason := renderer.refusal(request):
            raise UserError(f"{masks.root}: {row['sample_id']}: {reason}.")


def _behind_masks(masks: Dataset, groups: set[str]) -> Provenance:
    """Data behind the masks. Groups of real masks are sources, so that nobody trains on those of a test set."""
    name = masks.root.resolve().name
    sources = [f"{MASKS_OF}{name}/{group}" for group in groups]
    licences = {licence for licence in masks.table["licence"].to_pylist() if licence is not None}
    learnt = Provenance(masks.info.training_sources if masks.info.is_synthetic else tuple(sources))
    return learnt | Provenance(licences=(*licences, *masks.info.licences))


def _note_on_seen(renderer: Part[Renderer], seen: Sequence[str]) -> tuple[str, ...]:
    """A warning where the renderer knows images of the groups that are drawn."""
    if not seen:
        return ()
    named = ", ".join(seen[:_MOST_NAMED]) + (", ..." if len(seen) > _MOST_NAMED else "")
    return (
        f"{renderer.name} was trained on or fitted to images of {len(seen)} of the groups drawn ({named}): "
        "likeness to these says nothing of images that it never saw",
    )
