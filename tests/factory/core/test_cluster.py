"""Workers of a cluster, with a dask of two dozen lines: who is trusted, and what happens when they are lost."""

from __future__ import annotations

import itertools
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest

from factory.core import cluster as clusters
from factory.core import cluster_worker
from factory.core.cluster import Cluster, open_cluster
from factory.core.software import differences, software
from manifests.errors import FaultError, UserError

TILE = {"image": "aa", "row": "bb"}


def known_tile() -> dict[str, str]:
    return TILE


def double(number: int, payload: int, tick: Callable[[], None]) -> int:
    return payload * 2


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("no words")
        self.lock = threading.Lock()


def fail_at_two(number: int, payload: int, tick: Callable[[], None]) -> int:
    if number == 2:
        raise Unpicklable
    return payload


class Future:
    """A future that has ended, or never ends."""

    _numbers = itertools.count()

    def __init__(self, outcome: Any = None, error: Exception | None = None, *, pending: bool = False) -> None:
        self.key = str(next(self._numbers))
        self.status = "pending" if pending else "error" if error else "finished"
        self._outcome, self._error = outcome, error

    def result(self, timeout: float) -> Any:
        return self._outcome

    def exception(self, timeout: float) -> Exception | None:
        return self._error

    def add_done_callback(self, call: Callable[[Future], None]) -> None:
        if self.status != "pending":
            call(self)


class Dask:
    """Client and scheduler: workers by address, whose function takes a call and gives its future."""

    def __init__(self, **workers: Callable[[bytes], Future]) -> None:
        self.status, self.scheduler, self.beats = "running", self, itertools.count()
        self.workers, self.calls = workers, list[str]()
        self.hung = set[str]()
        self.on_look: Callable[[], None] = lambda: None

    async def identity(self) -> None: ...

    def sync(self, function: Any, n_workers: int, callback_timeout: float) -> dict[str, Any]:
        self.on_look()
        beat = next(self.beats)
        info = {"nthreads": 1, "resources": {}, "status": "running"}
        return {"workers": {name: {**info, "last_seen": 0 if name in self.hung else beat} for name in self.workers}}

    def submit(self, function: Callable[[bytes], Any], call: bytes, *, workers: list[str], **options: Any) -> Future:
        assert function is pickle.loads, "a scheduler without the package can pass it on"
        self.calls += workers
        return self.workers.get(workers[0], stands_still)(call)


def stands_still(call: bytes) -> Future:
    return Future(pending=True)


def works(call: bytes) -> Future:
    return Future(pickle.loads(call))


def hangs(call: bytes) -> Future:
    """Proves itself, and does no more."""
    outcome = pickle.loads(call)
    return Future(outcome) if outcome == ("done", []) else Future(pending=True)


def lacks_package(call: bytes) -> Future:
    return Future(error=ModuleNotFoundError("No module named 'factory'"))


def with_other_software(call: bytes) -> Future:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster_worker, "software", lambda libraries: {**software(libraries), "numpy": "0.1"})
        return works(call)


def with_other_code(call: bytes) -> Future:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TILE, "image", "another")
        return works(call)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("_LOOK_S", 0.01), ("_SILENT_S", 0.1), ("_PATIENCE_S", 0.1)):
        monkeypatch.setattr(clusters, name, seconds)
    cluster_worker._proved.clear()


class Lines(list[str]):
    """The notes of a cluster."""

    def of(self, worker: str) -> str:
        return " ".join(line for line in self if line.startswith(f"worker {worker}:"))


def connect(dask: Dask) -> tuple[Cluster, Lines]:
    lines = Lines()
    return Cluster(dask, "tcp://there", known_tile, ("numpy",), note=lines.append), lines


def run(dask: Dask, task: Any = double, count: int = 6) -> tuple[dict[int, int], Lines]:
    cluster, lines = connect(dask)
    cluster.wait_for_worker()
    return dict(cluster.run(task, range(count), lambda number: number)), lines


@pytest.mark.parametrize(
    ("worker", "said"),
    [
        (with_other_software, "expected numpy .*, got 0.1"),
        (with_other_code, "expected the same image of the known tile, got another"),
        (lacks_package, "expected this release .*No module named 'factory'. Install it there"),
    ],
)
def test_a_worker_that_differs_is_named_and_never_used(worker: Callable[[bytes], Future], said: str) -> None:
    dask = Dask(good=works, bad=worker)
    results, lines = run(dask)
    assert results == {number: 2 * number for number in range(6)}
    assert dask.calls.count("bad") == 1, "its proof"
    assert lines.of("bad").startswith("worker bad: not used: ")
    with pytest.raises(UserError, match=said) as refused:
        run(Dask(bad=worker))
    assert refused.value.exit_code == 2
    assert "Start dask worker tcp://there" in str(refused.value)


def test_a_process_that_took_the_address_of_another_proves_itself_first() -> None:
    dask = Dask(a=works)
    cluster, _ = connect(dask)
    cluster.wait_for_worker()
    cluster_worker._proved.clear()  # as in a new process
    assert dict(cluster.run(double, range(3), lambda number: number)) == {0: 0, 1: 2, 2: 4}
    dask.workers["a"] = with_other_code
    cluster_worker._proved.clear()
    with pytest.raises(FaultError, match="known tile"):
        dict(cluster.run(double, range(3), lambda number: number))


def test_tasks_of_a_silent_worker_go_to_others_and_it_may_come_back() -> None:
    dask = Dask(good=works, stopped=hangs)
    dask.hung.add("stopped")
    results, lines = run(dask)
    assert len(results) == 6
    assert "no answer for 0 s" in lines.of("stopped")
    cluster, lines = connect(dask)
    while "answers again" not in lines.of("stopped"):
        if lines.of("stopped"):
            dask.hung.clear()
        list(cluster._attend())


@pytest.mark.parametrize("leave", [lambda dask: dask.workers.clear(), lambda dask: dask.hung.add("a")])
def test_it_is_an_error_when_nobody_is_left(leave: Callable[[Dask], None]) -> None:
    dask = Dask(a=hangs)
    cluster, lines = connect(dask)
    cluster.wait_for_worker()
    leave(dask)
    with pytest.raises(FaultError, match=r"none that can be used \(a: ") as error:
        dict(cluster.run(double, range(3), lambda number: number))
    assert error.value.exit_code == 1
    assert lines.of("a")


def test_an_exception_that_cannot_be_pickled_arrives_in_words() -> None:
    with pytest.raises(FaultError, match="got Unpicklable: no words") as error:
        run(Dask(a=works), fail_at_two)
    assert error.value.__notes__ == ["This was on worker a."]


def test_a_task_that_kills_every_worker_is_given_up() -> None:
    dask = Dask(w=hangs)

    def replace() -> None:
        """Another worker in the place of one that has been sent tasks."""
        (name,) = dask.workers
        if dask.calls.count(name) > 1:
            dask.workers = {name + "w": hangs}

    dask.on_look = replace
    with pytest.raises(FaultError, match="shard 0: expected a worker to outlive it, got 5 that did not"):
        run(dask)


def test_workers_that_die_of_the_known_tile_are_given_up() -> None:
    dask = Dask(w=stands_still)

    def replace() -> None:
        if dask.calls:
            dask.workers = {f"w{len(dask.calls)}": stands_still}

    dask.on_look = replace
    with pytest.raises(FaultError, match="known tile: expected a worker to outlive it, got 6 that did not"):
        run(dask)


def test_a_lost_scheduler_is_one_error() -> None:
    dask = Dask(a=hangs)

    def lose() -> None:
        if len(dask.calls) > 1:
            raise OSError("Timed out")

    dask.on_look = lose
    with pytest.raises(FaultError, match="expected tcp://there to answer, got OSError: Timed out"):
        run(dask)


@pytest.mark.parametrize("address", ["tls://127.0.0.1:1", "tcp://", "what is this", "tcp://127.0.0.1:port", "{}"])
def test_an_address_that_is_none_is_one_line(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "_CONNECT_S", 0.2)
    with (
        pytest.raises(UserError, match="--scheduler: expected the address of a dask scheduler") as refused,
        open_cluster(address, known_tile, (), note=print),
    ):
        pass
    assert len(str(refused.value)) < 400
    assert ("distributed.comm.tls" in str(refused.value)) == address.startswith("tls")


def test_software_is_compared_by_name() -> None:
    here = software(["numpy"])
    assert {"python", "code", "numpy"} <= here.keys()
    assert differences(here, here) == []
    there = {name: version for name, version in here.items() if name != "numpy"} | {"code": "0"}
    assert differences(here, there) == [
        f"expected numpy {here['numpy']}, got none",
        f"expected code {here['code']}, got 0",
    ]
