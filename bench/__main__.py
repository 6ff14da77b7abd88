"""`make bench`, or `python -m bench [NAME ...]`: run the benchmarks and print one table each."""

import importlib
import sys

NAMES = (
    "start", "store", "malloc", "make", "metrics", "loading", "training", "masks", "layouts", "images", "renders",
    "drawing", "exemplar", "nuclear_maps", "labelling", "stylegan2", "export", "memory",
    "scale",
)  # fmt: skip


def main() -> None:
    """Run the named benchmarks, or all."""
    for name in sys.argv[1:] or NAMES:
        if name not in NAMES:
            sys.exit(f"error: bench: expected one of {', '.join(NAMES)}, got {name!r}.")
        print(f"\n== {name}: {(importlib.import_module(f'bench.{name}').__doc__ or '').splitlines()[0]}", flush=True)
        importlib.import_module(f"bench.{name}").main()


if __name__ == "__main__":
    main()
