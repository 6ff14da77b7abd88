"""Each format, read by the library that its users read it with, or by the rules that its tool documents."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from factory.core.runs import RunSpec, open_run, write_shard
from factory.export import exporting
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
    assert json.loads((tmp_path / "out/provenance.json").read_text())["lost"] == lost
    data = write_tiles(tmp_path / "stray", "ihc", [(semantic * 0, instance), (semantic, instance)])
    with pytest.raises(UserError, match="sample t-0: expected cells of negative cell, positive cell, got cell 1"):
        export(data, tmp_path / "other", "coco")
