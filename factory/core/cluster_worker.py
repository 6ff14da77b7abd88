"""What a worker of a cluster does: proves itself, then runs tasks. Everything comes back as a value."""

from __future__ import annotations

import contextlib
import pickle
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from factory.core.pool import single_threaded
from factory.core.software import differences, software
from manifests.errors import FaultError, UserError

Outcome = tuple[Literal["done", "failed", "unproved", "lost"], Any]
"""How a task ended, with its result or its exception."""


@dataclass(frozen=True)
class Call:
    """A call that is made where it is unpickled: the result takes its place."""

    function: Callable[..., Outcome]
    arguments: tuple[Any, ...]

    def __reduce__(self) -> tuple[Callable[..., Outcome], tuple[Any, ...]]:
        return self.function, self.arguments


_proved: set[str] = set()
"""The runs for which this process has proved itself."""


def prove(
    run: str, libraries: Sequence[str], expected: Mapping[str, str], tile: Mapping[str, str], packed: bytes
) -> Outcome:
    """Compare its software, then its known tile, with the client's. The result is what differs."""

    def compare() -> list[str]:
        if differing := differences(expected, software(libraries)):
            return differing
        found: Mapping[str, str] = pickle.loads(packed)()  # after the comparison: of another release it may not load
        differing = [
            f"expected the same {name} of the known tile, got another" for name in tile if tile[name] != found.get(name)
        ]
        if not differing:
            _proved.add(run)
        return differing

    return _caught(compare)


def work(run: str, task: Callable[..., Any], number: int, payload: Any) -> Outcome:
    """Run a task, where this process has proved itself."""
    return _caught(lambda: task(number, payload, lambda: None)) if run in _proved else ("unproved", None)


def _caught(function: Callable[[], Any]) -> Outcome:
    """Call a function; its exception comes as a value that can be pickled, since dask loses others without a word."""
    single_threaded()
    try:
        return "done", function()
    except Exception as error:
        trace = traceback.format_exc()
        with contextlib.suppress(Exception):
            if type(pickle.loads(pickle.dumps(error))) is type(error):
                if not isinstance(error, UserError):
                    error.add_note(trace)
                return "failed", error
        return "failed", FaultError(f"expected a task to succeed, got {type(error).__name__}: {error}")
