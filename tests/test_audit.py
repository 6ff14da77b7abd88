"""`segment audit`: a data set whose requests are wrong for some tiles is flagged exactly there, no label changes."""

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from factory.core.runs import RunSpec, open_run, write_shard
from manifests import Dataset, DatasetInfo, Tile, get_scheme, open_dataset
from manifests.files import walk
from manifests.store import Layout
from segment.audit import parts
from segment.audit.annotated import POINTS, annotated_cells
from segment.audit.calibration import calibrate, calibration_tiles
from segment.audit.judge import Finding, Judge, agreement
from segment.audit.report import METADATA_KEY
from segment.audit.verdict import Limits, judge_all, limits, summarise
from segment.head import Head
from segment.instances import InstanceConfig
from segment.weights import Weights
from tests.conftest import assert_refused

pytestmark = pytest.mark.usefixtures("one_thread")

IHC, NUCLEI, PDL1 = get_scheme("ihc"), get_scheme("nuclei"), get_scheme("pdl1")
BLUE, BROWN = (np.array(v) / np.linalg.norm(v) for v in ([0.65, 0.70, 0.29], [0.27, 0.57, 0.78]))
SIZE, RADIUS, PITCH, COLUMNS, CELLS = (96, 144), 7, 24, 6, 24
NAN = float("nan")

Cli = Callable[..., Any]


class Darkness(torch.nn.Module):
    """A judge with eyes for darkness only: a pixel is of a nucleus where the input is dark."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        dark = 40 * (0.4 - image.mean(1, keepdim=True))
        return torch.cat([-dark, dark], 1)


def judge_weights(path: Path, **card: Any) -> Weights:
    path.write_bytes(b"weights")
    card = {"mix": "real", "groups": ["seen"], "trained_on": {"real": {}}, "sources": {"real": []}, "mpp": [0.5]} | card
    return Weights(Darkness().eval(), NUCLEI, Head(2), InstanceConfig(), card, "cpu", path)


def write_cells(
    out: Path, positives: list[int], *, requests: dict[int, float] | None = None, source: str = "synthetic", **row: Any
) -> Dataset:
    """Tiles of 24 nuclei in rows, the first so many of them brown, composed by Beer-Lambert."""
    scheme = get_scheme(row.get("label_scheme", "ihc"))
    info = DatasetInfo(source == "synthetic", "tests", (scheme,), licences=("test",))
    spec = RunSpec(out, {"positives": positives, "requests": requests or {}}, Layout(len(positives), *SIZE, 4), info)

    def sample(index: int) -> tuple[np.ndarray, Tile, dict[str, object]]:
        semantic, instance, stain = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.int32), np.zeros((*SIZE, 3))
        rows, columns = np.indices(SIZE)
        for cell in range(CELLS):
            y, x = PITCH // 2 + PITCH * (cell // COLUMNS), PITCH // 2 + PITCH * (cell % COLUMNS)
            disc = (rows - y) ** 2 + (columns - x) ** 2 <= RADIUS**2
            brown = cell < positives[index]
            semantic[disc], instance[disc] = 2 if brown else 1, 3 * cell + 5
            stain[disc] = 0.9 * BROWN if brown else 0.7 * BLUE
        if scheme.name != "ihc":  # no outlines: all positive tumour, or all tissue
            semantic, instance = np.full(SIZE, 1 if scheme.name == "tissue" else 3, np.uint8), np.zeros(SIZE, np.int32)
        image = np.rint(256 * 10.0**-stain - 1).astype(np.uint8)
        values = {
            "sample_id": f"{source}-{index}",
            "split": ("train", "val", "test", "test")[index % 4],
            "source": source,
            "group_id": f"{source}-{index}",
            "height": SIZE[0],
            "width": SIZE[1],
            "mpp": 0.5,
            "label_scheme": "ihc",
            "label_origin": "exact",
            "request_tps": (requests or {}).get(index, positives[index] / CELLS if source == "synthetic" else None),
        }
        return image, Tile(semantic, instance, 0.5, scheme), values | row

    with open_run(spec) as run:
        for number in run.todo:
            run.add(write_shard(spec, number, (sample(index) for index in spec.layout.rows(number))))
        run.finish()
    return open_dataset(out)


@pytest.fixture
def audit(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """``audit("synth", ...)`` runs the command with a judge that sees darkness; ``card`` is what its card says."""

    def call(*arguments: object, card: dict[str, Any] | None = None) -> Any:
        weights = judge_weights(tmp_path / "judge.safetensors", **(card or {}))
        monkeypatch.setattr("segment.weights.load_weights", lambda path, device: weights)
        return cli("segment", "audit", *arguments, "--weights", "judge.safetensors", "--device", "cpu")

    return call


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
    monkeypatch.setattr(parts, "PART_TILES", 2)
    write_cells(tmp_path / "real", [4, 8, 2, 12], source="real")
    write_cells(tmp_path / "synth", [2, 4, 6, 8, 10], requests={2: 0.9})
    looked: list[str] = []
    look = Judge.look

    def dies_at_the_sixth(judge: Judge, sample: Any, annotated: Any = None) -> Finding:
        looked.append(sample.row["sample_id"])
        if len(looked) == 6:
            raise KeyboardInterrupt
        return look(judge, sample, annotated)

    monkeypatch.setattr(Judge, "look", dies_at_the_sixth)
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
    monkeypatch.setattr(Judge, "look", None)
    assert pq.read_table(tmp_path / "out/audit.parquet")["flags"].to_pylist() == [[], ["tps"]]
    assert audit("synth", "--real", "real", "--out", "out", "--bound", 0.3).code == 0
    assert pq.read_table(tmp_path / "out/audit.parquet")["flags"].to_pylist() == [[], []]


def test_area_tps_takes_the_tumour_from_the_mask_and_says_so(audit: Cli, tmp_path: Path) -> None:
    write_cells(tmp_path / "real", [4, 8, 2, 12], source="real")
    write_cells(tmp_path / "synth", [CELLS, 0], label_scheme="pdl1", requests={0: 1.0, 1: 1.0})
    weights = judge_weights(tmp_path / "judge.safetensors")
    weights = Weights(Regions().eval(), PDL1, Head(5), weights.instances, weights.card, "cpu", weights.path)
    stain = calibrate(calibration_tiles(open_dataset(tmp_path / "real")), None)
    findings = [Judge(weights, stain).look(sample) for sample in open_dataset(tmp_path / "synth")]
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
        (["tissue"], {}, "expected a projection onto"),
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
    assert sorted({path.name for path in tmp_path.iterdir()} - {"judge.safetensors"}) == there


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
    rows = []
    for sample, positive in zip(dataset, positives, strict=True):
        name = {"sample_id": sample.row["sample_id"]}
        rows.append({**name, "x": 1.0, "y": 1.0, "class": "lymphocyte"})
        for cell in range(CELLS):
            x, y = PITCH * (cell % COLUMNS + 0.5), PITCH * (cell // COLUMNS + 0.5)
            rows.append({**name, "x": x, "y": y, "class": "positive" if cell < positive else "negative"})
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    (dataset.root / POINTS).write_bytes(sink.getvalue())
    cells = annotated_cells(dataset)
    assert cells is not None
    there = cells.of(dataset[1])
    assert (there.positive, there.negative, there.tps) == (8, 16, pytest.approx(1 / 3))
    by_points = calibrate(calibration_tiles(dataset), None)
    outlined = write_cells(tmp_path / "outlined", positives, source="real")
    assert by_points.validated
    assert by_points.balanced_accuracy == 1.0
    assert by_points.tps_error == {"stain": 0.0}
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
    assert limits(0.1, None, real, has_nuclei=True).least_agreement == pytest.approx(0.05)
    assert limits(0.1, None, real[:19], has_nuclei=True).least_agreement is None
    assert limits(0.1, None, real, has_nuclei=False).least_agreement is None, "no tile has this figure"
    assert limits(0.1, 0.3, [], has_nuclei=True) == Limits(0.1, "aji", 0.3, "as asked")


def test_verdict_by_hand() -> None:
    findings = [
        Finding(requested_tps=0.5, achieved_tps=0.9, audited_tps=0.58, aji=0.5),  # the request goes before the mask
        Finding(achieved_tps=0.3, audited_tps=0.5, aji=0.2),
        Finding(requested_tps=0.5, aji=0.9),  # claims a TPS, nothing to count
        Finding(audited_tps=0.7, aji=NAN),  # claims nothing
    ]
    kept = Limits(0.1, "aji", 0.4, "as asked")
    verdicts = judge_all(findings, kept)
    assert verdicts == [[], ["tps", "aji"], ["tps"], []]
    assert judge_all(findings[2:3], kept) == [[]], "a judge that never sees a TPS is silent"
    unvalidated = Limits(0.1, "aji", 0.4, "as asked", rejects_by_tps=False)
    assert judge_all(findings, unvalidated) == [[], ["aji"], [], []]
    summary: Any = summarise(findings, verdicts)
    assert summary["flagged"] == 2
    assert summary["flags"] == {"tps": 2, "aji": 1}
    assert summary["tps"]["audited_tps"]["mae"] == pytest.approx((0.08 + 0.2) / 2)
    assert summary["tps"]["audited_tps"]["tiles"] == 2
    assert summary["agreement"]["aji"]["tiles"] == 3
