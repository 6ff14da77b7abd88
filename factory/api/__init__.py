"""Python functions with the meaning of the commands: `factory.make`, `factory.render` and `factory.ingest`.

They take the options of the commands under the same names, write the same bytes, raise `manifests.errors.UserError` for
what the commands refuse, and return the finished data set. Importing them imports neither torch, zarr nor dask.
"""

from factory.api.ingest import ingest
from factory.api.make import make
from factory.api.render import render

__all__ = ["ingest", "make", "render"]
