"""Requested distributions and the plans drawn from them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from factory.core.config import digest
from factory.plan.assignment import shares_of
from factory.plan.distributions import DEBIAS_BINS, parse_distribution, stratified
from factory.plan.origin import plan_metadata
from factory.plan.rows import PlanConfig, complete, plan, read_draft
from manifests import DatasetInfo, UserError, get_scheme
from manifests.table import rows_to_table, write_manifest
from tests.conftest import write_dataset

N = 5000


def draws(text: str, quantity: str = "tps", n: int = N, **options: object) -> np.ndarray:
    return stratified(parse_distribution(text, quantity, **options), n, np.random.default_rng(0))  # type: ignore[arg-type]


@pytest.fixture
def histogram(tmp_path: Path) -> Path:
    path = tmp_path / "histogram.csv"
    path.write_text("low,high,weight\n0,0.01,1\n0.01,0.5,2\n0.5,1,1\n")
    return path


@pytest.fixture
def achieved(tmp_path: Path) -> Path:
    """A manifest with 400 tiles whose TPS follows Beta(1, 9)."""
    values = np.random.default_rng(1).beta(1, 9, 400)
    rows = [
        {
            "sample_id": f"r-{i}",
            "index": i,
            "source": "real",
            "height": 32,
            "width": 32,
            "mpp": 0.5,
            "label_scheme": "pdl1",
            "tps_area": value,
            "cells": int(value * 1000),
        }
        for i, value in enumerate(values)
    ]
    path = tmp_path / "real.parquet"
    write_manifest(path, rows_to_table(rows), DatasetInfo(False, "tests", (get_scheme("pdl1"),)))
    return path


@pytest.mark.parametrize(
    ("text", "cdf"),
    [
        ("0.01-0.5", stats.uniform(0.01, 0.49).cdf),
        ("beta:2,5", stats.beta(2, 5).cdf),
        ("beta:2,5@0.2-0.6", stats.beta(2, 5, 0.2, 0.4).cdf),
        ("0-1", stats.uniform(0, 1).cdf),
    ],
)
def test_draws_follow_the_asked_distribution(text: str, cdf: object) -> None:
    assert stats.kstest(draws(text), cdf).statistic <= 1.001 / N


def test_fixed_value_and_range_ends() -> None:
    assert set(draws("0.3").tolist()) == {0.3}
    values = draws("0.01-0.5")
    assert 0.01 <= values.min() < 0.011
    assert 0.499 < values.max() <= 0.5


def test_histogram_weights_its_bins(histogram: Path) -> None:
    values = draws(str(histogram))
    shares = [np.mean((values >= low) & (values < high)) for low, high in ((0, 0.01), (0.01, 0.5), (0.5, 1.01))]
    np.testing.assert_allclose(shares, (0.25, 0.5, 0.25), atol=1 / N)


def test_around_straddles_each_boundary_evenly() -> None:
    values = draws("around:0.01,0.5")
    for low, high in ((0, 0.01), (0.01, 0.02), (0.45, 0.5), (0.5, 0.55)):
        assert np.mean((values >= low) & (values < high)) == pytest.approx(0.25, abs=2 / N)
    assert draws("around:0.5:0.02").min() >= 0.48
    cells = draws("around:100", "cells")
    assert (cells.min(), cells.max()) == (pytest.approx(90, abs=0.1), pytest.approx(110, abs=0.1))


def test_like_repeats_the_achieved_values(achieved: Path) -> None:
    real = pq.read_table(achieved)["tps_area"].to_numpy()
    assert stats.ks_2samp(draws(f"like:{achieved}"), real).statistic <= 1 / 400
    assert draws(f"like:{achieved}", "cells").max() <= 1000


def test_debias_fills_up_to_a_flat_histogram(achieved: Path) -> None:
    real = pq.read_table(achieved)["tps_area"].to_numpy()
    before = np.histogram(real, DEBIAS_BINS, (0, 1))[0]
    for n in (200, 4000):
        added = np.histogram(draws(f"like:{achieved}", n=n, debias_n=n), DEBIAS_BINS, (0, 1))[0]
        level = np.sort(before + added)
        # No bin that got tiles stands above another that could have had them.
        assert (before + added)[added > 1].max() - level[0] <= 2
    assert np.ptp(before + added) <= 2


def test_debias_flattens_tissue_and_cells_as_well(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "d", scheme="pdl1", n=12).root
    real = pq.read_table(root / "manifest.parquet")["cells"].to_numpy()
    table = plan(PlanConfig(n=2000, tissue=f"like:{root}", cells=f"like:{root}", debias=True))
    both = np.concatenate([real, table["request_cells"].to_numpy()])
    assert both.max() == real.max()
    assert np.ptp(np.bincount(both)[1:-1]) <= 2  # counts are rounded, so both ends get half a share
    assert stats.kstest(table["request_tissue"].to_numpy(), stats.uniform(0, 1).cdf).statistic < 0.1


def test_like_reads_tps_as_the_scheme_counts_it(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d", scheme="ihc")
    by_cells = set(dataset.table["tps_cells"].to_pylist())
    assert by_cells != set(dataset.table["tps_area"].to_pylist())
    assert set(draws(f"like:{dataset.root}", n=60).tolist()) == by_cells


def test_a_histogram_of_a_spreadsheet_and_with_large_weights_is_read(tmp_path: Path) -> None:
    path = tmp_path / "H.CSV"
    path.write_text("\ufefflow,high,weight\n0,0.5,1e308\n0.5,1,1e308\n", encoding="utf-8")
    assert stats.kstest(draws(str(path)), stats.uniform(0, 1).cdf).statistic <= 1.001 / N


def test_without_a_tps_the_tumour_is_divided_at_random(tmp_path: Path) -> None:
    table = plan(PlanConfig(n=400, tissue="0.9", tumour="0.5"))
    assert table["request_tps"].null_count == 400
    positive, negative = np.array(table["request_fractions"].to_pylist())[:, [3, 2]].T
    assert stats.kstest(positive / (positive + negative), stats.uniform(0, 1).cdf).statistic <= 1.01 / 400


def test_debias_without_like_is_refused() -> None:
    with pytest.raises(UserError, match="--debias"):
        plan(PlanConfig(n=5, tps="0.1-0.5", debias=True))


@pytest.mark.parametrize(
    ("text", "quantity", "said"),
    [
        ("0.5-0.01", "tps", "LOW first"),
        ("-0.1", "tps", "0 to 1"),
        ("1.2", "tps", "0 to 1"),
        ("0.1-1.2", "tissue", "0 to 1"),
        ("nan", "tps", "0 to 1"),
        ("x", "tps", "a number, LOW-HIGH"),
        ("", "tps", "a number, LOW-HIGH"),
        ("beta:2", "tps", "beta:A,B"),
        ("beta:0,1", "tps", "above 0"),
        ("beta:2,5", "cells", "range with beta"),
        ("around:0", "tps", "room on both sides"),
        ("around:1", "tps", "room on both sides"),
        ("around:0.5:-1", "tps", "width above 0"),
        ("like:nowhere", "tps", "no such file"),
        ("missing.csv", "tps", "histogram file"),
        ("-5", "cells", "a count of cells"),
    ],
)
def test_malformed_distribution_is_refused(text: str, quantity: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_distribution(text, quantity)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b\n1,2\n", "columns low,high,weight"),
        ("low,high,weight\n0,0.5,-1\n", "line 2"),
        ("low,high,weight\n0.5,0.1,1\n", "line 2"),
        ("low,high,weight\n0,2,1\n", "0 to 1"),
        ("low,high,weight\n0,1,nan\n", "line 2"),
        ("low,high,weight\n", "at least one bin"),
        ("low,high,weight\n0,1,0\n", "at least one bin"),
    ],
)
def test_malformed_histogram_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "h.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=said):
        parse_distribution(str(path), "tps")


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 300))
def test_stratified_draws_stay_in_range_and_in_strata(a: float, b: float, n: int) -> None:
    low, high = sorted((a, b))
    values = np.sort(draws(f"{low:.6f}-{high:.6f}", n=n))
    edges = np.linspace(round(low, 6), round(high, 6), n + 1)
    assert (values >= edges[:-1] - 1e-9).all()
    assert (values <= edges[1:] + 1e-9).all()


def test_plan_is_a_valid_manifest_with_stratified_requests_and_splits() -> None:
    table = plan(PlanConfig(n=N, tps="0.01-0.5", tissue="0.3-0.9", tumour="0.4-0.6", inflammation="0.1"))
    tps = table["request_tps"].to_numpy()
    assert stats.kstest(tps, stats.uniform(0.01, 0.49).cdf).statistic <= 0.02
    splits = np.array(table["split"].to_pylist())
    assert {name: int((splits == name).sum()) for name in ("train", "val", "test")} == {
        "train": 4000,
        "val": 500,
        "test": 500,
    }
    for name in ("val", "test"):
        assert stats.ks_2samp(tps[splits == name], tps).statistic < 0.01
    assert len(set(table["sample_id"].to_pylist())) == len(set(table["seed"].to_pylist())) == N
    fractions = np.array(table["request_fractions"].to_pylist())
    np.testing.assert_allclose(fractions.sum(axis=1), 1)
    np.testing.assert_allclose(1 - fractions[:, 4], table["request_tissue"].to_numpy())
    np.testing.assert_allclose(fractions[:, 3] / fractions[:, [2, 3]].sum(axis=1), tps)
    assert abs(np.corrcoef(tps, table["request_tissue"].to_numpy())[0, 1]) < 0.05


def test_plan_depends_on_its_seed_alone() -> None:
    config = PlanConfig(n=20, tps="0-1")
    assert plan(config).equals(plan(config))
    assert not plan(config).equals(plan(PlanConfig(n=20, tps="0-1", seed=1)))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"scheme": "nuclei", "tps": "0.5"}, "--tps: expected a scheme with positive"),
        ({"scheme": "ihc", "tissue": "0.5"}, "--tissue: expected a scheme with an air"),
        ({"tumour": "0.8", "inflammation": "0.3"}, "sum to at most 1"),
        ({"debias": True}, "--debias"),
        ({"tumour": "like:d"}, "--tumour: expected a number"),
        ({"scheme": "pdl"}, "Did you mean pdl1"),
    ],
)
def test_plan_refuses_what_the_scheme_cannot_express(config: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        plan(PlanConfig(n=5, **config))


def test_an_edited_plan_keeps_its_edits(tmp_path: Path) -> None:
    config = PlanConfig(n=6, tps="0-1", tumour="0.5")
    rows = plan(config).to_pylist()
    rows[2]["request_tps"] = 0.77
    write_manifest(tmp_path / "p.parquet", rows_to_table(rows[1:]), DatasetInfo(True, "t", (get_scheme("pdl1"),)))
    draft = read_draft(tmp_path / "p.parquet")
    table = complete(draft, config, get_scheme("pdl1"))
    assert table["request_tps"].to_pylist()[1] == 0.77
    assert table["index"].to_pylist() == list(range(5))
    assert table["sample_id"].to_pylist() == [row["sample_id"] for row in rows[1:]]
    assert draft.scheme == get_scheme("pdl1")


def test_a_plan_of_one_column_is_filled_in(tmp_path: Path) -> None:
    pq.write_table(pa.table({"request_tps": [0.1, 0.2, 0.3]}), tmp_path / "p.parquet")
    table = complete(read_draft(tmp_path / "p.parquet"), PlanConfig(size=(64, 96)), get_scheme("pdl1"))
    assert table["width"].to_pylist() == [96] * 3
    assert len(set(table["sample_id"].to_pylist())) == 3
    assert table["split"].to_pylist() == ["train", "train", "train"]


def test_a_plan_keeps_nothing_of_what_other_tiles_achieved(tmp_path: Path) -> None:
    columns = {"request_tps": [0.1], "source": ["real"], "licence": ["CC0"], "source_uri": ["x.png"], "cells": [3]}
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    (row,) = complete(read_draft(tmp_path / "p.parquet"), PlanConfig(), get_scheme("pdl1")).to_pylist()
    assert (row["source"], row["licence"], row["source_uri"], row["cells"]) == ("synthetic", None, None, None)


def test_a_plan_of_one_column_has_splits_that_see_all_of_it(tmp_path: Path) -> None:
    pq.write_table(pa.table({"request_tps": np.linspace(0, 1, 1000)}), tmp_path / "p.parquet")
    table = complete(read_draft(tmp_path / "p.parquet"), PlanConfig(), get_scheme("pdl1"))
    tps, splits = table["request_tps"].to_numpy(), np.array(table["split"].to_pylist())
    assert stats.kstest(tps[splits == "test"], stats.uniform(0, 1).cdf).statistic <= 0.02


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"split": ["train"]}, "at least one of the columns request_tps"),
        ({"request_tps": [0.1, 0.2], "height": [64, 96]}, "height"),
        ({"request_tps": [0.1], "height": [50], "width": [64]}, "multiples of 32"),
        ({"request_tps": [0.1, 0.2], "seed": [1, None]}, "row 1: seed"),
        ({"request_tps": [0.1], "label_scheme": ["pdl2"]}, "pdl1"),
        ({"request_tps": []}, "at least one"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(tmp_path: Path, columns: dict, said: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    with pytest.raises(UserError, match=said):
        complete(read_draft(tmp_path / "p.parquet"), PlanConfig(), get_scheme("pdl1"))


def test_like_reads_a_data_set_folder(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "d", scheme="ihc")
    assert draws(f"like:{dataset.root}", n=50).max() <= 1
    with pytest.raises(UserError, match="measured tissue_fraction"):
        parse_distribution(f"like:{dataset.root}", "tissue")


def test_shares_of_classes_leave_the_others_open_and_keep_old_fingerprints() -> None:
    table = plan(PlanConfig(n=40, shares={"inflammation": "0.1-0.2", "air": "0.3"}, tps="0.5"))
    asked = table["request_fractions"].to_pylist()
    assert {tuple(share is None for share in row) for row in asked} == {(True, False, True, True, False)}
    inflamed = np.array([row[1] for row in asked])
    assert 0.1 <= inflamed.min() < 0.105 < 0.195 < inflamed.max() <= 0.2
    assert {"shares", "cell_shares"}.isdisjoint(PlanConfig().model_dump())
    types = plan(PlanConfig(n=3, scheme="nuclei_types", cell_shares={"dead": "0.1"}))
    assert types["request_cell_fractions"].to_pylist() == [[None, None, None, None, 0.1, None]] * 3


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"shares": {"airs": "0.1"}}, "--share: .*Did you mean air"),
        ({"shares": {"air": "0.7", "other": "0.4"}}, "--share: expected shares of at most 1 in all, got 1.1 in row 0"),
        ({"shares": {"air": "0.1"}, "tissue": "0.9"}, "--tissue: expected none beside --share of air"),
        ({"shares": {"other": "0.1"}, "tumour": "0.9"}, "--tumour: expected none beside --share of other"),
        ({"shares": {"PD-L1 positive": "0.1"}, "tps": "0.9"}, "--tps: expected none beside --share of PD-L1"),
        ({"cell_shares": {"dead": "0.1"}}, "--cell-share: expected a scheme with types of nuclei"),
        ({"cell_shares": {"dead": "2"}, "scheme": "nuclei_types"}, "--cell-share dead: expected a share from 0 to 1"),
    ],
)
def test_shares_that_cannot_be_asked_are_refused(asked: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        plan(PlanConfig(n=2, **asked))  # type: ignore[arg-type]


def test_seeds_that_a_float_column_rounded_are_refused(tmp_path: Path) -> None:
    table = plan(PlanConfig(tps="0.1-0.5", n=4))
    seeds = table["seed"].to_numpy()
    place = table.schema.get_field_index("seed")
    for column, said in (
        (seeds.astype(float), "got double, which rounds"),
        (seeds.astype(float).astype("u8"), "has rounded"),
    ):
        pq.write_table(table.set_column(place, "seed", pa.array(column)), tmp_path / "p.parquet")
        with pytest.raises(UserError, match=f"seed: .*{said}"):
            read_draft(tmp_path / "p.parquet")
    small = pa.array([0.0, 1.0, 2.0, 2.0**53])
    pq.write_table(table.set_column(place, "seed", small), tmp_path / "p.parquet")
    assert read_draft(tmp_path / "p.parquet").table["seed"].to_pylist() == [0, 1, 2, 2**53]


def test_seed_of_another_row_is_refused_under_a_sample_id(tmp_path: Path) -> None:
    config = PlanConfig(tps="0.1-0.5", n=3, seed=7)
    rows = plan(config).to_pylist()
    info = DatasetInfo(True, "t", (get_scheme("pdl1"),))
    write_manifest(tmp_path / "p.parquet", rows_to_table(rows[1:]), info, plan_metadata(digest(config), 7, 3))
    assert len(read_draft(tmp_path / "p.parquet").table) == 2
    rows[1]["seed"], rows[2]["seed"] = rows[2]["seed"], rows[1]["seed"]
    write_manifest(tmp_path / "p.parquet", rows_to_table(rows), info, plan_metadata(digest(config), 7, 3))
    with pytest.raises(UserError, match=f"row 1: seed: .* goes with sample_id {rows[1]['sample_id']}"):
        read_draft(tmp_path / "p.parquet")


@pytest.mark.parametrize("name", ["request_cells", "index", "source_x"])
def test_every_integer_column_is_refused_where_floats_round_it(tmp_path: Path, name: str) -> None:
    table = plan(PlanConfig(tps="0.1-0.5", n=2))
    place = table.schema.get_field_index(name)
    pq.write_table(table.set_column(place, name, pa.array([1.0, 2.0**60])), tmp_path / "p.parquet")
    with pytest.raises(UserError, match=f"column {name}: expected int64, got double"):
        read_draft(tmp_path / "p.parquet")


@given(
    chunks=st.lists(st.lists(st.none() | st.lists(st.none() | st.floats(0, 1), min_size=2, max_size=2)), max_size=3),
    start=st.integers(0, 5),
)
def test_shares_of_a_column_are_those_of_its_rows_and_nan_where_it_has_none(
    chunks: list[list[list[float | None] | None]], start: int
) -> None:
    kind = pa.list_(pa.float64())
    table = pa.table({"shares": pa.chunked_array([pa.array(chunk, kind) for chunk in chunks], kind)}).slice(start)
    expected = [shares or [np.nan] * 2 for shares in table["shares"].to_pylist()]
    np.testing.assert_array_equal(shares_of(table, "shares", 2), np.array(expected, np.float64).reshape(-1, 2))
