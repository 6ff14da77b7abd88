"""`factory make`: kills, determinism, two writers, changed configs, full disks, bad manifests, and wrong options."""

import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from factory.core.folder import library_versions
from factory.core.runs import RunSpec, open_run
from factory.make import pipeline
from factory.make.pipeline import make
from factory.make.resolve import parse_size
from manifests import open_dataset, verify
from manifests.files import is_temporary, walk
from manifests.ledger import finished, publish_record, read_record
from manifests.store import read_layout
from tests.conftest import Outcome, assert_refused, write_dataset
from tests.kill_after_every_operation import tree
from tests.make_on_dask import small_run

Cli = Callable[..., Outcome]
REPOSITORY = Path(__file__).resolve().parents[3]
SMALL = ("--scheme", "pdl1", "--size", "64x96", "--n", "7", "--tps", "0.01-0.5", "--set", "shard=2")


def start(folder: Path, *arguments: str, **options: object) -> subprocess.Popen[str]:
    """The real command, in a process group of its own."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a background job of a shell; children inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(
        [sys.executable, "-m", "factory.cli", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set of `SMALL`, made by one worker without interruption."""
    out = tmp_path_factory.mktemp("unbroken") / "data/synth"
    make(small_run(out), workers=1)
    return out


def test_requests_are_met_by_area_and_by_cells(unbroken: Path) -> None:
    dataset = open_dataset(unbroken)
    assert len(dataset) == 7
    for row in dataset.table.to_pylist():
        fractions, pixels = row["class_fractions"], row["height"] * row["width"]
        tumour = round((fractions[2] + fractions[3]) * pixels)
        assert abs(row["tps_area"] - row["request_tps"]) * tumour <= 0.5 + 1e-6
        assert abs(row["tissue_fraction"] - row["request_tissue"]) * pixels <= 0.5 + 1e-6
        cells = row["cells_positive"] + row["cells_negative"]
        assert abs(row["cells_positive"] - row["request_tps"] * cells) <= 0.5 + 1e-6
    assert dataset.info.is_synthetic
    assert verify(unbroken) == []


def test_workers_do_not_change_a_byte(unbroken: Path, tmp_path: Path) -> None:
    process = start(tmp_path, "make", *SMALL, "--workers", "3")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert tree(tmp_path / "data/synth") == tree(unbroken)


def test_a_dask_cluster_that_loses_a_worker_writes_the_same_bytes(unbroken: Path, tmp_path: Path) -> None:
    script = [sys.executable, "-m", "tests.make_on_dask", str(tmp_path / "out")]
    done = subprocess.run(script, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "out") == tree(unbroken)


@pytest.mark.slow
def test_kill_after_every_file_operation_leaves_nothing_lost(unbroken: Path, tmp_path: Path) -> None:
    """`unbroken` has compiled the kernels by now, which the script then need not do."""
    script = [sys.executable, "-m", "tests.kill_after_every_operation", str(tmp_path)]
    done = subprocess.run(script, cwd=REPOSITORY, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["operations"] > 100
    assert counts["kills"] > 50  # one for each state of the folder that an operation finds
    assert counts == {
        "operations": counts["operations"],
        "kills": counts["kills"],
        "equal": counts["kills"],
        "partial_left": 0,
        "finished_shards_redone": 0,
    }


def test_kills_at_random_times_leave_nothing_lost(unbroken: Path, tmp_path: Path, cli: Cli) -> None:
    """SIGKILL to the whole group of a run with two workers; FACTORY_KILLS sets how often."""
    random.seed(0)
    expected = tree(unbroken)
    for attempt in range(int(os.environ.get("FACTORY_KILLS", "3"))):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        process = start(folder, "make", *SMALL, "--workers", "2")
        time.sleep(random.uniform(0.2, 2.5))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        out = folder / "data/synth"
        assert cli("factory", "make", *SMALL, "--workers", "1", "--out", out).code == 0
        assert tree(out) == expected
        assert not [path for path in walk(out) if is_temporary(path)]
        shutil.rmtree(folder)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 1)])
def test_a_stopped_run_says_so_in_one_line_and_resumes(
    unbroken: Path, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    arguments = ("make", *SMALL[:4], "--n", "400", *SMALL[6:], "--workers", "2")
    process = start(tmp_path, *arguments)
    out = tmp_path / "data/synth"
    deadline = time.monotonic() + 60
    while not list(out.glob("ledger/0*.json")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    said = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(said) == 1
    assert "Traceback" not in errors
    layout = read_layout(out)
    fingerprint = json.loads(next(out.glob("ledger/0*.json")).read_text())["fingerprint"]
    assert 0 < len(finished(out, range(layout.shards), fingerprint)) < layout.shards


def test_a_finished_run_has_nothing_to_do(unbroken: Path, tmp_path: Path, cli: Cli) -> None:
    shutil.copytree(unbroken, tmp_path / "data/synth")
    before = {path: path.stat().st_mtime_ns for path in walk(tmp_path / "data/synth/ledger")}
    done = cli("factory", "make", *SMALL)
    assert done.code == 0
    assert "nothing to do" in done.out
    assert {path: path.stat().st_mtime_ns for path in walk(tmp_path / "data/synth/ledger")} == before


def test_another_config_is_refused_unless_told_to_overwrite(unbroken: Path, tmp_path: Path, cli: Cli) -> None:
    shutil.copytree(unbroken, tmp_path / "data/synth")
    before = tree(tmp_path / "data/synth")
    other = (*SMALL[:-2], "--set", "shard=3")
    assert_refused(cli("factory", "make", *other), "another one .*shard.*--overwrite")
    assert tree(tmp_path / "data/synth") == before
    assert cli("factory", "make", *other, "--overwrite").code == 0
    assert verify(tmp_path / "data/synth") == []
    assert read_layout(tmp_path / "data/synth").shard == 3


def test_a_second_writer_is_refused(unbroken: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "data/synth"
    shutil.copytree(unbroken, out)
    (out / "ledger/000001.json").unlink()
    dataset = open_dataset(out)
    import fcntl

    descriptor = os.open(out, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    began = time.monotonic()
    refused = cli("factory", "make", *SMALL)
    os.close(descriptor)
    assert_refused(refused, "the only writer")
    assert time.monotonic() - began < 5
    assert len(dataset) == 7


def test_two_writers_without_locks_write_the_same_bytes(
    unbroken: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One in a process of its own; the other, here, begins when the first has the folder."""
    script = (
        "import fcntl\n"
        "def refuse(*_): raise OSError(95, 'no locks here')\n"
        "fcntl.flock = refuse\n"
        "from factory.cli import main\nmain()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    arguments = ("make", *SMALL, "--workers", "1")
    other = subprocess.Popen(
        [sys.executable, "-c", script, *arguments], cwd=tmp_path, env=environment, stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    while not (tmp_path / "data/synth").exists() and other.poll() is None:
        time.sleep(0.01)

    def refuse(*_: object) -> None:
        raise OSError(95, "no locks here")

    monkeypatch.setattr("fcntl.flock", refuse)
    here = cli("factory", *arguments)
    _, errors = other.communicate(timeout=120)
    assert (here.code, other.returncode) == (0, 0), (here.err, errors)
    assert tree(tmp_path / "data/synth") == tree(unbroken)


@pytest.mark.parametrize(("number", "text"), [(28, "No space left"), (30, "Read-only file system")])
def test_a_disk_that_fails_is_one_line_and_the_next_run_finishes(
    unbroken: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, number: int, text: str
) -> None:
    calls = 0
    sync = os.fsync

    def failing(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 20:
            raise OSError(number, text, "store")
        sync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", failing)
        assert_refused(cli("factory", "make", *SMALL, "--workers", "1"), text, code=1)
    out = tmp_path / "data/synth"
    assert not [path for path in walk(out) if is_temporary(path)]
    assert cli("factory", "make", *SMALL, "--workers", "1").code == 0
    assert tree(out) == tree(unbroken)


def test_a_write_that_the_kernel_refuses_is_one_line(tmp_path: Path, cli: Cli) -> None:
    """A real failing write(2) in a worker: the file size limit stands in for a full disk."""
    import resource

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    process = start(tmp_path, "make", *SMALL, "--workers", "2", preexec_fn=limited)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    told = [line for line in errors.splitlines() if not line.startswith("making tiles: ")]  # progress on a slow machine
    assert len(told) == 1, errors
    assert told[0].startswith("error: "), errors
    assert cli("factory", "make", *SMALL).code == 0
    assert verify(tmp_path / "data/synth") == []


def test_too_small_a_disk_is_said_before_anything_is_written(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=10_000))
    assert_refused(cli("factory", "make", *SMALL), "room for about", code=1)
    assert not (tmp_path / "data").exists()


def test_a_record_counts_only_with_its_own_run_and_whole_files(unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "d"
    shutil.copytree(unbroken, out)
    record = read_record(out, 1)
    assert record is not None
    assert set(finished(out, range(4), record.fingerprint)) == {0, 1, 2, 3}
    assert finished(out, range(4), "0" * 64) == {}
    (out / record.files[0].path).write_bytes(b"")
    assert set(finished(out, range(4), record.fingerprint)) == {0, 2, 3}
    path = out / "ledger/000002.json"
    path.write_bytes(path.read_bytes().replace(b'"shard":2', b'"shard":3'))
    assert set(finished(out, range(4), record.fingerprint)) == {0, 3}


def test_replay_makes_the_same_bytes(unbroken: Path, cli: Cli, tmp_path: Path) -> None:
    for position in (0, 6):
        sample_id = open_dataset(unbroken).row(position)["sample_id"]
        done = cli("factory", "replay", sample_id, "--data", unbroken, "--png", tmp_path / "again.png")
        assert done.code == 0, done
        assert "masks same bytes, image same bytes" in done.out
        assert (tmp_path / "again.png").stat().st_size > 1000
    assert_refused(cli("factory", "replay", "t-0", "--data", unbroken), "sample_id")


def test_replay_refuses_a_configuration_that_is_not_the_tiles(unbroken: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "data/synth"
    shutil.copytree(unbroken, out)
    sample_id = open_dataset(out).row(0)["sample_id"]
    run = (out / "run.yaml").read_text()
    for text, code in ((run.replace("shard: 2", "shard: 3"), 1), ("[" * 1000, 2), (f"{run}\nat: 2020-01-01", 0)):
        (out / "run.yaml").write_text(text)
        assert cli("factory", "replay", sample_id).code == code
    (out / "run.yaml").write_text(run.replace("attempts: 8", "attempts: .nan"))
    assert_refused(cli("factory", "replay", sample_id), "configuration of a run")
    (out / "run.yaml").write_text(run)
    assert_refused(cli("factory", "replay", sample_id, "--png", "nowhere/a.png"), "expected a folder")


def test_replay_of_a_real_tile_is_refused(cli: Cli, tmp_path: Path) -> None:
    write_dataset(tmp_path / "real")
    assert_refused(cli("factory", "replay", "real-0-0", "--data", tmp_path / "real"), "synthetic data set")


def test_verify_names_the_fault_and_repair_lets_make_mend_it(unbroken: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "data/synth"
    shutil.copytree(unbroken, out)
    path = out / "store.zarr/image/c/1/0/0/0"
    path.write_bytes(path.read_bytes()[:-10])
    found = cli("factory", "verify")
    assert_refused(found, "image/c/1/0/0/0", code=1)
    assert "image/c/1/0/0/0: damaged" in found.out
    assert cli("factory", "verify", "--repair").code == 1
    assert cli("factory", "make", *SMALL).code == 0
    assert tree(out) == tree(unbroken)


def test_a_plan_is_made_as_it_was_edited(tmp_path: Path, cli: Cli) -> None:
    planned = cli("factory", "plan", *SMALL[:-2], "--out", "plan.parquet")
    assert planned.code == 0, planned
    table = pq.read_table(tmp_path / "plan.parquet")
    rows = table.to_pylist()[:3]
    rows[1]["request_tps"] = 0.9
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), tmp_path / "edited.parquet")
    assert cli("factory", "make", "--manifest", "edited.parquet", "--out", "made").code == 0
    made = open_dataset(tmp_path / "made").table
    assert len(made) == 3
    assert made["tps_area"][1].as_py() == pytest.approx(0.9, abs=1e-3)
    both = cli("factory", "make", "--manifest", "edited.parquet", "--tps", "0.5")
    assert_refused(both, "--tps: expected none beside")
    assert_refused(cli("factory", "plan", *SMALL[:-2], "--out", "plan.parquet"), "new file")
    assert_refused(cli("factory", "plan", *SMALL[:-2], "--out", "made", "--overwrite"), "a file for the plan")
    assert_refused(cli("factory", "plan", "--n", "1000001", "--out", "big.parquet"), "at most 1,000,000")


def test_a_plan_brings_its_scheme_and_flags_may_not_contradict_it(tmp_path: Path, cli: Cli) -> None:
    assert cli("factory", "plan", "--scheme", "ihc", "--size", "64x64", "--n", "2").code == 0
    for flags, said in (
        (("--scheme", "pdl1"), "label_scheme: expected pdl1 as typed, got ihc"),
        (("--size", "64x96"), "width: expected 96 as typed, got 64"),
        (("--mpp", "1"), "mpp: expected 1.0 as typed, got 0.25"),
        (("--seed", "1"), "--seed: expected none beside"),
        (("--split", "1,0,0"), "--split: expected none beside"),
        (("--n", "2"), "--n: expected none beside"),
    ):
        assert_refused(cli("factory", "make", "--manifest", "plan.parquet", *flags), said)
    assert cli("factory", "make", "--manifest", "plan.parquet", "--scheme", "ihc", "--size", "64x64").code == 0
    assert open_dataset(tmp_path / "data/synth").info.label_schemes[0].name == "ihc"
    assert verify(tmp_path / "data/synth") == []


def test_a_plan_of_a_scheme_of_ones_own_is_made(tmp_path: Path, cli: Cli) -> None:
    classes = [
        {"id": 0, "name": "glass", "colour": [255, 255, 255], "roles": ["air"]},
        {"id": 1, "name": "stroma", "colour": [200, 150, 180]},
    ]
    (tmp_path / "own.yaml").write_text(json.dumps({"name": "own", "classes": classes}))
    plan = ("--scheme", "own.yaml", "--size", "64x64", "--n", "2", "--tissue", "0.5")
    assert cli("factory", "plan", *plan).code == 0
    (tmp_path / "own.yaml").unlink()
    made = cli("factory", "make", "--manifest", "plan.parquet", "--masks", "polygons")
    assert made.code == 0, made
    assert open_dataset(tmp_path / "data/synth").table["tissue_fraction"].to_pylist() == [0.5, 0.5]


def test_a_source_of_requests_that_changed_is_another_configuration(tmp_path: Path, cli: Cli) -> None:
    arguments = ("--scheme", "nuclei", "--size", "64x64", "--n", "2", "--cells", "h.csv")
    (tmp_path / "h.csv").write_text("low,high,weight\n2,4,1\n")
    assert cli("factory", "make", *arguments).code == 0
    (tmp_path / "h.csv").write_text("low,high,weight\n5,9,1\n")
    assert_refused(cli("factory", "make", *arguments), "plan.requests_sha256")


def test_a_shard_whose_files_are_elsewhere_does_not_count(unbroken: Path, tmp_path: Path) -> None:
    """A dask worker that sees another disk reports a record, and this folder has no file of it."""
    from manifests import DatasetInfo, FaultError
    from manifests.store import Layout

    record = read_record(unbroken, 1)
    assert record is not None
    spec = RunSpec(tmp_path / "out", {}, Layout(7, 64, 96, 2), DatasetInfo(True, "t", ()))
    with open_run(spec) as run, pytest.raises(FaultError, match="all workers share"):
        run.add(record)


def test_like_shapes_the_image_and_is_recorded(tmp_path: Path, cli: Cli) -> None:
    from skimage.data import immunohistochemistry
    from skimage.io import imsave

    imsave(tmp_path / "real.png", immunohistochemistry()[:256, :256])
    assert cli("factory", "make", *SMALL, "--out", "plain").code == 0
    assert cli("factory", "make", *SMALL, "--out", "fitted", "--like", "real.png").code == 0
    plain, fitted = (open_dataset(tmp_path / name) for name in ("plain", "fitted"))
    assert fitted.info.training_sources == ("real.png/real",)
    real = immunohistochemistry()[:256, :256].mean((0, 1))

    def distance(dataset: object) -> float:
        means = [sample.image.mean((0, 1)) for sample in dataset]  # type: ignore[attr-defined]
        return float(np.linalg.norm(np.mean(means, axis=0) - real))

    assert distance(fitted) < distance(plain)
    for name in ("semantic_sha256", "instance_sha256"):
        assert plain.table[name].equals(fitted.table[name])


def test_one_number_is_the_size_of_a_square() -> None:
    assert parse_size("512x1024") == (512, 1024)
    assert parse_size("96") == (96, 96)


def test_a_contact_sheet_stands_beside_a_new_data_set(tmp_path: Path, cli: Cli) -> None:
    done = cli("factory", "make", *SMALL)
    assert done.code == 0
    assert "data/synth-sheet.png" in done.out
    assert (tmp_path / "data/synth-sheet.png").stat().st_size > 1000
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["synth", "synth-sheet.png"]
    assert verify(tmp_path / "data/synth") == []
    assert "sheet" not in cli("factory", "make", *SMALL).out  # nothing was made


def test_dry_run_writes_nothing(tmp_path: Path, cli: Cli) -> None:
    done = cli("factory", "make", *SMALL, "--dry-run")
    assert done.code == 0
    assert "nothing was written" in done.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--tps", "0.5-0.1"), "LOW first"),
        (("--tps", "1.5"), "0 to 1"),
        (("--tps", "-0.1-0.5"), "0 to 1"),
        (("--n", "0"), "greater than 0"),
        (("--n", "-3"), "greater than 0"),
        (("--n", "many"), "--n: expected a whole number, got .many"),
        (("--size", "100x64"), "multiples of 32"),
        (("--size", "64x"), "HEIGHTxWIDTH"),
        (("--masks", "polygon"), "Did you mean polygons"),
        (("--renderer", "stian"), "Did you mean stain"),
        (("--masks", "nuclei"), "draws scheme pdl1"),
        (("--scheme", "pdl-1"), "Did you mean pdl1"),
        (("--scheme", "missing.yaml"), "YAML file"),
        (("--set", "shard"), "KEY=VALUE"),
        (("--set", "shardd=3"), "Did you mean shard"),
        (("--set", "renderer.bluur=3"), "expected a known key"),
        (("--set", "plan.tpps=3"), "Did you mean tps"),
        (("--config", "missing.yaml"), "YAML file"),
        (("--split", "0.5,0.5"), "three shares"),
        (("--split", "0.5,0.5,0.5"), "sum to 1"),
        (("--mpp", "0"), "greater than or equal to 0.05"),
        (("--workers", "0"), "1 or more"),
        (("--device", "tpu9"), "--device"),
        (("--scheduler", "tcp://127.0.0.1:1"), "dask scheduler"),
        (("--like", "nowhere"), "--like"),
        (("--manifest", "nowhere.parquet"), "no such file"),
        (("--tissue", "0", "--tps", "0.5"), "tumour|tissue"),
        (("--tumour", "0"), "without tumour"),
        (("--cells", "100000"), "cells"),
        (("--bogus",), "No such option"),
        (("--set", "plan=5"), "plan: expected keys with values, got 5"),
        (("--set", "masks=ihc"), "masks: expected keys with values, got 'ihc'"),
        (("--set", "plan.tps=2020-13-01"), "YAML value"),
        (("--set", "shard=" + "[" * 1000), "YAML value"),
        (("--mpp", "0.001"), "0.05"),
        (("--out", "x" * 300), "File name too long"),
        (("--out", "/dev/null/sub"), "Not a directory"),
    ],
)
def test_a_wrong_request_is_one_line_and_writes_nothing(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.setattr("factory.core.cluster._CONNECT_S", 0.2)  # how long a scheduler that is not there is waited for
    number = () if arguments[0] == "--manifest" else ("--n", "2")
    assert_refused(cli("factory", "make", "--size", "64x64", *number, *arguments), said)
    assert not (tmp_path / "data").exists()


def test_a_folder_with_other_files_is_never_touched(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("x")
    for extra in ((), ("--overwrite",)):
        assert_refused(cli("factory", "make", *SMALL, "--out", "mine", *extra), "thesis.tex")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def bad_manifests(folder: Path) -> int:
    """Write 200 malformed manifests; returns how many."""
    rng = np.random.default_rng(0)
    base = {"request_tps": [0.1, 0.2, 0.3], "sample_id": ["a", "b", "c"], "height": [64] * 3, "width": [64] * 3}
    edits: list[dict[str, list]] = [
        {column: [0.1, value, 0.2]}
        for value in (float("nan"), float("inf"), -0.1, 1.1, 1e300, -1e300)
        for column in ("request_tps", "request_tissue", "tps_area")
    ]
    edits += [
        {"sample_id": ["ok", name, "fine"]} for name in ("../x", "a/b", "A", "", "a b", "ä", "a\x00b", ".", "a.b")
    ]
    edits += [{"sample_id": ["x", "y", "x"]}, {"request_cells": [1, -2, 3]}, {"n": [1, 1, 1]}, {"mpp": [0.0] * 3}]
    edits += [{"height": [size] * 3} for size in (-64, 0, 1, 33, 2**40)]
    edits += [{column: ["x"] * 3} for column in ("request_tps", "height", "mpp", "seed", "request_cells")]
    edits += [{"request_fractions": [[0.1, float("nan")]] * 3}, {"split": ["train", "holdout", "val"]}]
    count = 0
    for edit in edits:
        columns = {**base, **edit}
        pq.write_table(pa.table(columns), folder / f"{count:03d}.parquet")
        count += 1
    pq.write_table(pa.table(base), folder / "good")
    whole = (folder / "good").read_bytes()
    while count < 200:
        end = int(rng.integers(0, len(whole)))
        content = whole[:end] if count % 2 else bytes(rng.integers(0, 256, end, dtype=np.uint8))
        (folder / f"{count:03d}.parquet").write_bytes(content)
        count += 1
    return count


def test_two_hundred_bad_manifests_are_refused_unwritten(tmp_path: Path, cli: Cli) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    assert bad_manifests(folder) == 200
    refused = 0
    for path in sorted(folder.glob("*.parquet")):
        outcome = cli("factory", "make", "--manifest", path, "--size", "64x64")
        assert_refused(outcome, "expected")
        refused += 1
    assert refused == 200
    assert {path.name for path in tmp_path.iterdir()} == {"bad"}


def test_help_needs_no_heavy_library() -> None:
    for program in ("factory", "segment"):
        for arguments in ([], ["train"], *([["make"]] if program == "factory" else [])):
            script = (
                f"import sys; sys.argv=['x', *{arguments!r}, '--help']\n"
                f"import {program}.cli\n"
                "try: "
                f"{program}.cli.main()\n"
                "except SystemExit as stop: assert not stop.code\n"
                "heavy = ('torch', 'zarr', 'dask', 'numba', 'cv2', 'pyarrow')\n"
                "print([name for name in heavy if name in sys.modules])"
            )
            done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert done.stdout.strip().splitlines()[-1] == "[]"


def test_a_start_that_fails_leaves_the_folder_as_it_was(
    unbroken: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is claimed before the first shard is finished; from then on what is finished stays."""
    (tmp_path / "there").mkdir()
    write, count = pipeline.write_shard, 0

    def interrupted(*arguments: object) -> object:
        nonlocal count
        count += 1
        if count % 3 == 0:
            raise KeyboardInterrupt
        return write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "write_shard", interrupted)
    for out in ("there", "new"):
        count = 2
        stopped = cli("factory", "make", *SMALL, "--out", out)
        assert (stopped.code, "interrupted. Nothing was finished. To go on: factory make" in stopped.err) == (130, True)
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]
    stopped = cli("factory", "make", *SMALL, "--out", "new")
    assert "error: interrupted. new keeps 4 of 7 tiles. To go on" in stopped.err
    monkeypatch.undo()
    make(small_run(tmp_path / "new"), workers=1)
    assert tree(tmp_path / "new") == tree(unbroken)


def test_the_software_that_made_a_shard_is_in_its_record_and_may_be_missing(unbroken: Path, tmp_path: Path) -> None:
    record = read_record(unbroken, 0)
    assert record is not None
    assert record.software["numpy"] == np.__version__
    assert record.software["python"] == platform.python_version()
    (tmp_path / "ledger").mkdir()
    publish_record(tmp_path, replace(record, software={}))
    earlier = read_record(tmp_path, 0)
    assert earlier is not None
    assert (earlier.software, earlier.files) == ({}, record.files)


def test_open_run_refuses_a_file_and_keeps_it(tmp_path: Path) -> None:
    from manifests import DatasetInfo, UserError
    from manifests.store import Layout

    (tmp_path / "file").write_text("x")
    spec = RunSpec(tmp_path / "file", {}, Layout(1, 32, 32, 1), DatasetInfo(True, "t", ()))
    with pytest.raises(UserError, match="got a file"), open_run(spec):
        pass
    assert (tmp_path / "file").read_text() == "x"


def test_flags_go_before_assignments_before_the_file_before_the_defaults(tmp_path: Path) -> None:
    from factory.make.resolve import resolve_make

    path = tmp_path / "c.yaml"
    path.write_text("plan: {n: 5, seed: 5, mpp: 0.25}\nrenderer: {scanner: {focus: 0.5}}\n")
    flags = {"n": 7, "seed": None}
    config, _ = resolve_make(flags, {}, path, ["plan.n=6", "plan.seed=6", "renderer.scanner.fold=0.25"])
    assert (config.plan.n, config.plan.seed, config.plan.mpp) == (7, 6, 0.25)
    assert config.plan.size == (512, 1024)
    assert config.renderer == {"name": "stain", "scanner": {"focus": 0.5, "fold": 0.25}}


def test_a_part_of_another_name_starts_without_the_old_parts_values(tmp_path: Path) -> None:
    from factory.make.resolve import resolve_make

    path = tmp_path / "c.yaml"
    path.write_text("masks: {name: ihc, tumour: {spikiness: [0.1, 0.2]}}\n")
    config, _ = resolve_make({}, {"masks": "polygons"}, path, [])
    assert config.masks == {"name": "polygons"}


def test_values_without_a_name_are_those_of_the_part_that_is_typed(tmp_path: Path, cli: Cli) -> None:
    from factory.make.resolve import resolve_make

    config, _ = resolve_make({}, {"masks": "polygons"}, None, ["masks.regions.roughness=0.2"])
    assert config.masks == {"name": "polygons", "regions": {"roughness": 0.2}}
    wrong = cli("factory", "make", "--masks", "polygons", "--set", "masks.tumour.spikiness=[0.1,0.2]", "--dry-run")
    assert_refused(wrong, "masks .polygons.: tumour: expected a known key")


def test_resume_with_another_library_version_is_refused(
    unbroken: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(unbroken, tmp_path / "data/synth")
    before = tree(tmp_path / "data/synth")

    def changed(*names: str) -> dict[str, str]:
        return {**library_versions(*names), "numpy": "0.1"}

    monkeypatch.setattr(pipeline, "library_versions", changed)
    assert_refused(cli("factory", "make", *SMALL), r"info\.versions\.numpy: .* there, 0\.1 asked")
    assert tree(tmp_path / "data/synth") == before
