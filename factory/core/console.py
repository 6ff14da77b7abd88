"""Output at the terminal: progress, one-line errors, exit codes."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from factory.core.command_line import Interrupted, Terminated
from factory.core.malloc import keep_freed_memory

if TYPE_CHECKING:
    from rich.console import Console


_LOG_EVERY_S = 10.0
_INTERRUPTED = 130
_PATH_ERRORS = {errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EFBIG}


def run(command: Callable[[], object]) -> None:
    """Run a command line to its exit code: 0 done, 1 failed, 2 wrong request, 130 interrupted.

    Args:
        command: does the work; an exit code may be its result.
    """
    keep_freed_memory()
    # Threads that spin long at OpenMP's barriers keep the core that another process or the batch thread needs
    # (docs/results/threads.md). The value is read when torch is loaded, so it is set here; a user's own one stays.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8
    code: object = 0
    try:
        code = command()
    except Interrupted as stop:
        what, code = ("terminated", 1) if stop.terminated else ("interrupted", _INTERRUPTED)
        _stop(f"{what}. {stop.advice}", code)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except Terminated:
        _stop("terminated before the command started.", 1)
    except Exception as error:
        if os.environ.get("FACTORY_TRACEBACK"):
            raise
        _stop(*_explain(error))
    if code == _INTERRUPTED:
        _stop("interrupted before the command started.", _INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _explain(error: Exception) -> tuple[str, int]:
    """The line and the exit code of an error that a user can do something about; any other is raised again."""
    from manifests.errors import UserError  # imported now: a command that only shows its help needs no numpy

    if isinstance(error, UserError):
        return " ".join([str(error), *getattr(error, "__notes__", [])]), error.exit_code
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        where = error.filename or "output"
        advice = "What is finished is kept: mend the disk and run the same command again."
        return f"{where}: {error.strerror}. {advice}", 1
    if isinstance(error, OSError) and error.errno in _PATH_ERRORS and error.filename:
        return f"{str(error.filename)[:200]}: expected a usable path, got: {error.strerror}. Choose another.", 2
    if isinstance(error, MemoryError):
        return "out of memory. Use fewer --workers or smaller tiles, and run the same command again.", 1
    if hasattr(error, "format_message"):  # what typer says of an unknown option or a missing value
        return str(error.format_message()), 2
    raise error


def _one_line(message: str) -> str:
    from manifests.errors import one_line  # see above

    return one_line(message)


def _terminate(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise Terminated


def _stop(message: str, code: int) -> None:
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    print("error: " + _one_line(message), file=sys.stderr, flush=True)  # noqa: T201
    sys.stderr.flush()
    sys.exit(code)


def console() -> Console:
    """The terminal for results, at a width that keeps tables whole where the output is no terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else max(100, int(os.environ.get("COLUMNS", "120"))))


def say(*parts: object) -> None:
    """Print results: text as it is, neither wrapped nor coloured, and tables."""
    screen = console()
    for part in parts:
        if isinstance(part, str):
            screen.print(part, markup=False, highlight=False, soft_wrap=True)
        else:
            screen.print(part)


class Progress:
    """A bar with rate and time left; without a terminal, a log line every ten seconds."""

    def __init__(self, description: str, total: int, unit: str, done: int = 0) -> None:
        self._description, self._unit = description, unit
        self._start(total, done)

    def _start(self, total: int, done: int) -> None:
        self._total, self._start_count, self._count = total, done, done
        self._started = self._logged = time.monotonic()
        self._bar = _Bar(self._description, total, self._unit, done) if sys.stderr.isatty() else None

    def resume_at(self, done: int, total: int) -> None:
        """Start counting from what was done before, towards a total that is known only now."""
        self.close()
        self._start(total, done)

    def to(self, count: int, total: int | None = None) -> None:
        """Set the number of units done, and of all where it is known only now."""
        if total is not None and total != self._total:
            self.resume_at(0, total)
        self._count = count
        if self._bar:
            self._bar.to(count)
        elif time.monotonic() - self._logged >= _LOG_EVERY_S:
            self._log()

    def advance(self, units: int = 1) -> None:
        """Add to the number of units done."""
        self.to(self._count + units)

    def note(self, line: str) -> None:
        """Print a line for people, above the bar."""
        if self._bar:
            self._bar.print(f"note: {line}")
        else:
            print(f"note: {line}", file=sys.stderr, flush=True)  # noqa: T201

    def _log(self) -> None:
        self._logged = time.monotonic()
        rate = (self._count - self._start_count) / max(self._logged - self._started, 1e-9)
        left = f"{(self._total - self._count) / rate:.0f} s left" if rate > 0 else "time left unknown"
        line = f"{self._description}: {self._count}/{self._total} {self._unit}, {rate:.1f}/s, {left}"
        print(line, file=sys.stderr, flush=True)  # noqa: T201

    def close(self) -> None:
        """Remove the bar."""
        if self._bar:
            self._bar.close()


class _Bar:
    def __init__(self, description: str, total: int, unit: str, done: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._rich = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(f"{unit}  {{task.fields[rate]}}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._rich.add_task(description, total=total, completed=done, rate="")
        self._started, self._start_count = time.monotonic(), done
        self._rich.start()

    def to(self, count: int) -> None:
        rate = (count - self._start_count) / max(time.monotonic() - self._started, 1e-9)
        self._rich.update(self._task, completed=count, rate=f"{rate:.1f}/s")

    def print(self, line: str) -> None:
        self._rich.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._rich.stop()


@contextlib.contextmanager
def working(description: str) -> Iterator[None]:
    """Show a spinner while the block runs, on a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(f"{description} ..."):
        yield


@contextlib.contextmanager
def progress(description: str, total: int, *, unit: str = "tiles", done: int = 0) -> Iterator[Progress]:
    """Show progress while the block runs.

    Args:
        description: what is going on.
        total: units in all.
        unit: what is counted.
        done: units that were done before.
    """
    shown = Progress(description, total, unit, done)
    try:
        yield shown
    finally:
        shown.close()


@contextlib.contextmanager
def counting(description: str, *, unit: str = "tiles") -> Iterator[dict[str, Any]]:
    """Show progress of what makes units where some are there already, and notes: what `How` calls ``on_...``."""
    with progress(description, 0, unit=unit) as bar:
        already = 0

        def start(done: int, total: int) -> None:
            nonlocal already
            already = done
            bar.resume_at(done, total)

        yield {"on_start": start, "on_tiles": lambda count: bar.to(already + count), "on_note": bar.note}
