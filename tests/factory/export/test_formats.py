"""Each format, read by the library that its users read it with, or by the rules that its tool documents."""

import csv
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import yaml
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from matplotlib.path import Path as MatplotlibPath
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from shapely.geometry import shape

from factory.core.encoding import bilevel_png
from factory.core.images.files import read_header
from factory.core.runs import RunSpec, open_run, write_shard
from factory.export import exporting, nnunet, yolo
from factory.export.coco import run_lengths
from manifests import Dataset, DatasetInfo, Tile, UserError, get_scheme, open_dataset
from manifests.store import Layout
from tests.conftest import Outcome, write_dataset

Cli = Callable[..., Outcome]
RNG = np.random.default_rng(0)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools


def write_tiles(out: Path, scheme: str, tiles: list[tuple[np.ndarray, np.ndarray]]) -> Dataset:
    """A finished data set of these masks and instances, in three splits."""
    labels, size = get_scheme(scheme), tiles[0][0].shape
    info = DatasetInfo(True, "tests", (labels,), licences=("CC0-1.0",), training_sources=("photographs",))
    spec = RunSpec(out, {}, Layout(len(tiles), *size, 4), info)

    def samples() -> object:
        for index, (semantic, instance) in enumerate(tiles):
            tile = Tile(semantic.astype(np.uint8), instance.astype(np.int32), 0.25, labels)
            row = {"sample_id": f"t-{index}", "split": ("train", "val", "test")[index % 3], "source": "synthetic"}
            row |= {"height": size[0], "width": size[1], "mpp": 0.25, "label_scheme": scheme, "label_origin": "exact"}
            row |= {"group_id": f"g{index}", "licence": "CC0-1.0"}
            yield RNG.integers(0, 256, (*size, 3), np.uint8), tile, row

    with open_run(spec) as run:
        made = samples()
        for shard in run.todo:
            run.add(write_shard(spec, shard, (next(made) for _ in spec.layout.rows(shard))))  # type: ignore[call-overload]
        run.finish()
    return open_dataset(out)


def awkward() -> list[tuple[np.ndarray, np.ndarray]]:
    """Nuclei that touch, with a hole, in two parts, at the border, with large ids and gaps; ignored pixels; nothing."""
    instance = np.zeros((40, 48), np.int32)
    instance[2:12, 2:12], instance[2:12, 12:20] = 7, 3  # touch
    instance[5:8, 5:8] = 0  # a hole
    instance[20:24, 4:8] = instance[28:34, 4:10] = 60_000  # two parts
    instance[30:40, 40:48] = 9  # at the corner
    instance[16, 30] = 11  # one pixel
    semantic = (instance > 0) * 1 + (instance % 2 == 0) * (instance > 0)
    ignored = semantic.copy()
    ignored[14:18, 2:20] = 255
    empty = np.zeros_like(instance)
    return [(semantic, instance), (ignored, instance), (empty, empty), (semantic, instance)]


@pytest.fixture
def nuclei(tmp_path: Path) -> Dataset:
    return write_tiles(tmp_path / "nuclei", "ihc", awkward())


@pytest.fixture
def regions(tmp_path: Path) -> Dataset:
    return write_dataset(tmp_path / "regions", scheme="pdl1", n=3, size=(32, 48), source="synthetic", cells=False)


def export(data: Dataset, out: Path, format: str) -> Path:
    exporting.carry_out(exporting.prepare(data.root, format, out), workers=1)
    return out


def rows_by_id(data: Dataset) -> dict[str, int]:
    return {name: position for position, name in enumerate(data.table["sample_id"].to_pylist())}


# png


@pytest.mark.parametrize("which", ["nuclei", "regions"])
def test_png_comes_back_through_ingest_pixel_by_pixel_and_id_by_id(
    which: str, request: pytest.FixtureRequest, tmp_path: Path, cli: Cli
) -> None:
    data: Dataset = request.getfixturevalue(which)
    out = export(data, tmp_path / "out", "png")
    tables = ("--groups", out / "tiles.csv", "--splits", out / "tiles.csv", "--scheme", out / "scheme.yaml")
    done = cli("factory", "ingest", out, *tables, "--mpp", data.table["mpp"][0], "--out", "back")
    assert done.code == 0, done.err
    back, known = open_dataset(tmp_path / "back"), rows_by_id(data)
    assert len(back) == len(data)
    for sample in back:
        original = data[known[Path(sample.row["source_uri"]).stem]]
        assert np.array_equal(sample.image, original.image)
        assert np.array_equal(sample.tile.semantic, original.tile.semantic)
        assert np.array_equal(sample.tile.instance, original.tile.instance)
        assert sample.row["split"] == original.row["split"]
        assert sample.row["group_id"].endswith(original.row["group_id"])


def test_png_says_its_origin_in_every_file_and_lists_tiles_and_classes(nuclei: Dataset, tmp_path: Path) -> None:
    out = export(nuclei, tmp_path / "out", "png")
    for path in out.glob("*/*.png"):
        assert Image.open(path).text["Comment"].startswith("synthetic; not for diagnosis; {")  # type: ignore[attr-defined]
    tiles = list(csv.DictReader((out / "tiles.csv").read_text().splitlines()))
    assert [tile["name"] for tile in tiles] == ["t-0", "t-3", "t-1", "t-2"]
    assert tiles[0]["cells"] == "5"
    classes = list(csv.DictReader((out / "classes.csv").read_text().splitlines()))
    assert [one["name"] for one in classes] == list(nuclei.schemes[0].names)


def test_ids_beyond_sixteen_bits_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    instance = np.full((32, 32), 70_000, np.int32)
    data = write_tiles(tmp_path / "large", "nuclei", [(instance > 0, instance)])
    with pytest.raises(UserError, match="sample t-0: expected instance ids up to 65,534"):
        export(data, tmp_path / "out", "png")
    assert [path.name for path in tmp_path.iterdir()] == ["large"]


# coco


@given(arrays.arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 40)), elements=st.integers(0, 3)))
def test_run_lengths_are_those_of_pycocotools(labels: np.ndarray) -> None:
    masks = [np.asfortranarray(labels == label, np.uint8) for label in np.unique(labels[labels > 0])]
    assert run_lengths(labels) == [coco_mask.encode(mask)["counts"].decode() for mask in masks]


def test_coco_has_the_cells_with_their_classes_and_areas(nuclei: Dataset, tmp_path: Path) -> None:
    out, known, seen = export(nuclei, tmp_path / "out", "coco"), rows_by_id(nuclei), set()
    assert sorted(path.name for path in (out / "annotations").iterdir()) == [
        "instances_test.json", "instances_train.json", "instances_val.json",
    ]  # fmt: skip
    for split in ("train", "val", "test"):
        coco = COCO(out / f"annotations/instances_{split}.json")
        assert coco.dataset["info"]["is_synthetic"] is True
        assert "not for diagnosis" in coco.dataset["info"]["description"]
        assert {cat["id"]: cat["name"] for cat in coco.cats.values()} == {1: "negative cell", 2: "positive cell"}
        for image in coco.imgs.values():
            sample = nuclei[known[image["file_name"].removesuffix(".png")]]
            seen.add(image["file_name"])
            assert np.array_equal(np.asarray(Image.open(out / "images" / image["file_name"])), sample.image)
            assert coco.dataset["licenses"][image["license"] - 1]["name"] == "CC0-1.0"
            instance, semantic = np.zeros(sample.tile.shape, int), np.zeros(sample.tile.shape, int)
            for annotation in coco.imgToAnns[image["id"]]:
                mask = coco.annToMask(annotation) > 0
                assert annotation["area"] == mask.sum() == coco_mask.area(annotation["segmentation"])
                assert annotation["bbox"] == coco_mask.toBbox(annotation["segmentation"]).tolist()
                if annotation["iscrowd"]:
                    semantic[mask] = 255
                else:
                    instance[mask], semantic[mask] = annotation["instance_id"], annotation["category_id"]
            assert np.array_equal(instance, sample.tile.instance)
            assert np.array_equal(semantic, sample.tile.semantic)
    assert len(seen) == len(nuclei)


def test_coco_has_regions_as_stuff(regions: Dataset, tmp_path: Path) -> None:
    out, known = export(regions, tmp_path / "out", "coco"), rows_by_id(regions)
    for path in (out / "annotations").iterdir():
        assert path.name.startswith("stuff_")
        coco = COCO(path)
        assert min(coco.cats) == 1
        for image in coco.imgs.values():
            semantic = np.full(regions[0].tile.shape, 255)
            for annotation in coco.imgToAnns[image["id"]]:
                semantic[coco.annToMask(annotation) > 0] = annotation["category_id"] - 1
            tile = regions[known[image["file_name"].removesuffix(".png")]].tile
            assert np.array_equal(semantic, tile.semantic)


def test_what_cells_cannot_say_is_counted_or_refused(tmp_path: Path) -> None:
    instance = np.zeros((32, 32), np.int32)
    instance[:8, :8] = 1
    semantic = (instance > 0) * 1
    semantic[0, :3], semantic[20, 20] = 2, 1
    data = write_tiles(tmp_path / "mixed", "ihc", [(semantic, instance)])
    lost = exporting.carry_out(exporting.prepare(data.root, "coco", tmp_path / "out"), workers=1)
    assert lost == {"px of cells with another class than their cell": 3, "px of nuclei that are in no cell": 1}
    assert yaml.safe_load((tmp_path / "out/provenance.yaml").read_text())["lost"] == lost
    data = write_tiles(tmp_path / "stray", "ihc", [(semantic * 0, instance), (semantic, instance)])
    with pytest.raises(UserError, match="sample t-0: expected cells of negative cell, positive cell, got cell 1"):
        export(data, tmp_path / "other", "coco")


# qupath


@pytest.mark.parametrize("which", ["nuclei", "regions"])
def test_qupath_outlines_are_valid_and_cover_exactly_their_pixels(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    data: Dataset = request.getfixturevalue(which)
    out, mpp = export(data, tmp_path / "out", "qupath"), data.table["mpp"][0].as_py()
    for sample in data:
        name = sample.row["sample_id"]
        document = json.loads((out / f"{name}.geojson").read_text())
        assert document["pathology_tiles"]["use"] == "not for diagnosis"
        instance, semantic = np.zeros(sample.tile.shape, int), np.full(sample.tile.shape, 255)
        if which == "nuclei":
            semantic[:] = 0
        names = {label.name: label.id for label in sample.tile.scheme.classes} | {"Ignore*": 255}
        for feature in document["features"]:
            outline, properties = shape(feature["geometry"]), feature["properties"]
            mask = pixels_of(feature["geometry"], sample.tile.shape)
            assert outline.is_valid
            assert outline.area == mask.sum()
            assert properties["measurements"]["Area µm^2"] == pytest.approx(mask.sum() * mpp**2, abs=1e-4)
            semantic[mask] = names[properties["classification"]["name"]]
            if properties["objectType"] == "detection":
                instance[mask] = properties["measurements"]["Instance"]
        assert np.array_equal(instance, sample.tile.instance)
        assert np.array_equal(semantic, sample.tile.semantic)


def pixels_of(geometry: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    """Pixels whose centres lie in a geometry, by matplotlib's even-odd paths."""
    polygons = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    rows, columns = np.indices(size)
    centres = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], 1)
    inside = np.zeros(rows.size, int)
    for polygon in polygons:
        for ring in polygon:
            inside += MatplotlibPath(ring).contains_points(centres)
    return (inside % 2 == 1).reshape(size)


def test_qupath_images_have_the_pixel_size_and_the_origin(nuclei: Dataset, tmp_path: Path) -> None:
    out = export(nuclei, tmp_path / "out", "qupath")
    with tifffile.TiffFile(out / "t-1.tif") as file:
        assert file.is_ome
        assert np.array_equal(file.asarray(), nuclei[nuclei.find("t-1")].image)
        metadata = file.ome_metadata
    assert 'PhysicalSizeX="0.25"' in metadata
    assert "synthetic; not for diagnosis" in metadata
    assert read_header(out / "t-1.tif").mpp == pytest.approx(0.25)


# pannuke


def test_pannuke_has_ids_in_the_channel_of_their_class(nuclei: Dataset, tmp_path: Path) -> None:
    out, known = export(nuclei, tmp_path / "out", "pannuke"), rows_by_id(nuclei)
    listed = (out / "README.txt").read_text().splitlines()[-4:]
    assert listed == ["t-0", "t-3", "t-1", "t-2"]
    stacks = {name: [np.load(out / split / f"{name}.npy") for split in ("train", "val", "test")] for name in
              ("images", "masks", "types")}  # fmt: skip
    images, masks, types = (np.concatenate(stack) for stack in stacks.values())
    assert (images.dtype, images.shape[0], masks.shape[-1], len(types)) == (np.uint8, 4, 3, 4)
    for image, mask, name in zip(images, masks, listed, strict=True):
        sample = nuclei[known[name]]
        assert np.array_equal(image, sample.image)
        assert np.array_equal(mask[..., :2].sum(-1), sample.tile.instance)
        assert np.array_equal(np.where(mask[..., -1], 0, np.where(mask.any(-1), mask[..., :2].argmax(-1) + 1, 255)),
                              sample.tile.semantic)  # fmt: skip


# nnunet


def test_nnunet_keeps_the_rules_of_its_own_check(nuclei: Dataset, tmp_path: Path) -> None:
    """The rules of ``verify_dataset_integrity`` and ``LabelManager`` of nnU-Net 2.8."""
    out, known = export(nuclei, tmp_path / "Dataset501_Tiles", "nnunet"), rows_by_id(nuclei)
    document = json.loads((out / "dataset.json").read_text())
    assert document["labels"] == {"background": 0, "negative cell": 1, "positive cell": 2, "ignore": 3}
    assert document["channel_names"] == {"0": "R", "1": "G", "2": "B"}
    assert "not for diagnosis" in document["description"]
    cases = sorted(path.name.removesuffix("_0000.png") for path in (out / "imagesTr").iterdir())
    assert cases == sorted(path.stem for path in (out / "labelsTr").iterdir()) == ["t-0", "t-1", "t-3"]
    assert document["numTraining"] == 3
    for folder, case in [("Tr", case) for case in cases] + [("Ts", "t-2")]:
        sample = nuclei[known[case]]
        image = np.asarray(Image.open(out / f"images{folder}/{case}_0000.png"))
        assert np.array_equal(image, sample.image)
        expected = np.where(sample.tile.semantic == 255, 3, sample.tile.semantic)
        assert np.array_equal(np.asarray(Image.open(out / f"labels{folder}/{case}.png")), expected)
    assert json.loads((out / "splits_final.json").read_text()) == [{"train": ["t-0", "t-3"], "val": ["t-1"]}]


def test_nnunet_without_ignored_pixels_has_no_such_label_and_folds_divide_no_group(
    regions: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "Dataset502_Regions"
    exporting.carry_out(exporting.prepare(regions.root, "nnunet", out, split="train"), workers=1)
    labels = json.loads((out / "dataset.json").read_text())["labels"]
    assert list(labels.values()) == [0, 1, 2, 3, 4]
    assert "ignore" not in labels
    cases = {f"case{number}": f"group{number % 7}" for number in range(20)}
    folds = nnunet._folds(cases, {})
    assert len(folds) == 5
    assert sorted(case for fold in folds for case in fold["val"]) == sorted(cases)
    for fold in folds:
        assert not {cases[case] for case in fold["train"]} & {cases[case] for case in fold["val"]}


@pytest.mark.parametrize(
    ("format", "which", "name", "split", "said"),
    [
        ("nnunet", "regions", "tiles", "all", "a name like Dataset501_Tiles"),
        ("nnunet", "regions", "Dataset501_T", "test", "expected tiles of train or val"),
        ("yolo", "regions", "out", "train", "expected tiles of train and val"),
        ("pannuke", "regions", "out", "all", "expected a scheme of nuclei, got pdl1"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_before_anything_is_written(
    format: str, which: str, name: str, split: str, said: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    data: Dataset = request.getfixturevalue(which)
    with pytest.raises(UserError, match=said):
        exporting.prepare(data.root, format, tmp_path / name, split=split)
    assert [path.name for path in tmp_path.iterdir()] == [which]


# webdataset


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files open
def test_webdataset_gives_images_labels_and_origin(nuclei: Dataset, tmp_path: Path) -> None:
    import webdataset

    out, known, seen = export(nuclei, tmp_path / "out", "webdataset"), rows_by_id(nuclei), []
    for split in ("train", "val", "test"):
        tars = webdataset.WebDataset(str(out / f"{split}-000000.tar"), shardshuffle=False, empty_check=False)
        for sample in tars.decode("rgb8"):
            original = nuclei[known[sample["__key__"]]]
            seen.append(sample["__key__"])
            assert np.array_equal(sample["png"], original.image)
            assert np.array_equal(sample["npz"]["semantic"], original.tile.semantic)
            assert np.array_equal(sample["npz"]["instance"], original.tile.instance)
            assert sample["json"]["is_synthetic"] is True
            assert (sample["json"]["split"], sample["json"]["use"]) == (split, "not for diagnosis")
    assert sorted(seen) == sorted(known)


# yolo


def filled(line: str, size: tuple[int, int]) -> tuple[int, np.ndarray]:
    """Class and mask of a line, as Ultralytics reads it: ``polygon2mask`` of its data/utils.py."""
    label, *shares = line.split()
    points = np.array(shares, np.float32).reshape(-1, 2) * (size[1], size[0])
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, np.asarray([points.ravel()], np.int32).reshape(1, -1, 2), color=1)
    return int(label), mask > 0


def test_yolo_outlines_fill_to_the_cells_but_for_bridges_between_parts(nuclei: Dataset, tmp_path: Path) -> None:
    out, known = export(nuclei, tmp_path / "out", "yolo"), rows_by_id(nuclei)
    document = yaml.safe_load((out / "data.yaml").read_text())
    assert document["names"] == {0: "negative cell", 1: "positive cell"}
    for split in ("train", "val", "test"):
        assert document[split] == f"images/{split}"
        for path in (out / "labels" / split).iterdir():
            tile = nuclei[known[path.stem]].tile
            assert (out / "images" / split / f"{path.stem}.png").is_file()
            lines = path.read_text().splitlines()
            ids = np.unique(tile.instance)[1:].tolist()
            assert len(lines) == len(ids)
            for line, number in zip(lines, ids, strict=True):
                assert len(line.split()) > 6  # else Ultralytics takes it for a box
                label, mask = filled(line, tile.shape)
                truth = tile.instance == number
                assert label == tile.semantic[truth][0] - 1
                more = int((mask & ~truth).sum())
                assert not (truth & ~mask).any()
                assert more == 0 if number != 60_000 else 0 < more < 8, number


def test_yolo_has_a_line_for_each_piece_of_a_region(regions: Dataset, tmp_path: Path) -> None:
    out = export(regions, tmp_path / "out", "yolo")
    for path in out.glob("labels/*/*.txt"):
        tile = regions[regions.find(path.stem)].tile
        semantic = np.full(tile.shape, 255)
        for line in path.read_text().splitlines():
            label, mask = filled(line, tile.shape)
            semantic[mask] = label
        assert np.array_equal(semantic, tile.semantic)


@given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_contours_with_holes_fill_to_their_pixels(mask: np.ndarray) -> None:
    found = np.zeros(mask.shape, np.uint8)
    for piece in yolo.contours(mask):
        one = np.zeros(mask.shape, np.uint8)
        cv2.fillPoly(one, [np.floor(yolo.joined(piece) + 0.5).astype(np.int32)], 1)
        found |= one
    assert not (mask & (found == 0)).any()


# hf


@given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 20), st.integers(1, 20))))
def test_a_png_of_one_bit_has_the_pixels_of_its_mask(mask: np.ndarray) -> None:
    image = Image.open(io.BytesIO(bilevel_png(mask)))
    assert image.mode == "1"
    assert np.array_equal(np.asarray(image), mask)


@pytest.mark.parametrize("which", ["nuclei", "regions"])
def test_hf_is_read_by_datasets_with_the_columns_of_the_public_set(
    which: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    data: Dataset = request.getfixturevalue(which)
    out = export(data, tmp_path / "out", "hf")
    read = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert list(read) == ["train", "val", "test"]
    features = read["train"].features
    assert list(features)[:4] == ["image", "instances", "categories", "tissue"]
    cell_classes = exporting.prepare(data.root, "hf", tmp_path / "other").export.cell_classes
    assert features["categories"].feature.names == [label.name for label in cell_classes]
    for split in read.values():
        for row in split:
            sample = data[data.find(row["sample_id"])]
            assert np.array_equal(np.asarray(row["image"]), sample.image)
            assert np.array_equal(np.asarray(row["semantic"]), sample.tile.semantic)
            ids = np.unique(sample.tile.instance)[1:].tolist()
            assert len(row["instances"]) == len(row["categories"]) == len(ids)
            for mask, category, number in zip(row["instances"], row["categories"], ids, strict=True):
                truth = sample.tile.instance == number
                assert mask.mode == "1"
                assert np.array_equal(np.asarray(mask), truth)
                assert cell_classes[category].id == sample.tile.semantic[truth][0]
            assert row["is_synthetic"] is True


def test_the_dataset_card_says_origin_splits_and_classes(nuclei: Dataset, tmp_path: Path) -> None:
    _, head, text = (export(nuclei, tmp_path / "out", "hf") / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(head)
    assert {"synthetic", "not-for-diagnosis"} <= set(card["tags"])
    assert [(split["name"], split["num_examples"]) for split in card["dataset_info"]["splits"]] == [
        ("train", 2), ("val", 1), ("test", 1),
    ]  # fmt: skip
    assert card["license_name"] == "CC0-1.0"
    assert "Synthetic images of tests, not for diagnosis. Sources of the training data: photographs." in text


# ome-zarr


def test_ome_zarr_py_reads_images_with_their_labels(nuclei: Dataset, tmp_path: Path) -> None:
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    out = export(nuclei, tmp_path / "out", "ome-zarr")
    group = zarr.open_group(out, mode="r")
    assert group.attrs["pathology_tiles"]["use"] == "not for diagnosis"
    assert group["OME"].attrs["ome"]["series"] == ["t-0", "t-3", "t-1", "t-2"]
    for name in group["OME"].attrs["ome"]["series"]:
        sample = nuclei[nuclei.find(name)]
        image, _, *labels = Reader(parse_url(out / name))()
        assert np.array_equal(np.moveaxis(image.data[0].compute(), 0, -1), sample.image)
        assert image.metadata["coordinateTransformations"] == [[{"type": "scale", "scale": [1.0, 0.25, 0.25]}]]
        assert image.metadata["channel_names"] == ["R", "G", "B"]
        by_name = {label.metadata["name"]: label for label in labels}
        assert np.array_equal(by_name["semantic"].data[0].compute(), sample.tile.semantic)
        assert np.array_equal(by_name["instances"].data[0].compute(), sample.tile.instance)
        assert by_name["semantic"].metadata["properties"][1] == {"class": "negative cell"}


# croissant


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of rdflib, in mlcroissant
@pytest.mark.parametrize("format", ["croissant", "hf"])
def test_croissant_is_valid_and_its_records_are_those_of_the_manifest(
    nuclei: Dataset, tmp_path: Path, format: str
) -> None:
    import mlcroissant

    out = export(nuclei, tmp_path / "out", format)
    read = mlcroissant.Dataset(out / "croissant.json")
    assert not read.metadata.issues.errors
    assert read.metadata.name == "nuclei"
    assert "not for diagnosis" in read.metadata.description
    records = {record["tiles/sample_id"].decode(): record for record in read.records("tiles")}
    for row in nuclei.table.to_pylist():
        record = records.pop(row["sample_id"])
        assert (record["tiles/cells"], record["tiles/mpp"]) == (row["cells"], row["mpp"])
        if format == "hf":
            sample = nuclei[nuclei.find(row["sample_id"])]
            assert np.array_equal(np.asarray(record["tiles/image"]), sample.image)
    assert not records


def test_croissant_lists_the_files_of_the_store_with_their_digests(nuclei: Dataset, tmp_path: Path) -> None:
    out = export(nuclei, tmp_path / "out", "croissant")
    listed = json.loads((out / "croissant.json").read_text())["distribution"]
    arrays = [entry for entry in listed if "store.zarr" in entry.get("contentUrl", "")]
    assert len(arrays) == 7  # three shards and four metadata files
    for entry in arrays:
        content = (out / entry["contentUrl"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert entry["contentSize"] == f"{len(content)} B"


# and back


@pytest.mark.parametrize("format", ["coco", "qupath"])
@pytest.mark.parametrize("which", ["nuclei", "regions"])
def test_an_export_comes_back_through_ingest(
    format: str, which: str, request: pytest.FixtureRequest, tmp_path: Path, cli: Cli
) -> None:
    data: Dataset = request.getfixturevalue(which)
    out, scheme = export(data, tmp_path / "out", format), data.schemes[0].name
    done = cli("factory", "ingest", out, "--scheme", scheme, "--mpp", data.table["mpp"][0], "--out", "back")
    assert done.code == 0, done.err
    back = open_dataset(tmp_path / "back")
    assert len(back) == len(data)
    for sample in back:
        original = data[data.find(Path(sample.row["source_uri"]).stem)]
        assert np.array_equal(sample.image, original.image)
        assert np.array_equal(sample.tile.semantic, original.tile.semantic)
        assert np.array_equal(sample.tile.instance, original.tile.instance)


def ranked(instance: np.ndarray) -> np.ndarray:
    """The same instances with ids 1, 2, 3, ... in the same order."""
    return np.unique(instance, return_inverse=True)[1].reshape(instance.shape) + (instance.min() > 0)


def test_pannuke_comes_back_through_ingest(tmp_path: Path, cli: Cli) -> None:
    instance = ranked(awkward()[0][1])
    semantic = np.where(instance > 0, 1 + instance % 5, 0)
    data = write_tiles(tmp_path / "typed", "nuclei_types", [(semantic, instance)])
    done = cli("factory", "ingest", export(data, tmp_path / "out", "pannuke"), "--mpp", "0.25", "--scheme",
               "nuclei_types", "--out", "back")  # fmt: skip
    assert done.code == 0, done.err
    (back,) = open_dataset(tmp_path / "back")
    assert np.array_equal(back.image, data[0].image)
    assert np.array_equal(back.tile.semantic, data[0].tile.semantic)
    assert np.array_equal(back.tile.instance, data[0].tile.instance)
