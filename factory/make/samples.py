"""Images from a trained generator, with their latents: what `factory sample` writes, and how one is drawn again.

No label goes with them: every pixel is 255, ignore. `factory annotate` takes them to a person and back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from factory.core.config import Config, digest
from factory.core.runs import RunSpec, write_shard
from factory.core.seeds import row_seed
from factory.core.shards import write_missing
from factory.core.weights import Card
from factory.joint.generators import (
    DRAWING,
    GENERATOR,
    DrawConfig,
    OpenGenerator,
    draw_latents,
    drawing_of,
    generator_card,
    noise_of,
    open_generator,
    resolve_weights,
)
from factory.learn.weights import scheme_of
from factory.make.pipeline import synthetic_info
from factory.plan.rows import sample_name
from manifests.dataset import Dataset
from manifests.errors import UserError
from manifests.labels import IGNORE
from manifests.ledger import ShardRecord
from manifests.store import Layout
from manifests.tile import Tile

Image = npt.NDArray[np.uint8]
Features = npt.NDArray[np.float32]


class SampleConfig(Config):
    """Everything that `factory sample` can be told and that changes a byte of its output.

    Attributes:
        drawing: weights, truncation and noise. n: images. seed: root of every latent and noise.
        shard: images in a shard file.
    """

    drawing: DrawConfig = DrawConfig()
    n: int = Field(default=100, ge=1, le=1_000_000)
    seed: int = Field(default=0, ge=0, lt=2**63)
    shard: int = Field(default=64, ge=1, le=65_536)


@dataclass(frozen=True)
class Sampling:
    """A resolved order: what will be written and how; nothing written yet. `rows`: the rows to be, without latents."""

    spec: RunSpec
    drawing: DrawConfig
    device: str
    rows: tuple[dict[str, Any], ...]

    def rows_of(self, shard: int) -> list[dict[str, Any]]:
        """The rows of a shard."""
        return [self.rows[place] for place in self.spec.layout.rows(shard)]


@dataclass(frozen=True)
class SampleShard:
    """The task of one shard: rows in, a published record out."""

    spec: RunSpec
    drawing: DrawConfig
    device: str

    def __call__(self, shard: int, rows: Sequence[dict[str, Any]], tick: Callable[[], None]) -> ShardRecord:
        """Draw the images of a shard and publish it."""
        opened = _opened(self.drawing, self.device)
        (scheme,) = self.spec.info.label_schemes

        def counted() -> Iterator[tuple[Image, Tile, dict[str, Any]]]:
            for row in rows:
                latents = draw_latents([row["seed"]], opened.network.z_dim)
                image = opened.draw(latents, noise_of([row["seed"]], self.drawing), self.drawing.psi)[0]
                semantic = np.full(image.shape[:2], IGNORE, np.uint8)
                tile = Tile(semantic, np.zeros(image.shape[:2], np.int32), row["mpp"], scheme)
                yield image, tile, {**row, "latent": latents[0].tolist()}
                tick()

        return write_shard(self.spec, shard, counted())


_ready: tuple[tuple[DrawConfig, str], OpenGenerator] | None = None


def _opened(drawing: DrawConfig, device: str) -> OpenGenerator:
    """This process's generator; opening one loads weights."""
    global _ready
    if _ready is None or _ready[0] != (drawing, device):
        opened = open_generator(drawing.weights, device, precision=drawing.precision, threads=drawing.threads)
        _ready = (drawing, device), opened
    return _ready[1]


def prepare(config: SampleConfig, out: Path, *, device: str = "cpu") -> Sampling:
    """Resolve an order, before anything is written.

    Args:
        config: what is asked. out: the data set's folder. device: where the generator draws.

    Raises:
        UserError: for weights that cannot be used.
    """
    drawing = resolve_weights(config.drawing, device)
    card = generator_card(drawing.weights)
    scheme, (height, width) = scheme_of(card), card.fields["network"]["size"]
    document = {
        DRAWING: drawing.model_dump(mode="json"),
        "scheme": scheme.to_dict(),
        "n": config.n,
        "seed": config.seed,
        "shard": config.shard,
    }
    learnt = {"sources": card.fields["sources"], "licences": card.fields["licences"]}
    info = synthetic_info(GENERATOR, (scheme,), trained=True, **learnt)
    spec = RunSpec(out, document, Layout(config.n, height, width, config.shard), info)
    return Sampling(spec, drawing, device, tuple(_rows(spec, drawing, card, device)))


def _rows(spec: RunSpec, drawing: DrawConfig, card: Card, device: str) -> Iterator[dict[str, Any]]:
    """The rows to be, without latents, which the seeds give."""
    identity, layout = digest(spec.config), spec.layout
    for index in range(layout.n):
        seed = row_seed(spec.config["seed"], index)
        yield {
            "sample_id": sample_name(identity, index, seed),
            "split": "train",
            "source": "synthetic",
            "height": layout.height,
            "width": layout.width,
            "mpp": float(card.fields["mpp"]),
            "label_scheme": spec.info.label_schemes[0].name,
            "seed": seed,
            "recipe": GENERATOR,
            "image_weights_sha256": card.sha256,
            "device": device,
            "precision": "bfloat16" if drawing.precision == "bf16" else "float32",
        }


def sample(
    order: Sampling,
    *,
    workers: int,
    overwrite: bool = False,
    on_start: Callable[[int, int], None] = lambda done, total: None,
    on_tiles: Callable[[int], None] = lambda made: None,
) -> tuple[pa.Table, int]:
    """Write what is missing of an order: its rows, and how many images were drawn now; see `write_missing`."""
    task = SampleShard(order.spec, order.drawing, order.device)
    return write_missing(
        order.spec, task, order.rows_of, workers=workers, overwrite=overwrite, on_start=on_start, on_tiles=on_tiles
    )


def draw_again(root: Path, row: dict[str, Any]) -> Image:
    """The image of a row that a generator drew, made again from its seed: uint8 [H, W, 3].

    Raises:
        UserError: when the weights are missing or others.
    """
    device = row["device"] or "cpu"
    drawing = resolve_weights(drawing_of(root), device)
    opened = _opened(drawing, device)
    latents = draw_latents([row["seed"]], opened.network.z_dim)
    image: Image = opened.draw(latents, noise_of([row["seed"]], drawing), drawing.psi)[0]
    return image


def latents_of(dataset: Dataset) -> Features:
    """The latents of all rows, float32 [N, z_dim].

    Raises:
        UserError: for a row without one, or latents of several lengths.
    """
    found = dataset.table["latent"].to_pylist()
    lengths = {None if latent is None else len(latent) for latent in found}
    if len(lengths) != 1 or None in lengths:
        got = "rows without" if None in lengths else "latents of several lengths"
        raise UserError(f"{dataset.root}: expected a latent in every row, got {got}. Draw images with factory sample.")
    return np.array(found, np.float32)


def choose_diverse(dataset: Dataset, k: int) -> list[int]:
    """Positions of k rows that differ most, in the order in which they were chosen.

    The first is the image whose style is nearest to the mean of all; each further one is the farthest from those that
    were chosen (farthest-point sampling, Gonzalez 1985), so the first j of k are the choice of j. Styles are what the
    mapping makes of latents: path length regularisation (Karras et al. 2020a, Section 3.2) sees to it that a step in
    them changes the image by a fixed amount, so their Euclidean distance stands for that of images.

    Raises:
        UserError: for k outside 1..N, or images whose generator is missing or another.
    """
    if not 1 <= k <= len(dataset):
        raise UserError(f"--diverse: expected 1 to {len(dataset)} images, as many as there are, got {k}.")
    drawing = resolve_weights(drawing_of(dataset.root), "cpu")
    styles = _opened(drawing, "cpu").styles(latents_of(dataset))
    return farthest_points(styles, k)


def farthest_points(features: Features, k: int) -> list[int]:
    """Indices of k of the points [N, D], see `choose_diverse`; of equally far ones the first."""
    chosen = [int(np.linalg.norm(features - features.mean(0), axis=1).argmin())]
    nearest = np.linalg.norm(features - features[chosen[0]], axis=1)
    while len(chosen) < k:
        nearest[chosen[-1]] = -1.0
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(features - features[chosen[-1]], axis=1))
    return chosen
