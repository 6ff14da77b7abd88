"""The folder of a training run: one writer, one configuration, one number of threads; read without torch."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from factory.core.training_folder import TrainingFolder
from manifests.errors import FaultError, UserError


def folder(out: Path, seed: int = 0) -> TrainingFolder:
    return TrainingFolder(out, {"config": {"seed": seed}}, {"seed": seed, "threads": 1}, ("panels", "evaluation-*"))


def test_a_run_is_resumed_overwritten_or_refused(tmp_path: Path) -> None:
    run = folder(tmp_path / "run")
    assert not run.check(resume=False, overwrite=False)
    assert not run.out.exists()
    with run.open(resume=False):
        (run.out / "panels").mkdir()
        (run.out / "evaluation-a.json").touch()
    document = yaml.safe_load((run.out / "run.yaml").read_text())
    assert (document["document"], document["config"]) == (run.document, run.config)
    with pytest.raises(UserError, match=r"got a run\. Use --resume, --overwrite or another --out"):
        run.check(resume=False, overwrite=False)
    assert run.check(resume=True, overwrite=False)
    assert not run.check(resume=False, overwrite=True)
    with pytest.raises(UserError, match=r"config\.seed: 0 there, 1 asked"):
        folder(run.out, seed=1).check(resume=True, overwrite=False)
    with run.open(resume=True):
        assert (run.out / "panels").exists()
    with run.open(resume=False):
        assert [path.name for path in run.out.iterdir()] == ["run.yaml"]


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    for resume, overwrite in ((False, False), (True, False), (False, True)):
        with pytest.raises(UserError, match=r"expected an empty folder or a run, got 'holiday\.jpg' in it"):
            folder(tmp_path).check(resume=resume, overwrite=overwrite)


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    first, second = folder(tmp_path).open(resume=False), folder(tmp_path).open(resume=True)
    with first, pytest.raises(UserError, match="expected to be the only writer"), second:
        pass


def test_the_fingerprint_is_that_of_the_document_alone(tmp_path: Path) -> None:
    one = folder(tmp_path)
    assert one.fingerprint == TrainingFolder(tmp_path / "other", one.document, {}).fingerprint
    assert one.fingerprint != folder(tmp_path, seed=1).fingerprint


def test_another_number_of_threads_is_refused(tmp_path: Path) -> None:
    from factory.core.checkpoints import write_checkpoint

    run = folder(tmp_path)
    run.refuse_other_threads(4)  # no state yet
    write_checkpoint(run.state, {}, {"kind": "state", "threads": 2})
    run.refuse_other_threads(2)
    with pytest.raises(UserError, match=r"expected the 2 threads it was trained with, got 4\. Use --set threads=2"):
        run.refuse_other_threads(4)


def test_a_disk_without_room_for_a_second_state_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = folder(tmp_path)
    free = shutil.disk_usage(tmp_path)._replace(free=150)
    monkeypatch.setattr("factory.core.folder.shutil.disk_usage", lambda folder: free)
    run.check_room(75)
    with pytest.raises(FaultError, match="expected room for about 152 bytes, got 150 bytes free"):
        run.check_room(76)
    run.out.mkdir(exist_ok=True, parents=True)
    run.state.write_bytes(b"12")  # is replaced
    run.check_room(76)


def test_it_is_imported_without_torch() -> None:
    code = "import sys, factory.core.training_folder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
