"""Flags of tiles and their summary: limits, partly from real tiles, and the figures of several findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from segment.audit.auditor import REGION_COUNTS, Finding, TpsMethod, is_validated
from segment.audit.calibration import StainCalibration
from segment.audit.relation import compare_regions, relate

FEWEST_REAL_TILES = 20
"""Fewest real tiles for a limit: of fewer, the 5th percentile is the worst tile."""

REAL_PERCENTILE = 5.0
"""Percentile of the agreement on real tiles that becomes the limit: one right tile in twenty is below."""

_ROUNDING = 1e-9
"""Tolerance for differences of binary fractions: 0.4 - 0.3 is above 0.1, and 0.3 - 0.2 below."""

AGREEMENT = ("aji", "pq", "dice", "mean_iou", "pixel_accuracy", "class_agreement", "stain_agreement")


@dataclass(frozen=True)
class Limits:
    """Limits that a tile must meet.

    Attributes:
        bound: largest allowed |requested TPS - audited TPS|.
        agreement: metric of the agreement of image and mask: "aji", "mean_iou" without nuclei.
        least_agreement: its smallest allowed value, None for no limit.
        origin: source of that limit, for readers.
        source: the same as "asked", "val" or "test" (splits of the real tiles), None for no limit. With a limit from
            "test", one test tile in twenty is below by construction.
        rejects_by_tps: whether a tile beyond the bound is flagged: only where the TPS method `has_evidence`.
    """

    bound: float
    agreement: str
    least_agreement: float | None
    origin: str
    source: str | None
    rejects_by_tps: bool = True


def column(findings: Sequence[Finding], name: str) -> npt.NDArray[np.float64]:
    """One figure of every finding: float64 [N], NaN where it has no meaning."""
    return np.array([getattr(finding, name) for finding in findings], np.float64)


def tps_difference(findings: Sequence[Finding], name: str = "audited_tps") -> npt.NDArray[np.float64]:
    """Measured minus claimed TPS: float64 [N]. `name` is the column of the measured TPS."""
    return column(findings, name) - column(findings, "claimed_tps")


def has_evidence(method: TpsMethod | None, stain: StainCalibration | None, real: Sequence[Finding]) -> bool:
    """Whether the TPS method was compared with real cells or tumour; without that it rejects no tile.

    Args:
        method: of TPS. stain: calibration of the stain count, which may be validated on annotated cells.
        real: findings on real tiles; the evidence for the segmenter is its error on those whose TPS is known.
    """
    if method is None:
        return False
    if method.name == "stain":
        return is_validated(stain, method.bases)
    return bool((~np.isnan(tps_difference(real))).any())


def limits(
    bound: float,
    least: float | None,
    real: Sequence[Finding],
    val: Sequence[Finding] = (),
    *,
    has_nuclei: bool,
    rejects_by_tps: bool = True,
) -> Limits:
    """The limits of an audit.

    Args:
        bound: of the TPS. least: of the agreement, as requested; None derives it from the real tiles.
        real: findings on real tiles of test splits, which may be empty; they give a limit where `val`, findings on val
            splits, are too few. has_nuclei: whether the weights have classes of nuclei.
        rejects_by_tps: as in `Limits`.
    """
    name = "aji" if has_nuclei else "mean_iou"
    if least is not None:
        return Limits(bound, name, least, "as asked", "asked", rejects_by_tps)
    most = 0
    for split, findings in (("val", val), ("test", real)):
        values = column(findings, name)
        values = values[~np.isnan(values)]
        if values.size >= FEWEST_REAL_TILES:
            origin = f"{REAL_PERCENTILE:g}th percentile on {values.size} real {split} tiles"
            return Limits(bound, name, float(np.percentile(values, REAL_PERCENTILE)), origin, split, rejects_by_tps)
        most = max(most, values.size)
    origin = f"no limit: {most} real tiles of one split with this figure, {FEWEST_REAL_TILES} needed"
    return Limits(bound, name, None, origin, None, rejects_by_tps)


def is_beyond(findings: Sequence[Finding], bound: float) -> npt.NDArray[np.bool_]:
    """Whether the audited TPS differs from the claimed one by more than the bound; False where either is unknown."""
    beyond: npt.NDArray[np.bool_] = np.abs(tps_difference(findings)) > bound + _ROUNDING
    return beyond


def has_nothing_to_count(findings: Sequence[Finding]) -> npt.NDArray[np.bool_]:
    """Whether a tile claims a TPS, but the TPS method found nothing to count: no tumour, or no nucleus."""
    is_audited = np.array([finding.tps_method is not None for finding in findings], bool)
    return is_audited & np.isnan(column(findings, "audited_tps")) & ~np.isnan(column(findings, "claimed_tps"))


def flag_tiles(findings: Sequence[Finding], limits: Limits) -> list[list[str]]:
    """Flags of each tile: "tps" or "no_tps", and "aji" or "mean_iou"; empty for an accepted tile.

    "tps": beyond the bound. "no_tps": as `has_nothing_to_count`. "aji", "mean_iou": agreement below the limit.
    """
    beyond, nothing = is_beyond(findings, limits.bound), has_nothing_to_count(findings)
    agreement = column(findings, limits.agreement)
    least = -np.inf if limits.least_agreement is None else limits.least_agreement
    flags = []
    for row in range(len(findings)):
        found = {
            "tps": limits.rejects_by_tps and beyond[row],
            "no_tps": limits.rejects_by_tps and nothing[row],
            limits.agreement: agreement[row] < least,
        }
        flags.append([name for name, is_flagged in found.items() if is_flagged])
    return flags


def summarise(findings: Sequence[Finding], flags: Sequence[Sequence[str]], groups: Sequence[str]) -> dict[str, object]:
    """Figures of several tiles: agreement (mean, 5th percentile), TPS by method, counts, and flags by kind.

    "no_tps" counts the tiles of `has_nothing_to_count`, flagged or not. "relation" compares claimed and audited TPS,
    "relation_of_mask" the TPS of the mask's regions and the audited one, where a mask also has annotated cells.
    "placement" has the regions of the stained nuclei.
    """
    return {
        "tiles": len(findings),
        "agreement": {name: stats for name in AGREEMENT if (stats := _spread(column(findings, name)))},
        "tps": {
            name: stats
            for name in ("audited_tps", "tps_stain", "tps_segmenter")
            if (stats := _errors(tps_difference(findings, name)))
        },
        "no_tps": int(np.count_nonzero(has_nothing_to_count(findings))),
        "count": {
            name: stats
            for name in ("nuclei_found", "stain_nuclei")
            if (stats := _errors(_relative(column(findings, name), column(findings, "nuclei_claimed"))))
        },
        **_relations(findings, groups),
        "flagged": sum(bool(found) for found in flags),
        "flags": dict(Counter(name for found in flags for name in found)),
    }


def _relations(findings: Sequence[Finding], groups: Sequence[str]) -> dict[str, object]:
    """Relation of audited TPS to the claims, and placement of the stain, as far as the tiles have them."""
    audited, claimed = column(findings, "audited_tps"), column(findings, "claimed_tps")
    # A requested mask has its requested TPS. Only with annotated cells can mask and claim differ.
    of_real = np.isnan(column(findings, "requested_tps")) & ~np.isnan(claimed)
    mask = np.where(of_real, column(findings, "mask_tps"), np.nan)
    mask = mask if (np.abs(mask - claimed) > _ROUNDING).any() else np.full_like(mask, np.nan)
    # [N, 4]: nuclei and stained ones of either region
    counts = np.stack([column(findings, name) for name in REGION_COUNTS], axis=1)
    found = {
        "relation": relate(claimed, audited, groups),
        "relation_of_mask": relate(mask, audited, groups),
        "placement": compare_regions(counts[:, 0::2], counts[:, 1::2], groups),
    }
    return {name: asdict(result) for name, result in found.items() if result is not None}


def _relative(found: npt.NDArray[np.float64], claimed: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(found - claimed) / claimed, NaN where the claim is 0."""
    relative = np.full(found.shape, np.nan)
    np.divide(found - claimed, claimed, out=relative, where=claimed > 0)
    return relative


def _spread(values: npt.NDArray[np.float64]) -> Mapping[str, float] | None:
    known = values[~np.isnan(values)]
    if not known.size:
        return None
    return {
        "tiles": int(known.size),
        "mean": float(known.mean()),
        "p5": float(np.percentile(known, REAL_PERCENTILE)),
    }


def _errors(differences: npt.NDArray[np.float64]) -> Mapping[str, float] | None:
    known = differences[~np.isnan(differences)]
    if not known.size:
        return None
    return {
        "tiles": int(known.size),
        "mae": float(np.abs(known).mean()),
        "bias": float(known.mean()),
        "p95": float(np.percentile(np.abs(known), 95)),
    }
