"""Replay: a tile is made again from its row and run.yaml, and compared with the stored one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from factory.core.config import digest
from factory.core.encoding import png
from factory.core.folder import RUN, library_versions
from factory.core.runs import read_run
from factory.make.recipes import recipe_of
from factory.make.recipes.base import maker_of
from manifests.dataset import Sample, open_dataset
from manifests.errors import FaultError, UserError
from manifests.files import write_atomic
from manifests.tile import Tile


@dataclass(frozen=True)
class Replay:
    """A stored tile beside the same tile made again.

    Attributes:
        stored: from the store. image: made now, uint8 [H, W, 3]. tile: made now; None where no part made the labels,
            as with annotations. changed_versions: libraries that differ from the run's, as ``name==version`` then.
    """

    stored: Sample
    image: npt.NDArray[np.uint8]
    tile: Tile | None
    changed_versions: tuple[str, ...]

    @property
    def masks_equal(self) -> bool:
        """Whether both masks have the same bytes; true where no mask was made again."""
        return self.tile is None or bool(
            np.array_equal(self.tile.semantic, self.stored.tile.semantic)
            and np.array_equal(self.tile.instance, self.stored.tile.instance)
        )

    @property
    def image_difference(self) -> int:
        """Largest difference of the images, in grey levels."""
        return int(np.abs(self.image.astype(np.int16) - self.stored.image.astype(np.int16)).max(initial=0))

    @property
    def holds(self) -> bool:
        """Whether masks and image are equal. Other versions excuse an image, and labels that a network predicted."""
        predicted, changed = self.stored.row["label_origin"] == "predicted", bool(self.changed_versions)
        return (self.masks_equal or (predicted and changed)) and (self.image_difference == 0 or changed)

    @property
    def summary(self) -> str:
        """The result in one line."""
        row = self.stored.row
        image = "same bytes" if self.image_difference == 0 else f"differs by up to {self.image_difference} grey levels"
        masks = "masks same bytes" if self.masks_equal else "masks DIFFER"
        if self.tile is None:
            annotated = row["label_origin"] == "annotated"
            masks = "labels are a person's and were not made again" if annotated else "no labels"
        changed = f"; other versions: {', '.join(self.changed_versions)}" if self.changed_versions else ""
        return f"{row['sample_id']} ({row['recipe']}): {masks}, image {image}{changed}"

    @property
    def advice(self) -> str:
        """Advice for a replay that does not hold."""
        return f"Install {', '.join(self.changed_versions)}." if self.changed_versions else "Run factory verify."

    def write_png(self, path: Path) -> None:
        """Write the image that was made now. Raises a UserError when there is no such folder."""
        if not path.absolute().parent.is_dir():
            raise UserError(f"{path}: expected a folder that is there, got {path.parent}. Create it first.")
        write_atomic(path, png(self.image))


def replay(root: Path, sample_id: str, masks_of: Path | None = None) -> Replay:
    """Make a tile of a synthetic data set again.

    Args:
        root: the data set. sample_id: of the tile.
        masks_of: the data set whose masks it was drawn on, for tiles of `factory render`.

    Raises:
        UserError: when the data set is real or has no such sample.
        FaultError: when the tile or run.yaml is damaged.
    """
    dataset = open_dataset(root)
    if not dataset.info.is_synthetic:
        raise UserError(f"{root}: expected a synthetic data set, got a real one. Real tiles cannot be made again.")
    stored = dataset[dataset.find(sample_id)]
    document = read_run(root)
    if digest(document) != stored.row["config_sha256"]:
        raise FaultError(f"{root / RUN}: expected what made {sample_id}, got another run's. Run factory verify.")
    device = stored.row["device"] or "cpu"
    recipe = recipe_of(document["config"], device, where=root, masks_of=masks_of)
    ((image, tile, _),) = maker_of(recipe).make([stored.row])
    now = library_versions(*(name for name in dataset.info.versions if name != "pathology-tile-factory"))
    changed = tuple(f"{name}=={made}" for name, made in dataset.info.versions.items() if now.get(name) != made)
    return Replay(stored, image, tile if recipe.makes_labels else None, changed)
