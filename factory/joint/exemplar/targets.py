"""What a tile is asked for as ratios of pixel counts, and how far a bank can give it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from factory.bank.bank import Bank
from factory.joint.exemplar.patches import patches_of
from factory.plan.request import Request

TOLERANCE = 0.002
"""Largest distance of a share from what is asked."""
_FEW = 0.002
"""Share of a class below which a layout goes without it, unless it is asked for."""
_LEAST_TUMOUR = 0.06
"""Share of tumour that a layout has at least where a TPS is asked, divided equally at first."""
_ROUNDS = 60

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Targets:
    """Ratios of pixel counts that a tile is asked for; ratio k is of classes `over[k]` among classes `under[k]`.

    Attributes:
        names: of the options. over, under: bool [K, classes]. asked: float64 [K].
    """

    names: tuple[str, ...]
    over: Flags
    under: Flags
    asked: Floats

    def ratios(self, shares: Floats) -> Floats:
        """Ratios of shares or counts of classes, float64 [..., classes] -> [..., K]; NaN where there is nothing."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((shares @ self.over.T) / (shares @ self.under.T))


def targets_of(request: Request, classes: Collection[str]) -> Targets:
    """Return what a request asks for by area.

    Args:
        request: of a tile. classes: names of the classes whose shares are asked.
    """
    scheme = request.scheme
    count = len(scheme)

    def flags(*roles: str) -> Flags:
        chosen = np.zeros(count, np.bool_)
        chosen[[label for role in roles for label in scheme.ids(role)]] = True
        return chosen

    everything = np.ones(count, np.bool_)
    found: list[tuple[str, Flags, Flags, float]] = []
    if request.tissue is not None:
        found.append(("tissue", ~flags("air"), everything, request.tissue))
    if request.tps is not None and scheme.tps_basis == "area":
        found.append(("tps", flags("tumour_positive"), flags("tumour_positive", "tumour_negative"), request.tps))
    for label, share in zip(scheme.classes, request.fractions or (), strict=False):
        if label.name in classes and share is not None:
            found += [(f"share of {label.name}", np.arange(count) == label.id, everything, share)]
    return Targets(
        tuple(each[0] for each in found),
        np.array([each[1] for each in found], np.bool_).reshape(len(found), count),
        np.array([each[2] for each in found], np.bool_).reshape(len(found), count),
        np.array([each[3] for each in found], np.float64),
    )


def fitted_shares(start: Floats, held: Flags, targets: Targets) -> Floats | None:
    """Move shares of classes until they are as asked, by iterative proportional fitting (Deming and Stephan 1940).

    Args:
        start: float64 [classes], shares as they would be. held: bool [classes], classes that there are.
        targets: to meet.

    Returns:
        float64 [classes], sum 1; None where the targets cannot be met together with these classes.
    """
    shares = np.where(held, np.maximum(start, 1e-3), 0.0)
    if "tps" in targets.names:
        tumour = targets.under[targets.names.index("tps")] & held
        shares[tumour] = np.maximum(shares[tumour], _LEAST_TUMOUR / max(int(tumour.sum()), 1))
    shares /= max(float(shares.sum()), 1e-9)
    for _ in range(_ROUNDS):
        if (np.abs(targets.ratios(shares) - targets.asked) < TOLERANCE / 20).all():
            break
        for over, under, asked in zip(targets.over, targets.under, targets.asked, strict=True):
            rest, among = under & ~over, float(shares[under].sum())
            for chosen, share in ((over, asked), (rest, 1.0 - asked)):
                shares[chosen] *= share * among / max(float(shares[chosen].sum()), 1e-12)
    wrong = np.abs(targets.ratios(shares) - targets.asked)
    if len(wrong) and not (wrong < TOLERANCE / 2).all():
        return None
    few = (shares < _FEW) & ~targets.over.any(0)
    shares[few] = 0.0
    return np.asarray(shares / shares.sum())


@dataclass(frozen=True, eq=False)
class Holdings:
    """What the slides of a bank hold.

    Attributes:
        shares: float64 [slides, classes], of all patches. patches: int64 [slides].
        most: float64 [slides, classes], the largest share of a class in a patch.
        nuclei: int64 [slides, classes], nuclei that can be copied.
    """

    shares: Floats
    patches: npt.NDArray[np.int64]
    most: Floats
    nuclei: npt.NDArray[np.int64]


@lru_cache(maxsize=4)
def holdings_of(bank: Bank, patch: int) -> Holdings:
    """Add up what each slide of a bank holds in patches of a side in pixels."""
    classes, slides = len(bank.scheme), len(bank.slides)
    found = [patches_of(bank, slide, patch).shares for slide in range(slides)]
    nuclei = np.zeros((slides, classes), np.int64)
    np.add.at(nuclei, (bank.pages[bank.nuclei.page, 3], bank.nuclei.label), 1)
    nothing = np.zeros(classes)
    return Holdings(
        np.array([each.mean(0, dtype=np.float64) if len(each) else nothing for each in found]),
        np.array([len(each) for each in found], np.int64),
        np.array([each.max(0).astype(np.float64) if len(each) else nothing for each in found]),
        nuclei,
    )


def fitness(bank: Bank, patch: int, targets: Targets) -> Floats:
    """How far each slide can give what is asked, 0 (not at all) to 1: float64 [slides].

    A slide with a trace of a class would repeat the same few patches.
    """
    held = holdings_of(bank, patch)
    fit = np.zeros(len(held.shares))
    for slide, (mean, most, patches) in enumerate(zip(held.shares, held.most, held.patches, strict=True)):
        wanted = fitted_shares(mean, most > 0, targets) if patches else None
        if wanted is None:
            continue
        asked = wanted > 0
        fit[slide] = np.minimum(mean[asked] / (wanted[asked] / 3), 1.0).min()
        if (wanted > most + TOLERANCE).any():
            fit[slide] = 0.0
    return fit


def why_unmet(bank: Bank, patch: int, targets: Targets) -> str:
    """Say what a bank holds of what it cannot give."""
    held = holdings_of(bank, patch)
    offers = []
    for name, over, under, asked in zip(targets.names, targets.over, targets.under, targets.asked, strict=True):
        among = held.most[:, under & ~over].sum(1) if under.sum() > over.sum() else np.ones(len(held.most))
        there = held.most[:, over].max(1)
        offers.append(
            f"{name} {asked:g}: {int((there > 0).sum())} of {len(there)} slides hold any, at most {there.max():.2f} of "
            f"a patch, and {int((among > 0).sum())} hold the rest"
        )
    return "; ".join(offers)
