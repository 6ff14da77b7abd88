"""Region labels from ROI and marked cells: exact shares, ranked by cells nearby, and how far the cells agree."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.core.shipped import configs_dir
from factory.ingest.points import Points
from factory.ingest.region_labels import (
    Agreement,
    ImageAgreement,
    agree,
    cells_within,
    cohen_kappa,
    open_air,
    region_labels,
    summary,
)
from factory.learn.cells_by_colour import with_cells
from manifests import get_scheme, open_dataset, verify
from tests.ingest_files import SIZE, ingest_command, nuclei_folder, save, tissue_image

KI67 = get_scheme("ki67")
OTHER, NEGATIVE, POSITIVE, AIR = range(4)
CELLS = ("--point-columns", "x,y,kind", "--point-classes", "1:positive,0:negative")


@pytest.fixture(autouse=True)
def _keep_malloc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.core.console.keep_freed_memory", lambda: True)


def marks(*cells: tuple[float, float, str]) -> Points:
    x, y, names = zip(*cells, strict=True) if cells else ((), (), ())
    return Points(np.array(x, np.float64), np.array(y, np.float64), tuple(names))


def random_marks(rng: np.random.Generator, roi: np.ndarray, count: int) -> Points:
    y, x = np.nonzero(roi)
    chosen = rng.integers(0, y.size, count)
    names = rng.choice(["positive", "negative"], count, p=[0.3, 0.7])
    return Points(x[chosen] + rng.random(count) * 0.9, y[chosen] + rng.random(count) * 0.9, tuple(names.tolist()))


def everywhere(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An ROI of the whole image, without air."""
    return np.ones((height, width), bool), np.zeros((height, width), bool)


@given(seed=st.integers(0, 9999), count=st.integers(1, 40), smooth_um=st.sampled_from([0.4, 3.0, 40.0]))
def test_tps_by_area_is_that_of_the_cells_to_half_a_pixel(seed: int, count: int, smooth_um: float) -> None:
    rng = np.random.default_rng(seed)
    roi = np.zeros((40, 56), bool)
    roi[rng.integers(0, 20) :, rng.integers(0, 30) :] = True
    is_air = rng.random(roi.shape) < 0.1
    cells = random_marks(rng, roi, count)
    labels = region_labels(roi, cells, is_air, 0.5, KI67, smooth_um=smooth_um)
    np.testing.assert_array_equal(labels == AIR, is_air)
    np.testing.assert_array_equal(labels == OTHER, ~roi & ~is_air)
    tumour = np.isin(labels, (POSITIVE, NEGATIVE)).sum()
    share = cells.classes.count("positive") / count
    assert (labels == POSITIVE).sum() == math.floor(share * tumour + 0.5)


def test_the_positive_region_has_the_highest_share_of_positive_cells_nearby() -> None:
    rng = np.random.default_rng(3)
    roi, is_air = everywhere(48, 64)
    cells = random_marks(rng, roi, 60)
    labels = region_labels(roi, cells, is_air, 0.5, KI67, smooth_um=4.0)
    y, x = np.mgrid[:48, :64]
    density = dict.fromkeys(("positive", "negative"), np.zeros(roi.shape))
    for column, row, name in zip(cells.x.astype(int), cells.y.astype(int), cells.classes, strict=True):
        density[name] = density[name] + np.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * 8.0**2))
    share = density["positive"] / (density["positive"] + density["negative"])
    # The Gaussian ends at four sigmas (e^-8), so the last few pixels may be ranked otherwise.
    assert share[labels == POSITIVE].min() > share[labels == NEGATIVE].max() - 1e-3


def test_far_from_all_cells_the_nearest_decide() -> None:
    roi, is_air = everywhere(9, 201)
    labels = region_labels(roi, marks((20, 4, "positive"), (180, 4, "negative")), is_air, 0.5, KI67, smooth_um=0.5)
    assert (labels[:, :100] == POSITIVE).all()
    assert (labels[:, 101:] == NEGATIVE).all()


def test_equal_pixels_go_by_reading_order() -> None:
    roi, is_air = everywhere(4, 5)
    labels = region_labels(roi, marks((2, 2, "positive"), (2, 2, "negative")), is_air, 0.5, KI67)
    np.testing.assert_array_equal(labels.ravel() == POSITIVE, np.arange(20) < 10)


@pytest.mark.parametrize(("name", "region"), [("positive", POSITIVE), ("negative", NEGATIVE)])
def test_cells_of_one_class_make_one_region(name: str, region: int) -> None:
    roi, is_air = everywhere(8, 8)
    assert (region_labels(roi, marks((1, 1, name), (5, 6, name)), is_air, 0.5, KI67) == region).all()


def test_pdl1_regions_have_no_inflammation() -> None:
    roi, is_air = everywhere(8, 8)
    roi[:4], is_air[0] = False, True
    labels = region_labels(roi, marks((1, 5, "positive"), (6, 6, "negative")), is_air, 0.5, get_scheme("pdl1"))
    assert [(labels == number).sum() for number in range(5)] == [24, 0, 16, 16, 8]


def test_tumour_without_a_marked_cell_has_no_kind() -> None:
    roi, is_air = everywhere(8, 8)
    with pytest.raises(ValueError, match="expected a marked cell where there is tumour"):
        region_labels(roi, marks(), is_air, 0.5, KI67)
    assert (region_labels(roi, marks(), ~is_air, 0.5, KI67) == AIR).all()
    assert (region_labels(~roi, marks(), is_air, 0.5, KI67) == OTHER).all()


def test_cells_outside_image_or_roi_do_not_count() -> None:
    roi, _ = everywhere(8, 8)
    roi[:, 4:] = False
    cells = marks((3.9, 7.9, "positive"), (4, 0, "negative"), (-0.5, 2, "negative"), (2, 8, "negative"))
    assert cells_within(cells, roi).classes == ("positive",)


@pytest.mark.parametrize("mpp", [0.25, 0.5, 1.0])
def test_air_leaves_narrow_gaps_out_and_keeps_its_place(mpp: float) -> None:
    is_air = np.zeros((160, 160), bool)
    y, x = np.mgrid[:160, :160]
    gap, radius = round(3.5 / mpp), round(5 / mpp)
    is_air[10 : 10 + gap, :120] = True
    is_air |= (y - 90) ** 2 + (x - 40) ** 2 <= radius**2
    is_air |= (y - 159) ** 2 + (x - 159) ** 2 <= radius**2
    wanted = is_air.copy()
    wanted[10 : 10 + gap] = False
    opened = open_air(is_air, mpp)
    assert not (opened & ~is_air).any()
    assert not opened[10 : 10 + gap].any()
    assert (opened == wanted).mean() > 0.999  # but for pixels of a circle's edge


def test_coarse_pixels_leave_air_as_it_is() -> None:
    is_air = np.eye(5, dtype=bool)
    np.testing.assert_array_equal(open_air(is_air, 4.0), is_air)


def test_cells_are_counted_by_the_region_they_lie_in() -> None:
    semantic = np.array([[OTHER, AIR, NEGATIVE, NEGATIVE, POSITIVE, POSITIVE]], np.uint8)
    cells = marks(
        (1, 0, "negative"), (2.9, 0.5, "negative"), (3, 0, "positive"), (4, 0, "positive"), (5, 0, "negative")
    )
    found = agree(semantic, cells, KI67)
    assert found == Agreement((1, 1, 0), (1, 1, 1), 2, 4)
    assert found.tps_error == pytest.approx(2 / 4 - 2 / 5)
    assert math.isnan(agree(semantic, marks(), KI67).tps_error)
    assert math.isnan(agree(np.full((1, 6), AIR, np.uint8), cells, KI67).tps_error)


def test_kappa_by_hand() -> None:
    # Agreed 0.8; by chance 0.3 x 0.3 + 0.7 x 0.6, where a tenth of the cells lie on neither region.
    assert cohen_kappa((25, 5, 0), (5, 55, 10)) == pytest.approx((0.8 - 0.51) / (1 - 0.51))
    assert cohen_kappa((3, 0, 0), (0, 9, 0)) == 1.0
    assert cohen_kappa((0, 0, 0), (0, 9, 0)) is None
    assert cohen_kappa((0, 0, 0), (0, 0, 0)) is None


def test_summary_takes_all_cells_as_one_and_tiles_with_enough_of_them() -> None:
    one = Agreement((8, 2, 0), (2, 28, 0), 30, 120)  # TPS by area .25, by cells .25
    other = Agreement((0, 0, 0), (0, 10, 0), 10, 100)  # .1 and 0
    few = Agreement((1, 0, 0), (0, 8, 0), 5, 10)
    found = summary([ImageAgreement(one, (one, few)), ImageAgreement(other, (other,))])
    assert (found["of_positive"], found["of_negative"]) == ([8, 2, 0], [2, 38, 0])
    assert (found["sensitivity"], found["precision"]) == (0.8, 0.8)
    assert found["image_tps_error"] == {"mean_absolute": 0.05, "largest": 0.1, "bias": 0.05}
    assert (found["tile_tps_error"]["tiles"], found["tile_tps_error"]["mean_absolute"]) == (2, 0.05)
    nothing = summary([])
    assert (nothing["images"], nothing["sensitivity"], nothing["kappa"]) == (0, None, None)
    assert nothing["image_tps_error"]["mean_absolute"] is None


def region_folder(root: Path, stems: str = "ab") -> Path:
    """Images with air on their left quarter, an ROI of all but the right 16 columns, and marked cells in it."""
    roi = np.zeros(SIZE, np.uint8)
    roi[:, :80] = 255
    (root / "cells").mkdir(parents=True)
    for seed, stem in enumerate(stems):
        save(root / "images" / f"{stem}.png", tissue_image(seed))
        save(root / "roi" / f"{stem}.png", roi)
        lines = ["kind,x,y", "1,30,10", "1,36,14", "0,70,50", "0,60,40", "0,66,8", f"0,{50 + seed},60", "1,90,5"]
        (root / "cells" / f"{stem}.csv").write_text("\n".join(lines))
    return root


def test_regions_come_out_as_a_data_set_that_says_how_cells_agree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, source = tmp_path / "out", region_folder(tmp_path / "source")
    command: tuple[Any, ...] = (source, "--regions", "--mpp", 0.5, "--stain", "ihc", *CELLS, "--split", "0.5,0,0.5")
    assert ingest_command(*command, "--out", out) == 0
    assert "Regions against marked cells" in capsys.readouterr().out
    assert verify(out) == []
    dataset = open_dataset(out)
    row, tile = dataset.row(0), dataset[0].tile
    assert (row["label_scheme"], row["label_origin"], row["cells"]) == ("ki67", "weak", 0)
    assert (tile.semantic[:, :24] == AIR).all()
    assert (tile.semantic[:, 80:] == OTHER).all()
    assert row["tps_area"] == pytest.approx(2 / 6, abs=0.5 / (64 * 56))
    assert (tile.semantic[10, 30], tile.semantic[50, 70]) == (POSITIVE, NEGATIVE)
    assert len(pq.read_table(out / "points.parquet")) == 14
    kept = json.loads((out / "regions.json").read_text())
    assert (kept["scheme"], kept["smooth_um"], kept["all"]["images"]) == ("ki67", 5.0, 2)
    assert sorted(kept["splits"]) == ["test", "train"]
    assert [image["source_uri"] for image in kept["images"]] == ["images/a.png", "images/b.png"]
    assert sum(kept["all"]["of_positive"]) == 4
    assert sum(kept["all"]["of_negative"]) == 8
    assert kept["all"]["image_tps_error"]["largest"] <= 0.5 / (64 * 56)

    before = (out / "regions.json").read_bytes()
    (out / "regions.json").write_bytes(before.replace(b'"train"', b'"brain"', 1))
    assert [fault.path for fault in verify(out)] == ["regions.json"]
    (out / "regions.json").unlink()
    assert ingest_command(*command, "--out", out) == 0
    assert (out / "regions.json").read_bytes() == before
    assert verify(out) == []
    assert ingest_command(*command, "--out", out) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert ingest_command(*command, "--smooth-um", 9, "--out", out, "--overwrite") == 0
    assert json.loads((out / "regions.json").read_text())["smooth_um"] == 9
    assert ingest_command(source, "--mpp", 0.5, *CELLS, "--out", out, "--overwrite") == 0
    assert not (out / "regions.json").exists()


@pytest.mark.parametrize("rule", ["grey", "depas"])
def test_cells_are_painted_into_regions_by_colour(tmp_path: Path, rule: str) -> None:
    source, out, plain = region_folder(tmp_path / "source"), tmp_path / "out", tmp_path / "plain"
    image = tissue_image(0)
    image[40:50, 40:52], image[20:30, 60:70] = (120, 70, 30), (90, 110, 180)  # a brown nucleus and a blue one
    image[:, 72:] = 225
    save(source / "images" / "a.png", image)
    command: tuple[Any, ...] = (source, "--regions", "--mpp", 0.5, "--stain", "ihc", *CELLS, "--size", "32x96")
    assert ingest_command(*command, "--out", plain) == 0
    assert ingest_command(*command, "--cells-by-colour", rule, "--out", out) == 0
    assert verify(out) == []
    cells = get_scheme("ki67_cells")
    for sample, before in zip(open_dataset(out), open_dataset(plain), strict=True):
        assert (sample.row["label_scheme"], sample.row["label_origin"]) == ("ki67_cells", "weak")
        wanted = with_cells(before.tile.semantic, sample.image, 0.5, KI67, cells, rule=rule)
        np.testing.assert_array_equal(sample.tile.semantic, wanted)
        assert (wanted == cells.names.index("cell")).any()
    kept, before = (json.loads((root / "regions.json").read_text()) for root in (out, plain))
    assert kept == before | {"scheme": "ki67_cells"}  # cells hide no region from the marks
    assert ingest_command(*command, "--cells-by-colour", rule, "--scheme", "ki67_cells", "--out", out) == 0  # there


def test_cells_of_images_alone_take_a_scheme_of_tissue_and_cells(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "a" / "images" / "a.png", tissue_image(0))
    words = (tmp_path / "a", "--mpp", 0.5, "--stain", "ihc", "--cells-by-colour", "grey")
    scheme = configs_dir() / "schemes" / "tissue_cells.yaml"
    assert ingest_command(*words, "--scheme", scheme, "--out", tmp_path / "out") == 0
    (sample,) = open_dataset(tmp_path / "out")
    assert np.unique(sample.tile.semantic[:, :24]).tolist() == [0]
    assert (sample.tile.semantic[:, 24:] == 2).mean() > 0.9
    capfd.readouterr()
    for scheme in ("nuclei", "tissue"):
        assert ingest_command(*words, "--scheme", scheme, "--out", tmp_path / "no") == 2
        assert "whose last class is cell" in capfd.readouterr().err
    words = (nuclei_folder(tmp_path / "b"), *words[1:], "--scheme", "pdl1")
    assert ingest_command(*words, "--out", tmp_path / "no") == 2
    assert "expected images without instances" in capfd.readouterr().err
    assert not (tmp_path / "no").exists()


def test_tiles_of_regions_are_cut_from_the_whole_image_whatever_its_resolution(tmp_path: Path) -> None:
    source, whole, parts = region_folder(tmp_path / "source"), tmp_path / "whole", tmp_path / "parts"
    command: tuple[Any, ...] = (source, "--regions", "--mpp", 0.25, "--resample-mpp", 0.5, "--stain", "ihc", *CELLS)
    assert ingest_command(*command, "--out", whole) == 0
    assert ingest_command(*command, "--size", "32x32", "--overlap", 8, "--out", parts) == 0
    (first, *_), tiles = open_dataset(whole), open_dataset(parts)
    assert first.tile.semantic.shape == (32, 48)
    assert first.row["tps_area"] == pytest.approx(2 / 6, abs=0.5 / (32 * 28))
    for sample in tiles:
        if sample.row["source_uri"] == "images/a.png":
            x = sample.row["source_x"] // 2
            np.testing.assert_array_equal(sample.tile.semantic, first.tile.semantic[:, x : x + 32])


def test_image_without_cells_is_refused_or_left_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = region_folder(tmp_path / "source", "abc")
    (source / "cells/b.csv").write_text("kind,x,y\n1,90,5\n")
    command: tuple[Any, ...] = (source, "--regions", "--mpp", 0.5, "--stain", "ihc", *CELLS, "--out", tmp_path / "out")
    assert ingest_command(*command) == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert "cells/b.csv: expected a marked cell in the ROI, got none: tumour of unknown kind." in line
    assert not (tmp_path / "out").exists()
    (source / "cells/b.csv").unlink()
    assert ingest_command(*command, "--ignore-unpaired") == 0
    assert [row["source_uri"] for row in open_dataset(tmp_path / "out").table.to_pylist()] == [
        "images/a.png",
        "images/c.png",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--point-columns", "x,y,kind"), "cells/a.csv and 1 more: expected cells positive or negative, got '0'"),
        ((*CELLS, "--scheme", "tissue"), "--scheme: expected one class each for air, positive and negative tumour"),
        ((*CELLS, "--scheme", "ki67_cells"), "got ki67_cells (other, Ki-67 negative, Ki-67 positive, air, cell)"),
        ((*CELLS, "--scheme", "ihc"), "Use ki67 or pdl1."),
        ((*CELLS, "--smooth-um", "0"), "--smooth-um: expected micrometres above 0, up to 100, got 0"),
        ((*CELLS, "--smooth-um", "nan"), "--smooth-um: expected micrometres above 0, up to 100, got nan"),
        (
            (*CELLS, "--instances", "roi/{stem}.png"),
            "--regions: expected images with points and ROI alone, got instances",
        ),
    ],
)
def test_what_makes_no_regions_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    source, out = region_folder(tmp_path / "source"), tmp_path / "out"
    assert ingest_command(source, "--regions", "--mpp", 0.5, "--stain", "ihc", *arguments, "--out", out) == 2
    assert said in capfd.readouterr().err
    assert not out.exists()


def test_missing_resolution_is_said_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = region_folder(tmp_path / "source", "a")
    assert ingest_command(source, "--regions", "--stain", "ihc", *CELLS, "--out", tmp_path / "out") == 2
    assert "images/a.png: expected a resolution, got none in the file" in capfd.readouterr().err


def test_regions_need_points_and_roi(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert ingest_command(nuclei_folder(tmp_path / "a"), "--regions", "--mpp", 0.5, "--out", tmp_path / "out") == 2
    assert "got instances, which say more. Leave --regions out" in capfd.readouterr().err
    save(tmp_path / "b/images/a.png", tissue_image())
    assert ingest_command(tmp_path / "b", "--regions", "--mpp", 0.5, "--out", tmp_path / "out") == 2
    assert "--regions: expected images with points and ROI alone, got no points." in capfd.readouterr().err
    assert ingest_command(tmp_path / "b", "--smooth-um", 5, "--mpp", 0.5, "--out", tmp_path / "out") == 2
    assert "--smooth-um: expected --regions with it, got none." in capfd.readouterr().err
