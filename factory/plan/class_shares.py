"""Shares of classes from requested distributions: of the pixels (``--share``) and of the cells (``--cell-share``)."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from factory.core.seeds import Stream, generator
from factory.plan.distributions import Values, parse_distribution, stratified
from manifests.errors import UserError
from manifests.labels import LabelScheme

_OF_PIXELS, _OF_CELLS = 100, 400
"""Class i is drawn by the attempt of `Stream.DRAW` with that number + i; the quantities of a plan have the first."""


def draw_shares(asked: Mapping[str, str], scheme: LabelScheme, n: int, seed: int) -> Values | None:
    """Draw shares of all pixels: float64 [n, C], NaN for a class that is left open; None where none is asked.

    Args:
        asked: class -> distribution, see `factory.plan.distributions`. scheme: of the classes. n: rows. seed: the root.

    Raises:
        UserError: for an unknown class, shares of more than 1 in all, or of less where no class is left open.
    """
    return _draw("--share", asked, scheme, range(len(scheme)), n, (seed, _OF_PIXELS))


def draw_cell_shares(asked: Mapping[str, str], scheme: LabelScheme, n: int, seed: int) -> Values | None:
    """Draw shares of the cells, for schemes with types of nuclei; as `draw_shares`."""
    if asked and not has_types(scheme):
        raise UserError(
            f"--cell-share: expected a scheme with types of nuclei, like nuclei_types, got {scheme.name}. Leave it out."
        )
    return _draw("--cell-share", asked, scheme, scheme.ids("nucleus"), n, (seed, _OF_CELLS))


def has_types(scheme: LabelScheme) -> bool:
    """Whether several classes of a scheme are types of nuclei, other than positive and negative ones."""
    return len(scheme.ids("nucleus")) > 1 and not scheme.ids("tumour_positive")


def decided_by_shares(asked: Collection[str], scheme: LabelScheme) -> set[str]:
    """Name the quantities of a plan that shares of classes decide: asked beside these, they would contradict."""
    if not asked:
        return set()
    roles = {role for label in scheme.classes if label.name in asked for role in label.roles}
    tumour = {"tps"} if roles & {"tumour_positive", "tumour_negative"} else set()
    return {"tumour", "inflammation", *tumour, *({"tissue"} if "air" in roles else set())}


def _draw(
    option: str,
    asked: Mapping[str, str],
    scheme: LabelScheme,
    labels: Sequence[int],
    n: int,
    stream: tuple[int, int],
) -> Values | None:
    """Draw shares of classes, of which `labels` can have one; `stream` is the seed and the number of class 0."""
    if not asked:
        return None
    known = [scheme.names[label] for label in labels]
    shares = np.full((n, len(scheme)), np.nan)
    for name, text in asked.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UserError(f"{option}: expected a class of {scheme.name} ({', '.join(known)}), got {name!r}.{hint}")
        label = scheme.names.index(name)
        rng = generator(stream[0], Stream.DRAW, stream[1] + label)
        shares[:, label] = stratified(parse_distribution(text, "tumour", where=f"{option} {name}"), n, rng)
    total, is_open = np.nansum(shares, 1), len(asked) < len(known)
    wrong = (total > 1 + 1e-9) | ((total < 1 - 1e-9) & (not is_open))
    if wrong.any():
        row, wanted = int(np.argmax(wrong)), "at most" if is_open else "exactly"
        advice = "Narrow one." if is_open else "Leave one class out."
        raise UserError(f"{option}: expected shares of {wanted} 1 in all, got {total[row]:.3g} in row {row}. {advice}")
    return shares
