"""Training tiles in the network's scheme, and the batches made of their crops."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from manifests.dataset import Dataset
from manifests.labels import IGNORE, LabelScheme
from segment.data.augmentation import AugmentConfig, change_appearance, draw_transform, take
from segment.data.decoded import DecodedTiles
from segment.data.pasting import Box, Donor, LabelledCrop, PasteConfig, paste_nuclei, whole_nuclei
from segment.data.sources import projections
from segment.data.stains import Stains, estimate_stains, transfer
from segment.data.targets import distance_target


@dataclass(frozen=True)
class Batch:
    """Input of a training step.

    Attributes:
        images: uint8 [N, h, w, 3].
        labels: uint8 [N, h, w], classes of the common scheme, 255 = ignore.
        distances: uint8 [N, h, w], 254 x the normalised distance of nuclei (`segment.data.targets`), 255 = unknown;
            None for a network without distances.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    distances: npt.NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Crop:
    """One crop of one tile, as in a `Batch`; the arrays may be read-only and share memory with the tile."""

    image: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    distances: npt.NDArray[np.uint8] | None = None


class Tiles:
    """Rows of a data set as training tiles: images, masks in the network's scheme, and distances inside nuclei.

    Args:
        dataset: the rows.
        scheme: of the network; every row's scheme projects onto it.
        folder: of decoded tiles, as long as this object exists.
        budget_bytes: largest size of decoded tiles; other tiles are decoded each time.
        distances: whether the network has distances. instances: whether nuclei will be pasted.

    Attributes:
        weights: how often a tile is drawn, float64 [tiles]; None for all alike.
    """

    weights: npt.NDArray[np.float64] | None = None

    def __init__(
        self,
        dataset: Dataset,
        scheme: LabelScheme,
        folder: Path,
        budget_bytes: int,
        *,
        distances: bool = False,
        instances: bool = False,
    ) -> None:
        self._dataset, self._scheme = dataset, scheme
        self._has_distances, self._pastes = distances, instances
        self._tables = projections(dataset, scheme)
        self._indices = dataset.table["index"].to_numpy()
        self._names = dataset.table["label_scheme"].dictionary_encode()
        self._decoded = DecodedTiles(self._decode, len(self), folder, budget_bytes)
        self._boxes: dict[int, list[Box]] = {}
        self._stains: dict[int, Stains | None] = {}
        self.is_nucleus = np.isin(np.arange(256), (*scheme.ids("nucleus"), IGNORE))
        layout = dataset.store.layout
        self.size = (layout.height, layout.width)

    @property
    def sample_ids(self) -> list[str]:
        """Names of the tiles."""
        names: list[str] = self._dataset.table["sample_id"].to_pylist()
        return names

    def read(self, position: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """A whole tile: image uint8 [H, W, 3] and classes uint8 [H, W]."""
        image, labels, *_ = self._decoded.read(position)
        return image, labels

    def __len__(self) -> int:
        return len(self._indices)

    def _decode(self, position: int) -> list[npt.NDArray[Any]]:
        """Image, labels, and distances and instances if needed, of the whole tile."""
        store, index = self._dataset.store, int(self._indices[position])
        labels = self._tables[self._names[position].as_py()][store.read(index, "semantic")]
        arrays = [store.read(index, "image"), labels]
        if self._has_distances or self._pastes:
            instance = store.read(index, "instance")
            arrays.append(distance_target(instance, self.is_nucleus[labels]))
            arrays += [instance] if self._pastes else []
        return arrays

    def crop(
        self,
        position: int,
        rng: np.random.Generator,
        crop: tuple[int, int],
        augment: AugmentConfig,
        wanted: int | None = None,
        reference: Stains | None = None,
    ) -> Crop:
        """A random crop of one tile, around a random pixel of the class `wanted` if the tile has one.

        It gets the stains of `reference` if there are any, and the tile has enough tissue to know its own.
        """
        image, *maps = self._decoded.read(position)
        around = None if wanted is None else _draw_pixel(maps[0], wanted, rng)
        image, maps = take(draw_transform(rng, self.size, crop, augment, around), image, maps)
        if self._pastes and rng.random() < augment.paste.probability:
            image, *maps = self._paste(position, LabelledCrop(image, *maps), rng, augment.paste)
        distances = maps[1] if self._has_distances else None
        own = None if reference is None else self.stains(position)
        restained = None if reference is None or own is None else transfer(own, reference)
        return Crop(change_appearance(image, rng, augment, restained), maps[0], distances)

    def stains(self, position: int) -> Stains | None:
        """Stains of one tile, estimated once; None where it has too little tissue."""
        if position not in self._stains:
            self._stains[position] = estimate_stains([self._decoded.read(position)[0]])
        return self._stains[position]

    def _paste(
        self, position: int, crop: LabelledCrop, rng: np.random.Generator, config: PasteConfig
    ) -> list[npt.NDArray[Any]]:
        """Image, labels and distances of a crop with nuclei of its own tile or of another."""
        source = position if rng.random() < config.same_tile else int(rng.integers(len(self)))
        tile = LabelledCrop(*self._decoded.read(source))
        if source not in self._boxes:
            self._boxes[source] = whole_nuclei(tile.instance)
        pasted = paste_nuclei(crop, Donor(tile, self._boxes[source]), self.is_nucleus, rng, config)
        return [pasted.image, pasted.labels, pasted.distances]

    @cached_property
    def class_shares(self) -> npt.NDArray[np.float64]:
        """Share of each class of the network's scheme in each tile's labelled pixels: [tiles, C].

        From the manifest, or counted from the mask of a row without them; times the tile's weight.
        """
        shares = np.zeros((len(self), len(self._scheme)))
        batches = self._dataset.table.select(["label_scheme", "class_fractions"]).to_batches(max_chunksize=4096)
        rows = (row for batch in batches for row in batch.to_pylist())
        for position, row in enumerate(rows):
            table, fractions = self._tables[row["label_scheme"]], row["class_fractions"]
            if fractions is None:
                index = int(self._indices[position])
                counts = np.bincount(self._dataset.store.read(index, "semantic").ravel())
                fractions = counts / max(counts[:IGNORE].sum(), 1)
            for own, fraction in enumerate(fractions):
                if table[own] != IGNORE:
                    shares[position, table[own]] += fraction
        return shares if self.weights is None else shares * self.weights[:, None]

    def draw_class(self, rng: np.random.Generator) -> tuple[int, int] | None:
        """A class, all that occur equally likely, and a tile in proportion to the class's share: (class, tile).

        None where no tile has a labelled pixel.
        """
        cumulative = self._cumulative_shares
        occurring = np.flatnonzero(cumulative[-1])
        if not occurring.size:
            return None
        wanted = int(rng.choice(occurring))
        position = np.searchsorted(cumulative[:-1, wanted], rng.random() * cumulative[-1, wanted], side="right")
        return wanted, int(position)

    @cached_property
    def _cumulative_shares(self) -> npt.NDArray[np.float64]:
        cumulative: npt.NDArray[np.float64] = np.cumsum(self.class_shares, axis=0)
        return cumulative


def _draw_pixel(labels: npt.NDArray[np.uint8], wanted: int, rng: np.random.Generator) -> tuple[int, int] | None:
    """A random pixel (y, x) of a class, all equally likely; None where there is none."""
    flat = labels.reshape(-1)
    tried = rng.integers(flat.size, size=128)  # finds common classes without reading the whole tile
    hits = np.flatnonzero(flat[tried] == wanted)
    if hits.size:
        pixel = int(tried[hits[0]])
    else:
        found = np.flatnonzero(flat == wanted)
        if not found.size:
            return None
        pixel = int(rng.choice(found))
    y, x = divmod(pixel, int(labels.shape[1]))
    return y, x
