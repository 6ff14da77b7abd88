"""Benchmark scripts that run in a process of their own, in one thread, and their tables."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from factory.core.precision import resolve_precision

SHOWN_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def measured(script: str, *arguments: object) -> Any:
    """The JSON that a script prints last, run in a process of its own: the allocator setting is one of the process."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "10000"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def show_machine() -> None:
    """Print the processor, those of its flags that decide the speed, and the precision that is used without asking."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    known = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = [flag for flag in SHOWN_FLAGS if flag in known.get("flags", "").split()]
    processor = f"{known.get('model name', 'unknown CPU')} ({', '.join(flags) or 'no vector flags known'})"
    print(f"one thread; {processor}; torch {torch.__version__}; {resolve_precision('auto', 'cpu')} by default here\n")


def show(name: str, *cells: str) -> None:
    """Print a row of a table."""
    print(f"{name:<{24 + name.count(chr(10))}}" + "".join(f"{cell:>26}" for cell in cells), flush=True)


def ms(seconds: float) -> str:
    """Seconds in words."""
    return f"{seconds * 1e3:.1f} ms"
