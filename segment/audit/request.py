"""The request for an audit: opened and checked as a whole, before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from factory.core.folder import library_versions
from manifests.checksums import SUMS
from manifests.dataset import Dataset, open_dataset
from manifests.errors import UserError
from manifests.files import sha256_file
from manifests.labels import LabelScheme
from segment.audit.annotated import AnnotatedCells, annotated_cells
from segment.audit.calibration import calibration_tiles
from segment.audit.flags import FEWEST_REAL_TILES
from segment.audit.stain_count import has_marker_regions, scheme_basis
from segment.data.sources import groups_of
from segment.network.head import has_instances
from segment.network.weights import Weights

FEW_TILES = 30
"""Fewest real tiles for a good estimate of the audit's own error."""

FINDINGS = 3
"""Version of the findings: raised when the same inputs give other ones, so that older folders are not resumed."""


@dataclass(frozen=True)
class TileSet:
    """Tiles to measure: the audited ones, or real ones whose labels are taken as right.

    Attributes:
        name: of its parts in the audit's folder. dataset: the rows. annotated: its annotated cells, if any.
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
        weights: of the segmenter. audited: the tiles in question. real: held-out real tiles, for the audit's own error.
        real_val: val splits of the same data sets, for the limit of agreement; empty where they are too few.
        stain_from: real IHC tiles for the calibration of the stain count, or None.
        out: the folder. split: of the audited tiles. notes: for the user, one line each.
    """

    weights: Weights
    audited: TileSet
    real: tuple[TileSet, ...]
    real_val: tuple[TileSet, ...]
    stain_from: Dataset | None
    out: Path
    split: str
    notes: tuple[str, ...]

    @property
    def tile_sets(self) -> tuple[TileSet, ...]:
        """All tiles to measure."""
        return (*self.real, *self.real_val, self.audited)

    @property
    def document(self) -> dict[str, Any]:
        """Everything that decides the findings; limits are applied to findings afterwards."""
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
        weights: of the segmenter. dataset: audited tiles. real: data sets whose test splits give the audit's own error.
        stain_from: real IHC; None takes the first of `real` with positive and negative cells, where TPS is audited.
        split: of the audited tiles, or "all". out: None for ``runs/audit/<name of the data set>``.
    """
    refuse_synthetic_training(weights)
    audited = _select(_open(dataset), split)
    refuse_scheme(weights, audited)
    refuse_seen(weights, audited)
    held_out = tuple(_open_real(path, weights, number) for number, path in enumerate(real))
    has_tumour = any(scheme.ids("tumour_positive") for scheme in audited.schemes)
    source = _choose_stain_source(stain_from, [tiles.dataset for tiles in held_out]) if has_tumour else None
    if stain_from is not None and not has_tumour:
        raise UserError(
            f"--stain-from: expected an audit of IHC tiles, got the scheme {audited.schemes[0].name}. Leave it out."
        )
    out = out or Path("runs/audit") / dataset.resolve().name
    notes = _notes(weights, audited, held_out, source, has_tumour)
    return Audit(weights, TileSet("audited", audited), held_out, _open_val(real, weights), source, out, split, notes)


def refuse_synthetic_training(weights: Weights) -> None:
    """Refuse a segmenter that may have been trained on synthetic tiles: it must be independent of them."""
    card = weights.card
    if card.get("mix") != "real" or "synth" in card.get("trained_on", {}) or card.get("sources", {}).get("synth"):
        raise UserError(
            f"{weights.path}: expected weights trained on real tiles only, got mix {card.get('mix', 'unknown')}. "
            "Train with segment train --mix real."
        )


def refuse_scheme(weights: Weights, dataset: Dataset) -> None:
    """Refuse a segmenter without classes of the tiles, and without nuclei that could be counted in their regions."""
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
    """Refuse tiles of groups that the segmenter was trained on."""
    shared = sorted(groups_of(dataset) & set(weights.card.get("groups", [])))
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


def _open_real(root: Path, weights: Weights, number: int) -> TileSet:
    """The test split of a real data set, for the audit's own error."""
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
    return TileSet(f"real-{number}", tested, annotated)


def _open_val(roots: Sequence[Path], weights: Weights) -> tuple[TileSet, ...]:
    """Val splits of real data sets with labels for an agreement, if they are enough for a limit."""
    opened = []
    for number, root in enumerate(roots):
        dataset = _open(root)
        tiles = dataset.where(pc.equal(dataset.table["split"], "val"))
        if len(tiles) and all(_has_agreement(scheme, weights.scheme) for scheme in tiles.schemes):
            opened.append(TileSet(f"val-{number}", tiles))
    return tuple(opened) if sum(len(one.dataset) for one in opened) >= FEWEST_REAL_TILES else ()


def _has_agreement(own: LabelScheme, weights: LabelScheme) -> bool:
    """Whether `Limits.agreement` can be measured on labels of a scheme: of nuclei where the weights have such."""
    return own.reads_as(weights) and (has_instances(own) or not has_instances(weights))


def _choose_stain_source(path: Path | None, real: Sequence[Dataset]) -> Dataset | None:
    """Tiles for the calibration of the stain count."""
    if path is not None:
        dataset = _open(path)
        if dataset.info.is_synthetic:
            raise UserError(f"{path}: expected real tiles to estimate stains from, got synthetic ones.")
        return calibration_tiles(dataset)
    for tested in real:
        if annotated_cells(tested) is not None:
            return calibration_tiles(_open(tested.root))
    return None


def _notes(
    weights: Weights, audited: Dataset, real: Sequence[TileSet], source: Dataset | None, has_tumour: bool
) -> tuple[str, ...]:
    notes = []
    if not real:
        notes.append(
            "no --real: the audit's own error is unknown, so a flag says that audit and tile disagree, not who is right"
        )
    elif sum(len(tiles.dataset) for tiles in real) < FEW_TILES:
        notes.append("few real tiles: the audit's own error is a rough figure")
    if has_tumour and source is None:
        how = "audited by the segmenter alone" if weights.scheme.ids("tumour_positive") else "not audited"
        notes.append(f"no real IHC (--real or --stain-from): stain is not counted, TPS is {how}")
    bases = {scheme_basis(scheme) for scheme in audited.schemes}
    if has_tumour and "area" in bases:
        notes.append(
            "TPS by area: stain cannot tell tumour from other tissue, so the mask's own tumour region is the "
            "denominator, and the threshold (Otsu) is not validated on annotated membranes"
        )
    if has_tumour and "nuclei" in bases:
        notes.append(
            "regions of a nuclear marker: the request is a share of the tumour's area, the audit a share of the nuclei "
            "counted in the mask's own tumour; how these two differ on real tiles is in the row 'area of the regions'"
        )
        notes += [
            f"{tiles.dataset.root}: its TPS is of marked cells and not of regions, so it says nothing of the "
            "audit's TPS; ingest it with the regions of the audited tiles"
            for tiles in real
            if "nuclei" not in {scheme_basis(scheme) for scheme in tiles.dataset.schemes}
        ]
    trained = weights.card.get("mpp", [])
    for tiles in (audited, *(one.dataset for one in real)):
        for mpp in tiles.table["mpp"].unique().to_pylist():
            if trained and not any(0.8 <= mpp / other <= 1.25 for other in trained):
                known = ", ".join(f"{other:g}" for other in trained)
                notes.append(f"{tiles.root}: {mpp:g} um/px, the weights know {known}: nuclei differ in size")
    return tuple(notes)
