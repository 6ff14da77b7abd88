"""Tasks on a dask.distributed cluster, by workers that have proved that they make the same bytes.

Dask carries messages; which worker runs a task is decided here. Before its first task a worker reports its software and
draws a known tile. One that differs is named and never used: tasks are pinned to workers that have proved themselves.
The tasks of a worker that has gone, or no longer answers, go to the others.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import queue
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from factory.core.cluster_worker import Call, Outcome, prove, work
from factory.core.software import software
from manifests.errors import FaultError, UserError

Known = Callable[[], Mapping[str, str]]
"""Draws a known tile and returns digests by name, ``image`` for one. Picklable."""

GPU = "GPU"
"""Resource of dask that workers with a GPU offer: ``dask worker --resources GPU=1``."""

WINDOW = 2
_CONNECT_S = 5.0
_LOOK_S = 1.0
_SILENT_S = 12.0
"""Longest time between two heartbeats, besides a hundredth of a second for each worker."""
_PATIENCE_S = 20.0
"""Longest time without a worker that can be used."""
_MAX_DEATHS = 5
"""Workers that may die at one task."""


@dataclass
class _Worker:
    """A worker as it is known here.

    Attributes:
        address: of it. threads: tasks that it runs at once. state: of its proof.
        heartbeat: the last one, by the scheduler's clock. heard: when it was noticed, by ours.
        is_silent: whether it has not answered for long. running: its tasks by number, in the order they were sent.
    """

    address: str
    threads: int
    state: Literal["proving", "proved", "refused"] = "proving"
    heartbeat: float = 0.0
    heard: float = field(default_factory=time.monotonic)
    is_silent: bool = False
    running: dict[int, Any] = field(default_factory=dict)

    @property
    def is_of_use(self) -> bool:
        """Whether tasks can be sent to it, now or soon."""
        return self.state != "refused" and not self.is_silent


@contextlib.contextmanager
def open_cluster(
    scheduler: str | None,
    known: Known,
    libraries: Iterable[str],
    *,
    note: Callable[[str], None],
    needs: str | None = None,
) -> Iterator[Cluster | None]:
    """Connect to a scheduler, and wait until a worker has proved itself.

    Args:
        scheduler: its address; None yields None. known: draws a tile here and on each worker, to be compared.
        libraries: whose versions must be those of this process. note: called with a line for people.
        needs: resource that a worker must offer, of which a task takes one.

    Raises:
        UserError: for an address without a scheduler, and where no worker can be used.
    """
    if scheduler is None:
        yield None
        return
    with _quiet(), _connected(scheduler) as client:
        cluster = Cluster(client, scheduler, known, tuple(libraries), note=note, needs=needs)
        cluster.wait_for_worker()
        yield cluster


@contextlib.contextmanager
def _connected(scheduler: str) -> Iterator[Any]:
    from distributed import Client

    try:
        client = Client(scheduler, timeout=_CONNECT_S, set_as_default=False)
    except Exception as error:  # dask raises many kinds for an address that it cannot read
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        tls = " Name the certificates in dask's configuration (distributed.comm.tls)." if "tls" in scheduler else ""
        raise UserError(
            f"--scheduler: expected the address of a dask scheduler, as tcp://host:8786, got none at "
            f"{scheduler[:120]!r} ({reason}).{tls}"
        ) from error
    try:
        yield client
    finally:
        client.close(timeout=2)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back dask's own words on lost workers and connections; this module has a line for each."""
    import distributed  # noqa: F401, which sets the levels

    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client", "distributed.core")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class Cluster:
    """The workers of a scheduler: who is there, who has proved itself, and what each is at.

    Args:
        client: of dask. scheduler, known, libraries, note, needs: as in `open_cluster`.
    """

    def __init__(
        self,
        client: Any,
        scheduler: str,
        known: Known,
        libraries: tuple[str, ...],
        *,
        note: Callable[[str], None],
        needs: str | None = None,
    ) -> None:
        self._client, self._scheduler, self._note, self._needs = client, scheduler, note, needs
        self._proof = uuid.uuid4().hex, libraries, software(libraries), dict(known()), pickle.dumps(known)
        self._workers: dict[str, _Worker] = {}
        self._sent: dict[str, tuple[_Worker, int | None, Any]] = {}  # with futures; None is the number of a proof
        self._ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._waiting: deque[int] = deque()
        self._deaths: Counter[int | None] = Counter()
        self._reasons: dict[str, str] = {}
        self._looked = self._alone_since = 0.0
        self._ever_proved = False

    def wait_for_worker(self) -> None:
        """Wait until a worker has proved itself. Raises a UserError when none does."""
        while not self._ever_proved:
            list(self._attend())

    def run(
        self,
        task: Callable[[int, Any, Callable[[], None]], Any],
        ids: Sequence[int],
        payload_of: Callable[[int], Any],
    ) -> Iterator[tuple[int, Any]]:
        """Run a task for every id, as `factory.core.pool.run_tasks`.

        Raises:
            FaultError: when no worker is left, one task keeps killing workers, or the scheduler is lost.
        """
        self._waiting, left = deque(ids), set(ids)
        while left:
            self._hand_out(task, left, payload_of)
            for number, result in self._attend():
                if number in left:  # a worker that was thought lost may have done it too
                    left.remove(number)
                    yield number, result

    def _hand_out(self, task: Any, left: set[int], payload_of: Callable[[int], Any]) -> None:
        """Send tasks to the workers, the first of each before the second of any."""
        proved = [worker for worker in self._workers.values() if worker.state == "proved" and worker.is_of_use]
        for depth in range(1, WINDOW + 1):
            for worker in proved:
                while self._waiting and len(worker.running) < depth * worker.threads:
                    number = self._waiting.popleft()
                    if number in left:
                        future = self._send(worker, number, work, self._proof[0], task, number, payload_of(number))
                        worker.running[number] = future

    def _send(self, worker: _Worker, number: int | None, function: Callable[..., Outcome], *arguments: Any) -> Any:
        # Bytes that unpickle to the result of the call: a scheduler needs nothing of this package then, and a worker
        # that cannot load it says so, where dask would end that worker without a word. A key of its own: under a key
        # that another client uses, dask would hand out that client's result.
        future = self._client.submit(
            pickle.loads,
            pickle.dumps(Call(function, arguments)),
            workers=[worker.address],
            allow_other_workers=False,
            resources={self._needs: 1} if self._needs else None,
            pure=False,
        )
        self._sent[future.key] = worker, number, future
        future.add_done_callback(self._ended.put)
        return future

    def _attend(self) -> Iterator[tuple[int, Any]]:
        """Look who is there, and take in what has ended; yields (number, result) of a task."""
        if time.monotonic() - self._looked > _LOOK_S:
            self._look()
        try:
            future = self._ended.get(timeout=_LOOK_S)
        except queue.Empty:
            return
        worker, number, _ = self._sent.pop(future.key, (None, None, None))
        if worker is None:
            return  # it was counted as lost
        end, value = self._outcome(future)
        if number is None:
            self._judge(worker, end, value)
            return
        worker.running.pop(number, None)
        if end == "done":
            yield number, value
        elif end == "failed":
            value.add_note(f"This was on worker {worker.address}.")
            raise value
        else:
            self._return(worker, [number], value if end == "lost" else None)
            if end == "unproved":  # another process has its address now
                self._prove(worker)

    def _outcome(self, future: Any) -> Outcome:
        """How a task ended; an error of dask's own is ``lost``."""
        try:
            if future.status == "finished":
                outcome: Outcome = future.result(timeout=_SILENT_S)
                return outcome
            return "lost", future.exception(timeout=_SILENT_S) if future.status == "error" else None
        except Exception as error:  # its worker is gone with the result, or the scheduler is
            return "lost", error

    def _look(self) -> None:
        """Learn from the scheduler who has come, who has gone and who is silent."""
        try:
            there = self._client.sync(self._client.scheduler.identity, n_workers=-1, callback_timeout=_SILENT_S)
        except Exception as error:
            raise self._lost_scheduler(f"{type(error).__name__}: {error}"[:120].rstrip(": ")) from error
        if self._client.status != "running":
            raise self._lost_scheduler("a lost connection")
        self._looked = time.monotonic()
        there = {address: info for address, info in there["workers"].items() if self._threads_of(info)}
        for address, info in there.items():
            if address not in self._workers:
                self._workers[address] = _Worker(address, self._threads_of(info))
                self._prove(self._workers[address])
            self._hear(self._workers[address], info, limit=_SILENT_S + len(there) / 100)
        for address in self._workers.keys() - there.keys():
            self._forget(self._workers.pop(address))
        self._refuse_to_be_alone()

    def _threads_of(self, info: Mapping[str, Any]) -> int:
        """Tasks that a worker can run at once, 0 for one without the resource that they need."""
        offered = info["resources"].get(self._needs, 0) if self._needs else info["nthreads"]
        return int(min(offered, info["nthreads"]))

    def _hear(self, worker: _Worker, info: Mapping[str, Any], limit: float) -> None:
        """Take in the last heartbeat of a worker. One that is paused, for want of memory, does not count as heard."""
        if info["last_seen"] != worker.heartbeat and info["status"] == "running":
            worker.heartbeat, worker.heard = info["last_seen"], time.monotonic()
            if worker.is_silent:
                worker.is_silent = False
                self._note(f"worker {worker.address}: answers again.")
        elif not worker.is_silent and time.monotonic() - worker.heard > limit:
            worker.is_silent = True
            self._tell(worker, f"no answer for {limit:.0f} s")
            self._return(worker, list(worker.running))

    def _forget(self, worker: _Worker) -> None:
        """Give the tasks of a worker that has gone to others."""
        if worker.state != "refused":
            self._tell(worker, "gone")
        self._sent = {key: sent for key, sent in self._sent.items() if sent[0] is not worker}
        self._return(worker, list(worker.running), "it has gone")
        if worker.state == "proving":
            self._count_death(None, worker, "it has gone")

    def _return(self, worker: _Worker, numbers: Sequence[int], death: object = None) -> None:
        """Let others run tasks of a worker. The first ones may be why it died, where it did."""
        for number in numbers:
            worker.running.pop(number, None)
        for number in numbers[: worker.threads] if death is not None else ():
            self._count_death(number, worker, death)
        self._waiting.extendleft(reversed(numbers))

    def _count_death(self, number: int | None, worker: _Worker, death: object) -> None:
        """Give up where worker after worker dies at the same task; None is the number of a proof."""
        self._deaths[number] += 1
        if self._deaths[number] >= _MAX_DEATHS + (len(self._workers) if number is None else 0):
            what = "known tile" if number is None else f"shard {number}"
            raise FaultError(
                f"{what}: expected a worker to outlive it, got {self._deaths[number]} that did not, at last "
                f"{worker.address} ({death}). Memory is the usual reason: give workers more."
            )

    def _prove(self, worker: _Worker) -> None:
        worker.state = "proving"
        self._send(worker, None, prove, *self._proof)

    def _judge(self, worker: _Worker, end: str, value: Any) -> None:
        """Take in the proof of a worker."""
        if end == "done" and not value:
            worker.state, self._ever_proved, self._deaths[None] = "proved", True, 0
        elif end == "lost" and (value is None or type(value).__name__ == "KilledWorker"):
            self._forget(self._workers.pop(worker.address, worker))  # another process there is looked at anew
        elif self._workers.get(worker.address) is worker:
            worker.state = "refused"
            reason = "; ".join(value) if end == "done" else f"{type(value).__name__}: {value}"
            if isinstance(value, ImportError | AttributeError):
                reason = f"expected this release of pathology-tile-factory, got {reason}. Install it there"
            self._tell(worker, f"not used: {' '.join(reason.split())[:300]}")

    def _tell(self, worker: _Worker, reason: str) -> None:
        self._reasons[worker.address] = reason
        self._note(f"worker {worker.address}: {reason}.")

    def _refuse_to_be_alone(self) -> None:
        """Raise an error when there has been no worker of use for long."""
        if any(worker.is_of_use for worker in self._workers.values()):
            self._alone_since = 0.0
            return
        if not self._alone_since:
            self._alone_since = time.monotonic()
            self._note(f"{self._scheduler}: no worker that can be used; waiting {_PATIENCE_S:.0f} s for one.")
        if time.monotonic() - self._alone_since > _PATIENCE_S:
            known = [f"{address}: {reason}" for address, reason in list(self._reasons.items())[-2:]]
            offering = f" --resources {self._needs}=1" if self._needs else ""
            kind = FaultError if self._ever_proved else UserError
            raise kind(
                f"--scheduler: expected workers at {self._scheduler}, got none that can be used"
                f"{' (' + '; '.join(known) + ')' if known else ''}. "
                f"Start dask worker {self._scheduler}{offering} and run the same command again."
            )

    def _lost_scheduler(self, got: str) -> FaultError:
        return FaultError(
            f"--scheduler: expected {self._scheduler} to answer, got {got}. "
            "What is finished is kept: start the scheduler and run the same command again."
        )
