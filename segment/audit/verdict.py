"""From findings to a verdict: the audit's own error on real tiles, the limits that follow from it, and flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from segment.audit.calibration import StainCalibration
from segment.audit.judge import PLACED, Finding, TpsJudge, is_validated
from segment.audit.relation import place, relate

FEWEST_REAL_TILES = 20
"""Below this many real tiles, their 5th percentile is the worst of them and no limit follows."""

REAL_PERCENTILE = 5.0
"""Of the agreement on real tiles: what one right tile in twenty falls below."""

_ROUNDING = 1e-9
"""TPS are binary fractions: 0.4 - 0.3 comes out above 0.1, and 0.3 - 0.2 below it."""

AGREEMENT = ("aji", "pq", "dice", "mean_iou", "pixel_accuracy", "class_agreement", "stain_agreement")


@dataclass(frozen=True)
class Limits:
    """What a tile must keep to.

    Attributes:
        bound: largest allowed |requested TPS - audited TPS|.
        agreement: the figure that measures how far image and mask agree: "aji", "mean_iou" without nuclei.
        least_agreement: its smallest allowed value, None for no such limit.
        origin: where that limit comes from, in words.
        source: the same as "asked", "val" or "test" (splits of the real tiles), None for no limit. By a limit from
            "test", one test tile in twenty falls below by construction.
        rejects_by_tps: whether a tile beyond the bound is flagged: only where the judge of TPS `has_evidence`.
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


def tps_difference(findings: Sequence[Finding], judge: str = "audited_tps") -> npt.NDArray[np.float64]:
    """Audited minus claimed TPS: float64 [N]."""
    return column(findings, judge) - column(findings, "claimed_tps")


def has_evidence(judge: TpsJudge | None, stain: StainCalibration | None, real: Sequence[Finding]) -> bool:
    """Whether the judge of TPS was ever held to real cells or tumour; one that was not rejects no tile.

    Args:
        judge: of TPS. stain: its calibration, where it judges; annotated cells stand behind it or not.
        real: findings on real tiles; the segmenter's evidence is its error on those whose TPS is known.
    """
    if judge is None:
        return False
    if judge.name == "stain":
        return is_validated(stain, judge.bases)
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
        bound: of the TPS. least: of the agreement, as asked; None takes it from the real tiles.
        real: findings on real tiles of test splits, empty where none are at hand; they give a limit where `val`, those
            of val splits, are too few. has_nuclei: whether the weights know nuclei.
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
    """Whether the audited TPS differs from the claimed one by more than the bound, not where either is unknown."""
    beyond: npt.NDArray[np.bool_] = np.abs(tps_difference(findings)) > bound + _ROUNDING
    return beyond


def sees_nothing(findings: Sequence[Finding]) -> npt.NDArray[np.bool_]:
    """Whether a tile claims a TPS, and its judge looked and saw nothing to count: no tumour, or no nucleus."""
    looked = np.array([finding.tps_judge is not None for finding in findings], bool)
    return looked & np.isnan(column(findings, "audited_tps")) & ~np.isnan(column(findings, "claimed_tps"))


def judge_all(findings: Sequence[Finding], limits: Limits) -> list[list[str]]:
    """What speaks against each tile: "tps" or "no_tps", and "aji" or "mean_iou"; empty where nothing does.

    "tps": beyond the bound. "no_tps": a TPS is claimed, and the judge sees nothing to count.
    """
    beyond, nothing = is_beyond(findings, limits.bound), sees_nothing(findings)
    agreement = column(findings, limits.agreement)
    least = -np.inf if limits.least_agreement is None else limits.least_agreement
    verdicts = []
    for row in range(len(findings)):
        against = {
            "tps": limits.rejects_by_tps and beyond[row],
            "no_tps": limits.rejects_by_tps and nothing[row],
            limits.agreement: agreement[row] < least,
        }
        verdicts.append([name for name, is_against in against.items() if is_against])
    return verdicts


def summarise(
    findings: Sequence[Finding], verdicts: Sequence[Sequence[str]], groups: Sequence[str]
) -> dict[str, object]:
    """Figures of several tiles: agreement (mean, 5th percentile), TPS by judge, counts, and flags by kind.

    "no_tps" counts the tiles of `sees_nothing`, whether flagged or not. "relation" is of claimed and audited TPS,
    "relation_of_mask" of the TPS of the mask's regions and the audited one, where cells are annotated beside a mask;
    "placement" says in what regions the stained nuclei lie.

    Args:
        findings: of the tiles. verdicts: of `judge_all`. groups: patient or slide of each tile, for intervals.
    """
    flagged: dict[str, int] = {}
    for found in verdicts:
        for name in found:
            flagged[name] = flagged.get(name, 0) + 1
    return {
        "tiles": len(findings),
        "agreement": {name: stats for name in AGREEMENT if (stats := _spread(column(findings, name)))},
        "tps": {
            judge: stats
            for judge in ("audited_tps", "tps_stain", "tps_segmenter")
            if (stats := _errors(tps_difference(findings, judge)))
        },
        "no_tps": int(np.count_nonzero(sees_nothing(findings))),
        "count": {
            name: stats
            for name in ("nuclei_found", "stain_nuclei")
            if (stats := _errors(_relative(column(findings, name), column(findings, "nuclei_claimed"))))
        },
        **_relations(findings, groups),
        "flagged": sum(bool(found) for found in verdicts),
        "flags": flagged,
    }


def _relations(findings: Sequence[Finding], groups: Sequence[str]) -> dict[str, object]:
    """How audited TPS follows the claims, and where the stain lies; without what the tiles know nothing of."""
    audited, claimed = column(findings, "audited_tps"), column(findings, "claimed_tps")
    # A mask that was asked for meets its request: only beside annotated cells does it claim something else.
    of_real = np.isnan(column(findings, "requested_tps")) & ~np.isnan(claimed)
    mask = np.where(of_real, column(findings, "mask_tps"), np.nan)
    mask = mask if (np.abs(mask - claimed) > _ROUNDING).any() else np.full_like(mask, np.nan)
    counts = np.stack([column(findings, name) for name in PLACED], axis=1)  # [N, 4]: nuclei, stained of either region
    found = {
        "relation": relate(claimed, audited, groups),
        "relation_of_mask": relate(mask, audited, groups),
        "placement": place(counts[:, 0::2], counts[:, 1::2], groups),
    }
    return {name: asdict(result) for name, result in found.items() if result is not None}


def _relative(found: npt.NDArray[np.float64], claimed: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(found - claimed) / claimed, NaN where nothing is claimed."""
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
