"""Numbers and words in messages: plurals, sizes with a fitting unit, and numbers in forms that people type."""

from __future__ import annotations

_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def plural(count: int, noun: str) -> str:
    """``1 shard``, ``2 shards``, ``1,000 tiles``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def file_size(count: float) -> str:
    """Bytes with the unit that fits: ``12 MB``, ``3.4 GB``."""
    for unit, name in _UNITS:
        if count >= unit:
            value = count / unit
            return f"{value:.0f} {name}" if value >= 100 else f"{value:.2g} {name}"
    return f"{count:.0f} bytes"


def read_number(text: str) -> float | None:
    """The finite number that a text means, in other forms too (``50%``, ``0,5``, ``1e6``); None where there is none."""
    try:
        number = float(text.rstrip("%").replace(",", "."))
    except ValueError:
        return None
    if number - number != 0:  # inf or nan
        return None
    return number / 100 if text.endswith("%") else number


def dry_run(need: int | None, where: object) -> str:
    """The last line of a dry run: nothing was written, and the room that the run needs, in bytes where it is known."""
    room = (
        f" The run needs about {file_size(need)} for {where}." if need is not None else f" The run writes to {where}."
    )
    return f"dry run: nothing was written.{room}"
