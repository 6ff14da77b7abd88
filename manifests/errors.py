"""Exceptions that a command line prints as a single line."""


class UserError(Exception):
    """A mistake in the request, the configuration or the input; the command exits with `exit_code`.

    The message is one line: ``<where>: expected <x>, got <y>. <what to do>``.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class FaultError(UserError):
    """A failure of a correct request: a full disk, a damaged store. Exit code 1."""

    exit_code = 1
