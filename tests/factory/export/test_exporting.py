"""Rows chosen, interruption, folders moved into place, and what is refused, whatever the format."""

import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from factory.export import FORMATS, exporting
from factory.export.where import select
from manifests import Dataset, UserError
from manifests.store import StoreReader
from tests.conftest import Outcome, assert_refused, with_columns, write_by_run, write_dataset

Cli = Callable[..., Outcome]


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return write_dataset(tmp_path / "data", scheme="ihc", size=(32, 48), source="synthetic")


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def export(data: Dataset, out: Path, format: str = "png", **chosen: object) -> dict[str, int]:
    return exporting.carry_out(exporting.prepare(data.root, format, out, **chosen), workers=1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("cells>=4 and split == 'train'", [3]),
        ("2 < cells <= 4", [1, 2]),
        ("not cells == 2 or sample_id in ['synthetic-0-0']", [0, 1, 2, 3, 4, 5]),
        ("real_pixels", []),
    ],
)
def test_a_condition_selects_rows_as_python_would(data: Dataset, condition: str, expected: list[int]) -> None:
    assert select(data, condition).table["index"].to_pylist() == expected


def test_tps_is_the_achieved_one_on_the_basis_of_the_scheme(data: Dataset) -> None:
    by_hand = [
        row["index"] for row in data.table.to_pylist() if row["tps_cells"] is not None and row["tps_cells"] > 0.4
    ]
    assert 0 < len(by_hand) < len(data)
    assert select(data, "TPS > 0.4").table["index"].to_pylist() == by_hand
    other = with_columns(data, tps_cells=[None] * 6, tps_area=[0.1 * row for row in range(6)])
    assert len(select(other, "TPS>0.4")) == 0


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("TSP>0.1", "TSP. Did you mean"),
        ("cells", "comparisons"),
        ("split == train", "Write texts in quotes"),
        ("cells > 'many'", "another type"),
        ("cells = 3", "does not parse"),
        ("__import__('os').getcwd() == 'x'", "comparisons"),
        ("cells > 2 & cells < 5", "comparisons"),
        ("(" * 500 + "cells" + ")" * 500 + ">1", "does not parse"),
        ("split in 3", "list of values"),
    ],
)
def test_a_condition_that_is_none_is_refused(data: Dataset, condition: str, said: str) -> None:
    with pytest.raises(UserError, match=r"^--where") as refused:
        select(data, condition)
    assert said in str(refused.value)


def test_parts_in_any_order_and_process_end_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_dataset(tmp_path / "data", n=6, size=(32, 32))
    monkeypatch.setattr(exporting, "_PART_BYTES", 32 * 32 * 8)
    monkeypatch.setattr(exporting, "_PX_PER_WORKER", 1.0)
    export(data, tmp_path / "whole", "coco")
    job = exporting.prepare(data.root, "coco", tmp_path / "parts")
    assert exporting.useful(job, 2) == 2
    assert len(job.parts) == 6

    def backwards(task, ids, payload_of, *, workers, on_ticks):  # type: ignore[no-untyped-def]
        assert workers == 2
        payloads = {number: pickle.loads(pickle.dumps(payload_of(number))) for number in ids}
        return [(number, task(number, payloads[number], lambda: None)) for number in reversed(ids)]

    monkeypatch.setattr(exporting, "run_tasks", backwards)
    exporting.carry_out(job, workers=2)
    assert files_in(tmp_path / "parts") == files_in(tmp_path / "whole")


@pytest.mark.parametrize("format", FORMATS)
def test_an_interrupted_export_goes_on_and_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    data = write_dataset(tmp_path / "data", n=6, size=(32, 32))
    name = "Dataset501_tiles"  # as nnunet wants it
    export(data, tmp_path / "whole" / name, format)
    read, reads = StoreReader.read, 0

    def stops_at_the_eighth(self: StoreReader, index: int, array: str) -> np.ndarray:
        nonlocal reads
        reads += 1
        if reads == 8:  # in the third tile, in the second part
            raise KeyboardInterrupt
        return read(self, index, array)

    out = tmp_path / "again" / name
    out.parent.mkdir()
    monkeypatch.setattr(StoreReader, "read", stops_at_the_eighth)
    with pytest.raises(KeyboardInterrupt):
        export(data, out, format)
    assert not out.exists()
    assert [path.name for path in out.parent.iterdir()] == [f".{name}.unfinished"]
    started = []
    job = exporting.prepare(data.root, format, out)
    exporting.carry_out(job, workers=1, on_start=lambda done, total: started.append((done, total)))
    assert started == [(2, 6)]
    assert files_in(out) == files_in(tmp_path / "whole" / name)
    assert [path.name for path in out.parent.iterdir()] == [name]


def test_the_same_command_has_nothing_to_do_and_another_asks(cli: Cli, data: Dataset, tmp_path: Path) -> None:
    words = ("factory", "export", "data", "--format", "png", "--out", "out")
    assert "6 tiles (train 2, val 2, test 2) as png" in cli(*words).out
    before = files_in(tmp_path / "out")
    assert "nothing to do" in cli(*words).out
    assert_refused(cli(*words, "--split", "val"), "--overwrite")
    assert files_in(tmp_path / "out") == before
    assert cli(*words, "--split", "val", "--overwrite").code == 0
    assert len(list((tmp_path / "out/images").iterdir())) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").touch()
    assert_refused(cli(*words[:-1], "mine", "--overwrite"), "thesis.tex")


def test_a_dry_run_says_tiles_room_and_time_and_writes_nothing(cli: Cli, data: Dataset, tmp_path: Path) -> None:
    before = files_in(tmp_path)
    said = cli("factory", "export", "data", "--format", "coco", "--out", "o", "--n", "3", "--dry-run")
    assert "3 tiles" in said.out
    assert "nothing was written" in said.out
    assert files_in(tmp_path) == before


def test_n_draws_the_same_rows_each_time(data: Dataset, tmp_path: Path) -> None:
    first, second = (exporting.prepare(data.root, "png", tmp_path / "o", n=3) for _ in range(2))
    assert first.document == second.document
    assert len(first.dataset) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--format", "cocoo"), "Did you mean coco"),
        (("--where", "cells>1000"), "--where cells>1000: expected tiles that meet it"),
        (("--n", "0"), "--n: expected 1 tile or more"),
        (("--out", "data/inside"), "outside every data set"),
    ],
)
def test_a_wrong_request_is_refused_in_a_line(
    cli: Cli, data: Dataset, tmp_path: Path, words: tuple[str, str], said: str
) -> None:
    options = {"--format": "png", "--out": "out"} | {words[0]: words[1]}
    assert_refused(cli("factory", "export", "data", *(word for pair in options.items() for word in pair)), said)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def _flip_a_row(root: Path) -> None:
    other = root.parent / "other"
    write_by_run(other, scheme="ihc", size=(32, 48), source="synthetic", seed=5)
    shutil.copy(other / "store.zarr/image/c/0/0/0/0", root / "store.zarr/image/c/0/0/0/0")
    shutil.rmtree(other)


def _damage_a_chunk(root: Path) -> None:
    path = root / "store.zarr/semantic/c/0/0/0"
    path.write_bytes(b"\1" + path.read_bytes()[1:])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda root: (root / "manifest.parquet").write_bytes(b"PAR1"), "manifest.parquet"),
        (lambda root: (root / "ledger/000000.json").unlink(), "ledger/000000.json: expected the file in SHA256SUMS"),
        (_flip_a_row, "sample synthetic-0-0: expected image_sha256 as in its row, got other pixels"),
        (_damage_a_chunk, "expected a chunk that matches its crc32c"),
    ],
)
def test_a_set_that_fails_verify_is_not_exported(
    cli: Cli, data: Dataset, tmp_path: Path, damage: Callable[[Path], object], said: str
) -> None:
    damage(data.root)
    outcome = cli("factory", "export", "data", "--format", "png", "--out", "out")
    assert_refused(outcome, said, code=outcome.code)
    assert outcome.code in (1, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_full_disk_is_one_line_and_keeps_what_is_finished(
    cli: Cli, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("factory", "export", "data", "--format", "png", "--out", "out")

    def full(self: object, name: str, content: bytes) -> None:
        raise OSError(28, "No space left on device", name)

    with monkeypatch.context() as patch:
        patch.setattr("factory.export.base.Files.put", full)
        assert_refused(cli(*words), "No space left on device", code=1)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr("factory.core.runs.shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000})())
    assert_refused(cli(*words), "expected room for about", code=1)


def test_another_writer_of_the_same_folder_is_refused_and_keeps_its_work(data: Dataset, tmp_path: Path) -> None:
    job = exporting.prepare(data.root, "png", tmp_path / "out")
    folder = exporting.unfinished(tmp_path / "out")
    folder.mkdir()
    (folder / "work").touch()
    with exporting.lock_folder(folder), pytest.raises(UserError, match="only writer"):
        exporting.carry_out(job, workers=1)
    assert (folder / "work").exists()


def test_tiles_of_two_schemes_are_refused_with_the_condition_that_chooses(
    data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixed = with_columns(data, label_scheme=["ihc"] * 3 + ["nuclei"] * 3)
    monkeypatch.setattr(exporting, "open_finished", lambda root: mixed)
    with pytest.raises(UserError, match="--where 'label_scheme == \"ihc\"'"):
        exporting.prepare(data.root, "png", tmp_path / "out")
    job = exporting.prepare(data.root, "png", tmp_path / "out", where='label_scheme == "ihc"')
    assert len(job.dataset) == 3


@pytest.mark.parametrize("format", FORMATS)
def test_every_export_says_synthetic_sources_licences_and_use(data: Dataset, tmp_path: Path, format: str) -> None:
    out = tmp_path / "Dataset501_tiles"
    export(data, out, format)
    origin = yaml.safe_load((out / "provenance.yaml").read_text())["origin"]
    assert origin["is_synthetic"] is True
    assert (origin["licences"], origin["use"], origin["real_pixels"]) == (["test"], "not for diagnosis", False)
    texts = [content for name, content in files_in(out).items() if name != "provenance.yaml"]
    assert any(b"not for diagnosis" in content for content in texts), format


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two tiles to a part."""
    monkeypatch.setattr(exporting, "_PART_BYTES", 2 * 32 * 48 * 8)
    yield
    exporting._opened.cache_clear()
