"""Data sets as other people's programs take them: loaders, filtered manifests, stores with named axes."""

import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from manifests import Arrays, Dataset, UserError, open_dataset, verify
from manifests.store import Layout, create_store
from manifests.table import INFO, MANIFEST
from tests.conftest import write_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("read") / "set", scheme="pdl1", source="synthetic", size=(32, 64))


@pytest.fixture(scope="module")
def arrays(dataset: Dataset) -> Arrays:
    return dataset.arrays(columns=["cells", "split"])


def test_arrays_are_a_sequence_of_dictionaries(dataset: Dataset, arrays: Arrays) -> None:
    assert isinstance(arrays, Sequence)
    assert len(arrays) == 6
    last = arrays[-1]
    assert {name: (value.dtype, value.shape) for name, value in last.items() if isinstance(value, np.ndarray)} == {
        "image": (np.uint8, (32, 64, 3)), "semantic": (np.uint8, (32, 64)), "instance": (np.int32, (32, 64)),
    }  # fmt: skip
    assert (last["image"] == dataset[-1].image).all()
    assert (last["sample_id"], last["cells"]) == (dataset[5].row["sample_id"], dataset[5].row["cells"])
    assert last["image"].flags.writeable
    every_other = pickle.loads(pickle.dumps(arrays))[::-2]
    assert [tile["sample_id"] for tile in every_other] == [arrays[i]["sample_id"] for i in (5, 3, 1)]
    assert [sample.row["index"] for sample in dataset[-2:]] == [4, 5]
    with pytest.raises(IndexError, match=r"row 6 is outside 0\.\.5"):
        arrays[np.int64(6)]


def test_arrays_refuse_what_is_not_there(dataset: Dataset) -> None:
    kept = dataset.arrays(split="train")
    assert 0 < len(kept) < 6
    with pytest.raises(UserError, match=r"expected a split with rows \(.*\), got 'tset'"):
        dataset.arrays(split="tset")
    with pytest.raises(UserError, match="expected names of the manifest, got 'grade'"):
        dataset.arrays(columns=["grade"])
    with pytest.raises(UserError, match="got class_fractions of list"):
        dataset.arrays(columns=["class_fractions"])


@pytest.mark.parametrize("start", [None, "fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_torch_loads_arrays_as_they_stand(arrays: Arrays, start: str | None) -> None:
    data = pytest.importorskip("torch.utils.data")
    workers = {} if start is None else {"num_workers": 1, "multiprocessing_context": start}
    batches = list(data.DataLoader(arrays, batch_size=4, **workers))
    assert [tuple(batch["image"].shape) for batch in batches] == [(4, 32, 64, 3), (2, 32, 64, 3)]
    assert (batches[1]["instance"][1].numpy() == arrays[5]["instance"]).all()
    assert batches[0]["sample_id"] == [tile["sample_id"] for tile in arrays[:4]]


def _pandas(source: Path, path: Path) -> None:
    pd = pytest.importorskip("pandas")
    pd.read_parquet(source).query("split == 'train'").assign(x_grade="3+4", x_tags=7).to_parquet(path)


def _polars(source: Path, path: Path) -> None:
    pl = pytest.importorskip("polars")
    rows = pl.read_parquet(source).filter(pl.col("split") == "train")
    rows.with_columns(x_grade=pl.lit("3+4"), x_tags=pl.lit(7)).write_parquet(path)


def _duckdb(source: Path, path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    asked = f"select *, '3+4' x_grade, 7 x_tags from '{source}' where split = 'train'"
    duckdb.sql(f"copy ({asked}) to '{path}' (format parquet)")


@pytest.mark.parametrize("write", [_pandas, _polars, _duckdb])
def test_manifest_of_another_program_opens(
    dataset: Dataset, tmp_path: Path, write: Callable[[Path, Path], None]
) -> None:
    path = tmp_path / "some.parquet"
    write(dataset.root / MANIFEST, path)
    some = open_dataset(dataset.root, manifest=path)
    kept = dataset.where(pc.equal(dataset.table["split"], "train"))
    assert some.info == dataset.info
    assert some.table.drop_columns(["x_grade", "x_tags"]).equals(kept.table)
    assert some.arrays(columns=["x_grade", "x_tags"])[0]["x_grade"] == "3+4"
    assert (some[-1].image == kept[-1].image).all()


def test_renumbered_index_and_foreign_rows_are_caught(dataset: Dataset, tmp_path: Path) -> None:
    table, path = dataset.table.slice(2), tmp_path / "some.parquet"
    place = table.schema.get_field_index("index")
    pq.write_table(table.set_column(place, "index", pa.array(range(4))), path)
    with pytest.raises(UserError, match=r"row 0: index: expected 2, the place of .* in the store, got 0\. Keep"):
        open_dataset(dataset.root, manifest=path)
    pq.write_table(table.set_column(0, "sample_id", pa.array(["a", "b", "c", "d"])), path)
    with pytest.raises(UserError, match=r"row 0: sample_id: expected a sample of .*, got a"):
        open_dataset(dataset.root, manifest=path)
    pq.write_table(dataset.table.append_column("grade", pa.nulls(6)), path)
    with pytest.raises(UserError, match=r"unknown column 'grade'\. Remove it, or call it x_grade"):
        open_dataset(dataset.root, manifest=path)


def test_metadata_lost_by_another_program_come_from_beside_the_manifest_or_the_store(
    dataset: Dataset, tmp_path: Path
) -> None:
    root = write_dataset(tmp_path / "set", scheme="pdl1", source="synthetic", size=(32, 64)).root
    pq.write_table(dataset.table.replace_schema_metadata(None), root / MANIFEST)
    assert open_dataset(root).info == dataset.info
    (root / INFO).write_text("[]")
    with pytest.raises(UserError, match=r"manifest\.json: expected the metadata of a manifest as JSON"):
        open_dataset(root)
    (root / INFO).unlink()  # as in data sets of earlier releases
    assert open_dataset(root).info == dataset.info


def test_store_has_named_axes_and_consolidated_metadata(dataset: Dataset) -> None:
    xarray = pytest.importorskip("xarray")
    store = xarray.open_zarr(dataset.root / "store.zarr", consolidated=True)
    assert {name: array.dims for name, array in store.items()} == {
        "image": ("tile", "y", "x", "channel"), "semantic": ("tile", "y", "x"), "instance": ("tile", "y", "x"),
    }  # fmt: skip
    assert (store["image"].isel(tile=3).to_numpy() == dataset[3].image).all()


def test_store_of_an_earlier_release_stays_as_it_is(dataset: Dataset, tmp_path: Path) -> None:
    layout, attributes = Layout(6, 32, 64, 4), dataset.info.to_dict()
    create_store(tmp_path, layout, attributes)
    new = {path: path.read_bytes() for path in sorted(tmp_path.rglob("zarr.json"))}
    create_store(tmp_path, layout, attributes)
    assert {path: path.read_bytes() for path in new} == new
    for path, content in new.items():
        document = json.loads(content)
        document.pop("consolidated_metadata", None)
        document.pop("dimension_names", None)
        path.write_text(json.dumps(document, indent=2))
    old = {path: path.read_bytes() for path in new}
    create_store(tmp_path, layout, attributes)
    assert {path: path.read_bytes() for path in new} == old


def test_verify_holds_with_columns_of_ones_own(dataset: Dataset) -> None:
    assert verify(dataset.root) == []
