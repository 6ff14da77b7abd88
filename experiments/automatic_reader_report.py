"""The report of `experiments.automatic_reader`: accuracy of each reader by renderer and view of the tiles."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from factory.core.document import Block, Grid, Heading, to_markdown
from factory.quiz.automatic import AS_THEY_ARE, NETWORK, REGRESSION, VIEWS
from manifests.files import write_atomic

CONTROL = "test patients, halves"
OF_PATIENTS = "training patients, split by patient"
OF_TILES = "training patients, split by tile"
_REAL = {
    CONTROL: "real: halves of the test patients",
    OF_PATIENTS: f"real: {OF_PATIENTS}",
    OF_TILES: f"real: {OF_TILES}",
}

Figures = Sequence[Mapping[str, Any]]
Found = dict[str, dict[str, dict[str, Any]]]
"""Task -> arm -> its ``settings`` and ``figures``."""


def read_report(name: str, results: Path) -> Found:
    """What an earlier report found; nothing without one."""
    path = results / f"{name.replace('_', '-')}.json"
    found: Found = json.loads(path.read_text())["found"] if path.is_file() else {}
    return found


def write_report(name: str, protocol: Mapping[str, Any], found: Found, results: Path) -> None:
    """Write the protocol's .md and .json into a folder."""
    readers = ", ".join(f"{key} {value}" for key, value in protocol["readers"].items())
    blocks: list[Block] = [
        f"`python -m experiments.automatic_reader --protocol {name}`, `configs/experiments/{name}.yaml` ({readers}). "
        "Accuracy on tiles of patients that the reader did not learn from, half of them synthetic; 50 % = cannot be "
        "told apart. 95 % intervals over patients and synthetic tiles. Halves: mean (lowest to highest) of draws.",
    ]
    for task, plan in protocol["tasks"].items():
        arms = {arm: found.get(task, {}).get(arm) for arm in (*plan["arms"], OF_TILES, OF_PATIENTS, CONTROL)}
        blocks += [Heading(task), f"{plan['about']}; {plan['n']} tiles."]
        columns = [*((REGRESSION, view) for view in VIEWS), (NETWORK, AS_THEY_ARE)]
        rows = [
            (_REAL.get(arm, arm), *(_cell(each["figures"], *column) for column in columns))
            for arm, each in arms.items()
            if each is not None
        ]
        blocks.append(Grid(("tiles", *VIEWS, NETWORK), rows, aligned=False))
    results.mkdir(parents=True, exist_ok=True)
    stem = name.replace("_", "-")
    document = json.dumps({"protocol": dict(protocol), "found": found}, indent=1, sort_keys=True)
    write_atomic(results / f"{stem}.md", to_markdown("Can an automatic reader tell?", blocks).encode())
    write_atomic(results / f"{stem}.json", document.encode() + b"\n")


def _cell(figures: Figures, reader: str, view: str) -> str:
    one = next((each for each in figures if (each["reader"], each["view"]) == (reader, view)), None)
    if one is None:
        return "-"
    if "draws" in one:
        draws = [100 * value for value in one["draws"]]
        return f"{sum(draws) / len(draws):.0f} ({min(draws):.0f} to {max(draws):.0f})"
    rate = one["accuracy"]
    low, high = (100 * rate["interval"][end] for end in ("low", "high"))
    return f"{100 * rate['value']:.1f} [{low:.1f}, {high:.1f}]"
