"""The tests.

They compute with one thread each, as do the processes that they start: pytest-xdist starts a process for each core, and
threads without a core of their own spend more time waiting for each other than working. A test of threads sets them.
"""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
