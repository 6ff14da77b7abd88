"""Make a small data set on a dask cluster of two worker processes, killing one on the way. A process of its own."""

import os
import signal
import sys
from pathlib import Path

from factory.make.pipeline import Prepared, make
from factory.make.recipes.masks_and_renderer import MasksAndRenderer, prepare
from factory.make.resolve import resolve_make


def small_run(out: Path) -> Prepared[MasksAndRenderer]:
    """The data set of `tests.factory.make.test_make.SMALL`, to be written to `out`."""
    flags = {"scheme": "pdl1", "size": (64, 96), "n": 7, "tps": "0.01-0.5"}
    config, scheme = resolve_make(flags, {}, None, ["shard=2"])
    return prepare(config, scheme, out, manifest=None, like=None, device="cpu")


def main(out: Path) -> None:
    """Make it on the cluster."""
    from distributed import LocalCluster

    prepared = small_run(out)
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        victim = next(iter(cluster.workers.values())).process.pid
        os.kill(victim, signal.SIGKILL)
        make(prepared, workers=1, scheduler=cluster.scheduler_address)
    assert "torch" not in sys.modules, "no network was asked for"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
