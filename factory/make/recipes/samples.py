"""The recipe of `factory sample`: images of a trained generator with their latents, and no labels.

Every pixel of the masks is 255 (ignore). `factory annotate` takes the images to an annotation tool and back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from factory.core.config import Config, digest, parse
from factory.core.seeds import row_seed
from factory.joint import DRAWING
from factory.joint.generators import (
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
from factory.make.pipeline import Prepared, prepare_run, synthetic_info
from factory.make.recipes.base import Image, Provenance, Row, Sample, changed_values, maker_of, precision_name
from factory.plan.rows import sample_name
from manifests.dataset import Dataset
from manifests.errors import UserError
from manifests.labels import IGNORE, LabelScheme
from manifests.schema import conform
from manifests.tile import Tile

Features = npt.NDArray[np.float32]


class SampleConfig(Config):
    """Every setting of `factory sample` that changes a byte of its output.

    Attributes:
        drawing: weights, truncation and noise. n: images. seed: root of every latent and noise.
        shard: images in a shard file.
    """

    drawing: DrawConfig = DrawConfig()
    n: int = Field(default=100, ge=1, le=1_000_000)
    seed: int = Field(default=0, ge=0, lt=2**63)
    shard: int = Field(default=64, ge=1, le=65_536)


@dataclass(frozen=True)
class SampleRecipe:
    """A generator of images; a `Recipe`.

    Attributes:
        drawing: weights, truncation and noise, resolved. scheme: of the labels to be. device: where it draws.
    """

    drawing: DrawConfig
    scheme: LabelScheme
    device: str
    makes_labels = False
    trained = True

    @classmethod
    def from_document(
        cls, config: Mapping[str, Any], device: str, *, where: Path, masks_of: Path | None = None
    ) -> SampleRecipe:
        """Resolve the recipe of a run.yaml; masks_of: not needed."""
        del masks_of
        drawing = resolve_weights(parse(DrawConfig, config[DRAWING], f"{where}/run.yaml: {DRAWING}"), device)
        return cls(drawing, scheme_of(generator_card(drawing.weights)), device)

    @property
    def title(self) -> str:
        """The generator by name."""
        return GENERATOR

    @property
    def changed(self) -> dict[str, Any]:
        """Configured values that are not the defaults."""
        return changed_values(drawing=self.drawing)

    @property
    def document(self) -> dict[str, Any]:
        """The part of run.yaml that `from_document` reads."""
        return {DRAWING: self.drawing.model_dump(mode="json"), "scheme": self.scheme.to_dict()}

    def maker(self) -> SampleMaker:
        """Load the generator."""
        return SampleMaker(self)


class SampleMaker:
    """Draws images from latents with `generator`, whose weights are loaded."""

    def __init__(self, recipe: SampleRecipe) -> None:
        self._recipe, drawing = recipe, recipe.drawing
        self.generator: OpenGenerator = open_generator(
            drawing.weights, recipe.device, precision=drawing.precision, threads=drawing.threads
        )

    def make(self, rows: Sequence[Row]) -> Iterator[Sample]:
        """Yield image, unlabelled mask and completed row of each row, in order, by its seed."""
        drawing = self._recipe.drawing
        for row in rows:
            latents = draw_latents([row["seed"]], self.generator.network.z_dim)
            image: Image = self.generator.draw(latents, noise_of([row["seed"]], drawing), drawing.psi)[0]
            nothing = np.full(image.shape[:2], IGNORE, np.uint8), np.zeros(image.shape[:2], np.int32)
            yield image, Tile(*nothing, row["mpp"], self._recipe.scheme), {**row, "latent": latents[0].tolist()}


def prepare(config: SampleConfig, out: Path, *, device: str = "cpu") -> Prepared[SampleRecipe]:
    """Resolve a run, before anything is written.

    Args:
        config: what is asked. out: the data set's folder. device: where the generator draws.
    """
    drawing = resolve_weights(config.drawing, device)
    card = generator_card(drawing.weights)
    recipe = SampleRecipe(drawing, scheme_of(card), device)
    document = {**recipe.document, "n": config.n, "seed": config.seed, "shard": config.shard}
    height, width = card.fields["network"]["size"]
    seeds, identity, n = [row_seed(config.seed, index) for index in range(config.n)], digest(document), config.n
    columns = {
        "sample_id": [sample_name(identity, index, seed) for index, seed in enumerate(seeds)],
        "index": np.arange(n),
        "split": pa.repeat("train", n),
        "source": pa.repeat("synthetic", n),
        "height": np.full(n, height),
        "width": np.full(n, width),
        "mpp": np.full(n, float(card.fields["mpp"])),
        "label_scheme": pa.repeat(recipe.scheme.name, n),
        "seed": np.array(seeds, np.uint64),
        "recipe": pa.repeat(GENERATOR, n),
        "image_weights_sha256": pa.repeat(card.sha256, n),
        "device": pa.repeat(device, n),
        "precision": pa.repeat(precision_name(drawing.precision), n),
    }
    behind = Provenance(tuple(card.fields["sources"]), tuple(card.fields["licences"]))
    info = synthetic_info(recipe, behind)
    return prepare_run(recipe, conform(pa.table(columns), "samples"), out, document, info)


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
    recipe = SampleRecipe(resolve_weights(drawing_of(dataset.root), "cpu"), dataset.schemes[0], "cpu")
    return farthest_points(maker_of(recipe).generator.styles(latents_of(dataset)), k)


def farthest_points(features: Features, k: int) -> list[int]:
    """Indices of k of the points [N, D], see `choose_diverse`; of equally far ones the first."""
    chosen = [int(np.linalg.norm(features - features.mean(0), axis=1).argmin())]
    nearest = np.linalg.norm(features - features[chosen[0]], axis=1)
    while len(chosen) < k:
        nearest[chosen[-1]] = -1.0
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(features - features[chosen[-1]], axis=1))
    return chosen
