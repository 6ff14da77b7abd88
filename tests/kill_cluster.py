"""Kill the worker, the scheduler and the client of a dask cluster in turn while it makes a data set, until it is whole.

    python -m tests.kill_cluster FOLDER [--kills 12] [--workers 3]

Whoever was killed is started again, and the command with it. The result is compared with a run of one process, byte by
byte. Prints a line of JSON.
"""

import argparse
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from manifests import open_dataset, verify
from tests.kill_after_every_operation import tree

REPOSITORY = Path(__file__).resolve().parents[1]
SHARD, SHARDS_BETWEEN_KILLS = 2, 4
END_S = 1800.0


class Processes:
    """A scheduler, its workers and the command, each started again when it has ended."""

    def __init__(self, folder: Path, workers: int, tiles: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.folder, self.address = folder, f"tcp://127.0.0.1:{port}"
        self.names = [f"worker {number}" for number in range(workers)]
        self.make = ["make", "--scheme", "nuclei", "--cells", "2-4", "--size", "64x64", "--set", f"shard={SHARD}"]
        self.make += ["--n", str(tiles)]
        dask, quiet = [sys.executable, "-m", "dask"], ["--no-dashboard"]
        worker = [*dask, "worker", self.address, "--nthreads", "1", "--no-nanny", *quiet]
        self.commands = {
            "scheduler": [*dask, "scheduler", "--host", "127.0.0.1", "--port", str(port), *quiet],
            **dict.fromkeys(self.names, worker),
            "client": [sys.executable, "-m", "factory.cli", *self.make, "--scheduler", self.address, "--out", "killed"],
        }
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        """Start a process, with its words in a file of its name."""
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                self.commands[name], cwd=self.folder, env=environment, stdout=log, stderr=log
            )

    def keep_alive(self) -> bool:
        """Start again what has ended; returns whether the command has ended well."""
        for name in self.commands:
            process = self.running.get(name)
            if name == "client" and process is not None and process.poll() == 0:
                return True
            if process is None or process.poll() is not None:
                self.start(name)
        return False

    def kill(self, name: str) -> None:
        """Kill a process as a power cut would."""
        self.running[name].send_signal(signal.SIGKILL)
        self.running[name].wait()

    def end(self) -> None:
        """Kill all."""
        for process in self.running.values():
            process.kill()
            process.wait()


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="an empty folder for both data sets and the logs")
    parser.add_argument("--kills", type=int, default=12, help="in all, of workers, scheduler and client in turn")
    parser.add_argument("--workers", type=int, default=3, help="of the cluster")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    shards = SHARDS_BETWEEN_KILLS * (arguments.kills + 1)
    processes = Processes(folder, arguments.workers, SHARD * shards)
    subprocess.run(
        [sys.executable, "-m", "factory.cli", *processes.make, "--workers", "1", "--out", "unbroken"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    started = time.monotonic()
    try:
        kills, finished_at_kills = campaign(processes, folder / "killed", arguments.kills)
    finally:
        processes.end()
    seconds = time.monotonic() - started
    dataset = open_dataset(folder / "killed")
    names, records = dataset.table["sample_id"].to_pylist(), len(list((folder / "killed/ledger").glob("[0-9]*.json")))
    print(
        json.dumps(
            {
                "kills": kills,
                "same bytes": tree(folder / "killed") == tree(folder / "unbroken"),
                "faults": len(verify(folder / "killed")),
                "tiles lost": SHARD * shards - len(set(names)),
                "tiles twice": len(names) - len(set(names)),
                "records": records,
                "finished shards lost": sum(not path.exists() for path in finished_at_kills),
                "seconds": round(seconds),
            }
        )
    )


def campaign(processes: Processes, out: Path, kills: int) -> tuple[Counter[str], set[Path]]:
    """Make the data set, killing someone after every few shards.

    Returns:
        How often each kind was killed, and the records that there were at any kill.
    """
    targets = itertools.cycle(
        [target for name in processes.names for target in (name, "scheduler", "client")]
    )  # another worker each time
    done, finished, killed_at, deadline = Counter[str](), set[Path](), 0, time.monotonic() + END_S
    while not processes.keep_alive():
        records = set(out.glob("ledger/[0-9]*.json"))
        if len(records) >= killed_at + SHARDS_BETWEEN_KILLS and done.total() < kills:
            target = next(targets)
            finished |= records
            processes.kill(target)
            done[target.split()[0]] += 1
            killed_at = len(records)
        if time.monotonic() > deadline:
            sys.exit(f"expected the data set within {END_S:.0f} s, got {len(records)} records. See {processes.folder}.")
        time.sleep(0.02)
    return done, finished


if __name__ == "__main__":
    main()
