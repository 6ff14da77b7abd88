"""Small annotated data sets of scikit-image's immunohistochemistry photograph, for tests of banks and of `exemplar`."""

from __future__ import annotations

import functools
from pathlib import Path

import cv2
import numpy as np
from skimage.data import immunohistochemistry
from skimage.measure import label
from skimage.morphology import remove_small_objects

import factory
from factory.bank.collect import choose_pages, collect
from manifests.dataset import Dataset, open_dataset
from tests.ingest_files import save

MPP = 0.5
SIZE = 256


@functools.cache
def _quarters() -> dict[str, np.ndarray]:
    image = immunohistochemistry()
    return {
        f"{row}{column}": image[row : row + SIZE, column : column + SIZE] for row in (0, SIZE) for column in (0, SIZE)
    }


def dark_bodies(image: np.ndarray) -> np.ndarray:
    """Dark bodies of about the size of nuclei as an instance map; no good segmentation, but real outlines."""
    red = cv2.GaussianBlur(image[..., 0], (0, 0), 1.5)
    dark = (
        cv2.morphologyEx((red < np.percentile(red, 22)).astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)) > 0
    )
    return label(remove_small_objects(dark, max_size=60), connectivity=1).astype(np.uint16)


def write_photograph(folder: Path, scheme: str) -> Dataset:
    """A data set of the four quarters, three for training and one for testing.

    Args:
        folder: for sources and data set. scheme: ``nuclei``: instances; ``ihc``: the brown ones positive; ``ki67``:
            regions by darkness and brownness, with a rectangle of air; ``tissue``: the same as tissue and air.
    """
    source = folder / "source"
    for name, image in _quarters().items():
        instance = dark_bodies(image)
        brown = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 6)
        positive = brown[..., 0] - brown[..., 2] > 52
        regions = np.where(positive, 2, np.where(brown.mean(2) < np.median(brown.mean(2)), 1, 0)).astype(np.uint8)
        if scheme in ("ki67", "tissue"):
            image = image.copy()
            image[40:120, 100:200] = 245
            regions[40:120, 100:200] = 3
        save(source / "images" / f"{name}.png", image)
        if scheme in ("nuclei", "ihc"):
            save(source / "instances" / f"{name}.png", instance)
        if scheme == "ihc":
            brown_bodies = [
                number for number in range(1, instance.max() + 1) if positive[instance == number].mean() > 0.5
            ]
            classes = np.where(instance > 0, np.where(np.isin(instance, brown_bodies), 2, 1), 0).astype(np.uint8)
            save(source / "classes" / f"{name}.png", classes)
        if scheme in ("ki67", "tissue"):
            masks = regions if scheme == "ki67" else (regions != 3).astype(np.uint8)
            save(source / "masks" / f"{name}.png", masks)
    splits = source / "splits.csv"
    splits.write_text(
        "name,split\n0_0,train\n".replace("0_0", "00") + f"0{SIZE},train\n{SIZE}0,train\n{SIZE}{SIZE},test\n"
    )
    out = folder / scheme
    factory.ingest(source, out, scheme=scheme, mpp=MPP, stain="ihc", splits=splits, licence="CC0-1.0", workers=1)
    return open_dataset(out)


def write_other_splits(folder: Path, scheme: str, **splits: str) -> Dataset:
    """Ingest the source of `write_photograph` again, with other splits: ``_00="test"``; all other quarters train.

    Args:
        folder: as `write_photograph` left it. scheme: of the labels. splits: of quarters, after an underscore.
    """
    lines = [f"{name},{splits.get(f'_{name}', 'train')}" for name in _quarters()]
    table = folder / "other-splits.csv"
    table.write_text("\n".join(["name,split", *lines, ""]))
    out = folder / "other"
    factory.ingest(
        folder / "source", out, scheme=scheme, mpp=MPP, stain="ihc", splits=table, licence="CC0-1.0", workers=1,
        overwrite=True,
    )  # fmt: skip
    return open_dataset(out)


def bank_of_photograph(folder: Path, scheme: str) -> Path:
    """Collect the bank of `write_photograph`; returns its file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "bank.safetensors"
    collect(choose_pages([write_photograph(folder, scheme).root], None, 200, 0), path)
    return path
