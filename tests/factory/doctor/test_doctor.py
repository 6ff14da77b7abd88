"""`factory doctor`: what it finds wrong, what it does not, and how it says so."""

import json
import pickle
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import typer
from click.testing import Result
from safetensors.numpy import save
from typer.testing import CliRunner

from factory.commands.doctor import doctor as command
from factory.core.weights import write_with_card
from factory.doctor import examine as doctor
from manifests import Dataset

PARTS = ["versions", "imports", "devices", "machine", "weights", "parts", "readers", "data"]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """Run the command on an empty data folder, without the seconds that trial imports take."""
    monkeypatch.setattr(doctor, "examine_imports", lambda: [doctor.Finding("imports", "json", "ok", "loads")])
    app = typer.Typer()
    app.command()(command)
    return lambda *words: CliRunner().invoke(app, ["--data", str(tmp_path / "data"), *words])


def with_version(monkeypatch: pytest.MonkeyPatch, name: str, version: str) -> None:
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda asked: version if asked == name else real(asked))


def test_doctor_finds_a_sound_installation_well(ask: Callable[..., Result]) -> None:
    result = ask()
    assert result.exit_code == 0, result.output
    assert "all is well" in result.output
    assert "problem" not in result.output


def test_doctor_gives_every_part_as_json(ask: Callable[..., Result]) -> None:
    result = ask("--json")
    report = json.loads(result.output)
    assert result.exit_code == 0
    assert report["ok"] is True
    assert list(dict.fromkeys(finding["part"] for finding in report["findings"])) == PARTS
    facts = {finding["name"]: finding["facts"] for finding in report["findings"]}
    assert facts["torch"]["version"] == metadata.version("torch")
    assert facts["cpu"]["cores"] >= 1
    assert isinstance(facts["cpu"]["bf16"], list)
    assert facts["memory"]["total_bytes"] > 0
    assert facts["disk"]["free_bytes"] > 0
    assert "pdl1" in facts["label schemes"]["names"]


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [("zarr", "2.18.3", ">=3.1.6"), ("zarr", "4.0.0", "<4"), ("torch", "2.10.1", ">=2.11")],
)
def test_doctor_names_a_version_that_is_not_supported(
    ask: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, name: str, version: str, expected: str
) -> None:
    with_version(monkeypatch, name, version)
    result = ask()
    assert result.exit_code == 1
    (line,) = [line for line in result.output.splitlines() if line.strip().startswith("problem")]
    assert name in line
    assert version in line
    assert expected in line
    assert "make install" in line
    assert "1 problem, see above" in result.output
    report = json.loads(ask("--json").output)
    assert report["ok"] is False


def test_doctor_accepts_local_builds_and_release_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    with_version(monkeypatch, "torch", "2.12.0rc1+cu130")
    assert {finding.state for finding in doctor.examine_versions()} == {"ok"}


@pytest.mark.parametrize("version", ["3.10.14", "3.14.0"])
def test_doctor_refuses_another_python(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(doctor.platform, "python_version", lambda: version)
    (problem,) = [finding for finding in doctor.examine_versions() if finding.state == "problem"]
    assert problem.name == "python"
    assert version in problem.text


def test_doctor_names_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "numba":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    (problem,) = [finding for finding in doctor.examine_versions() if finding.state == "problem"]
    assert (problem.name, problem.text.split(",")[0]) == ("numba", "not installed")


def test_trial_imports_outlive_errors_and_deaths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "breaks_in_two.py").write_text("raise OSError('wrong\\nbuild')")
    (tmp_path / "dies_at_once.py").write_text("import os\nos.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    names = ["json", "breaks_in_two", "dies_at_once", "no_such_module_x", "csv"]
    findings = doctor.examine_imports({name: name for name in names})
    assert [finding.state for finding in findings] == ["ok", "problem", "problem", "problem", "ok"]
    assert findings[1].text == "does not load (OSError: wrong)"
    assert findings[2].text == "ends the process that loads it"
    assert "No module named" in findings[3].text


def test_weights_are_read_by_the_rule_that_training_writes_by(tmp_path: Path) -> None:
    content = save({"a": np.arange(6.0)})
    for name in ("good", "damaged"):
        sha256 = write_with_card(tmp_path / f"{name}.safetensors", content, {"kind": "segment-weights"})
    whole = (tmp_path / "damaged.safetensors").read_bytes()
    (tmp_path / "damaged.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (tmp_path / "bare.safetensors").write_bytes(content)
    (tmp_path / "pickled.safetensors").write_bytes(pickle.dumps({}))
    bare, damaged, good, pickled, missing = doctor.examine_weights(tmp_path, ["good", "hdgan-he"])
    assert (missing.name, missing.state) == ("hdgan-he.safetensors", "problem")
    assert (good.state, good.facts["sha256"], good.facts["kind"]) == ("ok", sha256, "segment-weights")
    assert {bare.state, damaged.state, pickled.state} == {"problem"}
    assert "got a file without" in bare.text
    assert "got a damaged file" in damaged.text
    assert "got a pickle" in pickled.text


def test_the_starters_that_are_expected_are_those_that_ship() -> None:
    for folder, names in doctor.STARTERS.items():
        assert {path.stem for path in folder.glob("*.safetensors")} == set(names)


def test_a_compiler_that_can_keep_nothing_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.examine_compiler().state == "ok"
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])
    finding = doctor.examine_compiler()
    assert (finding.state, finding.facts["folder"]) == ("note", None)
    assert "NUMBA_CACHE_DIR" in finding.advice


def test_doctor_names_a_part_that_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MASKS", {"gone": "factory.masks.gone:Gone"})
    (problem,) = [finding for finding in doctor.examine_parts() if finding.state == "problem"]
    assert problem.name == "mask generator gone"


def test_readers_that_decode_wrongly_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {finding.state for finding in doctor.examine_readers()} <= {"ok", "note"}
    monkeypatch.setattr(doctor, "_try_openslide", lambda: False)
    assert doctor.examine_readers()[0].state == "problem"


def test_doctor_tells_absent_unfinished_damaged_and_finished_data_sets(dataset_factory: Callable[..., Dataset]) -> None:
    root = dataset_factory("synth", n=6, shard=4, source="synthetic").root
    finished = doctor.examine_dataset(root, "factory make")
    assert finished.state == "ok"
    assert "6 synthetic tiles of 64x96, scheme nuclei" in finished.text
    assert doctor.examine_dataset(root.parent / "real", "factory ingest").state == "note"

    manifest = (root / "manifest.parquet").read_bytes()
    (root / "manifest.parquet").write_bytes(manifest[: len(manifest) // 2])
    assert doctor.examine_dataset(root, "factory make").state == "problem"

    (root / "manifest.parquet").unlink()
    (root / "ledger" / "000001.json").unlink()
    unfinished = doctor.examine_dataset(root, "factory make")
    assert unfinished.state == "note"
    assert "1 of 2 shards" in unfinished.text
    assert not unfinished.facts["finished"]


def test_data_sets_of_any_name_are_found_behind_the_two_usual_ones(dataset_factory: Callable[..., Dataset]) -> None:
    root = dataset_factory("he", n=3).root
    (root.parent / "inspect").mkdir()
    findings = doctor.examine_data(root.parent)
    assert [Path(finding.name).name for finding in findings] == ["real", "synth", "he"]
    assert [finding.state for finding in findings] == ["note", "note", "ok"]


def test_disk_without_room_or_rights_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert doctor.examine_disk(tmp_path / "data" / "deep").state == "ok"
    full = doctor.shutil.disk_usage(tmp_path)._replace(free=10**6)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: full)
    assert "Free some" in doctor.examine_disk(tmp_path).advice
    (tmp_path / "file").write_text("")
    assert doctor.examine_disk(tmp_path / "file").state == "problem"
