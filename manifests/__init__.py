"""The contract of a tile data set: a Parquet manifest, a Zarr store, and their verification.

Needs numpy, pyarrow and zarr; never torch. Start with ``open_dataset(folder)``.
"""

from manifests.arrays import Arrays
from manifests.dataset import Dataset, Fault, Sample, open_dataset, verify
from manifests.errors import FaultError, UserError
from manifests.labels import IGNORE, SCHEMES, LabelClass, LabelScheme, get_scheme
from manifests.measure import Composition, measure
from manifests.schema import SCHEMA, SCHEMA_VERSION, DatasetInfo
from manifests.tile import Tile

__all__ = [
    "IGNORE",
    "SCHEMA",
    "SCHEMA_VERSION",
    "SCHEMES",
    "Arrays",
    "Composition",
    "Dataset",
    "DatasetInfo",
    "Fault",
    "FaultError",
    "LabelClass",
    "LabelScheme",
    "Sample",
    "Tile",
    "UserError",
    "get_scheme",
    "measure",
    "open_dataset",
    "verify",
]
