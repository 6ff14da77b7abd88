"""Sources of training tiles: data sets by role, their common scheme, and checks against leaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from factory.core.datasets import real_groups_of
from factory.core.leaks import tested_groups_among
from manifests.checksums import SUMS
from manifests.dataset import Dataset, open_dataset
from manifests.errors import UserError
from manifests.files import sha256_file
from manifests.labels import LabelScheme, common_scheme, get_scheme
from manifests.limits import read_json
from manifests.schema import ACHIEVED
from segment.data.mixing import Mix, Role

_READ = (
    "split", "group_id", "source_uri", "source_x", "source_y", "source_level", "real_pixels", "real_groups", "licence",
    *ACHIEVED,
)  # fmt: skip
"""Columns that are kept in memory besides those that name a tile; without digests and requests, most of the bytes."""

ACCEPTED, SUMMARY, AUDIT = "accepted.parquet", "audit.json", "audit.parquet"
"""Files of an audit: rows without flags, its summary, and the figures of every tile."""


@dataclass(frozen=True)
class Source:
    """One data set and its role.

    Attributes:
        role: real or synth. dataset: its rows. accepted: the ``accepted.parquet`` of an audit; None for all rows.
    """

    role: Role
    dataset: Dataset
    accepted: Path | None = None

    @property
    def path(self) -> Path:
        """Path that was opened: the folder, or the accepted rows of an audit."""
        return self.accepted or self.dataset.root

    def split(self, name: str) -> Dataset:
        """The rows of a split; rows without one belong to train."""
        return self.dataset.where(pc.equal(pc.fill_null(self.dataset.table["split"], "train"), name))

    def groups(self, split: str) -> set[str]:
        """Patients or slides of a split."""
        return groups_of(self.split(split))

    @property
    def sha256(self) -> str:
        """Fingerprint of the data set: sha256 of its SHA256SUMS."""
        return sha256_file(self.dataset.root / SUMS)

    @property
    def fingerprint(self) -> str:
        """`sha256`, with that of the accepted rows of an audit."""
        return self.sha256 if self.accepted is None else f"{self.sha256} {sha256_file(self.accepted)}"


def groups_of(dataset: Dataset) -> set[str]:
    """Patients or slides of a data set."""
    return {group for group in dataset.table["group_id"].unique().to_pylist() if group is not None}


def open_sources(mix: Mix, real: Path, synth: Path) -> list[Source]:
    """Open the finished data sets of a mix: folders, or the ``accepted.parquet`` of an audit."""
    sources = []
    for role, folder in (("real", real), ("synth", synth)):
        if role not in mix.roles:
            continue
        if not folder.exists():
            kind = "real" if role == "real" else "synthetic"
            make = f"factory ingest IMAGES --out {folder}" if role == "real" else f"factory make --out {folder}"
            other = "--mix synth" if role == "real" else "--mix real"
            raise UserError(
                f"{folder}: expected a data set of {kind} tiles, got no such folder. "
                f"Make one with {make} (see its --help), name another with --{role}, or use {other}."
            )
        accepted = folder if folder.is_file() else None
        dataset = open_accepted(folder) if accepted else open_dataset(folder, columns=_READ)
        if not (dataset.root / SUMS).is_file():
            raise UserError(f"{folder}: expected a finished data set, got one without {SUMS}. Run its command again.")
        if not len(dataset):
            raise UserError(f"{folder}: expected tiles, got none.")
        if role == "real" and dataset.info.is_synthetic:
            raise UserError(f"{folder}: expected real tiles, got synthetic ones. Name it with --synth.")
        if role == "synth" and not dataset.info.is_synthetic:
            raise UserError(f"{folder}: expected synthetic tiles, got real ones. Name it with --real.")
        sources.append(Source(role, dataset, accepted))
    return sources


def choose_scheme(sources: Sequence[Source], name: str | None) -> LabelScheme:
    """The named scheme, or the richest one; all sources must project onto it."""
    schemes = [scheme for source in sources for scheme in source.dataset.schemes]
    if name is None:
        return common_scheme(schemes)
    scheme = next((scheme for scheme in schemes if scheme.name == name), None) or get_scheme(name)
    for own in schemes:
        own.projection(scheme)
    return scheme


def projections(dataset: Dataset, scheme: LabelScheme) -> dict[str, npt.NDArray[np.uint8]]:
    """Look-up table uint8 [256] onto `scheme` for each scheme of the data set, by name."""
    return {own.name: own.projection(scheme) for own in dataset.schemes}


def check_leaks(sources: Sequence[Source]) -> None:
    """Refuse to train on groups that are validated or tested on.

    A group (patient, slide) of real tiles must be in one split only. No synthetic tile may come from a group of the
    real test split, neither by its row's group, nor by the groups whose pixels it holds, nor by the data that its
    generator was trained on or fitted to.
    """
    real = [source for source in sources if source.role == "real"]
    for source in real:
        for split in ("val", "test"):
            shared = sorted(source.groups("train") & source.groups(split))
            if shared:
                raise UserError(
                    f"{source.dataset.root}: expected every group in one split, got {shared[0]!r} in train and {split} "
                    f"({len(shared)} such). Split by group."
                )
    tested = {group for source in real for group in source.groups("test")}
    for source in sources:
        if source.role == "synth":
            own = source.dataset
            listed = [*own.info.training_sources, *real_groups_of(own.table), *source.groups("train")]
            refuse_tested_groups(str(own.root), listed, tested)


def refuse_tested_groups(where: str, sources: Sequence[str], tested: set[str]) -> None:
    """Refuse sources that name a tested group, alone or at the start of a file name (``p1`` in ``p1-a.png``).

    Args:
        where: name for an error. sources: groups and sources of a generator. tested: group ids of a test split.
    """
    shared = tested_groups_among(sources, tested)
    if shared:
        raise UserError(
            f"{where}: expected nothing that comes from the test split, got its group {shared[0]!r} "
            f"({len(shared)} such) among the sources. Make it again without that group."
        )


def open_accepted(path: Path) -> Dataset:
    """Open the accepted rows of an audit.

    Args:
        path: the audit's ``accepted.parquet``; the summary beside it names the data set and its sha256.
    """
    summary = path.parent / SUMMARY
    try:
        document = read_json(summary)
        root, sha256 = Path(document["dataset"]), str(document["inputs"]["audited"]["sha256"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path}: expected {ACCEPTED} of an audit with {SUMMARY} beside it, got {type(error).__name__}. Name the "
            "folder of a data set, or run segment audit."
        ) from error
    if not (root / SUMS).is_file():
        raise UserError(f"{path}: expected the audited data set in {root}, got none. Run this where it was audited.")
    if sha256_file(root / SUMS) != sha256:
        raise UserError(f"{path}: expected {root} as it was audited, got other files. Audit it again.")
    return open_dataset(root, path, _READ)
