"""Whole slides: level by resolution, region by region, the same pixels that the slide holds."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from factory.core.images.slides import SlideReader
from factory.ingest import image_buffer
from manifests import open_dataset, verify
from tests.ingest_files import ingest_command, scn, slide


@pytest.fixture(autouse=True)
def _keep_malloc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.core.console.keep_freed_memory", lambda: True)


@pytest.fixture
def picture() -> np.ndarray:
    """Smooth tissue with air on its right third; uint8 [300, 400, 3]."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(80, 180, (10, 14, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (400, 300), interpolation=cv2.INTER_CUBIC)
    image[:, 270:] = 245
    return image


@pytest.mark.parametrize("compression", ["deflate", 33005], ids=["deflate", "jpeg2000"])
def test_full_resolution_tiles_are_the_slides_pixels(tmp_path: Path, picture: np.ndarray, compression: object) -> None:
    path = slide(tmp_path / "slides/one.svs", picture, compression=compression)
    assert ingest_command(path.parent, "--size", "128x128", "--out", tmp_path / "out") == 0
    assert verify(tmp_path / "out") == []
    dataset = open_dataset(tmp_path / "out")
    assert 0 < len(dataset) < 12  # the tiles of air are gone
    for sample in dataset:
        y, x = sample.row["source_y"], sample.row["source_x"]
        np.testing.assert_array_equal(sample.image, picture[y : y + 128, x : x + 128])
        assert (sample.row["mpp"], sample.row["source_level"], sample.row["source_uri"]) == (0.5, 0, "one.svs")


@pytest.mark.parametrize(
    ("target", "level", "shape"), [(1.0, 1, (150, 200)), (0.75, 0, (200, 266)), (2.0, 1, (75, 100))]
)
def test_level_follows_the_resolution_asked_for(
    tmp_path: Path, picture: np.ndarray, target: float, level: int, shape: tuple[int, int]
) -> None:
    path = slide(tmp_path / "one.svs", picture)
    arguments = ("--size", "50x50", "--resample-mpp", target, "--max-background", 1, "--out", tmp_path / "out")
    assert ingest_command(path, *arguments) == 0
    dataset = open_dataset(tmp_path / "out")
    mosaic = np.zeros((*shape, 3), np.uint8)
    for sample in dataset:
        assert sample.row["mpp"] == pytest.approx(target, rel=0.02)
        assert sample.row["source_level"] == level
        y, x = (round(sample.row[name] * 0.5 / target) for name in ("source_y", "source_x"))
        mosaic[y : y + 50, x : x + 50] = sample.image[: shape[0] - y, : shape[1] - x]
    expected = cv2.resize(picture, shape[::-1], interpolation=cv2.INTER_AREA)
    difference = np.abs(mosaic.astype(int) - expected)[:, : int(shape[1] * 0.6)]
    assert difference.mean() < 3  # level 1 is every second pixel, regions start at whole pixels: near, not equal


def test_coarse_tiles_read_in_parts_equal_those_read_whole(
    tmp_path: Path, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = slide(tmp_path / "one.svs", picture)
    arguments = ("--size", "32x32", "--resample-mpp", 4, "--max-background", 1)
    assert ingest_command(path, *arguments, "--out", tmp_path / "whole") == 0
    monkeypatch.setattr(image_buffer, "_MAX_READ_PX", 1000)
    assert ingest_command(path, *arguments, "--out", tmp_path / "parts") == 0
    for whole, part in zip(open_dataset(tmp_path / "whole"), open_dataset(tmp_path / "parts"), strict=True):
        np.testing.assert_array_equal(part.image, whole.image)


def test_mpp_fills_in_only_where_a_slide_says_none(tmp_path: Path, picture: np.ndarray) -> None:
    slide(tmp_path / "slides/silent.svs", picture, mpp=None)
    slide(tmp_path / "slides/stated.svs", picture, mpp=0.25)
    assert ingest_command(tmp_path / "slides", "--size", "64x64", "--mpp", 1, "--out", tmp_path / "out") == 0
    rows = open_dataset(tmp_path / "out").table.to_pylist()
    assert {(row["source_uri"], row["mpp"]) for row in rows} == {("silent.svs", 1.0), ("stated.svs", 0.25)}


def test_regions_outside_the_slide_are_white(tmp_path: Path, picture: np.ndarray) -> None:
    with SlideReader(slide(tmp_path / "one.svs", picture)) as reader:
        region = reader.read(0, 380, 290, 40, 20)
    assert np.all(region[:10, :20] == 245)
    assert np.all(region[10:] == 255)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "expected --size HxW for a slide"),
        (("--size", "64x64", "--resample-mpp", 0.1), "expected --resample-mpp of at least 0.25"),
    ],
)
def test_slide_that_cannot_be_used_is_refused(
    tmp_path: Path,
    picture: np.ndarray,
    capsys: pytest.CaptureFixture[str],
    options: tuple[object, ...],
    message: str,
) -> None:
    path = slide(tmp_path / "one.svs", picture)
    assert ingest_command(path, *options, "--out", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["header", "pixels"])
def test_damaged_slide_is_refused(
    tmp_path: Path, picture: np.ndarray, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    path = slide(tmp_path / "one.svs", picture)
    content = bytearray(path.read_bytes())
    if damage == "header":
        content[:64] = bytes(64)
    else:
        middle = content.index(b"\x78", 300)
        content[middle : middle + 2000] = bytes(2000)
    path.write_bytes(content)
    assert ingest_command(path, "--size", "64x64", "--mpp", 0.5, "--out", tmp_path / "out") == 2
    assert "one.svs" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_geojson_of_a_slide_with_bounds_counts_from_their_corner(tmp_path: Path) -> None:
    image = np.full((128, 128, 3), 230, np.uint8)
    image[40:60, 30:70] = 80
    path = scn(tmp_path / "a.scn", image, 192, 64)
    ring = [[30, 40], [70, 40], [70, 60], [30, 60], [30, 40]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}
    feature["properties"] = {"objectType": "detection", "classification": {"name": "nucleus"}}
    (tmp_path / "a.geojson").write_text(json.dumps(feature))
    assert ingest_command(path, "--size", "128x128", "--scheme", "nuclei", "--out", tmp_path / "out") == 0
    dark, labelled = 0, 0
    for sample in open_dataset(tmp_path / "out"):
        inside = sample.tile.instance > 0
        dark, labelled = dark + int((sample.image[inside] < 150).all(axis=-1).sum()), labelled + int(inside.sum())
    assert labelled >= 20 * 40
    assert dark > 0.9 * labelled  # compressed as JPEG
