"""Decorator of numba kernels, with a cache on disk where a folder can be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

Kernel = Callable[..., Any]  # numba takes other types than the annotations say: scalars and arrays of its own


def compiled(*, fastmath: bool = False) -> Callable[[Kernel], Kernel]:
    """Compile a function on its first call for types, without the interpreter's lock, and keep the machine code.

    numba keeps it in `NUMBA_CACHE_DIR` where that is set, else in the package's `__pycache__`, else in the user's
    cache. Where none of them can be written (an installation owned by root under a user without a home, as containers
    have it), numba's own decorator raises while the module is imported. Here every process then compiles anew, which
    costs seconds.

    Args:
        fastmath: let the compiler reorder floating-point arithmetic.
    """

    def decorate(function: Kernel) -> Kernel:
        try:
            kernel: Kernel = numba.njit(cache=True, nogil=True, fastmath=fastmath)(function)
        except RuntimeError as error:
            if "no locator available" not in str(error):
                raise
            kernel = numba.njit(nogil=True, fastmath=fastmath)(function)
        return kernel

    return decorate
