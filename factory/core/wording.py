"""Numbers and words in messages: plurals, sizes with a fitting unit, and numbers in forms that people type."""

from __future__ import annotations

from collections.abc import Iterable

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


def duration(seconds: float) -> str:
    """A time with the unit that fits: ``40 s``, ``4 min``, ``2.5 h``."""
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * unit:
            return f"{seconds / unit:.2g} {name}" if seconds < 10 * unit else f"{seconds / unit:.0f} {name}"
    return f"{max(seconds, 1):.0f} s"


def dry_run(need: float, where: object, seconds: float | None = None, workers: int | None = None) -> str:
    """The last line of a dry run: nothing was written, and what the run needs.

    Args:
        need: room on the disk in bytes. where: folder or file that is written.
        seconds: time of the run, None where it is not estimated. workers: that share the work.
    """
    on = f" on {plural(workers, 'worker')}" if workers else ""
    time = "; its time is not estimated" if seconds is None else f" and about {duration(seconds)}{on}"
    return f"dry run: nothing was written. The run needs about {file_size(need)} for {where}{time}."


def grouped(lines: Iterable[str], names: int) -> list[str]:
    """Lines ``where: what`` of one `what` as one: the first places by name, and how many more there are."""
    places: dict[str, list[str]] = {}
    for line in lines:
        where, _, what = line.partition(": ")
        places.setdefault(what, []).append(where)
    return [
        f"{', '.join(where[:names])}{f' and {len(where) - names} more' if len(where) > names else ''}: {what}"
        for what, where in places.items()
    ]
