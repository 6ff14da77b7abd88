"""One audit as it is asked for: everything that can be refused is refused here, before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from factory.core.runs import library_versions
from manifests.checksums import SUMS
from manifests.dataset import Dataset, open_dataset
from manifests.errors import UserError
from manifests.files import sha256_file
from manifests.labels import LabelScheme
from segment.audit.annotated import AnnotatedCells, annotated_cells
from segment.audit.calibration import calibration_tiles
from segment.audit.counting import has_marker_regions, scheme_basis
from segment.audit.verdict import FEWEST_REAL_TILES
from segment.network.head import has_instances
from segment.network.weights import Weights

FEW_TILES = 30
"""Below this many real tiles, the audit's own error is a rough figure."""

FINDINGS = 3
"""Raised when the same inputs give other findings, so that an older audit's folder is not gone on with."""


@dataclass(frozen=True)
class Inspected:
    """Tiles to look at: the audited ones, or real ones whose labels are taken as right.

    Attributes:
        name: of its parts in the audit's folder. dataset: the rows. annotated: points of cells, where it has such.
    """

    name: str
    dataset: Dataset
    annotated: AnnotatedCells | None = None

    @property
    def groups(self) -> list[str]:
        """Patient or slide of every tile; a tile without one is its own."""
        columns = (self.dataset.table[name].to_pylist() for name in ("group_id", "sample_id"))
        return [sample if group is None else group for group, sample in zip(*columns, strict=True)]


@dataclass(frozen=True)
class Audit:
    """An audit that is ready to start.

    Attributes:
        weights: the segmenter. audited: the tiles in question. real: held-out real tiles, for the audit's own error.
        real_val: of the same data sets the val splits, for the limit of agreement; empty where they are too few.
        stain_from: real IHC tiles that the stain count is calibrated on, None without one.
        out: the folder. split: of the audited tiles. notes: what a person should know, one line each.
    """

    weights: Weights
    audited: Inspected
    real: tuple[Inspected, ...]
    real_val: tuple[Inspected, ...]
    stain_from: Dataset | None
    out: Path
    split: str
    notes: tuple[str, ...]

    @property
    def inspected(self) -> tuple[Inspected, ...]:
        """All tiles to look at."""
        return (*self.real, *self.real_val, self.audited)

    @property
    def document(self) -> dict[str, Any]:
        """What decides the findings. The bounds are not in it: they are applied to findings afterwards."""
        return {
            "findings": FINDINGS,
            "audited": {"sha256": sha256_file(self.audited.dataset.root / SUMS), "split": self.split},
            "weights": sha256_file(self.weights.path),
            "real": [sha256_file(real.dataset.root / SUMS) for real in self.real],
            "stain_from": None if self.stain_from is None else sha256_file(self.stain_from.root / SUMS),
            "versions": library_versions("torch", "numpy", "opencv-python-headless"),
        }


def prepare(
    weights: Weights,
    dataset: Path,
    *,
    real: Sequence[Path] = (),
    stain_from: Path | None = None,
    split: str = "all",
    out: Path | None = None,
) -> Audit:
    """Open and check everything; writes nothing.

    Args:
        weights: the segmenter. dataset: what is audited. real: data sets whose test splits give the audit's own error.
        stain_from: real IHC; None takes the first of `real` with positive and negative cells, where TPS is audited.
        split: of the audited tiles, or "all". out: None for ``runs/audit/<name of the data set>``.

    Raises:
        UserError: for whatever is wrong with the request or the data.
    """
    refuse_synthetic_training(weights)
    audited = _select(_open(dataset), split)
    refuse_scheme(weights, audited)
    refuse_seen(weights, audited)
    held_out = tuple(_open_real(path, weights, number) for number, path in enumerate(real))
    wants_stain = any(scheme.ids("tumour_positive") for scheme in audited.schemes)
    source = _choose_stain_source(stain_from, [inspected.dataset for inspected in held_out]) if wants_stain else None
    if stain_from is not None and not wants_stain:
        raise UserError(
            f"--stain-from: expected an audit of IHC tiles, got the scheme {audited.schemes[0].name}. Leave it out."
        )
    out = out or Path("runs/audit") / dataset.resolve().name
    notes = _notes(weights, audited, held_out, source, wants_stain)
    return Audit(weights, Inspected("audited", audited), held_out, _open_val(real, weights), source, out, split, notes)


def refuse_synthetic_training(weights: Weights) -> None:
    """A judge of synthetic tiles must never have seen one.

    Raises:
        UserError: for weights that were trained on synthetic tiles, or whose card does not say on what.
    """
    card = weights.card
    if card.get("mix") != "real" or "synth" in card.get("trained_on", {}) or card.get("sources", {}).get("synth"):
        raise UserError(
            f"{weights.path}: expected weights trained on real tiles only, got mix {card.get('mix', 'unknown')}. "
            "Train a judge with segment train --mix real."
        )


def refuse_scheme(weights: Weights, dataset: Dataset) -> None:
    """A judge must speak of classes that the tiles have, or find the nuclei that are counted in their regions.

    Raises:
        UserError: naming the scheme of the weights, and those that the masks read as.
    """
    for own in dataset.schemes:
        finds_nuclei = has_marker_regions(own) and has_instances(weights.scheme)
        if not finds_nuclei and not own.reads_as(weights.scheme):
            nuclei = ["any with nuclei"] if has_marker_regions(own) else []
            known = ", ".join([own.name, *sorted(own.projections), *nuclei])
            raise UserError(
                f"{weights.path}: expected weights of a scheme that the masks of {dataset.root} read as ({known}), got "
                f"{weights.scheme.name}. Use other --weights."
            )


def refuse_seen(weights: Weights, dataset: Dataset) -> None:
    """A judge must not have seen what it judges.

    Raises:
        UserError: naming the first patient or slide that the weights were trained or validated on.
    """
    groups = {group for group in dataset.table["group_id"].unique().to_pylist() if group is not None}
    shared = sorted(groups & set(weights.card.get("groups", [])))
    if shared:
        raise UserError(
            f"{dataset.root}: expected tiles of groups that the weights never saw, got {shared[0]!r} ({len(shared)} "
            "such). Use other weights, or another split."
        )


def _open(root: Path) -> Dataset:
    if not root.exists():
        raise UserError(f"{root}: expected a data set, got no such folder. Make one with factory make or ingest.")
    dataset = open_dataset(root)
    if not (root / SUMS).is_file():
        raise UserError(f"{root}: expected a finished data set, got one without {SUMS}. Run its command again.")
    return dataset


def _select(dataset: Dataset, split: str) -> Dataset:
    if split != "all":
        dataset = dataset.where(pc.equal(pc.fill_null(dataset.table["split"], "train"), split))
    if not len(dataset):
        raise UserError(f"{dataset.root}: expected tiles with split {split}, got none. Choose another --split.")
    return dataset


def _open_real(root: Path, weights: Weights, number: int) -> Inspected:
    """The test split of a real data set that the audit can be held to."""
    dataset = _open(root)
    if dataset.info.is_synthetic:
        raise UserError(f"{root}: expected real tiles, got synthetic ones. Name ingested tiles with --real.")
    tested = dataset.where(pc.equal(dataset.table["split"], "test"))
    if not len(tested):
        raise UserError(f"{root}: expected tiles with split test for the audit's own error, got none.")
    annotated = annotated_cells(tested)
    known = has_instances(weights.scheme) and annotated is not None
    if not known and not all(scheme.reads_as(weights.scheme) for scheme in tested.schemes):
        raise UserError(
            f"{root}: expected labels that read as {weights.scheme.name}, or positive and negative cells, got scheme "
            f"{tested.schemes[0].name}. Name another with --real."
        )
    refuse_seen(weights, tested)
    return Inspected(f"real-{number}", tested, annotated)


def _open_val(roots: Sequence[Path], weights: Weights) -> tuple[Inspected, ...]:
    """The val splits of real data sets whose labels an agreement can be measured on, if they are enough for a limit."""
    opened = []
    for number, root in enumerate(roots):
        dataset = _open(root)
        tiles = dataset.where(pc.equal(dataset.table["split"], "val"))
        if len(tiles) and all(_shows_agreement(scheme, weights.scheme) for scheme in tiles.schemes):
            opened.append(Inspected(f"val-{number}", tiles))
    return tuple(opened) if sum(len(one.dataset) for one in opened) >= FEWEST_REAL_TILES else ()


def _shows_agreement(own: LabelScheme, weights: LabelScheme) -> bool:
    """Whether `Limits.agreement` can be measured on labels of a scheme: nuclei where the weights know them."""
    return own.reads_as(weights) and (has_instances(own) or not has_instances(weights))


def _choose_stain_source(asked: Path | None, real: Sequence[Dataset]) -> Dataset | None:
    """The tiles that the stain count is calibrated on."""
    if asked is not None:
        dataset = _open(asked)
        if dataset.info.is_synthetic:
            raise UserError(f"{asked}: expected real tiles to estimate stains from, got synthetic ones.")
        return calibration_tiles(dataset)
    for tested in real:
        if annotated_cells(tested) is not None:
            return calibration_tiles(_open(tested.root))
    return None


def _notes(
    weights: Weights, audited: Dataset, real: Sequence[Inspected], source: Dataset | None, wants_stain: bool
) -> tuple[str, ...]:
    notes = []
    if not real:
        notes.append(
            "no --real: the audit's own error is unknown, so a flag says that judge and tile disagree, not who is right"
        )
    elif sum(len(inspected.dataset) for inspected in real) < FEW_TILES:
        notes.append("few real tiles: the audit's own error is a rough figure")
    if wants_stain and source is None:
        who = "by the segmenter alone" if weights.scheme.ids("tumour_positive") else "by nobody: no TPS is audited"
        notes.append(f"no real IHC (--real or --stain-from): stain is not counted, TPS is judged {who}")
    bases = {scheme_basis(scheme) for scheme in audited.schemes}
    if wants_stain and "area" in bases:
        notes.append(
            "TPS by area: stain cannot tell tumour from other tissue, so the mask's own tumour region is the "
            "denominator, and the threshold (Otsu) is not validated on annotated membranes"
        )
    if wants_stain and "nuclei" in bases:
        notes.append(
            "regions of a nuclear marker: the request is a share of the tumour's area, the audit a share of the nuclei "
            "counted in the mask's own tumour; how these two differ on real tiles is in the row 'area of the regions'"
        )
        notes += [
            f"{inspected.dataset.root}: its TPS is of marked cells and not of regions, so it says nothing of the "
            "audit's TPS; ingest it with the regions of the audited tiles"
            for inspected in real
            if "nuclei" not in {scheme_basis(scheme) for scheme in inspected.dataset.schemes}
        ]
    trained = weights.card.get("mpp", [])
    for inspected in (audited, *(one.dataset for one in real)):
        for mpp in inspected.table["mpp"].unique().to_pylist():
            if trained and not any(0.8 <= mpp / other <= 1.25 for other in trained):
                said = ", ".join(f"{other:g}" for other in trained)
                notes.append(f"{inspected.root}: {mpp:g} um/px, the weights know {said}: nuclei differ in size")
    return tuple(notes)
