"""`factory ingest`: every kind of source comes out as a data set that verifies and says what the files say."""

import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import skimage.data
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from factory.core.images.files import _pillow_pixels as png_pixels
from factory.ingest.grouping import draw_splits
from factory.ingest.tiling import pad, tile_origins
from manifests import IGNORE, verify
from manifests.errors import UserError
from segment.data.sources import Source, check_leaks
from tests.conftest import write_dataset
from tests.ingest_files import (
    SIZE,
    ingest_command,
    ingested,
    instance_map,
    nuclei_folder,
    save,
    tissue_image,
    tree_sha256,
)


@pytest.fixture(autouse=True)
def _keep_malloc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.core.console.keep_freed_memory", lambda: True)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_instance_maps_keep_their_ids_with_gaps(tmp_path: Path, suffix: str) -> None:
    source = nuclei_folder(tmp_path / "source", suffix=suffix)
    dataset = ingested(tmp_path / "out", source, "--mpp", 0.25, "--licence", "CC0-1.0")
    assert len(dataset) == 3
    for seed, sample in enumerate(dataset):
        np.testing.assert_array_equal(sample.image, tissue_image(seed))
        np.testing.assert_array_equal(sample.tile.instance, instance_map(seed))
        np.testing.assert_array_equal(sample.tile.semantic, instance_map(seed) > 0)
    row = dataset.row(0)
    assert (row["source"], row["label_origin"], row["label_scheme"]) == ("real", "annotated", "nuclei")
    assert (row["source_uri"], row["group_id"], row["mpp"], row["licence"]) == ("images/a.png", "a", 0.25, "CC0-1.0")
    assert row["cells"] == 5
    assert not dataset.info.is_synthetic
    assert dataset.info.licences == ("CC0-1.0",)


def test_tiles_of_another_generator_are_synthetic_and_its_patients_are_kept_from_tests(tmp_path: Path) -> None:
    source = nuclei_folder(tmp_path / "theirs")
    marked = ("--synthetic", "--generator", "NuDiff 1.0", "--trained-on", "monuseg/p1", "--trained-on", "monuseg/p2")
    theirs = ingested(tmp_path / "out", source, "--mpp", 0.25, "--split", "1,0,0", *marked)
    assert theirs.info.is_synthetic
    assert not theirs.info.real_pixels
    assert (theirs.info.generator, theirs.info.training_sources) == ("NuDiff 1.0", ("monuseg/p1", "monuseg/p2"))
    row = theirs.row(0)
    assert (row["source"], row["label_origin"], row["real_pixels"]) == ("synthetic", "conditioned", False)
    np.testing.assert_array_equal(theirs[0].tile.instance, instance_map(0))
    real = write_dataset(tmp_path / "real", groups=3)
    sources = [Source("real", real), Source("synth", theirs)]
    check_leaks(sources)
    tested = next(iter(sources[0].groups("test")))
    learnt = ingested(tmp_path / "leaky", source, "--mpp", 0.25, *marked, "--trained-on", f"monuseg/{tested}")
    with pytest.raises(UserError, match=f"nothing that comes from the test split, got its group '{tested}'"):
        check_leaks([sources[0], Source("synth", learnt)])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--synthetic", "--trained-on", "unknown"), "--synthetic: expected --generator with it, got none"),
        (("--synthetic", "--generator", "x"), "expected --trained-on with it, got none: say unknown if nobody knows"),
        (("--generator", "x"), "--generator: expected --synthetic with it"),
        (("--trained-on", "x"), "--trained-on: expected --synthetic with it"),
    ],
)
def test_an_origin_told_in_part_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    source = nuclei_folder(tmp_path / "theirs")
    assert ingest_command(source, "--mpp", 0.25, *words, "--out", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_instance_ids_of_32_bits_survive_from_tiff(tmp_path: Path) -> None:
    instance = np.zeros(SIZE, np.uint32)
    instance[5:9, 5:9] = 2**31 - 1
    save(tmp_path / "source/images/a.png", tissue_image())
    save(tmp_path / "source/instances/a.tif", instance)
    dataset = ingested(tmp_path / "out", tmp_path / "source", "--mpp", 0.25)
    assert int(dataset[0].tile.instance.max()) == 2**31 - 1


def test_semantic_masks_are_mapped_and_ignore_stays(tmp_path: Path) -> None:
    mask = np.zeros(SIZE, np.uint8)
    mask[10:20], mask[20:30], mask[30:40] = 50, 100, 200
    save(tmp_path / "source/images/a.png", tissue_image())
    save(tmp_path / "source/masks/a.png", mask)
    arguments = ("--scheme", "pdl1", "--class-map", "0:air,50:2,100:PD-L1 positive,200:ignore", "--mpp", 0.5)
    dataset = ingested(tmp_path / "out", tmp_path / "source", *arguments)
    semantic = dataset[0].tile.semantic
    assert [int(semantic[y, 0]) for y in (0, 10, 20, 30)] == [4, 2, 3, IGNORE]
    assert dataset.row(0)["tps_area"] == 0.5
    as_json = tmp_path / "map.json"
    as_json.write_text('{"0": 4, "50": 2, "100": 3, "200": 255}')
    again = ingested(tmp_path / "json", tmp_path / "source", "--scheme", "pdl1", "--class-map", as_json, "--mpp", 0.5)
    assert again.row(0)["semantic_sha256"] == dataset.row(0)["semantic_sha256"]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_indices_and_small_greys_are_values_as_stored(tmp_path: Path, bits: int) -> None:
    values = (np.arange(64).reshape(8, 8) % 2**bits % 5).astype(np.uint8)
    palette = Image.fromarray(values).convert("P")
    palette.putdata(values.ravel().tolist())
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9, 7, 7, 7])
    palette.save(tmp_path / "palette.png", bits=bits)
    np.testing.assert_array_equal(png_pixels(tmp_path / "palette.png"), values)
    if bits < 8:
        grey = _grey_png(values, bits)
        (tmp_path / "grey.png").write_bytes(grey)
        np.testing.assert_array_equal(png_pixels(tmp_path / "grey.png"), values)


def _grey_png(values: np.ndarray, bits: int) -> bytes:
    """A greyscale PNG of 1, 2 or 4 bits, written by hand: Pillow writes none of 2 or 4."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b""
    for row in values:
        planes = (row[:, None] >> np.arange(bits - 1, -1, -1)) & 1
        rows += b"\0" + np.packbits(planes.astype(np.uint8)).tobytes()
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_class_map_with_instances_reads_as_ihc(tmp_path: Path) -> None:
    instance = instance_map()
    classes = np.where(np.isin(instance, (3, 300)), 2, instance > 0).astype(np.uint8)
    save(tmp_path / "source/images/a.png", tissue_image())
    save(tmp_path / "source/instances/a.png", instance)
    save(tmp_path / "source/classes/a.png", classes)
    row = ingested(tmp_path / "out", tmp_path / "source", "--mpp", 0.25).row(0)
    assert (row["label_scheme"], row["cells"], row["cells_positive"], row["tps_cells"]) == ("ihc", 5, 2, 0.4)


def test_points_stay_points_and_the_roi_bounds_the_labels(tmp_path: Path) -> None:
    roi = np.zeros(SIZE, np.uint8)
    roi[:, :80] = 255
    save(tmp_path / "source/images/a.png", tissue_image())
    save(tmp_path / "source/roi/a.png", roi)
    (tmp_path / "source/cells").mkdir()
    (tmp_path / "source/cells/a.csv").write_text("kind,x,y\n1,30,5\n0,40.5,20\n1,95,63\n0,97,3\n")
    arguments = ("--point-columns", "x,y,kind", "--point-classes", "1:positive,0:negative", "--drop-outside-points")
    out = tmp_path / "out"
    dataset = ingested(out, tmp_path / "source", *arguments, "--size", "64x48", "--overlap", 16, "--mpp", 0.5)
    points = pq.read_table(out / "points.parquet").to_pylist()
    origins = {row["sample_id"]: (row["source_x"], row["source_y"]) for row in dataset.table.to_pylist()}
    assert sorted(origins.values()) == [(0, 0), (32, 0), (48, 0)]
    found = sorted((p["x"] + origins[p["sample_id"]][0], p["y"], p["class"]) for p in points)
    assert found == [(30, 5, "positive"), (40.5, 20, "negative"), (40.5, 20, "negative"), (95, 63, "positive")]
    last = dataset[len(dataset) - 1].tile
    assert np.all(last.semantic[:, 32:] == IGNORE)
    assert np.all(last.semantic[:, :32] == 1)
    assert not last.instance.any()
    assert dataset.row(0)["label_origin"] == "weak"
    damaged = bytearray((out / "points.parquet").read_bytes())
    damaged[40] ^= 1
    (out / "points.parquet").write_bytes(damaged)
    assert [fault.path for fault in verify(out)] == ["points.parquet"]


def test_air_is_grey_above_the_threshold_of_the_stain(tmp_path: Path) -> None:
    ramp = np.repeat(np.arange(192, 256, dtype=np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)
    for name in ("one_he.png", "two_pdl1.png"):
        save(tmp_path / "source" / name, ramp)
    arguments = ("--stain", "*_he*=he,*_pdl1*=ihc", "--mpp", 0.5)
    dataset = ingested(tmp_path / "out", tmp_path / "source", *arguments)
    grey = cv2.cvtColor(ramp, cv2.COLOR_RGB2GRAY)
    for sample, threshold in zip(dataset, (204, 235), strict=True):
        np.testing.assert_array_equal(sample.tile.semantic, (grey <= threshold).astype(np.uint8))
    assert dataset.row(0)["tissue_fraction"] == 13 / 64


@pytest.mark.parametrize(("limit", "kept"), [(None, 2), ("1", 3), ("0.5", 1)])
def test_tiles_with_more_background_are_dropped(tmp_path: Path, limit: str | None, kept: int) -> None:
    image = np.full((100, 300, 3), 250, np.uint8)
    image[:, :100] = 100
    image[:85, 100:200] = 250
    image[85:, 100:200] = 100  # background exactly 85 %: kept, the rule drops more than that
    save(tmp_path / "source/a.png", image)
    arguments = ("--size", "100x100", "--mpp", 0.5, *(("--max-background", limit) if limit else ()))
    assert len(ingested(tmp_path / "out", tmp_path / "source", *arguments)) == kept


def test_tiles_of_a_photograph_are_crops_of_it_and_cover_it(tmp_path: Path) -> None:
    photograph = skimage.data.immunohistochemistry()
    assert photograph.shape == (512, 512, 3)
    path = save(tmp_path / "ihc.png", photograph)
    arguments = ("--size", "128x192", "--overlap", 32, "--mpp", 0.5, "--stain", "ihc", "--max-background", 1)
    covered = np.zeros((512, 512), bool)
    for sample in ingested(tmp_path / "out", path, *arguments):
        y, x = sample.row["source_y"], sample.row["source_x"]
        np.testing.assert_array_equal(sample.image, photograph[y : y + 128, x : x + 192])
        covered[y : y + 128, x : x + 192] = True
    assert covered.all()


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 64), st.integers(1, 64), st.data())
def test_tile_origins_cover_the_image_and_stay_inside(
    height: int, width: int, tile_height: int, tile_width: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, min(tile_height, tile_width) - 1))
    origins = tile_origins(height, width, (tile_height, tile_width), overlap)
    covered = np.zeros((height, width), bool)
    for y, x in origins:
        assert y + min(tile_height, height) <= height
        assert x + min(tile_width, width) <= width
        covered[y : y + tile_height, x : x + tile_width] = True
    assert covered.all()
    assert len(set(origins)) == len(origins)
    assert origins == sorted(origins)


def test_small_images_are_padded_with_ignored_mirror_pixels(tmp_path: Path) -> None:
    image, semantic, instance = pad(
        tissue_image(), np.zeros(SIZE, np.uint8), instance_map().astype(np.int32), (200, 100)
    )
    assert image.shape == (200, 100, 3)
    np.testing.assert_array_equal(image[64], image[63])
    assert np.all(semantic[64:] == IGNORE)
    assert np.all(semantic[:, 96:] == IGNORE)
    assert not instance[64:].any()
    nuclei_folder(tmp_path / "source")
    dataset = ingested(tmp_path / "out", tmp_path / "source", "--size", "80x100", "--mpp", 0.25)
    assert dataset.row(0)["cells"] == 5
    assert np.count_nonzero(dataset[0].tile.semantic != IGNORE) == SIZE[0] * SIZE[1]


def test_resampling_halves_the_image_and_invents_no_label(tmp_path: Path) -> None:
    nuclei_folder(tmp_path / "source")
    dataset = ingested(tmp_path / "out", tmp_path / "source", "--mpp", 0.25, "--resample-mpp", 0.5)
    sample = dataset[0]
    assert sample.tile.shape == (32, 48)
    assert sample.tile.mpp == 0.5
    assert set(np.unique(sample.tile.instance)) <= {0, *np.unique(instance_map())}
    expected = cv2.resize(tissue_image(), (48, 32), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(sample.image, expected)


def test_resolution_of_a_tiff_is_read_and_a_screen_resolution_is_not(tmp_path: Path) -> None:
    for name, per_cm in (("scanner", 40_000), ("screen", 28)):
        path = tmp_path / name / "a.tif"
        path.parent.mkdir()
        tifffile.imwrite(path, tissue_image(), photometric="rgb", resolution=(per_cm, per_cm), resolutionunit=3)
    assert ingested(tmp_path / "out", tmp_path / "scanner").row(0)["mpp"] == 0.25
    assert ingest_command(tmp_path / "screen", "--out", tmp_path / "none") == 2


def test_groups_by_pattern_stay_in_one_split(tmp_path: Path) -> None:
    source = nuclei_folder(tmp_path / "source", [f"p{patient}_{part}" for patient in range(6) for part in "xy"])
    dataset = ingested(tmp_path / "out", source, "--mpp", 0.25, "--group-pattern", "^(p.)_", "--split", "0.5,0.25,0.25")
    splits: dict[str, set[str]] = {}
    for row in dataset.table.to_pylist():
        splits.setdefault(row["group_id"], set()).add(row["split"])
    assert sorted(splits) == [f"p{number}" for number in range(6)]
    assert all(len(found) == 1 for found in splits.values())
    assert {split for found in splits.values() for split in found} == {"train", "val", "test"}


@given(
    st.dictionaries(st.text("abc", min_size=1, max_size=4), st.integers(1, 50), min_size=1, max_size=30),
    st.sampled_from([(0.8, 0.1, 0.1), (1.0, 0.0, 0.0), (0.5, 0.0, 0.5), (0.34, 0.33, 0.33)]),
    st.integers(0, 5),
)
def test_drawn_splits_fill_every_wanted_split(
    tiles: dict[str, int], shares: tuple[float, float, float], seed: int
) -> None:
    splits = draw_splits(tiles, shares, seed)
    assert splits.keys() == tiles.keys()
    wanted = {name for name, share in zip(("train", "val", "test"), shares, strict=True) if share}
    assert set(splits.values()) <= wanted
    assert len(set(splits.values())) == min(len(wanted), len(tiles))
    assert splits == draw_splits(dict(reversed(tiles.items())), shares, seed)


def test_drawn_splits_come_near_their_shares_and_follow_the_seed() -> None:
    tiles = {f"slide-{number}": 1 + number % 7 for number in range(100)}
    splits = draw_splits(tiles, (0.7, 0.2, 0.1), 0)
    total = sum(tiles.values())
    for name, share in (("train", 0.7), ("val", 0.2), ("test", 0.1)):
        assert abs(sum(count for group, count in tiles.items() if splits[group] == name) / total - share) < 0.01
    assert splits != draw_splits(tiles, (0.7, 0.2, 0.1), 1)


def test_groups_and_splits_come_from_files(tmp_path: Path) -> None:
    source = nuclei_folder(tmp_path / "source")
    (tmp_path / "groups.csv").write_text("name,group\na,one\nb.png,one\nc,two\nnot-there,three\n")
    (tmp_path / "splits.csv").write_text("group,split\none,test\ntwo,train\n")
    arguments = ("--groups", tmp_path / "groups.csv", "--splits", tmp_path / "splits.csv", "--mpp", 0.25)
    rows = ingested(tmp_path / "out", source, *arguments).table.to_pylist()
    assert [(row["group_id"], row["split"]) for row in rows] == [("one", "test"), ("one", "test"), ("two", "train")]


def test_patterns_pair_files_of_other_names(tmp_path: Path) -> None:
    for stem in ("a.1", "a"):
        save(tmp_path / "all" / f"{stem}_img.png", tissue_image())
        save(tmp_path / "all" / f"{stem}_lab.png", instance_map())
    images, instances = tmp_path / "all/{stem}_img.png", tmp_path / "all/{stem}_lab.png"
    dataset = ingested(tmp_path / "out", "--images", images, "--instances", instances, "--mpp", 0.25)
    assert dataset.table["source_uri"].to_pylist() == ["a.1_img.png", "a_img.png"]
    same = ingested(
        tmp_path / "same",
        tmp_path / "all",
        "--images",
        "{stem}_img.png",
        "--instances",
        "{stem}_lab.png",
        "--mpp",
        0.25,
    )
    assert same.table["sample_id"].to_pylist() == dataset.table["sample_id"].to_pylist()


def test_unpaired_files_are_left_out_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = nuclei_folder(tmp_path / "source")
    (source / "instances/b.png").unlink()
    (source / "images/c.png").unlink()
    dataset = ingested(tmp_path / "out", source, "--mpp", 0.25, "--ignore-unpaired")
    assert dataset.table["group_id"].to_pylist() == ["a"]
    printed = capsys.readouterr().out
    assert "left out: images/b.png" in printed
    assert "left out: instances/c.png" in printed


def test_same_command_again_has_nothing_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = nuclei_folder(tmp_path / "source"), tmp_path / "out"
    ingested(out, source, "--mpp", 0.25)
    before = tree_sha256(out)
    ingested(out, source, "--mpp", 0.25, "--workers", 3)
    assert "nothing to do" in capsys.readouterr().out
    assert tree_sha256(out) == before


def test_interrupted_ingest_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    source, out = nuclei_folder(tmp_path / "source", [f"i{number:02d}" for number in range(5)]), tmp_path / "out"
    arguments = (source, "--mpp", 0.25, "--size", "16x16")  # 120 tiles, two shards
    ingested(out, *arguments)
    before = tree_sha256(out)
    (out / "ledger/000001.json").unlink()
    (out / "SHA256SUMS").unlink()
    kept = (out / "store.zarr/image/c/0/0/0/0").stat().st_mtime_ns
    ingested(out, *arguments)
    assert tree_sha256(out) == before
    assert (out / "store.zarr/image/c/0/0/0/0").stat().st_mtime_ns == kept


def test_bytes_do_not_depend_on_place_or_workers(tmp_path: Path) -> None:
    first = nuclei_folder(tmp_path / "here/source", [f"i{number:02d}" for number in range(5)])
    second = tmp_path / "elsewhere/deep/source"
    shutil.copytree(first, second)
    ingested(tmp_path / "one", first, "--mpp", 0.25, "--size", "16x16", "--workers", 1)
    ingested(tmp_path / "two", second, "--mpp", 0.25, "--size", "16x16", "--workers", 4)
    assert tree_sha256(tmp_path / "one") == tree_sha256(tmp_path / "two")
    for path in (tmp_path / "one").rglob("*"):
        assert path.is_dir() or str(tmp_path).encode() not in path.read_bytes()


def test_sample_ids_are_plain_unique_and_outlive_a_corrected_mask(tmp_path: Path) -> None:
    source = nuclei_folder(tmp_path / "source", ["Ü b.c_D", "u-b-c-d"])
    before = ingested(tmp_path / "one", source, "--mpp", 0.25).table["sample_id"].to_pylist()
    assert len(set(before)) == 2
    assert all(re.fullmatch("[a-z0-9-]+", sample_id) for sample_id in before)
    save(source / "instances/u-b-c-d.png", instance_map(9))
    assert ingest_command(source, "--mpp", 0.25, "--out", tmp_path / "one") == 2  # other content, other data set
    after = ingested(tmp_path / "one", source, "--mpp", 0.25, "--overwrite").table["sample_id"].to_pylist()
    assert after == before


def test_dry_run_says_what_it_would_write_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = nuclei_folder(tmp_path / "source")
    assert ingest_command(source, "--mpp", 0.25, "--out", tmp_path / "out", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "3 tiles of 64x96" in printed
    assert "nothing was written" in printed
    assert not (tmp_path / "out").exists()


def test_a_scheme_of_ones_own_is_kept_with_the_data_set(tmp_path: Path) -> None:
    save(tmp_path / "source/images/a.png", tissue_image())
    save(tmp_path / "source/masks/a.png", np.full(SIZE, 1, np.uint8))
    scheme = tmp_path / "gland.yaml"
    scheme.write_text(
        "name: gland\nclasses:\n"
        "- {id: 0, name: rest, colour: [255, 255, 255]}\n- {id: 1, name: gland, colour: [0, 0, 0]}\n"
    )
    dataset = ingested(tmp_path / "out", tmp_path / "source", "--scheme", scheme, "--mpp", 0.5)
    assert dataset.schemes[0].names == ("rest", "gland")
