"""A factory for labelled pathology tiles: plan, draw masks, render, store, verify.

`make`, `render` and `ingest` are the commands of the same names as functions; see `factory.api`.
"""

from typing import TYPE_CHECKING

# The two packages are imported first: the import of a package later would put it in the place of the function that has
# its name. They hold nothing but a docstring.
import factory.ingest
import factory.make  # noqa: F401
from factory.api import ingest, make, render

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        """Look up ``__version__`` on first use, as that takes longer than all the rest."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import version

        return version("pathology-tile-factory")


__all__ = ["__version__", "ingest", "make", "render"]
