"""Exceptions that a command line prints as a single line."""

_LONGEST = 1000
SHOWN = 200
"""Longest piece of an input that a message shows."""


def shown(value: object) -> str:
    """A value of an input as a message shows it: as Python writes it, and cut."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def one_line(message: str) -> str:
    """A message in one line: control characters and lone surrogates escaped, the middle of a very long one left out."""
    if len(message) > _LONGEST:
        message = f"{message[: _LONGEST - SHOWN]} ... {message[-SHOWN:]}"
    line = " ".join(message.split())
    return "".join(mark if mark.isprintable() else repr(mark)[1:-1] for mark in line)


class UserError(Exception):
    """A mistake in the request, the configuration or the input; the command exits with `exit_code`.

    The message is one line: ``<where>: expected <x>, got <y>. <what to do>``; see `one_line`.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class FaultError(UserError):
    """A failure of a correct request: a full disk, a damaged store. Exit code 1."""

    exit_code = 1
