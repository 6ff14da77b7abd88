"""`factory ingest` of label files: found by looking, drawn into the scheme, every fault listed first."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manifests import IGNORE, open_dataset
from tests.ingest_files import ingest_command, ingested, save, slide, tissue_image, tree_sha256
from tests.label_writers import (
    NAMES,
    SIZE,
    Objects,
    random_objects,
    write_cellpose,
    write_coco,
    write_geojson,
    write_pannuke,
)

ARGUMENTS = ("--mpp", 0.25, "--scheme", "ihc")


@pytest.fixture(autouse=True)
def _keep_malloc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.core.console.keep_freed_memory", lambda: True)


def semantic_of(objects: Objects) -> np.ndarray:
    return np.array([0, *(1 + NAMES.index(name) for name in objects.names)])[objects.instance]


def test_geojson_beside_its_images_is_found(tmp_path: Path) -> None:
    objects = random_objects(1)
    save(tmp_path / "in/images/a.png", tissue_image(0, SIZE))
    (tmp_path / "in/annotations").mkdir()
    write_geojson(tmp_path / "in/annotations/a.geojson.gz", objects, cells=True)
    tile = ingested(tmp_path / "out", tmp_path / "in", *ARGUMENTS)[0].tile
    np.testing.assert_array_equal(tile.instance, objects.instance)
    np.testing.assert_array_equal(tile.semantic, semantic_of(objects))
    row = open_dataset(tmp_path / "out").row(0)
    assert row["label_origin"] == "annotated"


def test_regions_leave_uncovered_pixels_unlabelled_unless_filled(tmp_path: Path) -> None:
    save(tmp_path / "in/a.png", tissue_image(0, SIZE))
    ring = [[4, 4], [12, 4], [12, 12], [4, 12], [4, 4]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}
    feature["properties"] = {"classification": {"names": ["Tumor", "Positive"]}}
    (tmp_path / "in/a.geojson").write_text(json.dumps([feature]))
    arguments = ("--mpp", 0.25, "--scheme", "pdl1", "--class-map", "Tumor: Positive=PD-L1 positive")
    tile = ingested(tmp_path / "out", tmp_path / "in", *arguments)[0].tile
    assert np.count_nonzero(tile.semantic == 3) == 64
    assert set(np.unique(tile.semantic)) == {3, IGNORE}
    assert not tile.instance.any()
    filled = ingested(tmp_path / "filled", tmp_path / "in", *arguments, "--fill", "other")[0].tile
    assert set(np.unique(filled.semantic)) == {0, 3}


def test_one_coco_file_labels_many_images(tmp_path: Path) -> None:
    objects = random_objects(2)
    save(tmp_path / "in/a.png", tissue_image(0, SIZE))
    save(tmp_path / "in/b.png", tissue_image(1, SIZE))
    write_coco(tmp_path / "in/labels.json", objects)
    document = json.loads((tmp_path / "in/labels.json").read_text())
    document["images"].append({"id": 8, "file_name": "b.png", "height": SIZE[0], "width": SIZE[1]})
    (tmp_path / "in/labels.json").write_text(json.dumps(document))
    dataset = ingested(tmp_path / "out", tmp_path / "in", *ARGUMENTS)
    np.testing.assert_array_equal(dataset[0].tile.instance, objects.instance)
    assert not dataset[1].tile.instance.any()


def test_masks_of_cellpose_are_no_images(tmp_path: Path) -> None:
    objects = random_objects(3)
    save(tmp_path / "in/a.png", tissue_image(0, SIZE))
    write_cellpose(tmp_path / "in/a_cp_masks.png", objects)
    dataset = ingested(tmp_path / "out", tmp_path / "in", "--mpp", 0.25)
    assert len(dataset) == 1
    np.testing.assert_array_equal(dataset[0].tile.instance, objects.instance)


def test_stacks_are_many_images(tmp_path: Path) -> None:
    objects = random_objects(4)
    (tmp_path / "in/fold1").mkdir(parents=True)
    write_pannuke(tmp_path / "in/fold1/masks.npy", objects)
    images = np.stack([tissue_image(seed, SIZE) for seed in range(2)]).astype(np.float64)
    np.save(tmp_path / "in/fold1/images.npy", images)
    np.save(tmp_path / "in/fold1/types.npy", np.array(["Breast", "Colon"]))
    dataset = ingested(tmp_path / "out", tmp_path / "in", "--mpp", 0.25)
    assert dataset.schemes[0].name == "nuclei_types"
    np.testing.assert_array_equal(dataset[1].image, images[1])
    np.testing.assert_array_equal(dataset[1].tile.semantic, semantic_of(objects))  # its first two classes
    assert dataset.table["group_id"].to_pylist() == ["fold1-breast-00000", "fold1-colon-00001"]
    assert dataset.row(1)["source_uri"] == "fold1/images.npy#1"


def test_outlines_on_a_slide_are_drawn_at_the_resolution_of_the_tiles(tmp_path: Path) -> None:
    image = tissue_image(0, (128, 192))
    slide(tmp_path / "a.svs", image)
    objects = random_objects(6)
    write_geojson(tmp_path / "a.geojson", objects)
    dataset = ingested(tmp_path / "out", tmp_path / "a.svs", "--size", 64, "--scheme", "ihc", "--max-background", 1)
    tile = next(sample.tile for sample in dataset if (sample.row["source_y"], sample.row["source_x"]) == (0, 0))
    np.testing.assert_array_equal(tile.instance[: SIZE[0], : SIZE[1]], objects.instance)
    assert not tile.instance[SIZE[0] :].any()


def test_every_fault_is_listed_before_anything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for stem in "ab":
        save(tmp_path / f"in/{stem}.png", tissue_image(0, SIZE))
    outside = {"type": "Polygon", "coordinates": [[[0, 0], [900, 0], [9, 9]]]}
    features = [
        {"type": "Feature", "geometry": geometry, "properties": {}}
        for geometry in ({"type": "Point", "coordinates": [1, 1]}, outside)
    ]
    (tmp_path / "in/a.geojson").write_text(json.dumps(features))
    write_geojson(tmp_path / "in/b.geojson", Objects(np.eye(24, 32, dtype=np.int32), ("tumour",)))
    assert ingest_command(tmp_path / "in", *ARGUMENTS, "--out", tmp_path / "out") == 2
    said = "".join(capsys.readouterr().out.split())
    assert "a.geojson:annotation1:expectedanarea,gotPoint" in said
    assert "a.geojson:annotation2:expectedpointswithintheimageof24x32,got(900,0)" in said
    assert "b.geojson:expectedclassesofihc" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--labels", "geojsn"), "--labels: expected one of"),
        (("--labels", "cvat"), "expected cvat files (.xml)"),
        (("--labels", "geojson", "--instances", "x/{stem}.png"), "expected no --instances, --semantic or --classes"),
        ((), "expected label files of one format, got geojson (1, e.g. a.geojson), cellpose (1, e.g. a_seg.npy)"),
        (("--labels", "geojson", "--fill", "stroma"), "--fill: expected a class of ihc"),
        (("--labels", "geojson", "--class-map", "tumour=cell"), "--class-map: expected VALUE:CLASS"),
    ],
)
def test_options_that_cannot_be_right_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    save(tmp_path / "in/a.png", tissue_image(0, SIZE))
    write_geojson(tmp_path / "in/a.geojson", random_objects(0))
    write_cellpose(tmp_path / "in/a_seg.npy", random_objects(0))
    assert ingest_command(tmp_path / "in", *ARGUMENTS, *arguments, "--out", tmp_path / "out") == 2
    assert said in " ".join(capfd.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_dry_run_draws_outlines_and_writes_nothing_else(tmp_path: Path) -> None:
    objects = random_objects(1)
    save(tmp_path / "in/a.png", tissue_image(0, SIZE))
    write_geojson(tmp_path / "in/a.geojson", objects)
    before, sheet = tree_sha256(tmp_path), tmp_path / "sheet.png"
    arguments = (tmp_path / "in", *ARGUMENTS, "--out", tmp_path / "out")
    assert ingest_command(*arguments, "--dry-run", "--sheet", sheet) == 0
    drawn = np.asarray(Image.open(sheet))
    assert drawn.shape == (336 + 16, 320, 3)
    outlined = (drawn[16 : 16 + 24 * 10, :] == (0, 255, 255)).all(-1)  # the colour of the second class
    inside = np.where(semantic_of(objects) == 2, 1, 0).repeat(10, 0).repeat(10, 1)
    assert outlined.any()
    assert not outlined[inside == 0].any()
    sheet.unlink()
    assert tree_sha256(tmp_path) == before
    assert ingest_command(*arguments, "--sheet", sheet) == 2
