"""`segment audit` of regions of a nuclear marker: nuclei counted in the mask's tumour, and where the stain lies."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.core.statistics import FEWEST_GROUPS
from manifests import Tile, get_scheme, open_dataset
from manifests.errors import UserError
from segment.audit.annotated import annotated_cells
from segment.audit.auditor import Auditor, TpsMethod, choose_tps_method, is_validated
from segment.audit.calibration import calibrate, calibration_tiles
from segment.audit.relation import Figure, compare_regions, relate
from segment.audit.report import METADATA_KEY
from segment.audit.stain_count import count_nuclei, has_marker_regions, scheme_basis
from segment.data.mixing import parse_mix
from segment.data.sources import open_accepted, open_sources
from tests.audit_tiles import (
    CELLS,
    IHC,
    NUCLEI,
    PDL1,
    Cli,
    audit_command,
    segmenter_weights,
    write_cells,
    write_points,
)
from tests.conftest import assert_refused

pytestmark = pytest.mark.usefixtures("one_thread")

KI67, KI67_CELLS = get_scheme("ki67"), get_scheme("ki67_cells")
NAN = float("nan")


@pytest.fixture
def audit(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    return audit_command(cli, tmp_path, monkeypatch)


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """Region masks with points, the same TPS by both; two tiles of the test split."""
    dataset = write_cells(tmp_path / "real", [4, 8, 2, 12], source="real", label_scheme="ki67")
    write_points(dataset, [4, 8, 2, 12])
    return dataset.root


# --- which nuclei count ------------------------------------------------------------------------------------------


def counted(semantic: np.ndarray, scheme: Any = KI67) -> Any:
    """Nuclei of two rows and four columns of pixels on an 8x8 tile; DAB grows with the column."""
    nuclei = np.zeros((8, 8), np.int32)
    nuclei[0:2, 0:4], nuclei[3:5, 0:4], nuclei[6:8, 4:8] = 3, 9, 12
    densities = np.zeros((8, 8, 2), np.float32)
    densities[..., 1] = np.arange(8)
    return count_nuclei(Tile(semantic, np.zeros((8, 8), np.int32), 0.5, scheme), nuclei, densities)


def test_a_nucleus_counts_whole_where_half_of_it_is_tumour() -> None:
    semantic = np.zeros((8, 8), np.uint8)
    semantic[0:2, 0:2] = 2  # half of the first
    semantic[3:5, 0:1] = 1  # a quarter of the second
    semantic[6:8, 4:7] = [1, 2, 2]  # more of the third is positive
    found = counted(semantic)
    assert found.ids.tolist() == [3, 12]
    np.testing.assert_allclose(found.dab, [1.5, 5.5])  # over all of their pixels
    assert found.region.tolist() == [1, 1]
    assert set(np.unique(found.nuclei)) == {0, 3, 12}
    semantic[6:8, 4:8] = [1, 1, 2, 2]
    assert counted(semantic).region.tolist() == [1, 0], "a tie is negative"


def test_nuclei_on_ignored_pixels_do_not_count_and_without_regions_their_pixels_are_cut() -> None:
    semantic = np.full((8, 8), 2, np.uint8)
    semantic[:, :3] = 255
    assert counted(semantic).ids.tolist() == [12]
    cut = counted(np.where(semantic == 255, 255, 1).astype(np.uint8), IHC)
    assert cut.ids.tolist() == [3, 9, 12]
    np.testing.assert_allclose(cut.dab, [3, 3, 5.5])
    assert cut.region.tolist() == [-1, -1, -1]


def test_cells_over_regions_are_of_the_region_around_them() -> None:
    semantic = np.zeros((8, 8), np.uint8)
    semantic[:6], semantic[6:] = 2, 1
    semantic[3:5, 0:4] = semantic[6:8, 4:8] = 4
    found = counted(semantic, KI67_CELLS)
    assert found.ids.tolist() == [3, 9, 12]
    assert found.region[:2].tolist() == [1, 1]


def test_no_nuclei_are_no_count() -> None:
    tile = Tile(np.full((8, 8), 2, np.uint8), np.zeros((8, 8), np.int32), 0.5, KI67)
    found = count_nuclei(tile, np.zeros((8, 8), np.int32), np.zeros((8, 8, 2), np.float32))
    assert found.ids.size == found.dab.size == found.region.size == 0


def test_schemes_say_what_their_tps_is_audited_on() -> None:
    by_name = {name: scheme_basis(get_scheme(name)) for name in ("ki67", "ki67_cells", "ihc", "pdl1", "tissue")}
    assert by_name == {"ki67": "nuclei", "ki67_cells": "nuclei", "ihc": "cells", "pdl1": "area", "tissue": None}
    assert [has_marker_regions(scheme) for scheme in (KI67, IHC, PDL1, NUCLEI)] == [True, False, False, False]


def test_a_count_in_regions_is_validated_and_the_area_of_membranes_never(real: Path) -> None:
    stain = calibrate(calibration_tiles(open_dataset(real)), None)
    assert stain.validated
    assert (stain.tps_error, stain.balanced_accuracy) == ({"stain": 0.0}, 1.0)
    assert choose_tps_method(NUCLEI, stain, [KI67]) == TpsMethod("stain", frozenset({"nuclei"}))
    for bases, expected in (({"nuclei"}, True), ({"cells"}, True), ({"area"}, False), ({"nuclei", "area"}, False)):
        assert is_validated(stain, frozenset(bases)) is expected
    assert not is_validated(replace(stain, validated=False), frozenset({"nuclei"}))


# --- relation and placement --------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=12))
def test_relation_equals_numpy(pairs: list[tuple[float, float]]) -> None:
    x, y = np.array(pairs).T
    found = relate(x, y, range(len(x)))
    assert found is not None
    assert found.mae.value == pytest.approx(np.abs(y - x).mean())
    assert found.bias.value == pytest.approx((y - x).mean(), abs=1e-12)
    if x.std() < 1e-3 or y.std() < 1e-3:
        return
    slope, intercept = np.polyfit(x, y, 1)
    assert found.slope.value == pytest.approx(slope, abs=1e-6)
    assert found.intercept.value == pytest.approx(intercept, abs=1e-6)
    assert found.r.value == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-6)


def test_intervals_equal_resampling_patients_one_by_one() -> None:
    rng = np.random.default_rng(0)
    x = rng.random(30)
    y = 0.9 * x + rng.normal(0, 0.05, 30)
    groups = np.repeat(np.arange(10), 3)
    found = relate(x, y, groups.tolist())
    assert found is not None
    drawn = []
    for _ in range(1500):
        tiles = np.concatenate([np.flatnonzero(groups == group) for group in rng.integers(10, size=10)])
        drawn.append([*np.polyfit(x[tiles], y[tiles], 1), np.corrcoef(x[tiles], y[tiles])[0, 1]])
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    for number, figure in enumerate((found.slope, found.intercept, found.r)):
        assert (figure.low, figure.high) == pytest.approx((low[number], high[number]), abs=0.03)
    assert (found.tiles, found.groups) == (30, 10)


def test_relation_leaves_out_what_is_not_known_and_has_no_line_through_one_value() -> None:
    x, y = np.array([0.2, 0.2, NAN, 0.2]), np.array([0.1, 0.4, 0.5, NAN])
    found = relate(x, y, "abcd")
    assert found is not None
    assert (found.tiles, found.slope, found.r) == (2, Figure(None, None, None), Figure(None, None, None))
    assert found.bias.value == pytest.approx(0.05)
    assert found.bias.low is None, f"an interval takes {FEWEST_GROUPS} patients"
    assert relate(np.array([NAN]), np.array([0.2]), "a") is None


def test_placement_by_hand() -> None:
    nuclei = np.array([[10.0, 30.0], [0.0, 10.0], [NAN, NAN], [0.0, 0.0]])
    stained = np.array([[8.0, 3.0], [0.0, 1.0], [NAN, NAN], [0.0, 0.0]])
    found = compare_regions(nuclei, stained, "abcd")
    assert found is not None
    assert (found.tiles, found.positive_nuclei, found.negative_nuclei) == (2, 10, 40)
    shares = found.in_positive.value, found.in_negative.value, found.difference.value
    assert shares == pytest.approx((0.8, 0.1, 0.7))
    assert compare_regions(nuclei[2:], stained[2:], "cd") is None
    many = compare_regions(np.tile(nuclei[:1], (8, 1)), np.tile(stained[:1], (8, 1)), range(8))
    assert many is not None
    assert many.difference == Figure(pytest.approx(0.7), pytest.approx(0.7), pytest.approx(0.7))


# --- the command -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("drawn_plots")
def test_requests_by_area_are_held_to_nuclei_counted_in_the_tumour(audit: Cli, tmp_path: Path, real: Path) -> None:
    # Tile 1 shows 4 of 24 and claims half; in tile 2 the six brown nuclei lie beside the tumour.
    beside = [0] * 6 + [2] * 6 + [1] * 12
    write_cells(
        tmp_path / "synth",
        [2, 4, 6, 8, 12],
        label_scheme="ki67",
        requests={1: 0.5, 2: 1 / 3},
        regions={1: [2] * 12 + [1] * 12, 2: beside},
    )
    outcome = audit("synth", "--real", "real", "--bound", 0.1, "--out", "out")
    assert outcome.code == 0, outcome.err
    rows = pq.read_table(tmp_path / "out/audit.parquet").to_pylist()
    assert [row["flags"] for row in rows] == [[], ["tps"], ["tps"], [], []]
    assert {row["tps_judge"] for row in rows} == {"stain"}
    assert [row["stain_nuclei"] for row in rows] == [24, 24, 18, 24, 24]
    assert rows[2]["audited_tps"] == 0
    assert [rows[1][name] for name in ("nuclei_in_positive", "stained_in_positive")] == [12, 4]
    assert [rows[1][name] for name in ("nuclei_in_negative", "stained_in_negative")] == [12, 0]
    document = json.loads((tmp_path / "out/audit.json").read_text())
    assert document["limits"]["rejects_by_tps"]
    own = document["own_error"]["real"]
    assert own["tps"]["audited_tps"]["mae"] == own["relation"]["mae"]["value"] == 0
    assert own["relation"]["slope"]["value"] == pytest.approx(1)
    assert own["placement"]["difference"]["value"] == 1
    assert document["audited"]["relation"]["tiles"] == 5
    assert document["audited"]["placement"]["positive_nuclei"] == 2 + 12 + 6 + 8 + 12
    report = (tmp_path / "out/audit.md").read_text()
    assert "| real, real: labels | 2 | 2 | 1.000 |" in report
    assert "## Is the stain where the mask says?" in report
    tables = [line for line in report.splitlines() if line.startswith("| ")]
    assert all(line.count(" | ") in (5, 6, 7) for line in tables), "bars within cells are escaped"
    assert json.loads(pq.read_schema(tmp_path / "out/audit.parquet").metadata[METADATA_KEY]) == document


def test_stain_in_the_wrong_regions_shows_where_tps_does_not(audit: Cli, tmp_path: Path, real: Path) -> None:
    upside_down = [1] * 12 + [2] * 12
    write_cells(tmp_path / "synth", [12] * 2, label_scheme="ki67", regions={0: upside_down, 1: upside_down})
    assert audit("synth", "--real", "real", "--out", "out").code == 0
    audited = json.loads((tmp_path / "out/audit.json").read_text())["audited"]
    assert audited["flagged"] == 0
    assert audited["placement"]["difference"]["value"] == -1


def test_marked_cells_are_the_claim_of_a_real_tile_and_its_regions_stand_beside(
    audit: Cli, tmp_path: Path, real: Path
) -> None:
    regions = {index: [2] * 6 + [1] * 18 for index in range(4)}  # all masks say a quarter
    marked = write_cells(tmp_path / "marked", [4, 8, 2, 12], source="real", label_scheme="ki67", regions=regions)
    write_points(marked, [4, 8, 2, 12])
    write_cells(tmp_path / "synth", [2], label_scheme="ki67")
    assert audit("synth", "--real", "marked", "--out", "out").code == 0
    own = json.loads((tmp_path / "out/audit.json").read_text())["own_error"]["marked"]
    assert own["relation"]["mae"]["value"] == 0
    assert own["relation_of_mask"]["bias"]["value"] == pytest.approx((2 + 12) / 2 / CELLS - 0.25)
    assert own["placement"]["in_positive"]["value"] == pytest.approx((2 + 6) / 12)
    assert own["placement"]["in_negative"]["value"] == pytest.approx(6 / 36)


def test_points_without_regions_calibrate_but_are_no_error_of_a_count_in_regions(audit: Cli, tmp_path: Path) -> None:
    tissue = write_cells(tmp_path / "real", [4, 8, 2, 12], source="real", label_scheme="tissue")
    write_points(tissue, [4, 8, 2, 12])
    write_cells(tmp_path / "synth", [2, 4], label_scheme="ki67", requests={1: 0.9})
    outcome = audit("synth", "--real", "real", "--out", "out")
    assert outcome.code == 0, outcome.err
    assert "real: its TPS is of marked cells and not of regions" in outcome.out
    assert pq.read_table(tmp_path / "out/audit.parquet")["flags"].to_pylist() == [[], ["tps"]]
    assert "relation" not in json.loads((tmp_path / "out/audit.json").read_text())["own_error"]["real"]


def test_calibration_and_judge_count_alike(tmp_path: Path, real: Path) -> None:
    dataset = open_dataset(real)
    stain = calibrate(calibration_tiles(dataset), None)
    auditor = Auditor(segmenter_weights(tmp_path / "w"), stain, choose_tps_method(NUCLEI, stain, [KI67]))
    for sample, positive in zip(dataset, [4, 8, 2, 12], strict=True):
        found = auditor.audit(sample, annotated_cells(dataset))
        assert found.audited_tps == found.achieved_tps == pytest.approx(positive / CELLS)
        assert found.mask_tps == pytest.approx(positive / CELLS)


def test_weights_without_nuclei_and_of_other_classes_are_refused(audit: Cli, tmp_path: Path) -> None:
    write_cells(tmp_path / "synth", [2], label_scheme="ki67")
    said = r"read as \(ki67, tissue, any with nuclei\), got pdl1"
    assert_refused(audit("synth", segmenter=(None, PDL1)), said)


# --- training on what was accepted -------------------------------------------------------------------------------


@pytest.fixture
def accepted(audit: Cli, tmp_path: Path, real: Path) -> Path:
    """An audit that lets four of five tiles pass; its train split has two, of which one passes."""
    write_cells(tmp_path / "synth", [2, 4, 6, 8, 10], label_scheme="ki67", requests={4: 0.9})
    assert audit("synth", "--real", "real", "--out", "out").code == 0
    return tmp_path / "out/accepted.parquet"


@pytest.mark.usefixtures("small_network")
def test_accepted_rows_are_what_a_network_learns_from(accepted: Path, cli: Cli, tmp_path: Path, real: Path) -> None:
    outcome = cli("segment", "train", "--synth", accepted, "--real", real, "--crop", "64x64", "--dry-run")
    assert outcome.code == 0, outcome.err
    assert f"{accepted}: 1 train" in " ".join(outcome.out.split())
    passed, every = (open_sources(parse_mix("synth"), real, path)[0] for path in (accepted, tmp_path / "synth"))
    assert passed.split("train").table["sample_id"].to_pylist() == ["synthetic-0"]
    assert every.split("train").table["sample_id"].to_pylist() == ["synthetic-0", "synthetic-4"]
    assert (passed.path, every.path) == (accepted, tmp_path / "synth")
    assert passed.fingerprint != every.fingerprint == passed.sha256


def test_accepted_rows_of_other_bytes_or_without_their_audit_are_refused(accepted: Path, tmp_path: Path) -> None:
    assert len(open_accepted(accepted)) == 4
    lonely = tmp_path / "accepted.parquet"
    lonely.write_bytes(accepted.read_bytes())
    with pytest.raises(UserError, match=r"expected accepted.parquet of an audit with audit.json beside it"):
        open_accepted(lonely)
    sums = tmp_path / "synth/SHA256SUMS"
    sums.write_bytes(sums.read_bytes() + b"\n")
    with pytest.raises(UserError, match="as it was audited, got other files"):
        open_accepted(accepted)
    sums.unlink()
    with pytest.raises(UserError, match="expected the audited data set in synth, got none"):
        open_accepted(accepted)
