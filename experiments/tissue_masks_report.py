"""The report of `experiments.tissue_masks`: every run, the ratios over seeds, controls, and the cost of control."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from factory.score.compare import Comparison
from factory.score.controls import FAKES, HALVES_BY_GROUP, MATCHED, PRICE_NOTE, TRAINING, ControlRow, ShiftBin
from manifests.files import write_atomic

RESULTS = Path("docs/results/reports")
Found = Mapping[str, Mapping[str, Mapping[str, Comparison]]]
"""features -> set -> seed -> figures."""


def write_report(
    protocol: Mapping[str, Any],
    found: Found,
    price: Sequence[ShiftBin] | None,
    tuned: Mapping[str, Mapping[str, float]],
    out: Path,
) -> None:
    """Write tissue-masks.md and .json into `RESULTS`, and their copies into the experiment's folder."""
    budgets = ", ".join(f"{name} {plan['steps']}" for name, plan in protocol["generators"].items())
    size, seeds = "x".join(map(str, protocol["size"])), ", ".join(map(str, protocol["seeds"]))
    lines = [
        "# Tissue masks: DCGAN, DEPAS, CycleGAN, PriorPath",
        "",
        f"`python -m experiments.tissue_masks`, protocol `configs/experiments/tissue_masks.yaml`; "
        f"{protocol['masks']} masks "
        f"of {size} on either side, seeds {seeds}. Steps: {budgets} (of 8 views, or of 4 from coarse masks). "
        "Distances are Frechet distances of the features named, none of them Inception's, so none is an FID.",
        "",
        "Learning rates, chosen on validation patients with the same two candidates and budget for each "
        f"(distance, {protocol['tuning']['features']}): "
        + "; ".join(f"{n} {', '.join(f'{r}: {d:.4g}' for r, d in rates.items())}" for n, rates in tuned.items())
        + ".",
    ]
    document: dict[str, Any] = {"protocol": dict(protocol), "tuned": dict(tuned), "runs": [], "ratios": []}
    for feature, sets in found.items():
        if not sets:
            continue
        first = next(iter(next(iter(sets.values())).values()))
        lines += ["", f"## {first.distance_name}", "", *_runs(feature, sets, document)]
        lines += ["", *_ratios(protocol, feature, sets, document), "", *_controls(first)]
    if price:
        lines += ["", *_price(protocol, price, document)]
    lines += ["", *_copies(found, document)]
    for folder in (RESULTS, out):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "tissue-masks.md", ("\n".join(lines).rstrip() + "\n").encode())
        write_atomic(folder / "tissue-masks.json", json.dumps(document, indent=1, sort_keys=True).encode() + b"\n")


def _runs(feature: str, sets: Mapping[str, Mapping[str, Comparison]], document: dict[str, Any]) -> list[str]:
    """One row per set and seed."""
    names = ["distance", "95 %", "extrapolated", "kernel x 1000", "precision", "recall", "density", "coverage"]
    names += ["KS, KL on t-SNE", "KS, KL on PCA", "grid cells, t-SNE", "grid cells, PCA", "modes", "tissue KS"]
    rows = []
    for label, seeds in sets.items():
        for seed, c in seeds.items():
            planes = {plane.projection.name: plane for plane in c.projections}
            tsne, pca = (next(p for name, p in planes.items() if key in name.lower()) for key in ("sne", "pca"))
            area = next(s for s in c.statistics if "area" in s.name or "fraction" in s.name)
            near = c.neighbours
            figures = {
                "set": label, "seed": int(seed), "features": feature, "distance": c.distance,
                "interval": list(c.distance_interval), "extrapolated": c.extrapolation.limit,
                "extrapolated_reliable": c.extrapolation.reliable, "kernel": c.kernel.value,
                "precision": near.precision, "recall": near.recall, "density": near.density, "coverage": near.coverage,
                "tsne": [tsne.ks, tsne.kl], "pca": [pca.ks, pca.kl],
                "cells_tsne": [tsne.grid.covered, tsne.grid.with_reals],
                "cells_pca": [pca.grid.covered, pca.grid.with_reals],
                "local_distance_tsne": tsne.grid.mean_distance, "modes_hit": c.modes.hit_share,
                "mode_variation": c.modes.variation, "statistics_ks": {s.name: s.ks for s in c.statistics},
            }  # fmt: skip
            document["runs"].append(figures)
            low, high = c.distance_interval
            rows.append(
                [
                    label,
                    seed,
                    f"{c.distance:.4g}",
                    f"{low:.4g} to {high:.4g}",
                    f"{'' if c.extrapolation.reliable else '~'}{c.extrapolation.limit:.4g}",
                    f"{1000 * c.kernel.value:.3g}",
                    *(f"{v:.2f}" for v in (near.precision, near.recall, near.density)),
                    f"{near.coverage:.2f}",
                    f"{tsne.ks:.2f}, {tsne.kl:.2f}",
                    f"{pca.ks:.2f}, {pca.kl:.2f}",
                    f"{tsne.grid.covered}/{tsne.grid.with_reals}",
                    f"{pca.grid.covered}/{pca.grid.with_reals}",
                    f"{c.modes.hit_share:.2f}",
                    f"{area.ks:.2f}",
                ]
            )
    rough = any(not c.extrapolation.reliable for seeds in sets.values() for c in seeds.values())
    note = "~: rough, fitted over some sizes that are below the number of features."
    return [*_table(["set", "seed", *names], rows), *(["", note] if rough else [])]


def _ratios(
    protocol: Mapping[str, Any], feature: str, sets: Mapping[str, Mapping[str, Comparison]], document: dict[str, Any]
) -> list[str]:
    """Ratios of mean distances over seeds, with the range over all pairs of seeds, and less the floor."""
    rows = []
    every = [c for seeds in sets.values() for c in seeds.values()]
    size = every[0].control_size
    found = [row for name in (TRAINING, HALVES_BY_GROUP) for c in every if (row := c.row(name))]
    floor = found[0] if found else None
    for ratio in protocol["ratios"]:
        over, under = (sets.get(ratio[side]) for side in ("over", "under"))
        if not over or not under:
            continue
        above, below = ([c.distance for c in side.values()] for side in (over, under))
        mean = statistics.mean(above) / statistics.mean(below)
        pairs = [a / b for a, b in itertools.product(above, below)]
        less = _less_floor(over.values(), under.values(), floor) if floor else None
        document["ratios"].append(
            {
                "name": ratio["name"], "features": feature, "ratio": mean, "range": [min(pairs), max(pairs)],
                "ratio_less_floor": less, "floor": floor.name if floor else None,
            }
        )  # fmt: skip
        spread, seeds = f"{min(pairs):.2f} to {max(pairs):.2f}", f"{len(above)} x {len(below)}"
        rows.append(
            [ratio["name"], f"{mean:.2f}", spread, "-" if less is None else f"{less:.2f}", seeds, ratio["paper"]]
        )
    head = ["ratio of mean distances", "", "range over pairs of seeds", "each less the floor", "seeds"]
    note = (
        f"Less the floor: means of the distances at {size} masks less that of '{floor.name}' ({floor.distance:.4g}), "
        "which no generator is expected to pass; a dash where one does."
        if floor
        else "No floor: neither training views nor halves by group are there."
    )
    return [*_table([*head, "papers, other data"], rows), "", note]


def _less_floor(over: Iterable[Comparison], under: Iterable[Comparison], floor: ControlRow) -> float | None:
    """Ratio of the mean distances at the controls' sample size, each less the floor; None where one is not above it."""
    above, below = (
        statistics.mean(row.distance for c in side if (row := c.row(FAKES))) - floor.distance for side in (over, under)
    )
    return above / below if above > 0 and below > 0 else None


def _controls(c: Comparison) -> list[str]:
    """Floor and ceiling, which do not depend on the generated masks."""
    rows = [
        [row.name, f"{row.distance:.4g}", f"{row.distance_std:.2g}", f"{row.coverage:.2f}"]
        for row in c.controls
        if row.name != "fakes"
    ]
    title = f"Controls, at {c.control_size} masks on either side (a distance falls with that number):"
    return [title, "", *_table(["control", "distance", "std over draws", "coverage"], rows)]


def _price(protocol: Mapping[str, Any], price: Sequence[ShiftBin], document: dict[str, Any]) -> list[str]:
    rows = [
        [
            f"{b.low:.3g} to {b.high:.3g}",
            *(str(value) for value in (b.fakes, b.size)),
            *(f"{b.distance:.4g}", f"{b.distance_std:.2g}", f"{b.matched:.4g}", f"{b.matched_std:.2g}"),
            *(f"{b.matched_gap:.3f}", f"{b.matched_tiles:.0f}"),
        ]
        for b in price
    ]
    document["price"] = [asdict(b) for b in price]
    control = protocol["control"]
    head = ["allocation shift", "masks", "in a draw", "distance", "std over draws"]
    return [
        f"## The price of control: {control['generator']}, seed 0, --tissue {control['tissue']}",
        "",
        PRICE_NOTE,
        "",
        *_table([*head, MATCHED, "std over draws", "gap of fractions", "different real masks"], rows),
    ]


def _copies(found: Found, document: dict[str, Any]) -> list[str]:
    """Copies of parts of whole training tiles, for the searched seed."""
    rows = []
    for label, seeds in next(iter(found.values())).items():
        for seed, c in seeds.items():
            if c.copies:
                document.setdefault("copies", {})[label] = c.copies.share
                recall = f"{c.copies.recall:.3f}"
                rows.append([label, seed, f"{c.copies.share:.3f}", f"{c.copies.real_share:.3f}", recall])
    head = ["set", "seed", "share of copies", "the same of held-out real masks", "recall of planted copies"]
    return ["## Copies of places in the whole training tiles", "", *_table(head, rows)] if rows else []


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)]
