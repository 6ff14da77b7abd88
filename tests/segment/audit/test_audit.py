"""`segment audit`: a data set whose requests are wrong for some tiles is flagged exactly there, no label changes."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from manifests import Dataset, LabelScheme, Tile, open_dataset
from manifests.files import walk
from segment.audit import folder
from segment.audit.annotated import annotated_cells
from segment.audit.auditor import Auditor, Finding, TpsMethod, agreement, choose_tps_method
from segment.audit.calibration import calibrate, calibration_tiles
from segment.audit.flags import Limits, flag_tiles, has_evidence, limits, summarise
from segment.audit.plot import plot_audit
from segment.audit.report import METADATA_KEY
from segment.audit.stain_count import find_nuclei
from segment.network.instances import InstanceConfig
from segment.network.weights import write_weights
from tests.audit_tiles import CELLS, IHC, NUCLEI, PDL1, Cli, audit_command, segmenter_weights, write_cells, write_points
from tests.conftest import assert_refused

pytestmark = pytest.mark.usefixtures("one_thread")

NAN = float("nan")


class Unstained(torch.nn.Module):
    """Every dark pixel is of a negative tumour cell, so that its TPS by cells is always 0."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        dark = 40 * (0.4 - image.mean(1, keepdim=True))
        return torch.cat([-dark, dark, -100 + 0 * dark], 1)


class Brown(torch.nn.Module):
    """Brown pixels are PD-L1 positive tumour, and nothing else is tumour."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        brown = 40 * (image[:, :1] - image[:, 2:] - 0.2)
        never = torch.full_like(brown, -100)
        return torch.cat([-brown, never, never, brown, never], 1)


@pytest.fixture
def audit(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    return audit_command(cli, tmp_path, monkeypatch)


def digests(root: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in walk(root)}


def test_tiles_with_a_wrong_request_are_flagged_and_no_other(audit: Cli, tmp_path: Path) -> None:
    write_cells(tmp_path / "real", [4, 8, 2, 12], source="real")
    # Tile 1 shows 4/24 and claims 0.5, tile 4 shows 8/24 and claims 0.22; tile 3 is off by less than the bound.
    write_cells(tmp_path / "synth", [2, 4, 6, 8, 8, 10], requests={1: 0.5, 3: 0.25, 4: 0.22})
    before = digests(tmp_path / "synth")
    outcome = audit("synth", "--real", "real", "--bound", 0.1, "--out", "out")
    assert outcome.code == 0, outcome.err
    rows = pq.read_table(tmp_path / "out/audit.parquet").to_pylist()
    assert [row["flags"] for row in rows] == [[], ["tps"], [], [], ["tps"], []]
    np.testing.assert_allclose([row["audited_tps"] for row in rows], np.array([2, 4, 6, 8, 8, 10]) / CELLS)
    assert rows[1]["tps_difference"] == pytest.approx(4 / CELLS - 0.5)
    assert [row["accepted"] for row in rows] == [not row["flags"] for row in rows]
    assert all(row["stain_agreement"] == 1.0 and row["nuclei_claimed"] == CELLS for row in rows)
    assert min(row["aji"] for row in rows) > 0.8
    assert digests(tmp_path / "synth") == before


def test_accepted_manifest_opens_the_store_with_rows_left_out_and_nothing_changed(audit: Cli, tmp_path: Path) -> None:
    own = write_cells(tmp_path / "synth", [2, 4, 6], requests={1: 0.9})
    real = write_cells(tmp_path / "real", [4, 8, 2, 12], source="real")
    assert audit("synth", "--real", real.root, "--out", "out").code == 0
    accepted = open_dataset(tmp_path / "synth", tmp_path / "out/accepted.parquet")
    assert accepted.table.equals(own.table.take([0, 2]))
    assert accepted.info == own.info
    np.testing.assert_array_equal(accepted[1].tile.semantic, own[2].tile.semantic)


@pytest.mark.usefixtures("drawn_plots")
def test_own_error_is_reported_first_and_unknown_without_real_tiles(audit: Cli, tmp_path: Path) -> None:
    write_cells(tmp_path / "real", [4, 8, 2, 12], source="real")
    write_cells(tmp_path / "synth", [2, 4], requests={1: 0.9})
    outcome = audit("synth", "--real", "real", "--out", "out")
    assert -1 < outcome.out.index("The audit's own error: real, 2 held-out real tiles") < outcome.out.index("Audited:")
    document = json.loads((tmp_path / "out/audit.json").read_text())
    assert document["own_error"]["real"]["tps"]["tps_stain"] == {"tiles": 2, "mae": 0, "bias": 0, "p95": 0}
    stored = pq.read_schema(tmp_path / "out/audit.parquet").metadata[METADATA_KEY]
    assert json.loads(stored) == document
    report = (tmp_path / "out/audit.md").read_text()
    assert report.index("own error") < report.index("## Audited")
    assert (tmp_path / "out/audit.png").read_bytes().startswith(b"\x89PNG")

    outcome = audit("synth", "--out", "alone")
    assert outcome.code == 0
    assert "own error is unknown" in outcome.out
    assert "no TPS is audited" in outcome.out
    assert pq.read_table(tmp_path / "alone/audit.parquet")["audited_tps"].null_count == 2


def test_killed_audit_goes_on_and_ends_as_an_unbroken_one(
    audit: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "PART_TILES", 2)
    write_cells(tmp_path / "real", [4, 8, 2, 12], source="real")
    write_cells(tmp_path / "synth", [2, 4, 6, 8, 10], requests={2: 0.9})
    looked: list[str] = []
    audit_tile = Auditor.audit

    def dies_at_the_sixth(auditor: Auditor, sample: Any, annotated: Any = None) -> Finding:
        looked.append(sample.row["sample_id"])
        if len(looked) == 6:
            raise KeyboardInterrupt
        return audit_tile(auditor, sample, annotated)

    monkeypatch.setattr(Auditor, "audit", dies_at_the_sixth)
    assert audit("synth", "--real", "real", "--out", "out").code == 130
    assert not (tmp_path / "out/audit.parquet").exists()
    assert audit("synth", "--real", "real", "--out", "out").code == 0
    assert looked[6:] == ["synthetic-2", "synthetic-3", "synthetic-4"]  # the part it died in, and the rest
    assert audit("synth", "--real", "real", "--out", "unbroken").code == 0
    left = digests(tmp_path / "out")
    assert [d for _, d in sorted(left.items())] == [d for _, d in sorted(digests(tmp_path / "unbroken").items())]


def test_another_bound_looks_at_no_tile_again(audit: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cells(tmp_path / "real", [4, 8, 2, 12], source="real")
    write_cells(tmp_path / "synth", [2, 4], requests={1: 0.4})
    assert audit("synth", "--real", "real", "--out", "out").code == 0
    monkeypatch.setattr(Auditor, "audit", None)
    assert pq.read_table(tmp_path / "out/audit.parquet")["flags"].to_pylist() == [[], ["tps"]]
    assert audit("synth", "--real", "real", "--out", "out", "--bound", 0.3).code == 0
    assert pq.read_table(tmp_path / "out/audit.parquet")["flags"].to_pylist() == [[], []]


def test_area_tps_takes_the_tumour_from_the_mask_and_says_so(audit: Cli, tmp_path: Path) -> None:
    write_cells(tmp_path / "real", [4, 8, 2, 12], source="real")
    write_cells(tmp_path / "synth", [CELLS, 0], label_scheme="pdl1", requests={0: 1.0, 1: 1.0})
    weights = segmenter_weights(tmp_path / "segmenter.safetensors", Regions(), PDL1)
    stain = calibrate(calibration_tiles(open_dataset(tmp_path / "real")), None)
    auditor = Auditor(weights, stain, choose_tps_method(PDL1, stain, [PDL1]))
    findings = [auditor.audit(sample) for sample in open_dataset(tmp_path / "synth")]
    assert findings[0].tps_stain > 0.9
    assert findings[1].tps_stain == 0.0
    assert np.isnan(findings[0].stain_nuclei)
    assert findings[0].tps_segmenter == 1.0
    assert findings[1].audited_tps == findings[1].tps_segmenter, "the threshold of membranes is not validated"


class Regions(torch.nn.Module):
    """Sees PD-L1 positive tumour everywhere."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        output = torch.zeros(image.shape[0], 5, *image.shape[2:])
        output[:, 3] = 9
        return output


@pytest.mark.parametrize(
    ("arguments", "card", "said"),
    [
        (["nowhere"], {}, "nowhere: expected a data set, got no such folder"),
        (["synth", "--bound", "1.5"], {}, "--bound: expected a number from 0 to 1, got 1.5"),
        (["synth", "--min-agreement", "-1"], {}, "--min-agreement: expected"),
        (["synth", "--split", "all,test"], {}, "--split: expected"),
        (["synth", "--split", "val"], {}, "expected tiles with split val, got none"),
        (
            ["synth"],
            {"mix": "real+synth", "trained_on": {"real": {}, "synth": {}}},
            "real tiles only, got mix real.synth",
        ),
        (["synth"], {"mix": "real", "trained_on": {"synth": {}}}, "trained on real tiles only"),
        (["synth"], {"groups": ["synthetic-0"]}, "never saw, got 'synthetic-0'"),
        (["synth", "--real", "synth"], {}, "synth: expected real tiles, got synthetic ones"),
        (["synth", "--real", "real"], {"groups": ["real-2"]}, "never saw, got 'real-2'"),
        (["synth", "--stain-from", "synth"], {}, "real tiles to estimate stains from"),
        (["tissue"], {}, r"expected weights of a scheme that the masks of tissue read as \(tissue.*got nuclei"),
        (["synth", "--real", "tissue-real"], {}, "positive and negative cells"),
        (["synth", "--out", "real"], {}, "expected an empty folder or an audit, got"),
    ],
)
def test_what_cannot_be_audited_is_refused_in_one_line(
    audit: Cli, tmp_path: Path, dataset_factory: Callable[..., Dataset], arguments: list[str], card: Any, said: str
) -> None:
    write_cells(tmp_path / "synth", [2])
    write_cells(tmp_path / "real", [2, 3, 4], source="real")
    if "tissue" in " ".join(arguments):
        dataset_factory("tissue", scheme="tissue", source="synthetic", n=3)
        dataset_factory("tissue-real", scheme="tissue", n=3)
    there = sorted(path.name for path in tmp_path.iterdir())
    assert_refused(audit(*arguments, card=card), said)
    assert sorted({path.name for path in tmp_path.iterdir()} - {"segmenter.safetensors"}) == there


def test_folder_of_another_audit_is_refused_and_replaced_when_asked(audit: Cli, tmp_path: Path) -> None:
    write_cells(tmp_path / "synth", [2])
    write_cells(tmp_path / "other", [3])
    assert audit("synth", "--out", "out").code == 0
    assert_refused(audit("other", "--out", "out"), r"got others \(audited.sha256")
    assert audit("other", "--out", "out", "--overwrite").code == 0
    assert json.loads((tmp_path / "out/audit.json").read_text())["dataset"] == "other"


def test_points_calibrate_as_outlines_do(tmp_path: Path) -> None:
    positives = [4, 8, 2, 12]
    dataset = write_cells(tmp_path / "real", positives, source="real", label_scheme="tissue")
    assert annotated_cells(dataset) is None
    write_points(dataset, positives)
    cells = annotated_cells(dataset)
    assert cells is not None
    there = cells.of(dataset[1])
    assert (there.positive, there.negative, there.tps) == (8, 16, pytest.approx(1 / 3))
    by_points = calibrate(calibration_tiles(dataset), None)
    outlined = write_cells(tmp_path / "outlined", positives, source="real")
    assert by_points.validated
    assert by_points.balanced_accuracy == 1.0
    assert (by_points.tps_error, by_points.tps_error_tiles) == ({"stain": 0.0}, 2)
    assert (by_points.cells_positive, by_points.cells_negative) == (12, 36)  # of the train and val tiles
    assert by_points.nucleus_dab == calibrate(calibration_tiles(outlined), None).nucleus_dab


def test_calibration_without_annotated_cells_says_that_it_is_not_validated(tmp_path: Path) -> None:
    dataset = write_cells(tmp_path / "real", [4, 8, 2, 12], source="real", label_scheme="tissue")
    calibration = calibrate(calibration_tiles(dataset), None)
    assert not calibration.validated
    assert calibration.balanced_accuracy is None
    assert calibration.tps_error == {}
    assert 0.1 < calibration.nucleus_dab < 0.8  # Otsu parts unstained nuclei from those of 0.9


def test_agreement_by_hand() -> None:
    own, seen = np.zeros((8, 8), np.int32), np.zeros((8, 8), np.int32)
    own[0:2, 0:4], own[4:6, 0:4], own[4:6, 5:8] = 3, 9, 12
    seen[0:2, 0:4], seen[4:6, 0:3] = 1, 2  # one exact, one 6 of 8 pixels, one missed
    own_class, seen_class = np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8)
    own_class[own == 3], own_class[own == 9], own_class[own == 12] = 2, 1, 2
    seen_class[seen == 1], seen_class[seen == 2] = 2, 2
    figures = agreement(Tile(own_class, own, 0.5, IHC), Tile(seen_class, seen, 0.5, IHC))
    assert figures["aji"] == pytest.approx((8 + 6) / (8 + 8 + 6))
    assert figures["dq"] == pytest.approx(2 / (2 + 0.5))
    assert figures["sq"] == pytest.approx((1 + 0.75) / 2)
    assert figures["class_agreement"] == 0.5
    assert figures["tps_segmenter"] == 1.0
    assert figures["nuclei_found"] == 2
    assert figures["pixel_accuracy"] == pytest.approx(1 - (8 + 6) / 64)


def test_agreement_leaves_ignored_pixels_out() -> None:
    own = np.zeros((4, 4), np.int32)
    own[:2, :2] = 1
    semantic = np.where(own > 0, 1, 0).astype(np.uint8)
    semantic[:, 3] = 255
    seen = np.where(own > 0, 7, 0).astype(np.int32)
    figures = agreement(Tile(semantic, own, 0.5, IHC), Tile((seen > 0).astype(np.uint8), seen, 0.5, NUCLEI))
    assert figures["aji"] == figures["dice"] == figures["pixel_accuracy"] == 1.0


def test_limit_is_the_fifth_percentile_of_enough_real_tiles() -> None:
    real = [Finding(aji=value / 20) for value in range(21)]
    kept = limits(0.1, None, real, has_nuclei=True)
    assert (kept.least_agreement, kept.source) == (pytest.approx(0.05), "test")
    val = [Finding(aji=0.5 + value / 40) for value in range(21)]
    kept = limits(0.1, None, real, val, has_nuclei=True)
    assert (kept.least_agreement, kept.source) == (pytest.approx(0.525), "val"), "not the tiles of the own error"
    assert limits(0.1, None, real, val[:19], has_nuclei=True).source == "test"
    assert limits(0.1, None, real[:19], has_nuclei=True).least_agreement is None
    assert limits(0.1, None, real, has_nuclei=False).least_agreement is None, "no tile has this figure"
    assert limits(0.1, 0.3, real, has_nuclei=True) == Limits(0.1, "aji", 0.3, "as asked", "asked")


def test_verdict_by_hand() -> None:
    findings = [
        Finding(requested_tps=0.5, achieved_tps=0.9, audited_tps=0.58, aji=0.5),  # the request goes before the mask
        Finding(achieved_tps=0.3, audited_tps=0.5, aji=0.2),
        Finding(requested_tps=0.5, aji=0.9, tps_method="segmenter"),  # claims a TPS, nothing to count
        Finding(audited_tps=0.7, aji=NAN),  # claims nothing
    ]
    kept = Limits(0.1, "aji", 0.4, "as asked", "asked")
    verdicts = flag_tiles(findings, kept)
    assert verdicts == [[], ["tps", "aji"], ["no_tps"], []]
    assert flag_tiles([Finding(requested_tps=0.5)], kept) == [[]], "nobody judged its TPS"
    unvalidated = Limits(0.1, "aji", 0.4, "as asked", "asked", rejects_by_tps=False)
    assert flag_tiles(findings, unvalidated) == [[], ["aji"], [], []]
    summary: Any = summarise(findings, verdicts, "abcd")
    assert summary["flagged"] == 2
    assert summary["flags"] == {"tps": 1, "aji": 1, "no_tps": 1}
    assert summary["no_tps"] == 1
    assert summary["tps"]["audited_tps"]["mae"] == pytest.approx((0.08 + 0.2) / 2)
    assert summary["tps"]["audited_tps"]["tiles"] == 2
    assert summary["agreement"]["aji"]["tiles"] == 3


@pytest.mark.parametrize(("one", "other"), [(0.3, 0.4), (0.2, 0.3), (0.5, 0.6), (0.7, 0.8)])
def test_a_difference_of_exactly_the_bound_is_kept_whatever_its_binary_fraction(one: float, other: float) -> None:
    kept = Limits(0.1, "aji", None, "none", None)
    findings = [Finding(requested_tps=claim, audited_tps=seen) for claim, seen in ((one, other), (other, one))]
    assert flag_tiles(findings, kept) == [[], []]
    assert flag_tiles([Finding(requested_tps=one, audited_tps=other + 1e-6)], kept) == [["tps"]]


def test_own_error_on_points_is_of_the_judge_that_flags(audit: Cli, tmp_path: Path) -> None:
    """Points come with masks of tissue, whose own TPS would be by area: the segmenter would be asked there."""
    real = write_cells(tmp_path / "real", [4, 8, 6, 12], source="real", label_scheme="tissue")
    write_points(real, [4, 8, 6, 12])
    write_cells(tmp_path / "synth", [6, 4], requests={1: 0.5})
    assert audit("synth", "--real", "real", "--out", "out", segmenter=(Unstained(), IHC)).code == 0
    document = json.loads((tmp_path / "out/audit.json").read_text())
    assert document["tps_judge"] == "stain"
    own = document["own_error"]["real"]["tps"]
    assert own["tps_segmenter"]["mae"] == pytest.approx((6 + 12) / 2 / CELLS)
    assert own["audited_tps"] == own["tps_stain"] == {"tiles": 2, "mae": 0, "bias": 0, "p95": 0}
    rows = pq.read_table(tmp_path / "out/audit.parquet").to_pylist()
    assert [(row["tps_judge"], row["flags"]) for row in rows] == [("stain", []), ("stain", ["tps"])]


def test_a_segmenter_that_sees_no_tumour_says_so_and_stain_does_not_step_in(audit: Cli, tmp_path: Path) -> None:
    write_cells(tmp_path / "ihc", [4, 8, 2, 12], source="real")
    write_cells(tmp_path / "synth", [CELLS, 0], label_scheme="pdl1", requests={0: 1.0, 1: 1.0})
    outcome = audit("synth", "--stain-from", "ihc", "--out", "alone", segmenter=(Brown(), PDL1))
    assert outcome.code == 0, outcome.err
    assert "its TPS was measured on no real tile" in outcome.out
    assert "the segmenter sees no tumour in 1 of 2 tiles that claim a TPS" in outcome.out
    rows = pq.read_table(tmp_path / "alone/audit.parquet").to_pylist()
    assert [(row["audited_tps"], row["tps_judge"]) for row in rows] == [(1.0, "segmenter"), (None, "segmenter")]
    assert rows[1]["tps_stain"] == 0.0
    assert [row["flags"] for row in rows] == [[], []], "never measured, so it rejects nothing"

    write_cells(tmp_path / "real", [CELLS] * 4, source="real", label_scheme="pdl1")
    assert audit("synth", "--stain-from", "ihc", "--real", "real", "--out", "held", segmenter=(Brown(), PDL1)).code == 0
    assert pq.read_table(tmp_path / "held/audit.parquet")["flags"].to_pylist() == [[], ["no_tps"]]


def test_a_real_tile_whose_tps_is_of_another_kind_is_no_evidence(tmp_path: Path) -> None:
    outlined = write_cells(tmp_path / "real", [4, 8, 2, 12], source="real")
    stain = calibrate(calibration_tiles(outlined), None)
    cells = Auditor(segmenter_weights(tmp_path / "w"), stain, choose_tps_method(NUCLEI, stain, [IHC]))
    areas = Auditor(segmenter_weights(tmp_path / "w"), stain, choose_tps_method(NUCLEI, stain, [PDL1]))
    assert (cells.tps, areas.tps) == (TpsMethod("stain", frozenset({"cells"})), TpsMethod("stain", frozenset({"area"})))
    assert cells.audit(outlined[2], annotated_cells(outlined)).audited_tps == pytest.approx(2 / CELLS)
    seen = areas.audit(outlined[2], annotated_cells(outlined))
    assert seen.tps_method is None
    assert np.isnan(seen.audited_tps)
    assert not has_evidence(areas.tps, stain, [Finding(requested_tps=0.5, audited_tps=0.5)])


def test_own_error_counts_no_flag_that_a_limit_from_the_same_tiles_makes(
    audit: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cells(tmp_path / "real", [4, 8, 2, 12], source="real")
    write_cells(tmp_path / "synth", [2, 4])
    monkeypatch.setattr("segment.audit.request.FEWEST_REAL_TILES", 1)
    monkeypatch.setattr("segment.audit.flags.FEWEST_REAL_TILES", 2)  # the one val tile is too few, two test tiles do
    outcome = audit("synth", "--real", "real", "--out", "test")
    assert outcome.code == 0, outcome.err
    document = json.loads((tmp_path / "test/audit.json").read_text())
    assert document["limits"]["source"] == "test"
    assert document["own_error"]["real"]["flags"] == {}
    assert "would be flagged by TPS, though right" in (tmp_path / "test/audit.md").read_text()
    assert "one in twenty falls below it by construction" in outcome.out

    monkeypatch.setattr("segment.audit.flags.FEWEST_REAL_TILES", 1)
    outcome = audit("synth", "--real", "real", "--out", "val", card={"groups": ["real-1"]})
    document = json.loads((tmp_path / "val/audit.json").read_text())
    assert document["limits"]["origin"] == "5th percentile on 1 real val tiles"
    assert "trained or chosen on 1 of their 1 groups" in outcome.out
    assert "would be flagged, though right" in (tmp_path / "val/audit.md").read_text()


def test_a_finder_that_finds_nothing_on_a_tile_is_charged_for_it(tmp_path: Path) -> None:
    tiles = calibration_tiles(write_cells(tmp_path / "real", [4, 8, 2, 12], source="real"))

    def blind_to_the_second(image: np.ndarray, densities: np.ndarray, mpp: float) -> np.ndarray:
        nuclei = find_nuclei(densities, mpp)
        return nuclei * 0 if np.array_equal(image, tiles[1].image) else nuclei

    found = calibrate(tiles, blind_to_the_second)
    assert found.finder == "stain"
    assert found.tps_error == {"stain": 0.0, "segmenter": pytest.approx((0 + 16 / CELLS) / 2)}
    assert found.tps_error_tiles == 2


@pytest.mark.parametrize(
    ("scheme", "said"),
    [
        (PDL1, r"weights of a scheme that the masks of synth read as \(ihc.*got pdl1. Use other"),
        (IHC, "expected weights that fit their card"),
    ],
)
def test_a_checkpoint_of_other_classes_is_refused_in_one_line(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: LabelScheme, said: str
) -> None:
    monkeypatch.setattr("segment.network.weights.build", lambda config, channels: torch.nn.Conv2d(3, channels, 1))
    card = {
        "mix": "real",
        "network": {"name": "segnet"},
        "scheme": scheme.to_dict(),
        "head": {"distance": False},
        "instances": InstanceConfig().model_dump(),
    }
    write_weights(tmp_path / "segmenter.safetensors", torch.nn.Conv2d(3, len(PDL1), 1).state_dict(), card)
    write_cells(tmp_path / "synth", [2])
    outcome = cli("segment", "audit", "synth", "--weights", "segmenter.safetensors", "--device", "cpu")
    assert_refused(outcome, said)
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("drawn_plots")
def test_picture_calls_real_points_beyond_the_bound_by_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    labels: list[Any] = []
    scatter = Axes.scatter

    def noted(axes: Axes, x: Any, y: Any, **options: Any) -> Any:
        labels.append((options["label"], len(x)))
        return scatter(axes, x, y, **options)

    monkeypatch.setattr(Axes, "scatter", noted)
    real = [Finding(achieved_tps=0.5, audited_tps=0.9), Finding(achieved_tps=0.5, audited_tps=0.55)]
    plot_audit(real[1:], real, [[]], Limits(0.1, "aji", None, "none", None), {})
    assert labels == [("within the bound", 1), ("beyond the bound", 1), ("not flagged", 1)]
