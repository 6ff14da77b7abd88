"""Crops of the masks of data sets, with their images or not, as a function of the training step alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from factory.core.config import digest
from factory.core.resolutions import SAME_MPP
from factory.core.seeds import Stream, generator
from manifests.dataset import Dataset, open_dataset
from manifests.errors import UserError
from manifests.labels import IGNORE, LabelScheme, common_scheme, get_scheme

_TRIES = 8


@dataclass(frozen=True)
class Tiles:
    """Real masks and images to learn from.

    Attributes:
        datasets: the rows of one split of each data set. scheme: label scheme that all masks are read as.
        mpp: micrometres per pixel, the commonest of the rows.
        rows: (data set, row) of the masks that are used. left_out: number of masks that are not, for ignored pixels.
    """

    datasets: tuple[Dataset, ...]
    scheme: LabelScheme
    mpp: float
    rows: tuple[tuple[int, int], ...]
    left_out: int

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, position: int) -> npt.NDArray[np.uint8]:
        """Read the mask at a position, in `scheme`: uint8 [H, W]."""
        labels, own = self.read_own(position)
        if own.name == self.scheme.name:
            return labels
        projected: npt.NDArray[np.uint8] = own.projection(self.scheme)[labels]
        return projected

    def read_own(self, position: int) -> tuple[npt.NDArray[np.uint8], LabelScheme]:
        """Read the mask at a position as it is stored, uint8 [H, W], with its own scheme."""
        part, row = self.rows[position]
        own = self.datasets[part].table["label_scheme"][row].as_py()
        return self._stored(position, "semantic"), self.datasets[part].info.scheme(own)

    def read_image(self, position: int) -> npt.NDArray[np.uint8]:
        """Read the image at a position: uint8 [H, W, 3]."""
        return self._stored(position, "image")

    def read_instance(self, position: int) -> npt.NDArray[np.int32]:
        """Read the instance ids at a position: int32 [H, W]."""
        return self._stored(position, "instance").astype(np.int32)

    def _stored(self, position: int, name: str) -> npt.NDArray[Any]:
        part, row = self.rows[position]
        dataset = self.datasets[part]
        return dataset.store.read(dataset.table["index"][row].as_py(), name)

    def group(self, position: int) -> str:
        """Return ``data set/patient or slide`` of the mask at a position."""
        part, row = self.rows[position]
        return f"{self.datasets[part].root.name}/{self.datasets[part].table['group_id'][row].as_py()}"

    @property
    def smallest(self) -> tuple[int, int]:
        """Smallest height and smallest width of the masks."""
        layouts = [dataset.store.layout for dataset in self.datasets if len(dataset)]
        return min(layout.height for layout in layouts), min(layout.width for layout in layouts)

    @property
    def sha256(self) -> str:
        """Digest of all masks, from the digests in their rows."""
        columns = (self.datasets[part].table["semantic_sha256"][row].as_py() for part, row in self.rows)
        return digest([self.scheme.name, *columns])

    @property
    def sources(self) -> tuple[str, ...]:
        """``data set/group`` of all rows, and the sources of synthetic ones; for the card and the check for leaks."""
        found = set()
        for dataset in self.datasets:
            name = dataset.root.resolve().name
            found |= {f"{name}/{group}" for group in dataset.table["group_id"].to_pylist() if group is not None}
            found |= set(dataset.info.training_sources) if dataset.info.is_synthetic else set()
        return tuple(sorted(found))

    @property
    def licences(self) -> tuple[str, ...]:
        """Licences of the data sets."""
        return tuple(sorted({licence for dataset in self.datasets for licence in dataset.info.licences}))


def open_tiles(
    paths: Sequence[Path],
    scheme: str | None,
    size: tuple[int, int],
    batch: int,
    *,
    split: str = "train",
    where: str = "--data",
    advice: str = "Ingest more, or use a smaller --set batch=N.",
    keep_ignored: bool = False,
    on_tile: Callable[[int, int], None] = lambda done, total: None,
) -> Tiles:
    """Open data sets to learn from and check every mask once; writes nothing.

    Args:
        paths: folders of data sets. scheme: to read the masks as; None takes the richest that all can be read as.
        size: height and width of a crop in pixels. batch: crops per step. split: of the rows that are used.
        where: the option that named the paths, for messages. advice: for the message about too few tiles.
        keep_ignored: use tiles that contain ignored pixels too, for trainers that learn from images alone.
        on_tile: called with the tiles checked and their number.

    Raises:
        UserError: for a missing data set, schemes without a common reading, resolutions that differ, tiles smaller
            than a crop, label values outside the scheme, or fewer tiles than a batch.
    """
    parts, chosen = _open_split(paths, scheme, split)
    values = sorted({mpp for part in parts for mpp in part.table["mpp"].to_pylist()})
    if values and values[-1] > values[0] * (1 + SAME_MPP):
        raise UserError(
            f"{where}: expected tiles of one resolution, got {values[0]:g} to {values[-1]:g} um per pixel. "
            "Ingest them again with --resample-mpp."
        )
    for part in parts:
        height, width = part.store.layout.height, part.store.layout.width
        if len(part) and (size[0] > height or size[1] > width):
            raise UserError(
                f"{part.root}: expected tiles of at least {size[0]}x{size[1]}, the size that is learnt, "
                f"got {height}x{width}. Use a smaller --set size=[H,W]."
            )
    rows, left_out = _survey(parts, chosen, keep_ignored, on_tile)
    if len(rows) < batch:
        wanted = f"at least {batch} tiles with split {split}, a batch" if batch > 1 else f"tiles with split {split}"
        ignored = f" ({left_out} more contain ignored pixels)" if left_out else ""
        raise UserError(f"{where}: expected {wanted}, got {len(rows)}{ignored}. {advice}")
    return Tiles(parts, chosen, _commonest_mpp(parts), tuple(rows), left_out)


def reopen_tiles(paths: Sequence[Path], scheme: str, split: str, rows: Sequence[tuple[int, int]]) -> Tiles:
    """Open the tiles whose `rows` were found by `open_tiles` before, without checking the masks again."""
    parts, chosen = _open_split(paths, scheme, split)
    return Tiles(parts, chosen, _commonest_mpp(parts), tuple(rows), sum(map(len, parts)) - len(rows))


def _open_split(paths: Sequence[Path], scheme: str | None, split: str) -> tuple[tuple[Dataset, ...], LabelScheme]:
    """Return the rows of a split of each data set, and the scheme that all of them are read as."""
    datasets = [open_dataset(path) for path in paths]
    parts = tuple(d.where(np.array([s == split for s in d.table["split"].to_pylist()], bool)) for d in datasets)
    return parts, _choose([own for part in datasets for own in part.schemes], scheme)


def _choose(schemes: Sequence[LabelScheme], name: str | None) -> LabelScheme:
    if name is None:
        return common_scheme(list(schemes))
    target = next((scheme for scheme in schemes if scheme.name == name), None) or get_scheme(name)
    for own in schemes:
        own.projection(target)
    return target


def _commonest_mpp(parts: Sequence[Dataset]) -> float:
    values = Counter(mpp for part in parts for mpp in part.table["mpp"].to_pylist())
    return float(values.most_common(1)[0][0])


def _survey(
    parts: Sequence[Dataset], scheme: LabelScheme, keep_ignored: bool, on_tile: Callable[[int, int], None]
) -> tuple[list[tuple[int, int]], int]:
    """Return (data set, row) of the masks that are used, and the number left out for ignored pixels."""
    total = sum(len(part) for part in parts)
    tiles = Tiles(tuple(parts), scheme, 0.0, tuple((p, r) for p, part in enumerate(parts) for r in range(len(part))), 0)
    rows, left_out = [], 0
    for position, (part, row) in enumerate(tiles.rows):
        labels, own = tiles.read_own(position)
        present = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
        wrong = present[(present >= len(own)) & (present < IGNORE)]
        if wrong.size:  # checked before the projection, which would turn them into ignored pixels
            name = parts[part].table["sample_id"][row].as_py()
            raise UserError(
                f"{parts[part].root}: {name}: expected classes 0 to {len(own) - 1} of {own.name}, "
                f"got {wrong[0]}. Ingest it again with --class-map."
            )
        if not keep_ignored and (own.projection(scheme)[present] == IGNORE).any():
            left_out += 1
        else:
            rows.append((part, row))
        on_tile(position + 1, total)
    return rows, left_out


@dataclass(frozen=True)
class MaskCrops:
    """A stream of crops of masks. The crops of a step depend on the seed and the step alone.

    Attributes:
        tiles: to cut from. size: height and width of a crop in pixels. batch: crops per step. seed: of order and crops.
        max_background: crops with a larger share of air are drawn again a few times, as the papers drop such tiles.
        stream: number of this stream in its run; streams with other numbers give other crops.
    """

    tiles: Tiles
    size: tuple[int, int]
    batch: int
    seed: int
    max_background: float = 1.0
    stream: int = 0

    def draw(self, step: int) -> npt.NDArray[np.uint8]:
        """Draw the crops of a step (0-based): uint8 [N, h, w]."""
        return np.stack([self._crop(number) for number in self.numbers(step)])

    def numbers(self, step: int) -> range:
        """Return the numbers of a step's crops in the stream."""
        return range(step * self.batch, (step + 1) * self.batch)

    def place(self, number: int) -> int:
        """Return the tile of crop `number` of the stream. Each round takes every tile once, in a new order."""
        total = len(self.tiles)
        order = generator(self.seed, Stream.TRAIN_ORDER, 2 * (number // total) + self.stream).permutation(total)
        return int(order[number % total])

    def _crop(self, number: int) -> npt.NDArray[np.uint8]:
        rng = generator(self.seed, Stream.TRAIN_VIEW, 2 * number + self.stream)
        tile = self._read(self.place(number))
        air = list(self.tiles.scheme.ids("air"))
        for _ in range(_TRIES):
            crop = random_crop(tile, self.size, rng)
            labels = crop if crop.ndim == 2 else crop[..., 0]
            if not air or np.isin(labels, air).mean() <= self.max_background:
                break
        return crop

    def _read(self, position: int) -> npt.NDArray[np.uint8]:
        """Read the array that crops are cut from: uint8 [H, W], or [H, W, C] with the classes first."""
        return self.tiles.read(position)


class ImageCrops(MaskCrops):
    """Crops of masks with their images: `draw` gives uint8 [N, h, w, 4], the class and RGB of every pixel."""

    def _read(self, position: int) -> npt.NDArray[np.uint8]:
        return np.dstack([self.tiles.read(position), self.tiles.read_image(position)])


class NucleiCrops(ImageCrops):
    """Crops of masks, images and instances: uint8 [N, h, w, 8]; the last four channels are the bytes of an int32."""

    def _read(self, position: int) -> npt.NDArray[np.uint8]:
        instance = self.tiles.read_instance(position)
        return np.dstack([super()._read(position), instance.view(np.uint8).reshape(*instance.shape, 4)])


def instances_of(crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Return the instance ids of `NucleiCrops`: int32 [N, h, w]."""
    return np.ascontiguousarray(crops[..., 4:]).view(np.int32)[..., 0]


def random_crop(tile: npt.NDArray[np.uint8], size: tuple[int, int], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Cut a random crop of [H, W, ...] and flip or transpose it at random (all eight symmetries, where they fit)."""
    height, width = size
    turned = rng.random() < 0.5 and width <= tile.shape[0] and height <= tile.shape[1]
    h, w = (width, height) if turned else (height, width)
    y, x = (int(rng.integers(0, length - side + 1)) for length, side in zip(tile.shape[:2], (h, w), strict=True))
    crop = tile[y : y + h, x : x + w]
    crop = crop.swapaxes(0, 1) if turned else crop
    for axis in (0, 1):
        if rng.random() < 0.5:
            crop = np.flip(crop, axis)
    return np.ascontiguousarray(crop)
