"""Other images on masks that are there: what `factory render` writes, and how one of its tiles is made again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from factory.core.config import Config, digest, parse
from factory.core.leaks import MASKS_OF, seen_in_images
from factory.core.registry import resolve
from factory.core.runs import RunSpec, write_shard
from factory.core.seeds import Stream, generator, row_seed
from factory.core.shards import write_missing
from factory.make.fit_to_real import fit_renderer
from factory.make.pipeline import device_for, has_weights, synthetic_info
from factory.make.real_images import Reference
from factory.plan.request import Request
from factory.plan.rows import sample_name
from factory.renderers import RENDERERS
from factory.renderers.conditions import draw_condition
from manifests.checksums import SUMS
from manifests.dataset import Dataset, open_dataset
from manifests.errors import UserError
from manifests.files import sha256_file
from manifests.ledger import ShardRecord
from manifests.schema import DatasetInfo
from manifests.store import Layout
from manifests.tile import Tile

MASKS = "masks_of"
"""Key of run.yaml that says which data set's masks these are; what `factory make` writes has none."""

Image = npt.NDArray[np.uint8]
_MOST_NAMED = 5


class RenderConfig(Config):
    """Everything that `factory render` can be told and that changes a byte of its output.

    Attributes:
        renderer: ``name`` and, optionally, values of its own Config.
        split: which masks. seed: root of every random draw. shard: tiles in a shard file.
    """

    renderer: dict[str, Any] = Field(default_factory=lambda: {"name": "stain"})
    split: Literal["train", "val", "test", "all"] = "test"
    seed: int = Field(default=0, ge=0, lt=2**63)
    shard: int = Field(default=64, ge=1, le=65_536)


@dataclass(frozen=True)
class Brush:
    """A renderer by name with its resolved config, and where its network runs. Small and picklable."""

    renderer: str
    config: Any
    device: str

    def draw(self, tile: Tile, seed: int) -> Image:
        """The image of a tile, by its row's seed alone: uint8 [H, W, 3]."""
        renderer = _renderer(self)
        condition = draw_condition(renderer.condition, tile, generator(seed, Stream.CONDITION))
        image: Image = renderer.render([condition], [generator(seed, Stream.RENDER)])[0]
        return image

    @property
    def document(self) -> dict[str, Any]:
        """The renderer in run.yaml."""
        return {"name": self.renderer, **self.config.model_dump(mode="json")}


_ready: tuple[Brush, Any] | None = None


def _renderer(brush: Brush) -> Any:
    """This process's renderer; building one may load weights."""
    global _ready
    if _ready is None or _ready[0] != brush:
        _ready = brush, resolve(RENDERERS, brush.renderer, "--renderer")(brush.config, brush.device)
    return _ready[1]


def brush_of(values: dict[str, Any], device: str) -> Brush:
    """Resolve the renderer of a configuration.

    Raises:
        UserError: for an unknown name or key, or weights that cannot be used.
    """
    values = dict(values)
    name = str(values.pop("name", ""))
    render_class = resolve(RENDERERS, name, "--renderer")
    config = parse(render_class.Config, values, f"renderer ({name})")
    return Brush(name, render_class.resolve_weights(config, device) if has_weights(render_class) else config, device)


def resolve_device(config: RenderConfig, name: str) -> str:
    """The device for a renderer; torch is asked only where that has a network.

    Raises:
        UserError: for a device that this machine does not have.
    """
    return device_for([resolve(RENDERERS, str(config.renderer.get("name")), "--renderer")], name)


@dataclass(frozen=True)
class Rendering:
    """A resolved order: masks, what draws on them, and what will be written; nothing written yet.

    Attributes:
        spec: of the new data set. masks: the rows whose masks are drawn on. brush: what draws. rows: the new rows.
        seen: groups among them whose images the renderer was trained on or fitted to.
    """

    spec: RunSpec
    masks: Dataset
    brush: Brush
    rows: tuple[dict[str, Any], ...]
    seen: tuple[str, ...]

    def rows_of(self, shard: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Row of the masks and new row of every tile of a shard."""
        return [(self.masks.row(place), self.rows[place]) for place in self.spec.layout.rows(shard)]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know, one line each."""
        notes = []
        if self.seen:
            named = ", ".join(self.seen[:_MOST_NAMED]) + (", ..." if len(self.seen) > _MOST_NAMED else "")
            notes.append(
                f"{self.brush.renderer} was trained on or fitted to images of {len(self.seen)} of the groups drawn "
                f"({named}): likeness to these says nothing of images that it never saw"
            )
        render_class = resolve(RENDERERS, self.brush.renderer, "--renderer")
        if has_weights(render_class):
            layout = self.spec.layout
            notes += render_class.notes(self.brush.config, (layout.height, layout.width))
        return tuple(notes)


@dataclass(frozen=True)
class RenderShard:
    """The task of one shard: rows of the masks and new rows in, a published record out."""

    spec: RunSpec
    masks: Path
    brush: Brush

    def __call__(
        self, shard: int, rows: Sequence[tuple[dict[str, Any], dict[str, Any]]], tick: Callable[[], None]
    ) -> ShardRecord:
        """Draw the tiles of a shard and publish it."""
        masks = open_dataset(self.masks)

        def counted() -> Iterator[tuple[Image, Tile, dict[str, Any]]]:
            for given, row in rows:
                tile = masks.tile(given)
                yield self.brush.draw(tile, row["seed"]), tile, row
                tick()

        return write_shard(self.spec, shard, counted())


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
    config: RenderConfig, masks: Dataset, out: Path, *, like: Reference | None = None, device: str = "cpu"
) -> Rendering:
    """Resolve an order and refuse what cannot be drawn, before anything is written.

    Args:
        config: what is asked, masks: from `open_masks` with its split.
        out: the new data set's folder. like: real images to fit the renderer to. device: where networks run.

    Raises:
        UserError: when the renderer cannot draw on these masks, or `out` and the masks lie in each other.
    """
    here, there = out.resolve(), masks.root.resolve()
    if here == there or there in here.parents or here in there.parents:
        raise UserError(
            f"--out {out}: expected a folder apart from {masks.root}, got one with it. Choose another --out."
        )
    brush = brush_of(config.renderer, device)
    (scheme,) = masks.schemes
    if like is not None:
        brush = replace(brush, config=fit_renderer(brush.renderer, brush.config, scheme, like))
    _refuse_unfit(masks, brush)
    sources, licences = _image_provenance(brush, like)
    groups = {row["group_id"] or row["sample_id"] for row in masks.table.select(["group_id", "sample_id"]).to_pylist()}
    seen = tuple(seen_in_images(sources, groups))
    document = {
        MASKS: {"name": there.name, "split": config.split, "sums_sha256": sha256_file(masks.root / SUMS)},
        "scheme": scheme.to_dict(),
        "renderer": brush.document,
        "seed": config.seed,
        "shard": config.shard,
        "groups_seen": list(seen),
    }
    layout = Layout(len(masks), masks.store.layout.height, masks.store.layout.width, config.shard)
    spec = RunSpec(out, document, layout, _info_of(masks, groups, brush, sources, licences))
    return Rendering(spec, masks, brush, tuple(_rows(masks, brush, document)), seen)


def render(
    order: Rendering,
    *,
    workers: int,
    overwrite: bool = False,
    on_start: Callable[[int, int], None] = lambda done, total: None,
    on_tiles: Callable[[int], None] = lambda made: None,
) -> tuple[pa.Table, int]:
    """Write what is missing of an order: its rows, and how many tiles were made now; see `write_missing`."""
    task = RenderShard(order.spec, order.masks.root, order.brush)
    return write_missing(
        order.spec, task, order.rows_of, workers=workers, overwrite=overwrite, on_start=on_start, on_tiles=on_tiles
    )


def draw_again(config: dict[str, Any], row: dict[str, Any], root: Path) -> tuple[Image, Tile]:
    """Image and labels of a row that `render` wrote, made again.

    Args:
        config: of its run.yaml. row: of its manifest. root: the data set whose masks were drawn on.

    Raises:
        UserError: when that data set is another, or has changed since.
    """
    asked = config[MASKS]
    masks = open_masks(root, asked["split"])
    if sha256_file(root / SUMS) != asked["sums_sha256"]:
        raise UserError(
            f"--masks-of {root}: expected {asked['name']} as it was drawn on, got another data set, or one that has "
            "changed since. Name that one."
        )
    tile = masks.tile(masks.row(row["index"]))
    return brush_of(config["renderer"], row["device"] or "cpu").draw(tile, row["seed"]), tile


def _rows(masks: Dataset, brush: Brush, document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """New rows: what they say of mask and place stays, what they say of the image is new.

    A tile's seed follows from its index in the masks' data set, so it is the same whatever split is asked for. What was
    annotated may be drawn exactly and still be wrong, so labels stay exact only where those of the masks were made.
    """
    render_class = resolve(RENDERERS, brush.renderer, "--renderer")
    identity = digest(document)
    for index, given in enumerate(masks.table.to_pylist()):
        seed = row_seed(document["seed"], given["index"])
        made = given["source"] == "synthetic" and given["label_origin"] == "exact"
        yield {
            **given,
            "sample_id": sample_name(identity, index, seed),
            "source": "synthetic",
            "seed": seed,
            "recipe": f"{given['mask_generator'] or 'masks'}+{brush.renderer}",
            "renderer": brush.renderer,
            "label_origin": render_class.label_origin if made else "conditioned",
            "device": brush.device,
            "precision": "bfloat16" if getattr(brush.config, "precision", "fp32") == "bf16" else "float32",
            "image_weights_sha256": getattr(brush.config, "weights_sha256", None),
            "latent": None,
        }


def _refuse_unfit(masks: Dataset, brush: Brush) -> None:
    """Ask a renderer with weights about every mask."""
    render_class = resolve(RENDERERS, brush.renderer, "--renderer")
    if not has_weights(render_class):
        return
    renderer = render_class(brush.config, brush.device)
    (scheme,) = masks.schemes
    for row in masks.table.select(["sample_id", "height", "width", "mpp", "class_fractions"]).to_pylist():
        fractions = tuple(row["class_fractions"])
        request = Request(row["height"], row["width"], row["mpp"], scheme, fractions=fractions)
        if reason := renderer.refusal(request):
            raise UserError(f"{masks.root}: {row['sample_id']}: {reason}.")


def _image_provenance(brush: Brush, like: Reference | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Sources and licences of the images behind a renderer."""
    sources, licences = (set(like.sources), set(like.licences)) if like else (set[str](), set[str]())
    render_class = resolve(RENDERERS, brush.renderer, "--renderer")
    if has_weights(render_class):
        learnt, under = render_class.provenance(brush.config)
        sources, licences = sources | set(learnt), licences | set(under)
    return tuple(sorted(sources)), tuple(sorted(licences))


def _info_of(
    masks: Dataset, groups: set[str], brush: Brush, sources: Sequence[str], licences: Sequence[str]
) -> DatasetInfo:
    """What is true of all tiles. Groups of the masks are sources, so that nobody trains on those of a test set."""
    name = masks.root.resolve().name
    trained = has_weights(resolve(RENDERERS, brush.renderer, "--renderer"))
    learnt = (
        masks.info.training_sources if masks.info.is_synthetic else [f"{MASKS_OF}{name}/{group}" for group in groups]
    )
    given = {licence for licence in masks.table["licence"].to_pylist() if licence is not None}
    return synthetic_info(
        f"masks of {name} + {brush.renderer}",
        masks.schemes,
        trained=trained,
        sources=sorted({*sources, *learnt}),
        licences=sorted({*licences, *given, *masks.info.licences}),
    )
