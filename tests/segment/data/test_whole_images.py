"""Tiles put back together are the images that they were cut from; tiles that cannot be are refused."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow.compute as pc
import pytest

from factory.ingest.request import Request
from factory.ingest.writing import ingest
from manifests.dataset import Dataset, open_dataset
from manifests.errors import UserError
from segment.data.whole_images import group_tiles, tile_images, whole_images

SIZE = (50, 70)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two annotated images, ids with gaps, nuclei that the tiles of 32x32 cut through."""
    for number, name in enumerate(("one", "two")):
        rng = np.random.default_rng(number)
        instance = np.zeros(SIZE, np.uint16)
        for cell in range(12):
            centre = (int(rng.integers(SIZE[1])), int(rng.integers(SIZE[0])))
            cv2.circle(instance, centre, 6, 7 + 100 * cell, -1)
        image = rng.integers(60, 200, (*SIZE, 3), dtype=np.uint8)
        for folder, pixels in (("images", image), ("instances", instance)):
            (tmp_path / "source" / folder).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / "source" / folder / f"{name}.png"), pixels)
    return tmp_path / "source"


def ingested(source: Path, out: Path, **options: object) -> Dataset:
    ingest(Request(source=source, out=out, mpp=0.25, **options), workers=1)  # type: ignore[arg-type]
    return open_dataset(out)


def images_of(source: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    image = cv2.cvtColor(cv2.imread(str(source / "images" / name)), cv2.COLOR_BGR2RGB)
    return image, cv2.imread(str(source / "instances" / name), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize(("size", "overlap"), [("32x32", 0), ("32x32", 12), ("32x96", 4), ("64x96", 0)])
def test_tiles_join_to_the_image_they_were_cut_from_and_padding_is_dropped(
    source: Path, tmp_path: Path, size: str, overlap: int
) -> None:
    dataset = ingested(source, tmp_path / "tiles", size=size, overlap=overlap)
    wholes = {whole.name: whole for whole in whole_images(dataset)}
    assert sorted(wholes) == ["images/one.png", "images/two.png"]
    for name, whole in wholes.items():
        image, instance = images_of(source, name.removeprefix("images/"))
        np.testing.assert_array_equal(whole.image, image)
        np.testing.assert_array_equal(whole.tile.instance, instance)
        np.testing.assert_array_equal(whole.tile.semantic, instance > 0)
    joined = [sample_id for whole in wholes.values() for sample_id in whole.sample_ids]
    assert sorted(joined) == sorted(dataset.table["sample_id"].to_pylist())
    assert len(list(tile_images(dataset))) == len(dataset)


def test_a_part_that_no_tile_holds_is_white_and_ignored(source: Path, tmp_path: Path) -> None:
    dataset = ingested(source, tmp_path / "tiles", size="25x35")
    kept = dataset.where(pc.not_equal(dataset.table["source_x"], 0))
    holed = dataset.where(
        pc.or_(pc.not_equal(dataset.table["source_x"], 35), pc.not_equal(dataset.table["source_y"], 25))
    )
    assert [whole.image.shape for whole in whole_images(kept)] == [(50, 35, 3)] * 2
    for whole in whole_images(holed):
        assert whole.image.shape == (*SIZE, 3)
        assert (whole.image[25:, 35:] == 255).all()
        assert (whole.tile.semantic[25:, 35:] == 255).all()
        assert (whole.tile.semantic[:25] != 255).all()
        assert (whole.tile.instance[25:, 35:] == 0).all()


def test_overlapping_tiles_that_disagree_are_refused(source: Path, tmp_path: Path) -> None:
    dataset = ingested(source, tmp_path / "tiles", size="32x32", overlap=12)
    column = dataset.table.column_names.index("source_x")
    moved = dataset.table.set_column(
        column, "source_x", pc.if_else(pc.equal(dataset.table["source_x"], 0), 1, dataset.table["source_x"])
    )
    with pytest.raises(
        UserError, match=r"images/one.png: expected overlapping tiles that agree, got other pixels in one-x"
    ):
        list(whole_images(Dataset(dataset.root, moved, dataset.info, dataset.store)))


def test_resampled_tiles_are_refused_and_resampled_whole_images_are_not(source: Path, tmp_path: Path) -> None:
    tiles = ingested(source, tmp_path / "tiles", size="16x16", resample_mpp=0.5)
    with pytest.raises(UserError, match=r"got resampled ones.*--tiles"):
        group_tiles(tiles)
    assert len(list(tile_images(tiles))) == len(tiles)
    assert len(group_tiles(ingested(source, tmp_path / "whole", resample_mpp=0.5))) == 2


def test_synthetic_tiles_are_images_of_their_own(dataset_factory: Callable[..., Dataset]) -> None:
    dataset = dataset_factory("synth", source="synthetic")
    wholes = list(whole_images(dataset))
    assert [whole.name for whole in wholes] == dataset.table["sample_id"].to_pylist()
    for whole, sample in zip(wholes, dataset, strict=True):
        np.testing.assert_array_equal(whole.image, sample.image)
        np.testing.assert_array_equal(whole.tile.instance, sample.tile.instance)
        assert whole.group == sample.row["group_id"]
