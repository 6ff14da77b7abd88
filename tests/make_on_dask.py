"""Make a small data set on a dask cluster of two worker processes, killing one on the way. A process of its own."""

import os
import signal
import sys
from pathlib import Path

from factory.make.pipeline import Order, make, prepare
from factory.make.resolve import resolve_config


def small_order(out: Path) -> Order:
    """The data set of `tests.factory.make.test_make.SMALL`, to be written to `out`."""
    flags = {"scheme": "pdl1", "size": (64, 96), "n": 7, "tps": "0.01-0.5"}
    config, scheme = resolve_config(flags, {}, None, ["shard=2"])
    return prepare(config, scheme, out, manifest=None, like=None, device="cpu")


def main(out: Path) -> None:
    """Make it on the cluster."""
    from distributed import LocalCluster

    order = small_order(out)
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        victim = next(iter(cluster.workers.values())).process.pid
        os.kill(victim, signal.SIGKILL)
        make(order, workers=1, scheduler=cluster.scheduler_address)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
