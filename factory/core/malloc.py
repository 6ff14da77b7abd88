"""Keep freed memory in the process: on glibc, large activations otherwise go back to the system after every layer.

Page faults on memory that is returned and requested again dominate CPU inference and training. Outputs are the same bit
for bit; `python -m bench malloc` measures the gain and the memory.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_TOP_PAD_BYTES = 64 << 20


def keep_freed_memory() -> bool:
    """Tell glibc's malloc not to return memory to the system; False with another C library."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, _TOP_PAD_BYTES))
    return min(mallopt(option, value) for option, value in settings) == 1
