"""From findings to a verdict: the audit's own error on real tiles, the limits that follow from it, and flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from segment.audit.judge import Finding

FEWEST_REAL_TILES = 20
"""Below this many real tiles, their 5th percentile is the worst of them and no limit follows."""

REAL_PERCENTILE = 5.0
"""Of the agreement on real tiles: what one right tile in twenty falls below."""

AGREEMENT = ("aji", "pq", "dice", "mean_iou", "pixel_accuracy", "class_agreement", "stain_agreement")


@dataclass(frozen=True)
class Limits:
    """What a tile must keep to.

    Attributes:
        bound: largest allowed |requested TPS - audited TPS|.
        agreement: the figure that measures how far image and mask agree: "aji", "mean_iou" without nuclei.
        least_agreement: its smallest allowed value, None for no such limit.
        origin: where that limit comes from, in words.
        rejects_by_tps: whether a tile beyond the bound is flagged: not where the judge's threshold was never validated.
    """

    bound: float
    agreement: str
    least_agreement: float | None
    origin: str
    rejects_by_tps: bool = True


def column(findings: Sequence[Finding], name: str) -> npt.NDArray[np.float64]:
    """One figure of every finding: float64 [N], NaN where it has no meaning."""
    return np.array([getattr(finding, name) for finding in findings], np.float64)


def tps_difference(findings: Sequence[Finding], judge: str = "audited_tps") -> npt.NDArray[np.float64]:
    """Audited minus claimed TPS: float64 [N]."""
    return column(findings, judge) - column(findings, "claimed_tps")


def limits(
    bound: float, least: float | None, real: Sequence[Finding], *, has_nuclei: bool, rejects_by_tps: bool = True
) -> Limits:
    """The limits of an audit.

    Args:
        bound: of the TPS. least: of the agreement, as asked; None takes it from the real tiles.
        real: findings on real tiles, empty where none are at hand. has_nuclei: whether the weights know nuclei.
        rejects_by_tps: as in `Limits`.
    """
    name = "aji" if has_nuclei else "mean_iou"
    if least is not None:
        return Limits(bound, name, least, "as asked", rejects_by_tps)
    values = column(real, name)
    values = values[~np.isnan(values)]
    if values.size < FEWEST_REAL_TILES:
        origin = f"no limit: {values.size} real tiles with this figure, {FEWEST_REAL_TILES} needed"
        return Limits(bound, name, None, origin, rejects_by_tps)
    return Limits(
        bound,
        name,
        float(np.percentile(values, REAL_PERCENTILE)),
        f"{REAL_PERCENTILE:g}th percentile on {values.size} real tiles",
        rejects_by_tps,
    )


def judge_all(findings: Sequence[Finding], limits: Limits) -> list[list[str]]:
    """What speaks against each tile: "tps", and "aji" or "mean_iou"; empty where nothing does.

    A tile that claims a TPS and shows nothing to count is flagged "tps" where the audit saw a TPS in any other tile;
    an audit that never can is silent.
    """
    sees_tps = bool((~np.isnan(column(findings, "audited_tps"))).any())
    verdicts = []
    for finding in findings:
        difference = finding.audited_tps - finding.claimed_tps
        nothing_there = sees_tps and np.isnan(finding.audited_tps) and not np.isnan(finding.claimed_tps)
        beyond = abs(difference) > limits.bound or nothing_there
        found = ["tps"] if limits.rejects_by_tps and beyond else []
        agreement = getattr(finding, limits.agreement)
        if limits.least_agreement is not None and agreement < limits.least_agreement:
            found.append(limits.agreement)
        verdicts.append(found)
    return verdicts


def summarise(findings: Sequence[Finding], verdicts: Sequence[Sequence[str]]) -> dict[str, object]:
    """Figures of several tiles: agreement (mean, 5th percentile), TPS by judge, counts, and flags by kind."""
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
        "count": {
            name: stats
            for name in ("nuclei_found", "stain_nuclei")
            if (stats := _errors(_relative(column(findings, name), column(findings, "nuclei_claimed"))))
        },
        "flagged": sum(bool(found) for found in verdicts),
        "flags": flagged,
    }


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
