"""Kernels where numba finds no place to keep machine code: a read-only installation under a user without a home."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

NOWHERE = """
import importlib, sys
from numba.core import caching

def nowhere(locator):
    raise OSError("read-only")

caching._CacheLocator.ensure_cache_path = nowhere
"""


def run(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", NOWHERE + code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def modules_that_say(text: str) -> list[str]:
    files = [path for package in ("factory", "segment") for path in (ROOT / package).rglob("*.py")]
    found = [path.relative_to(ROOT) for path in files if text in path.read_text(encoding="utf-8")]
    return sorted(".".join(path.with_suffix("").parts) for path in found)


def test_every_module_with_kernels_can_be_imported_where_nothing_can_be_kept() -> None:
    modules = modules_that_say("\n@compiled(")
    assert {"segment.metrics.overlap", "factory.masks.cells.packing"} <= set(modules)
    run("for name in sys.argv[1:]:\n    importlib.import_module(name)", *modules)


def test_kernels_work_where_nothing_can_be_kept() -> None:
    code = (
        "from factory.core.compiled import compiled\n"
        "@compiled()\ndef twice(x):\n    return 2 * x\n"
        "print(twice(21), twice.stats.cache_path)\n"
    )
    assert run(code).split() == ["42", "None"]


def test_only_one_place_asks_numba_to_keep_machine_code() -> None:
    assert modules_that_say("njit(cache=True") == ["factory.core.compiled"]
