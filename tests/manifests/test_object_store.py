"""Data sets in an object store: the same rows and pixels as on the disk, few requests, and faults in one line."""

import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import obstore
import pytest
import zarr
from moto.server import ThreadedMotoServer
from obstore.store import from_url
from safetensors.numpy import load_file

from manifests import Dataset, UserError, object_store, open_dataset, verify
from manifests.files import walk
from manifests.store import ARRAYS
from tests.conftest import Outcome, write_dataset

SECRET = "a-secret-of-the-tests"
URL = "s3://tests/some/set"


class Server:
    """An S3 server on loopback; `requests` has the method, path and range of each that it got."""

    def __init__(self, threaded: Any) -> None:
        self.address = "http://{}:{}".format(*threaded.get_host_and_port())
        self.requests: list[tuple[str, str, str]] = []
        self._app, threaded._server.app = threaded._server.app, self

    def __call__(self, environ: dict[str, str], start: Any) -> Any:
        self.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("HTTP_RANGE", "")))
        return self._app(environ, start)

    def store(self) -> Any:
        return from_url("s3://tests", client_options={"allow_http": True})

    def reset(self) -> None:
        """Leave one bucket, ``tests``, without objects."""
        for url, method in ((f"{self.address}/moto-api/reset", "POST"), (f"{self.address}/tests", "PUT")):
            urlopen(Request(url, method=method))


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    threaded = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    threaded.start()
    yield Server(threaded)
    threaded.stop()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("local") / "set", scheme="pdl1", source="synthetic", size=(32, 32))


@pytest.fixture(scope="session", autouse=True)
def _environment(server: Server) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", server.address)
        patch.setenv("AWS_ACCESS_KEY_ID", "tests")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        yield


@pytest.fixture
def remote(server: Server, local: Dataset) -> str:
    """The data set in a new bucket."""
    _fresh()
    store = server.store()
    server.reset()
    for path in walk(local.root):
        obstore.put(store, f"some/set/{path.relative_to(local.root).as_posix()}", path)
    server.requests.clear()
    return URL


def _fresh() -> None:
    """Forget connections: they have the credentials and the endpoint of the environment when they were opened."""
    object_store._connected.cache_clear()


def test_rows_and_samples_are_those_on_the_disk(remote: str, local: Dataset) -> None:
    dataset = open_dataset(remote)
    assert str(dataset.root) == remote
    assert dataset.table.equals(local.table)
    assert dataset.info == local.info
    for sample, own in zip(dataset, local, strict=True):
        assert (sample.image == own.image).all()
        assert (sample.tile.semantic == own.tile.semantic).all()
        assert (sample.tile.instance == own.tile.instance).all()
    arrays = pickle.loads(pickle.dumps(dataset.arrays(split="val", columns=["cells"])))
    expected = local.arrays(split="val", columns=["cells"])
    assert [np.array_equal(a["image"], b["image"]) for a, b in zip(arrays, expected, strict=True)] == [True, True]
    store = zarr.storage.ObjectStore(from_url(f"{remote}/store.zarr", client_options={"allow_http": True}))
    assert (zarr.open_group(store, mode="r")["image"][5] == local[5].image).all()


def test_one_request_for_an_index_and_one_for_a_sample(remote: str, server: Server) -> None:
    dataset = open_dataset(remote, columns=())
    assert len(server.requests) < 25
    server.requests.clear()
    dataset.store.read(0, "image")
    assert [method for method, _, _ in server.requests] == ["GET", "GET"]
    assert all(part.startswith("bytes=") for _, _, part in server.requests)
    dataset.store.read(1, "image")
    assert len(server.requests) == 3


def test_azure_has_no_suffix_of_an_object(remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    get = obstore.get

    def without_suffix(*args: Any, options: Any = None) -> Any:
        if "suffix" in (options or {}).get("range", ()):
            raise obstore.exceptions.NotSupportedError
        return get(*args, options=options)

    monkeypatch.setattr(obstore, "get", without_suffix)
    path = object_store.located(remote) / "SHA256SUMS"
    content = path.read_bytes()
    assert path.tail(8) == (content[-8:], len(content))
    assert path.tail(10**6) == (content, len(content))


def test_verify_finds_what_is_damaged_missing_and_strange(remote: str, server: Server) -> None:
    assert verify(remote) == []
    store = server.store()
    name = f"store.zarr/{ARRAYS[0].name}/c/0/0/0/0"
    content = bytearray(obstore.get(store, f"some/set/{name}").bytes())
    content[3] ^= 1
    obstore.put(store, f"some/set/{name}", bytes(content))
    obstore.put(store, "some/set/notes.txt", b"x")
    obstore.delete(store, "some/set/ledger/000001.json")
    faults = {fault.path: fault for fault in verify(remote)}
    assert "damaged" in faults[name].message
    assert faults["notes.txt"].is_stranger
    assert faults["ledger/000001.json"].message == "missing"


def test_a_manifest_that_changed_is_read_again(remote: str, server: Server, local: Dataset) -> None:
    assert len(open_dataset(remote)) == 6
    obstore.put(server.store(), "some/set/manifest.parquet", b"nothing")
    with pytest.raises(UserError, match=r"s3://tests/some/set/manifest\.parquet: expected a "):
        open_dataset(remote)


def test_commands_read_there(remote: str, local: Dataset, cli: Callable[..., Outcome], tmp_path: Path) -> None:
    verified = cli("factory", "verify", remote)
    assert (verified.code, verified.out.startswith(f"{remote}: every file, record and row holds")) == (0, True)
    assert cli("factory", "inspect", remote, "--beside", remote).code == 0
    assert (tmp_path / "inspect" / "set" / "sheet.png").is_file()
    for root, out in ((remote, "there"), (local.root, "here")):
        assert cli("factory", "export", root, "--format", "png", "--out", out).code == 0
    files = [{path.relative_to(out): path.read_bytes() for path in walk(out)} for out in map(Path, ("there", "here"))]
    assert files[0] == files[1]


@pytest.mark.usefixtures("one_thread", "small_network")
def test_trains_and_scores_there_as_on_the_disk(remote: str, local: Dataset, cli: Callable[..., Outcome]) -> None:
    tiny = ("--steps", 2, "--batch", 2, "--set", "validate_every=2", "--set", "threads=1", "--device", "cpu")
    for root, out in ((remote, "there"), (local.root, "here")):
        trained = cli("segment", "train", "--mix", "synth", "--synth", root, "--out", out, *tiny)
        assert trained.code == 0, trained.err
        scored = cli("segment", "evaluate", "--weights", out, "--synth", root, "--split", "val", "--device", "cpu")
        assert scored.code == 0, scored.err
    there, here = (load_file(Path(out) / "best.safetensors") for out in ("there", "here"))
    assert all((there[name] == here[name]).all() for name in here)


def test_what_needs_a_disk_is_refused_by_name(remote: str, cli: Callable[..., Outcome], tmp_path: Path) -> None:
    for command in (
        ("verify", remote, "--repair"),
        ("make", "--n", 1, "--size", "64x64", "--out", "s3://tests/new"),
        ("inspect", remote, "--out", "s3://tests/new"),
        ("export", remote, "--format", "croissant", "--out", "x"),
        ("replay", "x", "--data", remote),
        ("verify", "ftp://tests/set"),
    ):
        outcome = cli("factory", *command)
        assert (outcome.code, outcome.err.count("\n")) == (2, 1), outcome
        assert "expected a path on this machine" in outcome.err
    path = object_store.located(remote)
    for operation in (
        path.mkdir,
        path.unlink,
        path.touch,
        lambda: list(path.iterdir()),
        lambda: path.open("wb"),
        path.rmdir,
    ):
        with pytest.raises(UserError, match=f"{remote}: expected a path on this machine"):
            operation()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://tests/none", "s3://tests/none: expected a data set, got nothing below this name"),
        ("s3://missing/x", "s3://missing/x: expected an object store that answers, got NoSuchBucket"),
        ("s3://", "expected s3://bucket/path, got no bucket"),
        ("ftp://a/b", "expected a folder, or a URL s3://, gs:// or az://, got ftp://"),
        (f"s3://me:{SECRET}@b/x", r"s3://\.\.\.: expected a bucket and a path, got '@'"),
    ],
)
def test_faults_of_names(remote: str, url: str, message: str) -> None:
    for read in (open_dataset, verify):
        with pytest.raises(UserError, match=message) as caught:
            read(url)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "got Generic S3 error.*error sending request"),
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "got no credentials. Set those"),
    ],
)
def test_faults_of_access(
    remote: str, settings: dict[str, str | None], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    for name, value in settings.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    _fresh()
    with pytest.raises(UserError, match=message) as caught:
        open_dataset(remote)
    assert SECRET not in str(caught.value)
    _fresh()


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _fresh()
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(UserError, match=r"expected the library obstore.*pip install 'pathology-tile-factory\[cloud\]'"):
        open_dataset(URL)


def test_forked_workers_are_refused(remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset(remote)
    process = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: process + 1)
    with pytest.raises(UserError, match="expected workers that are spawned, got a forked one"):
        dataset.store.read(0, "image")
