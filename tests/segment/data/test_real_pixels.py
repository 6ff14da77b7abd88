"""Tiles made of real pixels: every command says whose they are, and no test on these patients is possible."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from PIL import ImageDraw

from factory.core.checkpoints import BEST
from factory.core.config import parse
from factory.inspect.report import inspect_dataset
from manifests import get_scheme, verify
from manifests.dataset import Dataset, open_dataset
from manifests.errors import UserError
from segment.compare import comparison as comparisons
from segment.compare.config import CompareConfig
from segment.data.sources import Source, check_leaks
from segment.network.head import head_for
from segment.network.networks import NetworkConfig, build
from segment.network.weights import write_weights
from segment.train import run as experiment
from segment.train.config import TrainConfig
from tests.annotated_photograph import bank_of_photograph, write_other_splits
from tests.conftest import Outcome, embedded_json, run_command

pytestmark = pytest.mark.usefixtures("one_thread", "small_network")

GROUPS = {"nuclei/00", "nuclei/0256", "nuclei/2560"}
SAID = "iles hold real pixels of "


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``synth``: 3 tiles made of three quarters of the photograph; the fourth, ``256256``, is for testing."""
    folder = tmp_path_factory.mktemp("real-pixels")
    bank = bank_of_photograph(folder, "nuclei")
    made = ["make", "--scheme", "nuclei", "--cells", "4-8", "--n", 3, "--size", 64, "--mpp", 0.5, "--workers", 1]
    assert run_command("factory", *made, "--renderer", "exemplar", "--set", f"renderer.bank={bank}",
                       "--out", folder / "synth") == 0  # fmt: skip
    return folder


@pytest.fixture
def synth(home: Path) -> Dataset:
    return open_dataset(home / "synth")


def test_rows_and_metadata_name_the_patients_and_the_licence(synth: Dataset) -> None:
    assert synth.info.real_pixels
    assert set(synth.info.training_sources) == GROUPS
    for row in synth.table.to_pylist():
        assert row["real_pixels"]
        assert set(row["real_groups"]) <= GROUPS
        assert row["licence"] == "CC0-1.0"


def test_make_and_verify_end_with_whose_pixels_are_inside(home: Path, cli: Callable[..., Outcome]) -> None:
    named = {group for row in open_dataset(home / "synth").table.to_pylist() for group in row["real_groups"]}
    said = f"{SAID}{len(named)} group{'s' * (len(named) > 1)} under CC0-1.0"
    verified = cli("factory", "verify", home / "synth")
    assert verified.code == 0, verified.err
    assert f"row holds. T{said}. Look:" in verified.out
    bank = home / "bank.safetensors"
    again = cli(
        *("factory", "make", "--scheme", "nuclei", "--cells", "4-8", "--n", 3, "--size", 64, "--mpp", 0.5),
        *("--renderer", "exemplar", "--set", f"renderer.bank={bank}", "--out", home / "synth"),
    )
    assert again.code == 0, again.err
    assert "nothing to do" in again.out
    assert f"\nt{said}\n" in again.out


def test_other_data_sets_say_nothing_of_real_pixels(dataset_factory: Callable[..., Dataset], tmp_path: Path) -> None:
    for source in ("real", "synthetic"):
        root = dataset_factory(source, source=source, n=3).root
        page = inspect_dataset(root, tmp_path / f"{source}-page").page.read_text()
        assert embedded_json(page)["real_pixels"] == ""
        assert "real pixels" not in embedded_json(page)["warning"]


def test_page_and_sheet_warn_of_real_pixels(synth: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    text = ImageDraw.ImageDraw.text

    def noting(pen: ImageDraw.ImageDraw, at: tuple[float, float], words: str, **how: object) -> None:
        drawn.append(words)
        text(pen, at, words, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", noting)
    page = embedded_json(inspect_dataset(synth.root, tmp_path / "page").page.read_text())
    assert page["warning"] == "synthetic, with real pixels, not for diagnosis"
    assert page["real_pixels"].startswith(f"t{SAID}")
    assert page["real_pixels"].endswith("under CC0-1.0")
    assert page["warning"] in drawn


@pytest.mark.parametrize("tested", ["00", "256256"])
def test_training_and_comparison_refuse_tests_on_the_patients_of_the_pixels(
    home: Path, synth: Dataset, tested: str, tmp_path: Path
) -> None:
    """``256256`` is not in the bank, so a test on it is a test."""
    spare = "256256" if tested == "00" else "00"
    real = write_other_splits(home, "nuclei", **{f"_{tested}": "test", f"_{spare}": "val"})
    settings = {"steps": 1, "batch": 2, "crop": (32, 32), "threads": 1}
    train = parse(TrainConfig, {**settings, "mix": "real+synth"}, "test")
    compare = parse(CompareConfig, {"seeds": 1, "fractions": [1.0], "train": settings}, "test")

    def prepare() -> None:
        experiment.prepare(train, real.root, synth.root, tmp_path / "train")

    def prepare_comparison() -> None:
        comparisons.prepare(compare, real.root, synth.root, tmp_path / "compare")

    for command in (prepare, prepare_comparison):
        if tested == "256256":
            command()
        else:
            with pytest.raises(UserError, match=r"expected nothing that comes from the test split, got its group '00'"):
                command()


def test_rows_alone_give_the_patients_away(home: Path, synth: Dataset) -> None:
    """Metadata that names no source, as a person may write it, does not help."""
    real = write_other_splits(home, "nuclei", _00="test", _256256="val")
    row = synth.table.slice(0, 1).to_pylist()[0]
    own = pa.Table.from_pylist([{**row, "real_groups": ["nuclei/00"]}], schema=synth.table.schema)
    nameless = replace(synth, table=own, info=replace(synth.info, training_sources=()))
    with pytest.raises(UserError, match="got its group '00'"):
        check_leaks([Source("real", real), Source("synth", nameless)])
    other = pa.Table.from_pylist([{**row, "real_groups": ["nuclei/0256"]}], schema=synth.table.schema)
    check_leaks([Source("real", real), Source("synth", replace(nameless, table=other))])


def test_predicted_labels_keep_whose_pixels_they_are_of(
    home: Path, synth: Dataset, cli: Callable[..., Outcome], tmp_path: Path
) -> None:
    scheme = get_scheme("nuclei")
    torch.manual_seed(5)
    network = build(NetworkConfig(), head_for(scheme).channels)
    card = {"scheme": scheme.to_dict(), "head": asdict(head_for(scheme)), "instances": {}, "mpp": [0.5]}
    (tmp_path / "run").mkdir()
    write_weights(tmp_path / "run" / BEST, network.state_dict(),
                  card | {"network": NetworkConfig().resolved().model_dump()})  # fmt: skip
    out = tmp_path / "predicted"
    done = cli("segment", "predict", home / "synth", "--weights", tmp_path / "run", "--out", out,
               "--format", "dataset", "--device", "cpu")  # fmt: skip
    assert done.code == 0, done.err
    found = open_dataset(out)
    assert verify(out) == []
    assert (found.info.is_synthetic, found.info.real_pixels) == (True, True)
    assert found.info.training_sources == synth.info.training_sources
    for name in ("real_pixels", "real_groups", "licence"):
        assert found.table[name].to_pylist() == synth.table[name].to_pylist()
