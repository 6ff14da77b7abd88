"""The tiles that an audit let pass as a data set: the rows of its `accepted.parquet`, the pixels where they were."""

from __future__ import annotations

import json
from pathlib import Path

from manifests.checksums import SUMS
from manifests.dataset import Dataset, open_dataset
from manifests.errors import UserError
from manifests.files import sha256_file

ACCEPTED, SUMMARY = "accepted.parquet", "audit.json"


def open_accepted(path: Path) -> Dataset:
    """Open the accepted rows of an audit.

    Args:
        path: the audit's ``accepted.parquet``; the summary beside it says of which data set, and of which bytes.

    Raises:
        UserError: when there is no such summary, or the data set is another by now.
    """
    summary = path.parent / SUMMARY
    try:
        document = json.loads(summary.read_text(encoding="utf-8"))
        root, sha256 = Path(document["dataset"]), str(document["inputs"]["audited"]["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: expected {ACCEPTED} of an audit with {SUMMARY} beside it, got {type(error).__name__}. Name the "
            "folder of a data set, or run segment audit."
        ) from error
    if not (root / SUMS).is_file():
        raise UserError(f"{path}: expected the audited data set in {root}, got none. Run this where it was audited.")
    if sha256_file(root / SUMS) != sha256:
        raise UserError(f"{path}: expected {root} as it was audited, got other files. Audit it again.")
    return open_dataset(root, path)
