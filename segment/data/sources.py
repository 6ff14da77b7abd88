"""Where training tiles come from: data sets by role, their common scheme, and the guards against leaks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from factory.core.leaks import tested_groups_among
from manifests.checksums import SUMS
from manifests.dataset import Dataset, open_dataset
from manifests.errors import UserError
from manifests.files import sha256_file
from manifests.labels import LabelScheme, common_scheme, get_scheme
from segment.data.accepted import open_accepted

Role = Literal["real", "synth"]


@dataclass(frozen=True)
class Mix:
    """Which data sets a batch stream draws from.

    Attributes:
        roles: real, synth or both.
        synth_share: share of synthetic tiles in the stream; None weighs the two by their pixels.
    """

    roles: tuple[Role, ...]
    synth_share: float | None = None


def parse_mix(text: str) -> Mix:
    """``real``, ``synth``, ``real+synth`` or ``real+synth:0.3`` (the share of synthetic tiles).

    Raises:
        UserError: for anything else.
    """
    plain: dict[str, Mix] = {
        "real": Mix(("real",), 0.0),
        "synth": Mix(("synth",), 1.0),
        "real+synth": Mix(("real", "synth")),
    }
    if text in plain:
        return plain[text]
    match = re.fullmatch(r"real\+synth:(\d*\.?\d+)", text)
    if match and 0 < float(match[1]) < 1:
        return Mix(("real", "synth"), float(match[1]))
    raise UserError(
        f"--mix: expected real, synth, real+synth or real+synth:SHARE with a share of synthetic tiles between 0 and 1, "
        f"got {text!r}. Write for example --mix real+synth:0.3."
    )


@dataclass(frozen=True)
class Source:
    """One data set and the part it plays.

    Attributes:
        role: real or synth. dataset: its rows. accepted: the ``accepted.parquet`` of an audit that chose them, None for
            all.
    """

    role: Role
    dataset: Dataset
    accepted: Path | None = None

    @property
    def path(self) -> Path:
        """What it was opened by: the folder, or the rows that an audit accepted."""
        return self.accepted or self.dataset.root

    def split(self, name: str) -> Dataset:
        """The rows of a split; rows without one belong to train."""
        return self.dataset.where(pc.equal(pc.fill_null(self.dataset.table["split"], "train"), name))

    def groups(self, split: str) -> set[str]:
        """Patients or slides of a split."""
        return {group for group in self.split(split).table["group_id"].unique().to_pylist() if group is not None}

    @property
    def sha256(self) -> str:
        """Fingerprint of the data set: sha256 of its SHA256SUMS."""
        return sha256_file(self.dataset.root / SUMS)

    @property
    def fingerprint(self) -> str:
        """`sha256`, and that of the accepted rows where an audit chose them."""
        return self.sha256 if self.accepted is None else f"{self.sha256} {sha256_file(self.accepted)}"


def open_sources(mix: Mix, real: Path, synth: Path) -> list[Source]:
    """Open the data sets that a mix asks for: folders, or the ``accepted.parquet`` of an audit.

    Raises:
        UserError: when one is missing or unfinished; the line says how to make it.
    """
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
        dataset = open_accepted(folder) if accepted else open_dataset(folder)
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
    """The scheme asked for, or the richest that all sources read as.

    Raises:
        UserError: when a source does not read as it, or there is none.
    """
    schemes = [scheme for source in sources for scheme in source.dataset.schemes]
    if name is None:
        return common_scheme(schemes)
    scheme = next((scheme for scheme in schemes if scheme.name == name), None) or get_scheme(name)
    for own in schemes:
        own.projection(scheme)
    return scheme


def projections(dataset: Dataset, scheme: LabelScheme) -> dict[str, npt.NDArray[np.uint8]]:
    """Look-up table uint8 [256] onto `scheme` for each scheme that rows of the data set have."""
    return {own.name: own.projection(scheme) for own in dataset.schemes}


def check_leaks(sources: Sequence[Source]) -> None:
    """Refuse to train on what is validated or tested on (promise 13).

    A group (patient, slide) of real tiles is in one split only, and no synthetic tile comes from a group of the real
    test split, neither by its row's group nor by the sources that its generator was trained on or fitted to.

    Raises:
        UserError: naming the group.
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
            listed = [*source.dataset.info.training_sources, *source.groups("train")]
            refuse_tested_groups(str(source.dataset.root), listed, tested)


def refuse_tested_groups(where: str, sources: Sequence[str], tested: set[str]) -> None:
    """Raise when a source names a tested group, alone or as the beginning of a file's name (``p1`` in ``p1-a.png``).

    Args:
        where: what is refused. sources: groups and generator sources behind it. tested: group ids of a test split.

    Raises:
        UserError: naming the group.
    """
    shared = tested_groups_among(sources, tested)
    if shared:
        raise UserError(
            f"{where}: expected nothing that comes from the test split, got its group {shared[0]!r} "
            f"({len(shared)} such) among the sources. Make it again without that group."
        )
