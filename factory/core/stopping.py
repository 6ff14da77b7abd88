"""Ctrl-C and SIGTERM during work in steps: the step is finished and its state kept, then the command stops."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Notes the first Ctrl-C or SIGTERM; a second one stops at once."""

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._arrived: int | None = None

    def __bool__(self) -> bool:
        """Return whether a signal arrived."""
        return self._arrived is not None

    def obey(self) -> None:
        """Stop as the signal would have done."""
        assert self._arrived is not None
        self._restore()
        signal.raise_signal(self._arrived)

    @contextlib.contextmanager
    def listen(self) -> Iterator[StopRequest]:
        """Hold signals back. Does nothing outside of the main thread, and for a signal that is ignored (nohup)."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if callable(signal.getsignal(number)):
                    self._handlers[number] = signal.signal(number, self._note)
        try:
            yield self
        finally:
            self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._arrived is not None:
            self.obey()
        self._arrived = number

    def _restore(self) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())


@contextlib.contextmanager
def noting(kept: Callable[[], str]) -> Iterator[None]:
    """Add a note on what is kept, a sentence, to an error or an interrupt that ends the block."""
    try:
        yield
    except BaseException as error:
        error.add_note(kept())
        raise
