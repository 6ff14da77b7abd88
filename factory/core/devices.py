"""Device and number of workers of a command, resolved once in the command line and passed down."""

from __future__ import annotations

from manifests.errors import UserError
from manifests.parallel import usable_cores as usable_cores


def resolve_device(name: str) -> str:
    """``auto`` -> cuda, mps or cpu, whichever is there; other names are checked.

    Raises:
        UserError: for a device that this machine does not have.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ["cpu", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))]
        there += ["mps"] if torch.backends.mps.is_available() else []
        raise UserError(
            f"--device: expected a device of this machine ({', '.join(there)}) or auto, got {name!r}. "
            f"Use --device {there[-1]}."
        ) from error
    return str(torch.device(name))


def parse_workers(workers: int | None) -> int:
    """Return the number of workers: as given, or one for each core where it is None."""
    if workers is None:
        return usable_cores()
    if workers < 1:
        raise UserError(f"--workers: expected 1 or more, got {workers}.")
    return workers
