"""Annotated images of a generator for `factory train hdgan`: checked, and drawn again for their features."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.core.weights import Card
from factory.joint.features import FeatureStore, Shape
from factory.joint.generators import DrawConfig, OpenGenerator, drawing_of, noise_of
from factory.joint.hdgan import taps_of
from factory.joint.pixels import Annotated
from manifests.dataset import Dataset, open_dataset
from manifests.errors import UserError
from manifests.labels import IGNORE, LabelScheme

_SAME_LEVELS = 2.0
"""Largest mean difference, in grey levels, between drawings of one image on other devices or in other precisions."""

_HELD_OUT = ("val", "test")


@dataclass(frozen=True)
class LabelledImages:
    """Rows of data sets whose images were drawn by a generator and annotated by a person.

    Attributes:
        datasets: with those rows. scheme: label scheme of the masks. drawing: settings that the images were drawn with.
        empty: number of rows without any label, which are left out.
    """

    datasets: tuple[Dataset, ...]
    scheme: LabelScheme
    drawing: DrawConfig
    empty: int

    def rows(self, *, held_out: bool) -> list[tuple[Dataset, dict[str, Any]]]:
        """Return data set and row of the images to learn from, or of the held-out ones (val and test)."""
        pairs = [(dataset, row) for dataset in self.datasets for row in dataset.table.to_pylist()]
        return [(dataset, row) for dataset, row in pairs if (row["split"] in _HELD_OUT) == held_out]

    @property
    def sources(self) -> tuple[str, ...]:
        """Sources of the training data behind images and annotation."""
        return tuple(sorted({source for each in self.datasets for source in each.info.training_sources}))

    @property
    def licences(self) -> tuple[str, ...]:
        """Licences of these sources."""
        return tuple(sorted({licence for each in self.datasets for licence in each.info.licences}))


def open_labelled(paths: Sequence[Path], card: Card) -> LabelledImages:
    """Open and check the annotated images of a generator; writes nothing.

    Args:
        paths: data sets written by `factory annotate import`. card: of the generator's weights.

    Raises:
        UserError: for images of another generator or size, without latents, with classes outside of their scheme, of
            several schemes, or drawn with several settings; for an image that occurs twice, or none to learn from.
    """
    parts, empty, drawings = [], 0, []
    for path in paths:
        dataset = open_dataset(path)
        drawings.append(drawing_of(path))
        _refuse_other_size(dataset, card)
        kept = [_check_row(dataset, row, card) for row in dataset.table.to_pylist()]
        empty += kept.count(False)
        parts.append(dataset.where(np.array(kept, bool)))
    schemes = {scheme.name: scheme for part in parts for scheme in part.schemes}
    if len(schemes) > 1:
        raise UserError(
            f"--data: expected annotations of one label scheme, got {', '.join(schemes)}. Name data sets of one."
        )
    ways = {(each.psi, each.noise) for each in drawings}
    if len(ways) > 1:
        raise UserError("--data: expected images of one truncation and kind of noise, got several. Sample them alike.")
    for path, each in zip(paths, drawings, strict=True):
        if each.weights_sha256 not in (None, card.sha256):
            raise _other_generator(path, "", str(each.weights_sha256), card)
    found = LabelledImages(
        tuple(parts), next(iter(schemes.values()), parts[0].info.label_schemes[0]), drawings[0], empty
    )
    _refuse_twice(found)
    if not found.rows(held_out=False):
        raise UserError("--data: expected annotated images of split train, got none. Annotate some, or import them so.")
    return found


def _refuse_other_size(dataset: Dataset, card: Card) -> None:
    layout, size = dataset.store.layout, tuple(card.fields["network"]["size"])
    if (layout.height, layout.width) != size:
        raise UserError(
            f"{dataset.root}: expected annotations of {size[0]}x{size[1]}, the size that the generator draws, "
            f"got {layout.height}x{layout.width}. Annotate its own images."
        )


def _check_row(dataset: Dataset, row: Mapping[str, Any], card: Card) -> bool:
    """Return whether any pixel of a row is annotated; raise a UserError for a row that cannot be used."""
    where, z_dim = f"{dataset.root}: {row['sample_id']}", card.fields["network"]["z_dim"]
    if row["latent"] is None or row["seed"] is None:
        raise UserError(f"{where}: expected a seed and a latent, got none. Take images of factory sample.")
    if row["image_weights_sha256"] != card.sha256:
        raise _other_generator(dataset.root, f"{row['sample_id']}: ", str(row["image_weights_sha256"]), card)
    if len(row["latent"]) != z_dim:
        raise UserError(f"{where}: expected a latent of {z_dim} numbers, got {len(row['latent'])}. Sample anew.")
    scheme, labels = dataset.info.scheme(row["label_scheme"]), dataset.store.read(row["index"], "semantic")
    present = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
    wrong = present[(present >= len(scheme)) & (present < IGNORE)]
    if wrong.size:
        raise UserError(
            f"{where}: expected classes 0 to {len(scheme) - 1} of {scheme.name}, or {IGNORE} where unlabelled, "
            f"got {wrong[0]}. Import the annotation with its own scheme."
        )
    return bool((present < IGNORE).any())


def _refuse_twice(images: LabelledImages) -> None:
    """Refuse an image that is in two data sets: it would count twice, or be learnt from and held out."""
    places: dict[str, str] = {}
    for dataset, row in (pair for held_out in (False, True) for pair in images.rows(held_out=held_out)):
        identity = _digest_of(np.array(row["latent"], np.float32), row["seed"])
        place = f"{dataset.root}: {row['sample_id']}"
        if identity in places:
            raise UserError(f"{place}: expected an image once, got it in {places[identity]} too. Leave one out.")
        places[identity] = place


def _other_generator(root: Path, sample: str, got: str, card: Card) -> UserError:
    return UserError(
        f"{root}: {sample}expected images of the generator {card.sha256[:12]}, got those of {got[:12]}. "
        "Name the --generator that drew them."
    )


def write_features(
    generator: OpenGenerator,
    drawing: DrawConfig,
    rows: Sequence[tuple[Dataset, dict[str, Any]]],
    store: FeatureStore,
    taps: Mapping[str, Shape],
    on_image: Callable[[int, int], None] = lambda done, total: None,
) -> list[Annotated]:
    """Draw annotated images again and store their features, except those that are stored already.

    Args:
        generator, drawing: that drew them, and its settings. rows: data set and row of each image.
        store: for the features. taps: features to store, by name, with their shapes.
        on_image: called with the images done and their number.

    Raises:
        UserError: for an image that comes out otherwise, features of other weights, damaged ones, or a full disk.
    """
    names = [row["sample_id"] for _, row in rows]
    missing = set(store.missing(names))
    store.check_space(list(taps.values()), len(missing))
    found = []
    for done, (dataset, row) in enumerate(rows):
        name, latent = row["sample_id"], np.array(row["latent"], np.float32)
        identity = _digest_of(latent, row["seed"])
        on_image(done, len(rows))
        if name in missing:
            rngs = noise_of([row["seed"]], drawing)
            image, drawn = generator.draw_with_taps(latent, rngs[0] if rngs else None, drawing.psi)
            _refuse_other_image(image, dataset, row)
            arrays = [tap.float().cpu().numpy() for tap in taps_of(drawn, list(taps))]
            store.write(name, arrays, generator.size, identity)
        features = store.read(name, identity)
        if name not in missing:
            features.verify()  # written by an earlier call; the others are still in memory
        found.append(Annotated(features, dataset.store.read(row["index"], "semantic")))
    on_image(len(rows), len(rows))
    return found


def _digest_of(latent: npt.NDArray[np.float32], seed: int) -> str:
    """Return a digest of what determines an image: its latent and the seed of its noise."""
    return hashlib.sha256(latent.tobytes() + str(seed).encode()).hexdigest()


def _refuse_other_image(image: npt.NDArray[np.uint8], dataset: Dataset, row: Mapping[str, Any]) -> None:
    """Refuse an image that differs from the stored one: its annotation would not fit it."""
    if hashlib.sha256(np.ascontiguousarray(image).data).hexdigest() == row["image_sha256"]:
        return
    stored = dataset.store.read(row["index"], "image")
    levels = float(np.abs(image.astype(np.int16) - stored).mean())
    if levels > _SAME_LEVELS:
        raise UserError(
            f"{dataset.root}: {row['sample_id']}: expected the image that its latent and the generator give, got "
            f"another, {levels:.0f} grey levels away on average. Name the --generator that drew it, or sample anew."
        )
