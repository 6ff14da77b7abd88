"""Kill a small run with SIGKILL at every file operation that finds its folder changed, run it again, compare the trees.

A kill leaves what is on the disk, so an operation that finds the folder as an earlier one did needs none of its own.
Run as a script in a process of its own: it forks, so no thread may have been started. Prints a line of JSON.
"""

import hashlib
import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import zarr  # noqa: F401, once and not in every child: it took most of their time

from factory.make.pipeline import Prepared, make
from factory.make.recipes.base import maker_of
from factory.make.recipes.masks_and_renderer import MasksAndRenderer, prepare
from factory.make.resolve import resolve_make
from manifests.files import is_temporary, walk

cv2.setNumThreads(0)


def prepared(out: Path) -> Prepared[MasksAndRenderer]:
    flags = {"scheme": "nuclei", "n": 3, "size": (32, 32), "cells": "2-4"}
    config, scheme = resolve_make(flags, {}, None, ["shard=2"])
    return prepare(config, scheme, out, manifest=None, like=None, device="cpu")


def tree(root: Path) -> str:
    digest = hashlib.sha256()
    for path in walk(root):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def state(folder: Path) -> str:
    """Digest of a folder as a kill would leave it: temporary files and empty folders count too."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(f"{path.relative_to(folder)}\n".encode() + (path.read_bytes() if path.is_file() else b""))
    return digest.hexdigest()


def before_every_operation(do: Callable[[], None]) -> None:
    """Call `do` before each writing open, rename, removal and new folder, and before and after each fsync."""

    def hook(event: str, arguments: tuple) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir"):
            do()

    sync = os.fsync

    def watched_sync(descriptor: int) -> None:
        do()
        sync(descriptor)
        do()

    os.fsync = watched_sync
    sys.addaudithook(hook)


def in_child(work) -> int:  # type: ignore[no-untyped-def]
    """Run `work` in a forked process; its wait status."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(3)
    return os.waitpid(child, 0)[1]


def main(folder: Path) -> None:
    os.fsync = lambda descriptor: (
        None
    )  # a point to be killed at: only a power cut takes what was written and not synced
    unbroken, out = folder / "unbroken", folder / "killed"
    planned = prepared(unbroken)
    list(maker_of(planned.recipe).make(planned.rows_of(0)))  # compile once, before any fork

    def watched() -> None:
        found: list[str] = []
        before_every_operation(lambda: found.append(state(unbroken)))
        make(planned, workers=1)
        states = list(found)
        (folder / "states.json").write_text(json.dumps(states))

    assert in_child(watched) == 0
    states = json.loads((folder / "states.json").read_text())
    expected = tree(unbroken)
    counts = {"operations": len(states), "kills": 0, "equal": 0, "partial_left": 0, "finished_shards_redone": 0}
    planned = prepared(out)
    for operation in sorted(states.index(each) for each in set(states)):

        def doomed(operation: int = operation) -> None:
            numbers = itertools.count()
            before_every_operation(lambda: os.kill(os.getpid(), signal.SIGKILL) if next(numbers) == operation else None)
            make(planned, workers=1)

        status = in_child(doomed)
        assert os.WIFSIGNALED(status), status
        counts["kills"] += 1
        done = {path.name: path.stat().st_mtime_ns for path in (out / "ledger").glob("0*.json")}
        if in_child(lambda: make(planned, workers=1)):
            sys.exit(f"the run after a kill at operation {operation} failed")
        counts["equal"] += tree(out) == expected
        counts["partial_left"] += sum(is_temporary(path) for path in walk(out))
        counts["finished_shards_redone"] += sum(
            (out / "ledger" / name).stat().st_mtime_ns != time for name, time in done.items()
        )
        shutil.rmtree(out)
    print(json.dumps(counts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
